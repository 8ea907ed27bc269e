"""Codec of what the agent and a process of its own say to each other: one JSON object a packet, a dataclass a kind. Pure.

    {"v": VERSION, "kind": NAME, field: value, ...}

Unknown fields are ignored, a missing one is its default's; another version, an unknown kind or a value of another type is
refused. Light on purpose: the vrrp process must stay small.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from anycast.errors import DecodeError

_ALLOWED: dict[str, type | tuple[type, ...]] = {
    "int": int, "bool": bool, "str": str, "bool | None": (bool, type(None)), "list[str]": list, "list[int]": list,
    "list[list[str]]": list,
    "dict[str, str]": dict, "dict[str, int]": dict, "dict[str, float]": dict, "dict[str, list[int]]": dict,
    "dict[int, bytes]": dict, "dict[str, dict[str, int | str]]": dict,
}  # fmt: skip
"""By a field's annotation."""


class Messages:
    """Of one protocol: its version, and its kinds by name."""

    def __init__(self, version: int, kinds: Mapping[str, type[Any]]) -> None:
        self._version, self._kinds = version, kinds
        self._names = {kind: name for name, kind in kinds.items()}

    def encode(self, message: Any) -> bytes:
        """One packet; bytes become hex."""
        said = {"v": self._version, "kind": self._names[type(message)], **dataclasses.asdict(message)}
        return json.dumps(said, default=bytes.hex).encode()

    def decode(self, data: bytes, prepare: Callable[[type[Any], dict[str, Any]], None] = lambda _kind, _fields: None) -> Any:
        """`prepare` may turn what JSON cannot hold back, in place. Raises DecodeError."""
        try:
            fields = json.loads(data)
            kind = self._kinds[fields.pop("kind")]
            if fields.pop("v") != self._version:
                raise DecodeError("v", 0, "another version")
            prepare(kind, fields)
            known = {field.name for field in dataclasses.fields(kind)}
            message = kind(**{name: value for name, value in fields.items() if name in known})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise DecodeError("message", 0, repr(exc)[:200]) from exc
        for field in dataclasses.fields(message):
            value, allowed = getattr(message, field.name), _ALLOWED[str(field.type)]
            if not isinstance(value, allowed) or (isinstance(value, bool) and allowed is int):
                raise DecodeError(field.name, 0, f"{value!r:.60}")
        return message
