"""What happens when some sites go: bounds, and no forecast. Pure.

Where BGP carries a client whose site is gone nobody knows beforehand: it is a matter of other networks' preferences. So
three things are said and kept apart. The **worst case**: everything lands on one other site, each in turn; whatever holds
then, holds. The **best case**: it spreads as the others have room; whatever breaks then, breaks. **Seen before**: how often,
and how long ago, each of these sites was dark. What nobody counts or wrote is unknown, which is neither zero nor enough.
Guards go by the worst case (`worst_case.py`).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from anycast.content.canonical import Name, Part
from anycast.content.content import Content, Intent
from anycast.content.state import FROM_CONTENT, State
from anycast.policy.budget import lit, shortfalls

_DAY_S = 86400


class Verdict(enum.StrEnum):
    HOLDS = "holds"
    BREAKS = "breaks"
    UNKNOWN = "unknown"


class Landing(Part):
    """What becomes of one other site when everything lands there."""

    site: Name
    now: int | None
    """Tunnels that it has; None: nobody counts them."""
    worst: int | None
    """With all that move; of those that nobody counts none is in it."""
    capacity: int | None
    verdict: Verdict


class Seen(Part):
    """How often a site was dark on purpose, by the coordinator's history; how often it failed, by its gateways' events."""

    site: Name
    times: dict[str, int]
    """By kind: ``drain``, ``rollout``, ``token``…"""
    last_days: int | None
    """Ago, whole days; None: never."""
    failed: int | None = None
    """Times; None: nobody was asked, or an older coordinator."""
    failed_days: int | None = None
    """Ago, the last time; None: never, or not known."""


class WhatIf(Part):
    version: Literal[1] = 1
    kind: Literal["drain", "fail"]
    sites: tuple[Name, ...]
    moves: int
    """Tunnels that they have now, as far as they are counted."""
    uncounted: tuple[Name, ...]
    """Of these sites, those whose tunnels nobody counts."""
    landings: tuple[Landing, ...]
    """Of every site that attracts and goes on; what breaks first comes first."""
    best: Verdict
    """Whether the others together can carry it, spread as they have room."""
    budget: tuple[str, ...]
    """What the budget says of these sites being dark; nothing: it allows them."""
    seen: tuple[Seen, ...]

    @property
    def worst(self) -> Verdict:
        """Of all landings; with nobody left to land on, it breaks."""
        verdicts = {each.verdict for each in self.landings}
        if Verdict.BREAKS in verdicts or not self.landings:
            return Verdict.BREAKS
        return Verdict.UNKNOWN if Verdict.UNKNOWN in verdicts else Verdict.HOLDS


def what_if(
    content: Content,
    state: State,
    sites: Iterable[str],
    kind: Literal["drain", "fail"],
    history: Iterable[Mapping[str, Any]] = (),
    *,
    failures: Mapping[str, Sequence[float]] | None = None,
    now: float = 0.0,
) -> WhatIf:
    """`content`: what is in force (`content.state.in_force`); `sites`: of it. `history`: the coordinator's lines, as its
    REST answers them; `failures`: when each site failed, None: not known; `now`: Unix time."""
    going = tuple(sorted(set(sites)))
    tunnels = state.tunnels
    dark = {name for name, each in state.ledger.dark.items() if each.kind != FROM_CONTENT}
    left = [name for name in sorted(lit(content)) if name not in going and name not in dark]
    moves = sum(tunnels.get(name) or 0 for name in going)
    uncounted = tuple(name for name in going if tunnels.get(name) is None)
    landings = [landing(name, tunnels.get(name), moves, content.sites[name].capacity, bool(uncounted)) for name in left]
    after = content
    for name in going:
        after = after.with_intent(name, Intent.DRAINED)
    order = list(Verdict)
    return WhatIf(
        kind=kind,
        sites=going,
        moves=moves,
        uncounted=uncounted,
        landings=tuple(
            sorted(landings, key=lambda each: (-_rank(each), order.index(each.verdict), each.site)),
        ),
        best=_best(landings, moves, bool(uncounted)),
        budget=shortfalls(content, after, dark),
        seen=tuple(_seen(name, history, failures, now) for name in going),
    )


def landing(site: str, now: int | None, moves: int, capacity: int | None, some_uncounted: bool) -> Landing:
    """What becomes of `site` when `moves` tunnels land there, and those that nobody counts (`some_uncounted`) besides."""
    worst = None if now is None else now + moves
    if capacity is None:
        verdict = Verdict.UNKNOWN
    elif (worst or moves) > capacity:
        verdict = Verdict.BREAKS  # what is not counted would only be more
    elif worst is None or some_uncounted:
        verdict = Verdict.UNKNOWN
    else:
        verdict = Verdict.HOLDS
    return Landing(site=site, now=now, worst=worst, capacity=capacity, verdict=verdict)


def _rank(landing: Landing) -> int:
    """By how much it is too much; the unknown between what breaks and what holds."""
    if landing.verdict is Verdict.UNKNOWN or landing.capacity is None:
        return 0
    over = (landing.worst or 0) - landing.capacity
    return over if landing.verdict is Verdict.BREAKS else over - 1


def _best(landings: Iterable[Landing], moves: int, some_uncounted: bool) -> Verdict:
    landings = list(landings)
    room = sum(max(0, each.capacity - (each.now or 0)) for each in landings if each.capacity is not None)
    if all(each.capacity is not None for each in landings) and moves > room:
        return Verdict.BREAKS
    known = not some_uncounted and all(each.capacity is not None and each.now is not None for each in landings)
    return Verdict.HOLDS if known else Verdict.UNKNOWN


def _seen(
    site: str, history: Iterable[Mapping[str, Any]], failures: Mapping[str, Sequence[float]] | None, now: float
) -> Seen:
    taken = [line for line in history if line.get("action") == "slot.taken" and line.get("body", {}).get("site") == site]
    times: dict[str, int] = {}
    for line in taken:
        kind = str(line["body"].get("kind", "unknown"))
        times[kind] = times.get(kind, 0) + 1
    last = max((float(line["at"]) for line in taken), default=None)
    failed = None if failures is None else failures.get(site, ())
    return Seen(
        site=site,
        times=times,
        last_days=None if last is None else _days_ago(last, now),
        failed=None if failed is None else len(failed),
        failed_days=_days_ago(max(failed), now) if failed else None,
    )


def _days_ago(then: float, now: float) -> int:
    return max(0, int((now - then) // _DAY_S))
