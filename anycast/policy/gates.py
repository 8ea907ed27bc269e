"""Did clients fare as before at a site that was just changed? Positive evidence or none: no data is not healthy. Pure.

Theory of operation
-------------------
What every check of ours says can stay green while a change keeps clients out (a firewall rule, a proposal, an MTU). So a
changed site is judged by what its clients *do*: packets that the kernel decrypted and encrypted on their SAs, SAs that
were newly made, and the canary's echoes through its own tunnel. Each rate is compared with the site's own before the
change, and with how the sites that were not changed fare meanwhile: a fleet that goes to lunch is no fault of the change.

    expected = own rate before x (unchanged sites' rate now / theirs before, 1/4 to 1)

A rate passes at `SHARE` of what is expected, with Poisson's own scatter allowed for small counts: two new SAs a minute
instead of five prove nothing. A rate of which nothing was expected is no evidence. A site passes with at least one kind of
evidence, and none against it; without clients that is the canary. What was not reported is not zero, it is unknown.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterable, Sequence

SHARE = 0.5
"""Of what is expected. Clients of one office leave for lunch by the third, not by the half, within a bake of minutes."""
SCATTER = 3.0
"""Standard deviations of a Poisson count: one false stop in a thousand steps."""
LEAST_TREND = 0.25
"""A fleet that carries less than a quarter of what it did minutes ago has not gone to lunch: its clients came here, or
something is wrong. By a trend of nothing, nothing would be expected, and every change pass."""
LEAST_SPAN_S = 15.0
"""An agent counts when it lists its SAs, seconds apart, and reports whenever it has news: two reports of one listing are a
tenth of a second with nothing in it, at a site whose clients fare well."""
LEAST_EXPECTED = 10.0
"""Counted things; fewer expected cannot show a loss."""


class Verdict(enum.StrEnum):
    PASSES = "passes"
    FAILS = "fails"
    UNKNOWN = "unknown"
    """Not enough was seen yet."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What one site's clients did within a span; None: not reported."""

    span_s: float
    decrypted: int | None = None
    """Packets, on client SAs."""
    encrypted: int | None = None
    established: int | None = None
    """Pairs of SAs newly made with clients, rekeys among them."""
    canary: bool | None = None
    """The canary's newest answer came; None: there is none, or it is not known."""


KINDS = ("decrypted", "encrypted", "established")


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    why: str
    """One clause for each kind that speaks for or against it."""


def judge(before: Counted, now: Counted, others: Sequence[tuple[Counted, Counted]] = ()) -> Judgement:
    """`before` and `now` of the changed site; `others`: the same pairs of those that run by what was before."""
    good: list[str] = []
    bad: list[str] = []
    for kind in KINDS if now.span_s >= LEAST_SPAN_S else ():
        rate, count = _rate(before, kind), getattr(now, kind)
        if rate is None or count is None:
            continue
        expected = rate * now.span_s * _trend(kind, others)
        if expected < LEAST_EXPECTED:
            continue
        floor = max(0.0, SHARE * expected - SCATTER * math.sqrt(SHARE * expected))
        said = f"{count} {kind}, {expected:.0f} expected"
        # Nothing at all is a loss whatever the scatter allows.
        (good if count > floor and count > 0 else bad).append(said)
    if now.canary is True:
        good.append("the canary is answered")
    elif now.canary is False:
        bad.append("the canary is not answered")
    if bad:
        return Judgement(Verdict.FAILS, "; ".join(bad))
    if good:
        return Judgement(Verdict.PASSES, "; ".join(good))
    return Judgement(Verdict.UNKNOWN, "no client did anything that could be compared, and no canary answers")


def _rate(counted: Counted, kind: str) -> float | None:
    count = getattr(counted, kind)
    return None if count is None or counted.span_s <= 0 else count / counted.span_s


def _trend(kind: str, others: Iterable[tuple[Counted, Counted]]) -> float:
    """How the unchanged sites' rate has moved; 1 where they tell nothing. Never above 1: more elsewhere may be ours."""
    was = now = 0.0
    for before, after in others:
        rate_before, rate_after = _rate(before, kind), _rate(after, kind)
        if rate_before is None or rate_after is None:
            continue
        was, now = was + rate_before, now + rate_after
    return min(1.0, max(LEAST_TREND, now / was)) if was > 0 else 1.0
