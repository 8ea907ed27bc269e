"""What became of exchanges of IKE that were in flight when a gateway lost its power, by the packets that passed. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from anycast_lab.capture.frames import Address, Exchange, Ike
from anycast_lab.drills.report import Checked

KINDS = (Exchange.IKE_AUTH, Exchange.CREATE_CHILD_SA, Exchange.INFORMATIONAL)
"""Between a client and a gateway that know each other, or nearly: what the closed list of exceptions names."""
ANSWERED_JUST_NOW_NS = 20_000_000
"""The plugin tells the other charon of an exchange after its answer has left: one that was answered within so long
before the cut may be known to the client and to nobody else."""


@dataclasses.dataclass(frozen=True, slots=True)
class InFlight:
    """A client's request that the gateway had, and what came of it."""

    exchange: int
    spis: tuple[int, int]
    message: int
    answered: bool
    """Before the cut."""
    kept: bool
    """The other gateway spoke under the same IKE_SA afterwards."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One loss of power."""

    placed_by: Exchange
    """The exchange whose request it was placed by."""
    after_ms: float
    """So long after that request."""
    flying: tuple[InFlight, ...]
    recovered_ms: float | None
    """Until each client had a tunnel with packets in it; None: not within twice the limit."""
    missing: str = ""


def in_flight(messages: Iterable[Ike], client: Address, cut_ns: int) -> tuple[InFlight, ...]:
    """What `client`'s machine had asked and was not answered, or only just, when the power was cut."""
    asked: set[tuple[int, tuple[int, int], int]] = set()
    answered: dict[tuple[int, tuple[int, int], int], int] = {}
    spoken = set()
    for one in messages:
        key = one.exchange, one.spis, one.message
        if one.at_ns > cut_ns:
            if one.destination == client:
                spoken.add(one.spis)
        elif one.source == client and not one.response:
            asked.add(key)
        elif one.destination == client and one.response:
            answered[key] = one.at_ns
    return tuple(
        InFlight(*key, answered=key in answered, kept=key[1] in spoken)
        for key in sorted(asked)
        if key[0] in KINDS and answered.get(key, cut_ns) > cut_ns - ANSWERED_JUST_NOW_NS
    )


def count(cuts: Sequence[Cut]) -> dict[Exchange, int]:
    """How many exchanges of each kind were in flight."""
    return {kind: sum(one.exchange == kind for cut in cuts for one in cut.flying) for kind in KINDS}


def in_flight_recover(cuts: Sequence[Cut], each: int, limit: float) -> Checked:
    """`limit` in milliseconds."""
    said, passed = [f"{len(cuts)} losses of power"], bool(cuts)
    for kind in KINDS:
        flying = [one for cut in cuts for one in cut.flying if one.exchange == kind]
        parts = []
        for word, group in (
            ("unanswered", [one for one in flying if not one.answered]),
            ("just answered", [one for one in flying if one.answered]),
        ):
            kept = sum(one.kept for one in group)
            parts.append(f"{len(group)} {word} ({kept} IKE_SAs went on, {len(group) - kept} were built anew)")
        said.append(f"{kind.name}: {', '.join(parts)}")
        passed = passed and len(flying) >= each
    slowest = max((cut.recovered_ms for cut in cuts if cut.recovered_ms is not None), default=0.0)
    lost = [f"after loss {number}: {cut.missing}" for number, cut in enumerate(cuts, 1) if cut.recovered_ms is None]
    said.append(f"everybody was back after {slowest:.0f} ms at most")
    passed = passed and not lost and slowest <= limit
    text = "what was in flight when the power went recovers by itself"
    return Checked(text, "; ".join([*said, *lost]), f"{each} of each kind, {limit:g} ms", passed)
