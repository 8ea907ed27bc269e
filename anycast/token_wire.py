"""What crosses between an agent and the coordinator about darkness, version 1: a `Report` one way, an `Answer` the other.

Theory of operation: both are whole sets, never deltas, so losing one costs nothing but time. An agent reports at every
heartbeat and whenever something changes; each report is answered. Whoever must judge how old the other's word is does so by
its own clock, from the moment of its own message that the word refers to: a token counts from when the report that asked for
it was sent (`Answer.to`), and a report is as old as the answer that it quotes (`Report.quotes`). So no clock is compared
with another one, and no delay makes anything fresher or longer than it is.

One JSON object is one message; what frames it is the shell's. Unknown optional fields are ignored, unknown names in
`requires` refused, and words that a newer version may add (reasons, kinds) are passed on as words.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import pydantic

from anycast.errors import DecodeError
from anycast.model import NAME, Status

VERSION: Literal[1] = 1
KNOWN_REQUIREMENTS: frozenset[str] = frozenset()
"""Features that a message may demand of its reader by name in `requires`."""
MAX_BYTES = 128 * 1024
"""The longest answer, which names a thousand sites of 63 letters, has 80 KiB; an ordinary one 200 bytes."""

MAX_LOOKS, MAX_HELD, MAX_ENDED, MAX_DETAIL = 64, 16, 64, 200
_MAX_COUNT = 2**53
"""What every JSON reader keeps exact."""
MAX_SPAN_MS = 10 * 86_400_000

Name = Annotated[str, pydantic.Field(pattern=rf"^{NAME.pattern}$")]
CheckName = Annotated[str, pydantic.Field(pattern=r"^[a-z][a-z0-9_-]{0,79}$")]
"""An operator's own check is ``exec_`` and a name of at most 63."""
Word = Annotated[str, pydantic.Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
EntryId = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9._-]{1,96}$")]
Text = Annotated[str, pydantic.Field(max_length=MAX_DETAIL)]
Count = Annotated[int, pydantic.Field(ge=0, le=_MAX_COUNT)]
Span = Annotated[int, pydantic.Field(ge=0, le=MAX_SPAN_MS)]
"""Milliseconds."""


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Look(_Part):
    """The last look of a check of class `shared`."""

    check: CheckName
    status: Status
    reason: Word
    age_ms: Span
    """When the report was sent."""
    span_ms: Span
    """How long a fault may stand before this check says so: looks in a row times interval and timeout."""


class Held(_Part):
    """Something that this gateway is dark by, on purpose."""

    id: EntryId
    """The ledger's; of a hold, which the ledger did not give, the gateway's own."""
    kind: Word
    """As `policy.ledger.Kind`."""
    by: Text = ""
    """Operator, or the check of a token."""
    why: Text = ""
    until: Annotated[float, pydantic.Field(ge=0, le=1e11)] | None = None
    """Unix time, for people."""


class Report(_Part):
    """Agent to coordinator: everything about this gateway that the ledger may need."""

    v: Literal[1] = VERSION
    requires: tuple[Word, ...] = pydantic.Field(default=(), max_length=16)
    seq: Annotated[int, pydantic.Field(ge=1, le=_MAX_COUNT)]
    """Counts up in one run of the agent."""
    quotes: Count = 0
    """`n` of the last answer of this connection; 0 before the first."""
    announcing: bool
    """The route is out, whole: neither withdrawn nor degraded."""
    reason: Word
    """Why it is as it is."""
    looks: tuple[Look, ...] = pydantic.Field(default=(), max_length=MAX_LOOKS)
    held: tuple[Held, ...] = pydantic.Field(default=(), max_length=MAX_HELD)
    ended: tuple[EntryId, ...] = pydantic.Field(default=(), max_length=MAX_ENDED)
    """What it was dark by, or might have become, and never will be again. Repeated until acknowledged."""
    asks: bool = False
    """It wants a token, or to keep its own; counted from when this was sent."""


class Grant(_Part):
    """A token, new or renewed."""

    id: EntryId
    check: CheckName
    life_ms: Annotated[int, pydantic.Field(ge=1, le=30_000)]
    """From when the report that is answered was sent."""
    dark: tuple[Name, ...] = pydantic.Field(max_length=1000)
    """Every site that the ledger counts as dark, this one among them: the holder checks them against its own document."""


class Recall(_Part):
    """End it: announce, and say so."""

    id: EntryId
    reason: Word


class Answer(_Part):
    """Coordinator to agent. `n` of one connection counts up; of two answers the higher one holds."""

    v: Literal[1] = VERSION
    requires: tuple[Word, ...] = pydantic.Field(default=(), max_length=16)
    n: Annotated[int, pydantic.Field(ge=1, le=_MAX_COUNT)]
    to: Count
    """`seq` of the last report that was read."""
    grant: Grant | None = None
    refused: Word | None = None
    """Why there is no token, where one was asked for."""
    detail: Text = ""
    recalls: tuple[Recall, ...] = pydantic.Field(default=(), max_length=MAX_ENDED)
    acknowledged: tuple[EntryId, ...] = pydantic.Field(default=(), max_length=MAX_ENDED)
    """The slots of these have returned, by this gateway's word; the store has it."""


_M = TypeVar("_M", Report, Answer)


def encode(message: Report | Answer) -> bytes:
    """One JSON object, UTF-8."""
    return message.model_dump_json().encode()


def decode_report(data: bytes) -> Report:
    """Raises DecodeError."""
    return _decode(data, Report)


def decode_answer(data: bytes) -> Answer:
    """Raises DecodeError."""
    return _decode(data, Answer)


def _decode(data: bytes, kind: type[_M]) -> _M:
    name = kind.__name__.lower()
    if len(data) > MAX_BYTES:
        raise DecodeError(name, MAX_BYTES, f"more than {MAX_BYTES} bytes")
    try:
        message = kind.model_validate_json(data, strict=True)
    except pydantic.ValidationError as exc:
        raise _malformed(name, exc) from None
    if unknown := sorted(set(message.requires) - KNOWN_REQUIREMENTS):
        raise DecodeError("requires", 0, f"{', '.join(unknown)}: not known here")
    return message


def _malformed(name: str, exc: pydantic.ValidationError) -> DecodeError:
    problem = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    return DecodeError(".".join(map(str, (name, *problem["loc"]))), 0, problem["msg"].lower())
