"""Break-glass: an operator's own word on one gateway's route, for a limited time. Pure: data and clock readings in.

Theory of operation
-------------------
`hold withdraw` is never refused and wins over everything. `hold announce` wins over whatever only delays or is not a fact
(the recovery time, flap control, load and shared evidence). A fact still withdraws at once, unless the operator named that
very reason with ``--despite``. That nothing has been seen yet, or not since a clock gap, cannot be overridden: it is no
fact to be despite of, and an announcement blind to one's own charon helps nobody.

    site verdict                            no hold     hold withdraw   hold announce           … --despite that reason
    serving                                 announce    withdraw        announce                announce
    recovering                              withdraw    withdraw        announce                announce
    a fact stands against it                withdraw    withdraw        withdraw                announce
    nothing seen yet, or since a clock gap  withdraw    withdraw        withdraw                withdraw

A hold lies in a file that root writes without anybody's help, and it outlives agents and boots. It ends by itself, and two
clocks have to be distrusted for that: wall time jumps, and CLOCK_BOOTTIME starts anew with each boot. So a hold carries
both ends and the earlier one counts. In another boot only the wall clock is left, which on a machine without a battery
may stand years back; therefore a hold that is found there is carried over, once, with at most its whole duration to run.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any

from anycast.errors import DecodeError
from anycast.model import Cause
from anycast.reasons import Reason

VERSION = 1
LONGEST_S = 30 * 86_400.0
"""What lasts longer is a configuration, not a hold."""
NOT_SEEN = frozenset({Reason.NO_EVIDENCE_YET, Reason.CLOCK_GAP})
"""The absence of evidence. No hold overrides it."""
NOT_A_FACT = frozenset(
    {
        Reason.RECOVERING,
        Reason.PEER_UNFIT,
        Reason.PEER_SILENT,
        Reason.ADDRESS_UNHELD,
        Reason.TOKEN,
        Reason.DOCUMENT_OLD,
    }
)
"""What stands against announcing without being a fact."""


class HoldKind(enum.StrEnum):
    """What the operator wants of the route."""

    WITHDRAW = "withdraw"
    ANNOUNCE = "announce"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """One reading of everything that a hold's end is told by."""

    wall: float
    """Unix time in seconds."""
    boot: float
    """CLOCK_BOOTTIME in seconds."""
    boot_id: str
    """The kernel's name for this boot (/proc/sys/kernel/random/boot_id)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What stands in the file."""

    kind: HoldKind
    reason: str
    """The operator's words. For people; never parsed."""
    despite: tuple[Reason, ...] = ()
    """Facts that a `hold announce` overrides, each by name."""
    duration_s: float
    ends_wall: float
    ends_boot: float
    boot_id: str
    """The boot that `ends_boot` belongs to."""

    def left_s(self, clocks: Clocks) -> float:
        """Seconds until it ends; 0 where it has ended."""
        left = min(self.ends_wall - clocks.wall, self.duration_s)
        if clocks.boot_id == self.boot_id:
            left = min(left, self.ends_boot - clocks.boot)
        return max(0.0, left)

    def carried_over(self, clocks: Clocks) -> Hold:
        """The same hold, its end told by this boot's clock as well."""
        if clocks.boot_id == self.boot_id:
            return self
        left_s = self.left_s(clocks)
        return dataclasses.replace(self, duration_s=left_s, boot_id=clocks.boot_id, ends_boot=clocks.boot + left_s)

    def __str__(self) -> str:
        despite = f" despite {', '.join(self.despite)}" if self.despite else ""
        return f"hold {self.kind}{despite}: {self.reason}"


def begin(kind: HoldKind, *, for_s: float, reason: str, despite: tuple[Reason, ...] = (), clocks: Clocks) -> Hold:
    """A hold that starts now and lasts `for_s` seconds."""
    return Hold(
        kind=kind,
        reason=_whole(reason),
        despite=despite,
        duration_s=for_s,
        ends_wall=clocks.wall + for_s,
        ends_boot=clocks.boot + for_s,
        boot_id=clocks.boot_id,
    )


def none(clocks: Clocks) -> Hold:
    """A hold that has ended already: what takes the place of an older one that cannot be removed yet."""
    return begin(HoldKind.ANNOUNCE, for_s=0.0, reason="ended", clocks=clocks)


@dataclasses.dataclass(frozen=True, slots=True)
class Intent:
    """Whether the route shall be announced, and why."""

    announce: bool
    causes: tuple[Cause, ...]
    overridden: bool = False
    """It is announced only because an operator said so."""


def apply(hold: Hold | None, *, serving: bool, causes: tuple[Cause, ...]) -> Intent:
    """The table above. `causes` are the site verdict's."""
    against = () if serving else causes
    if hold is not None and hold.kind is HoldKind.WITHDRAW:
        return Intent(False, (_cause(hold), *against))
    if serving:
        return Intent(True, causes)
    if hold is None or not overrides(hold, against):
        return Intent(False, causes)
    return Intent(True, (_cause(hold), *against), overridden=True)


def overrides(hold: Hold, against: tuple[Cause, ...]) -> bool:
    """May a `hold announce` announce although `against` stands?"""
    allowed = (NOT_A_FACT | frozenset(hold.despite)) - NOT_SEEN
    return hold.kind is HoldKind.ANNOUNCE and all(cause.reason in allowed for cause in against)


def _cause(hold: Hold) -> Cause:
    return Cause(reason=Reason.OPERATOR, detail=str(hold))


def encode(hold: Hold) -> bytes:
    """The file's content: one JSON object. Never refuses: a byte of a terminal that is no text costs no hold."""
    text = json.dumps({"v": VERSION, **dataclasses.asdict(hold)}, ensure_ascii=False, sort_keys=True)
    return text.encode(errors="replace") + b"\n"


def decode(data: bytes) -> Hold:
    """Read what `encode` wrote. Unknown fields are passed over. Raises DecodeError."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise DecodeError("hold", 0, "not JSON") from exc
    if not isinstance(fields, dict) or fields.get("v") != VERSION:
        raise DecodeError("hold", 0, f'no object with "v": {VERSION}')
    despite = fields.get("despite", [])
    if not isinstance(despite, list):
        raise DecodeError("despite", 0, "not a list")
    try:
        return Hold(
            kind=HoldKind(_text(fields, "kind")),
            reason=_whole(_text(fields, "reason")),
            despite=tuple(Reason(word) for word in despite),
            duration_s=_number(fields, "duration_s"),
            ends_wall=_number(fields, "ends_wall"),
            ends_boot=_number(fields, "ends_boot"),
            boot_id=_text(fields, "boot_id"),
        )
    except ValueError as exc:
        raise DecodeError("hold", 0, str(exc)) from exc


def _whole(text: str) -> str:
    """Text that every screen and log can encode: a command line's undecodable bytes arrive as lone surrogates (PEP 383)."""
    return text.encode(errors="replace").decode()


def _text(fields: dict[str, Any], name: str) -> str:
    if not isinstance(value := fields.get(name), str):
        raise DecodeError(name, 0, "not a text")
    return value


def _number(fields: dict[str, Any], name: str) -> float:
    value = fields.get(name)
    # NaN and the infinities are JSON to Python; a hold without an end is none.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise DecodeError(name, 0, "not a number of seconds")
    return float(value)
