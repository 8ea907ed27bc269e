"""`python -m anycast_lab.flood --to VIP --kind esp --kind ike --rate 60000 --out FILE`: flood until SIGTERM.

Runs in a lab's node. The report, one JSON object, is written at the end: what was sent, and how fast that was.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import itertools
import json
import os
import random
import signal
import time
from pathlib import Path

from anycast_lab.flood.packets import Kind, packets
from anycast_lab.flood.sender import Volley, flood

SOURCES = ["203.0.113.128/25", "2001:db8:ffff::/64"]
"""Documentation space that no lab gives to a machine."""
POOL = 4096
"""Different packets; then they come again."""

LOWEST_REAL_TIME = 1
"""The sender stands for other people's machines: it must not wait for the gateway that it floods."""
BEFORE_MOST = -5
"""Where one processor is everybody's (User Mode Linux) real time would leave the gateway nothing: there it comes before
charon and after who holds a lease."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="anycast-flood", description=__doc__)
    parser.add_argument("--to", action="append", required=True, type=ipaddress.ip_address)
    parser.add_argument("--kind", action="append", required=True, type=Kind, choices=list(Kind))
    parser.add_argument("--rate", required=True, type=float, help="packets a second, over all kinds and targets")
    parser.add_argument("--source", action="append", type=ipaddress.ip_network)
    parser.add_argument("--seconds", type=float, help="end after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    end_at = None if options.seconds is None else time.monotonic() + options.seconds
    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        ending = True

    signal.signal(signal.SIGTERM, end)
    with contextlib.suppress(OSError):  # the rate reached is reported, so this may fail
        if (os.cpu_count() or 1) > 1:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(LOWEST_REAL_TIME))
        else:
            os.setpriority(os.PRIO_PROCESS, 0, BEFORE_MOST)
            Path("/proc/self/autogroup").write_text(str(BEFORE_MOST))
    sources = options.source or [ipaddress.ip_network(source) for source in SOURCES]
    pool = list(itertools.islice(packets(options.kind, options.to, sources, random.Random(options.seed)), POOL))
    families = [[packet for packet in pool if packet[0] >> 4 == version] for version in (4, 6)]
    volleys = [Volley(family) for family in families if family]
    sent = flood(volleys, options.rate, lambda: ending or (end_at is not None and time.monotonic() >= end_at))
    report = {"v": 1, "sent": sent.packets, "refused": sent.refused, "seconds": sent.seconds, "rate": sent.rate}
    options.out.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
