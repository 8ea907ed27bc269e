"""The records of a gateway's event log as they travel, and what their numbers say of those that did not. Pure.

Every record has a `stream`, the agent's process that wrote it, and a `seq`. Numbers go on from one process to the next, by
what the log on the disk has, so a hole in them says how many records are missing, whoever lost them: the agent's queue, its
disk, the rotation of its log, a coordinator that was away for too long. The pair names a record for ever: what comes twice
is known by it, also where a disk was full and two processes gave the same numbers.

A coordinator says up to which record it has everything (`link_wire.EventsKept`), and is sent what follows. So nobody else
has to remember what was sent, and a coordinator whose store was restored is sent anew what the gateway still has.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from anycast.errors import DecodeError

LAST_SEQ = 2**53
"""The largest whole number that every reader of JSON has."""
LONGEST_RECORD = 16 * 1024
"""Characters of one record. The longest that agents write is a fault with its traceback; `shortened` cuts what is longer."""
MOST_RECORDS = 256
BATCH_BYTES = 96 * 1024
"""Of the records of one batch: as a JSON text inside a frame no byte of them becomes more than two."""
MISSING = "EventsMissing"
"""The record that stands for a hole."""
YEARS = range(2000, 2200)
"""Of a clock that may be wrong: what is added to such a time has a name still."""
_HEAD = re.compile(rb'\{"v":\d{1,6},"seq":(\d{1,16}),"stream":"([0-9a-f]{1,32})",')
_STREAM = re.compile(r"[0-9a-f]{1,32}")
_KIND = re.compile(r"[A-Za-z]{1,64}")


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """One record's place."""

    stream: str
    """Empty: before everything."""
    seq: int


NOWHERE = Position("", 0)


def position_of(line: bytes) -> Position | None:
    """Of one line of the log, as `events.to_record` writes it; None: it has none (an older agent's, torn, foreign)."""
    found = _HEAD.match(line)
    return None if found is None else Position(found[2].decode(), int(found[1]))


def passed_over(lines: Iterable[bytes], after: Position) -> int:
    """How many of the log's lines a reader who has everything up to `after` passes over; 0 where the log has nothing of it.

    `after` itself need not be there: a disk that was full has not what was sent all the same. Lines of one stream stand
    together, so the last one that is not younger is the place.
    """
    found = 0
    for number, line in enumerate(lines, 1):
        position = position_of(line)
        if position is not None and position.stream == after.stream and position.seq <= after.seq:
            found = number
    return found


def batch(records: Iterable[bytes]) -> tuple[str, ...]:
    """The first of `records` that one message has room for."""
    found, size = list[str](), 0
    for line in records:
        text = shortened(line)
        size += len(text.encode())
        if found and (size > BATCH_BYTES or len(found) == MOST_RECORDS):
            break
        found.append(text)
    return tuple(found)


def shortened(line: bytes) -> str:
    """The record's text; of one that is too long, what says when and what it was, and how long it is (`cut`)."""
    text = line.decode(errors="replace").strip()
    if len(line) <= LONGEST_RECORD:
        return text
    record = json.loads(text)
    kept = {key: record[key] for key in ("v", "seq", "stream", "at", "boot_ns", "gateway", "event") if key in record}
    return json.dumps({**kept, "cut": len(line)}, separators=(",", ":"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One record that a gateway sent, looked at."""

    position: Position
    at: float
    """Unix time, by the gateway's clock."""
    event: str
    text: str


def read(text: str, gateway: str) -> Told:
    """Raises DecodeError where it is no numbered record of `gateway`."""
    try:
        record = json.loads(text, parse_constant=_no_constant)
        if "\\u" in text:
            json.dumps(record, ensure_ascii=False).encode()  # half a character cannot be handed on
    except (ValueError, RecursionError) as exc:
        raise DecodeError("record", 0, "is no JSON that can be read here") from exc
    match record:
        case {"seq": int(seq), "stream": str(stream), "at": str(at), "event": str(event), "gateway": str(named)}:
            pass
        case _:
            raise DecodeError("record", 0, "has no seq, stream, at, event and gateway")
    if named != gateway:
        raise DecodeError("record", 0, f"is of gateway {named[:63]!r}, and {gateway} sent it")
    if not (0 < seq <= LAST_SEQ and _STREAM.fullmatch(stream) and _KIND.fullmatch(event)):
        raise DecodeError("record", 0, "has a seq, stream or event that means nothing")
    try:
        when = datetime.datetime.fromisoformat(at)
        if when.tzinfo is None or when.year not in YEARS:
            raise ValueError(at)
        return Told(position=Position(stream, seq), at=when.timestamp(), event=event, text=text)
    except (ValueError, OverflowError) as exc:
        raise DecodeError("record", 0, f"has a time that is none: {at[:40]!r}") from exc


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


class Cause(enum.StrEnum):
    """Why records are missing."""

    DROPPED = "dropped"
    """Their numbers are: the gateway wrote them nowhere, or its log did not keep them for long enough."""
    NO_FAREWELL = "no_farewell"
    """The agent was killed; what it had not written yet is not known, and may be nothing."""
    BEGAN_ANEW = "began_anew"
    """The log at the gateway began anew: what was in it and not stored here is not known."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A hole before a record."""

    first: int | None
    last: int | None
    count: int | None
    """None: not known; `first` and `last` then neither."""
    cause: Cause


def missing_before(new: Position, last: Position, *, farewell: bool) -> Missing | None:
    """What is missing between `last`, the newest record that is stored, and `new`, which was not there yet.

    `farewell`: the stream of `last` had said that it stops.
    """
    if new.seq > last.seq + 1:
        return Missing(first=last.seq + 1, last=new.seq - 1, count=new.seq - 1 - last.seq, cause=Cause.DROPPED)
    if new.stream == last.stream or not last.stream:
        return None
    if new.seq == 1:
        return Missing(first=None, last=None, count=None, cause=Cause.BEGAN_ANEW)
    return None if farewell else Missing(first=None, last=None, count=None, cause=Cause.NO_FAREWELL)


def missing_record(found: Missing, gateway: str, at: str) -> dict[str, Any]:
    """How a hole stands among the records: `at` is the time of the one behind it."""
    return {"v": 1, "at": at, "gateway": gateway, "event": MISSING, **dataclasses.asdict(found)}
