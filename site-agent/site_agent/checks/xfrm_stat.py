"""Does the kernel discard IPsec packets?

Load, not a fact: one forged ESP packet adds one to XfrmInNoStates, one replayed packet to XfrmInStateSeqError. Totals mean
nothing (they grow for as long as the machine runs); only how fast they grow now is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from anycast.model import EvidenceClass
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.checks.base import Finding, Timing, failing, passing
from site_agent.checks.steady import Rates
from site_agent.proc_counters import parse_xfrm_stat
from site_agent.procfs import read_file

NAME = "xfrm_stat"
PATH = "/proc/net/xfrm_stat"
LIMIT_PER_S = 20.0
"""Of one counter. A client that moved, or a rekey under traffic, costs a handful of packets once."""
NAMED = 3
"""How many counters the detail names, the fastest first."""


class XfrmStatCheck:
    """Reports `xfrm_stat`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.LOAD}
    timing = Timing(interval_s=2.0, timeout_s=1.0)

    def __init__(self, read: Callable[[str], bytes] = read_file, clock: Callable[[], float] = boottime) -> None:
        self._read, self._clock = read, clock
        self._rates = Rates()

    async def look(self) -> Sequence[Finding]:
        counters = parse_xfrm_stat(self._read(PATH))
        return [judge(self._rates.since_last(counters, self._clock()))]


def judge(rates: Mapping[str, float] | None) -> Finding:
    """`rates` are discarded packets per second by counter; None before there is anything to compare with."""
    if not rates:
        return passing(NAME, "nothing to compare with yet" if rates is None else "no packet discarded")
    fastest = sorted(rates.items(), key=lambda item: (-item[1], item[0]))[:NAMED]
    detail = ", ".join(f"{name} {rate:.1f}/s" for name, rate in fastest)
    return failing(NAME, Reason.XFRM_ERRORS, detail) if fastest[0][1] >= LIMIT_PER_S else passing(NAME, detail)
