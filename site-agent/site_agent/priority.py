"""Who gets the processor first when there is too little of it: whoever holds the lease.

A stranger can keep every core of a gateway busy with garbage for charon to read and the kernel to sort. A lease that is
renewed late takes the route away, so a flood could switch a site off by nothing but being work. The agent, ExaBGP and its
bridge need 3 % of a core together; with a nice value of -10 the kernel gives them ten times the share of an ordinary
process when they ask for it. Not a real-time class: reading a list of 20,000 tunnels takes the agent seconds, and nothing of
that may stop charon. charon, which is started by the agent, stays ordinary, and so does whatever else it starts that is not
its own work: a check that somebody wrote, the alarm command, the canary.

Where the kernel groups processes by session (sched(7), "The autogroup feature") the group's own value decides, so both are
set. A process whose session is older than these groups is in none: its file is empty and refuses a value, and its own nice
value counts. Where it is not permitted the agent runs as it is: then a quiet gateway keeps its route just as well.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

HOLDS_THE_LEASE = -10
ORDINARY = 0


NICE = "/usr/bin/nice"
AUTOGROUP = "/proc/{pid}/autogroup"


def ordinary_prefix() -> tuple[str, ...]:
    """What to put before a command so that it runs as an ordinary process from its first instruction, under any account: its
    value may be raised by everybody, but from outside only with its own account's rights (setpriority(2)).
    """
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    return (NICE, "-n", str(ORDINARY - nice)) if nice < ORDINARY else ()


def make_ordinary(leader: int) -> None:
    """Give process `leader`, which leads a group of its own, and whatever it has started meanwhile an ordinary value."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PGRP, leader, ORDINARY)


def prefer(pid: int, nice: int) -> None:
    """Give process `pid` and its session this nice value, where that is permitted."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
    with contextlib.suppress(OSError):
        Path(AUTOGROUP.format(pid=pid)).write_text(str(nice))


def group_nice(pid: int) -> int | None:
    """The nice value of the scheduler's group that process `pid` is in; None where the kernel has no such groups, or the
    process is in none.

    Raises OSError, where there is no such process.
    """
    os.getpriority(os.PRIO_PROCESS, pid)
    try:
        return parse_group_nice(Path(AUTOGROUP.format(pid=pid)).read_text())
    except FileNotFoundError:
        return None


def parse_group_nice(text: str) -> int | None:
    """Of an autogroup file: ``/autogroup-52 nice -10``, or nothing for a process without a group."""
    words = text.split()
    return int(words[-1]) if words else None
