"""Is the clock right? Pure.

Certificates are judged by it on both sides; leases are not (they count CLOCK_BOOTTIME), so a wrong clock moves no route, but
it refuses every client.
"""

from __future__ import annotations

import dataclasses
import datetime

from site_agent.doctor.finding import Finding, Kind, Severity

SYNCHRONISED = Kind(
    id="clock_synchronised",
    looks_at="the kernel's own word (adjtimex) whether something keeps its clock",
    why="a clock that nobody keeps drifts until certificates are refused, and two machines' logs cannot be compared",
    worst=Severity.RISKY,
)
BEHIND = Kind(
    id="clock_behind",
    looks_at="the clock against the newest file that the package manager or this project wrote",
    why="certificates that are valid look not yet valid, and every client is refused",
    worst=Severity.WRONG,
)
KINDS = (SYNCHRONISED, BEHIND)

SLACK = datetime.timedelta(days=1)
"""Files may come from another machine, whose clock may be a little ahead."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClockReading:
    now: datetime.datetime
    synchronised: bool
    max_error_s: float
    """The kernel's bound, in seconds; meaningless where not synchronised."""
    newest: datetime.datetime | None
    newest_file: str = ""


def judge(reading: ClockReading) -> list[Finding]:
    keep = "timedatectl set-ntp true || apt-get install -y systemd-timesyncd"
    found = []
    if reading.synchronised:
        found.append(SYNCHRONISED.ok(f"kept, within {reading.max_error_s:.3f} s"))
    else:
        found.append(SYNCHRONISED.found(Severity.RISKY, "the kernel says that nothing keeps its clock", keep))
    if reading.newest is not None and reading.now + SLACK < reading.newest:
        seen = f"it is {reading.now:%Y-%m-%d %H:%M} UTC, but {reading.newest_file} is of {reading.newest:%Y-%m-%d %H:%M}"
        right = f"date --utc --set '{reading.newest:%Y-%m-%d %H:%M:%S}'  # at least that late; better: the time of a watch"
        found.append(BEHIND.found(Severity.WRONG, seen, right, keep))
    else:
        found.append(BEHIND.ok(f"{reading.now:%Y-%m-%d %H:%M} UTC"))
    return found
