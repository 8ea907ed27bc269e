"""Records of the event log as people read them: one line each, local time with its zone. Pure but for the local zone."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from anycast.events import utc_text
from anycast.trail import Record

_FIELDS_OF_RECORDS = frozenset({"v", "seq", "stream", "at", "boot_ns", "gateway", "event"})


def plain(value: Any) -> Any:
    """`value` with its dataclasses and times as JSON has them."""
    if isinstance(value, datetime.datetime):
        return utc_text(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def record_line(record: Record) -> str:
    """One record as one line: local time with its zone, kind, and its fields."""
    told = fields_text(record)
    return f"{time_text(str(record['at']))} {record['event']}{f' {told}' if told else ''}"


def fields_text(record: Record) -> str:
    """What a record says beside when and what."""
    fields = []
    for key, value in record.items():
        if key in _FIELDS_OF_RECORDS or value in ("", [], None):
            continue
        if key == "causes" and isinstance(value, Sequence):
            value = ", ".join(plain_cause(cause) for cause in value if isinstance(cause, Mapping))
        fields.append(f"{key}={_plain(value)}")
    return " ".join(fields)


def _plain(value: Any) -> str:
    """A field's value as people write it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}" if abs(value) >= 1 else f"{value:.3g}"
        case list() | tuple():
            return ", ".join(_plain(item) for item in value)
        case _:
            return str(value)


def plain_cause(cause: Mapping[str, Any]) -> str:
    detail, check = cause.get("detail"), cause.get("check")
    return f"{cause.get('reason')}{f' ({detail})' if detail else ''}{f', check {check}' if check else ''}"


def local_time(when: datetime.datetime | None) -> str:
    """For people: local, with its zone, as `--at` takes it. Programs get `events.utc_text`."""
    return "-" if when is None else when.astimezone().isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time_text(text: str) -> str:
    try:
        return local_time(datetime.datetime.fromisoformat(text))
    except ValueError:
        return text


