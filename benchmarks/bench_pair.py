"""How long a site's clients reach a gateway that can serve nobody: its charon is killed, and the other one must be Active.

Two whole gateways (agent, charon, ExaBGP, vrrp process) on one LAN with a router, in namespaces of a child process of this
one; interval 100 ms, as by default. Measured from SIGKILL until what the router sends to the service's addresses arrives at
the other gateway, in whichever family that is later. The address itself is never gone: a release is made before it breaks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import time

from anycast_lab.drills.limits import load_limits
from benchmarks.bench_vrrp import apart
from benchmarks.report import Bound, Result, compare
from tests.support.site_pair import Member, Probe, SitePair
from tests.support.upstream import until

RUNS = 10
WITHIN_S = 5.0


class WhereTo(Probe):
    """Which gateway each packet arrives at."""

    def __init__(self, pair: SitePair) -> None:
        super().__init__(pair)
        self.first: dict[tuple[int, int], int] = {}
        """The first number by gateway and family."""

    def __enter__(self) -> WhereTo:
        super().__enter__()
        return self

    def _drain(self) -> None:
        for place, sock in enumerate(self._in):
            gateway = place // 2 + 1
            with contextlib.suppress(BlockingIOError):
                while True:
                    number = int.from_bytes(sock.recv(16), "big")
                    self._got.add((int(sock.family), number))
                    self.first.setdefault((gateway, int(sock.family)), number)

    def turned_to(self, n: int) -> list[float]:
        """When the first packet that arrived at gateway `n` was sent, by family."""
        self._drain()
        return [self.sent_at[self.first[key]] for family in (socket.AF_INET, socket.AF_INET6)
                if (key := (n, int(family))) in self.first]  # fmt: skip


def fit(active: Member, backup: Member) -> bool:
    """They are a pair, and either could serve."""
    standing = [member.status() for member in (active, backup)]
    if not all(status and status["gateway_verdict"]["serving"] for status in standing):
        return False
    one, two = active.vrrp(), backup.vrrp()
    return (one.get("role"), two.get("role"), one.get("peer"), two.get("peer_active")) == ("active", "backup", "fit", True)


def charon_kills() -> list[float]:
    """In milliseconds."""
    gaps = []
    with SitePair() as pair:
        active, backup = pair.up()
        for _ in range(RUNS):
            until(lambda: fit(active, backup), "they are a pair", within_s=30)  # noqa: B023
            with WhereTo(pair) as probe:
                killed_at = time.monotonic()
                os.kill(active.pid("charon"), signal.SIGKILL)
                until(lambda: len(probe.turned_to(backup.n)) == 2, "it moves", within_s=WITHIN_S)  # noqa: B023
                gaps.append((max(probe.turned_to(backup.n)) - killed_at) * 1000)
            active, backup = backup, active
    return gaps


def failover_gap_charon_killed(soak: bool) -> Result:
    """SIGKILL of the Active's charon → what clients send arrives at the other gateway."""
    gaps = apart(charon_kills)
    limit = load_limits()["bench_failover_charon"].on("native")
    return Result(
        [compare("failover_gap_charon_killed", "ms", gaps, [], "nobody else watches charon and moves the address")],
        [Bound(name="failover_gap_charon_killed median, ms", seen=statistics.median(gaps), limit=limit)],
    )


BENCHMARKS = {"failover_gap_charon_killed": failover_gap_charon_killed}
