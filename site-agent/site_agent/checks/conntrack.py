"""Is the connection tracking table filling, or already refusing?

Load, not a fact: every stranger can open flows, and a withdrawal would only send the flood to the next site. Established
flows go on through a full table; new ones are refused. So: an alarm, before the end (fill) and at it (refusals).

Constant cost: the kernel keeps the count and the counters, and the table itself is never read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from anycast.model import EvidenceClass
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.checks.base import Finding, Timing, failing, passing
from site_agent.checks.steady import Rates
from site_agent.proc_counters import parse_conntrack_stat, parse_number
from site_agent.procfs import read_file

NAME = "conntrack"
COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"
LIMIT = "/proc/sys/net/netfilter/nf_conntrack_max"
STATISTICS = "/proc/net/stat/nf_conntrack"

FILL_LIMIT = 0.8
"""A flood of 50,000 new flows/s fills the rest of a 262,144-entry table in a second: later than this is too late to see."""
REFUSED_LIMIT_PER_S = 1.0
"""`drop` counts packets whose flow got no entry: the table is full, or memory is. A healthy table drops none."""
INSERT_FAILED_LIMIT_PER_S = 50.0
"""Two packets of one new flow on two CPUs race for one entry; the loser counts here. DNS does this a few times a second."""


class ConntrackCheck:
    """Reports `conntrack`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.LOAD}
    timing = Timing(interval_s=2.0, timeout_s=1.0)

    def __init__(self, read: Callable[[str], bytes] = read_file, clock: Callable[[], float] = boottime) -> None:
        self._read, self._clock = read, clock
        self._rates = Rates()

    async def look(self) -> Sequence[Finding]:
        count, limit = (parse_number(self._read(path), path.rpartition("/")[2]) for path in (COUNT, LIMIT))
        counters = parse_conntrack_stat(self._read(STATISTICS))
        return [judge(count, limit, self._rates.since_last(counters, self._clock()))]


def judge(count: int, limit: int, rates: Mapping[str, float] | None) -> Finding:
    """`count` of `limit` entries (0: no limit), and the counters' growth per second."""
    rates = rates or {}
    refused, failed = rates.get("drop", 0.0), rates.get("insert_failed", 0.0)
    detail = f"{count} of {limit} entries" if limit else f"{count} entries, no limit"
    if refused >= REFUSED_LIMIT_PER_S or failed >= INSERT_FAILED_LIMIT_PER_S:
        seen = f"{detail}; {refused:.0f}/s refused, {failed:.0f}/s not inserted"
        return failing(NAME, Reason.CONNTRACK_REFUSING, seen)
    if limit and count >= FILL_LIMIT * limit:
        return failing(NAME, Reason.CONNTRACK_FILLING, detail)
    return passing(NAME, detail)
