"""Does charon answer a client's first packet, on both ports and in both families?

Load, not a fact: who floods the port or fills the table of connections makes this probe fail, and a withdrawal would hand
the flood to the next site. What a hung charon is told from a flooded one by is `charon_answers`.

An end that wanted a COOKIE is UNKNOWN, whatever a worker said to the cookie that was brought back: charon protects itself,
and that is the news.

Value: the slowest answer, in ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from anycast.model import EvidenceClass
from anycast.reasons import Reason
from site_agent.checks.base import Finding, Timing, failing, passing, unknown
from site_agent.ike.prober import Asked, Outcome, Prober

NAME = "ike_probe"
ANSWER_LIMIT_S = 1.0
"""An idle charon answers in 0.2 ms; a client repeats its first packet after 1 to 4 s."""
SLOW_S = 0.5


class IkeProbeCheck:
    """Reports `ike_probe`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.LOAD}
    # charon writes seven lines a question, 0.6 to 1.4 kB: four questions every 15 s are 14 to 32 MB a day in its log.
    # A hang is known sooner, by `charon_answers`, which asks as soon as the control socket is silent.
    timing = Timing(interval_s=15.0, timeout_s=ANSWER_LIMIT_S + 1.0)

    def __init__(self, prober: Prober) -> None:
        self._prober = prober

    async def look(self) -> Sequence[Finding]:
        return [judge(await self._prober.ask(ANSWER_LIMIT_S))]


def judge(asked: Sequence[Asked]) -> Finding:
    """By the worst of the ends."""
    silent = [one for one in asked if one.outcome in (Outcome.SILENT, Outcome.NOBODY) and not one.cookie]
    mute = [f"{one.end} ({one.outcome})" for one in silent]
    if mute:
        return failing(NAME, Reason.IKE_UNANSWERED, f"no answer from {', '.join(mute)}")
    cookies = [one.end for one in asked if one.cookie]
    if cookies:
        return unknown(NAME, Reason.IKE_COOKIE, f"charon wants a cookie at {', '.join(cookies)}")
    slowest = max((one.latency_s for one in asked if one.latency_s is not None), default=0.0)
    value = slowest * 1000
    if slowest >= SLOW_S:
        return failing(NAME, Reason.IKE_SLOW, f"the slowest of {len(asked)} answers took {value:.0f} ms", value)
    return passing(NAME, f"{len(asked)} answers within {value:.1f} ms", value)
