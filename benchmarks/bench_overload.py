"""Does a gateway that is overloaded by strangers keep its route, and how long does its lease go without a renewal?

Everything at once, for a minute (ten with --soak): a burner on every core, 50,000 packets a second of garbage ESP and IKE at
the VIP, a charon that lists 20,000 tunnels whenever it is asked, a scraper that takes a byte a second, and a name server
that answers each question with strangers' guesses and the longest answer there is. The WITHDRAWs are counted by the BGP
peer; the renewals are stamped where they arrive, in the bridge. The flood is counted by the gateway's own kernel, and one
that was too weak fails the benchmark. The peer, `exabgp healthcheck` with its defaults, has the same burners and the same
flood; it looks at charon's pid file and has neither list nor metrics.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from anycast.document import Document
from anycast_lab.drills.limits import load_limits
from anycast_lab.embedded.root import PYTHON
from benchmarks.bench_withdraw import START_S, Ours, healthcheck, start_charon
from benchmarks.bridge_tap import PATH as RENEWALS
from benchmarks.bridge_tap import RECORD
from benchmarks.report import Bound, Result, compare
from benchmarks.rig import TREE, Rig

SECONDS = {False: 60.0, True: 600.0}
"""By --soak."""
SAS = 20_000
KINDS = ("esp", "natt", "ike")
MORE = 1.1
"""How much faster than the bound the flood is asked to be."""
SETTLE_S = 10.0
"""Before the strain counts: the first list of 20,000 is the longest."""
REPORT = Path("/run/bench-flood.json")
NAMES = TREE / "benchmarks/loud_names.py"
BURN = "while True: pass"


@dataclasses.dataclass(frozen=True, slots=True)
class Strained:
    """What one run of the agent under strain came to."""

    withdrawals: int
    gaps_ms: list[float]
    least_left_ms: float
    flood_per_s: float
    name_answers: int
    """Of a name server, a stranger's guesses among them."""


def in_tree(module: str, *arguments: str) -> tuple[str, ...]:
    """A command that runs a module of the benchmarks on the rig's gateway, where the checkout lies elsewhere."""
    return ("sh", "-c", 'cd /opt/anycast && exec "$@"', "sh", str(PYTHON), "-m", module, *arguments)


def tap_renewals(rig: Rig) -> None:
    """Have the bridge write down each renewal that arrives."""
    rig.path(RENEWALS).touch()
    rig.path(RENEWALS).chmod(0o666)  # the bridge runs as another user
    package = "/opt/anycast"
    rig.run("mount", "--bind", f"{package}/benchmarks/bridge_tap.py", f"{package}/exabgp/exabgp_bridge/__main__.py")


def crowd_in(rig: Rig, ours: Ours, vip: str) -> None:
    """From now on charon lists 20,000 tunnels, and the kernel holds their SAs."""
    socket = "/run/site-agent/charon.vici"
    rig.run(*in_tree("benchmarks.crowd", "sas", str(SAS), vip))
    ours.agent.send_signal(signal.SIGTERM)  # cleanly, so the route stays; its next connection finds the crowd
    ours.agent.wait(START_S)
    rig.path(socket).rename(rig.path(f"{socket}.real"))
    rig.start(*in_tree("benchmarks.crowd", "vici", str(SAS), vip, socket, f"{socket}.real"))
    rig.peer.wait(rig.path(socket).exists, START_S)
    ours.agent = ours.start()
    rig.peer.serve(3)
    ours.await_announced()


@contextlib.contextmanager
def loud_names(rig: Rig, document: Document) -> Iterator[Path]:
    """A name server at the addresses that the gateway asks, in the upstream; the file says how much it has answered."""
    told = Path(f"/run/bench-names-{os.getpid()}")
    told.write_text("0")
    servers = document.service.checks.dns_servers
    for server in servers:
        rig.own_upstream(server)
    child = rig.start_upstream(str(TREE / ".venv/bin/python"), str(NAMES), str(told), *servers)
    try:
        yield told
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(START_S)
        told.unlink()


@contextlib.contextmanager
def strain(rig: Rig, document: Document) -> Iterator[None]:
    """Burners on every core and a flood from the upstream."""
    burners = [rig.start(str(PYTHON), "-c", BURN) for _ in range(os.cpu_count() or 1)]
    targets = [word for vip in document.service.vips for word in ("--to", vip)]
    kinds = [word for kind in KINDS for word in ("--kind", kind)]
    rate = load_limits()["flood_rate"].on("native") * MORE
    flood = ("-m", "anycast_lab.flood", *targets, *kinds, "--rate", str(rate), "--out", str(REPORT))
    sender = rig.start_upstream(str(TREE / ".venv/bin/python"), *flood)
    try:
        yield
    finally:
        sender.send_signal(signal.SIGTERM)
        sender.wait(START_S)
        for burner in burners:
            burner.kill()
            burner.wait()


def received(rig: Rig) -> int:
    """IP packets that the gateway's kernel has taken in."""
    names, values = (line.split() for line in rig.proc("net/snmp").read_text().splitlines() if line[:3] == "Ip:")
    six = dict(line.split() for line in rig.proc("net/snmp6").read_text().splitlines())
    return int(values[names.index("InReceives")]) + int(six["Ip6InReceives"])


def withdrawals(rig: Rig, since: int) -> int:
    return sum(not heard.announced for heard in rig.peer.heard[since:])


def serve_flooded(rig: Rig, seconds: float) -> float:
    """Let time pass under strain; packets a second that arrived meanwhile."""
    before = received(rig)
    rig.peer.serve(seconds)
    return (received(rig) - before) / seconds


def renewals(rig: Rig, since: int) -> list[tuple[int, int]]:
    """(arrival, expiry) of each renewal after the first `since` of them, in ns."""
    return list(RECORD.iter_unpack(rig.path(RENEWALS).read_bytes()))[since:]


@functools.cache
def strained(soak: bool) -> tuple[Strained, int]:
    """Ours, and the peer's withdrawals."""
    seconds = SECONDS[soak]
    with Rig() as rig:
        document = rig.document
        vip = document.service.vips[0]
        rig.route_upstream(document.service.vips)
        start_charon(rig)
        with healthcheck(rig, "defaults"):
            rig.peer.wait(lambda: bool(rig.peer.routes), START_S)
            with strain(rig, document):
                rig.peer.serve(SETTLE_S)
                since = len(rig.peer.heard)
                rig.peer.serve(seconds)
            peer = withdrawals(rig, since)
        tap_renewals(rig)
        ours = Ours(rig)
        crowd_in(rig, ours, vip)
        host, _, port = document.agent.metrics_listen.rpartition(":")
        rig.start(*in_tree("benchmarks.slow_scrape", host.strip("[]"), port))
        since = len(rig.peer.heard)
        with loud_names(rig, document) as told, strain(rig, document):
            rig.peer.serve(SETTLE_S)
            first, answered = len(renewals(rig, 0)), int(told.read_text())
            flood = serve_flooded(rig, seconds)
            arrived = renewals(rig, first)
            answered = int(told.read_text()) - answered
        gaps = [(later - earlier) / 1e6 for (earlier, _), (later, _) in itertools.pairwise(arrived)]
        # What was left of the lease in the moment before the next renewal came.
        left = [(expires - later) / 1e6 for (_, expires), (later, _) in itertools.pairwise(arrived)]
        return Strained(withdrawals(rig, since), gaps, min(left), flood, answered), peer


def false_withdrawals_overload(soak: bool) -> Result:
    """WITHDRAWs of a gateway that can serve."""
    ours, peer = strained(soak)
    name, least = "false_withdrawals_overload", load_limits()["flood_rate"].on("native")
    unit = f"withdrawals in {SECONDS[soak]:g} s"
    return Result(
        [
            compare(name, unit, [ours.withdrawals], [peer], "exabgp healthcheck, defaults, same burners and flood"),
            compare(f"{name}_flood", "packets/s received", [ours.flood_per_s], [], "the strain itself"),
            compare(f"{name}_names", "answers of a name server", [ours.name_answers], [], "the strain itself"),
        ],
        [
            Bound(name=f"{name}, {unit}", seen=ours.withdrawals, limit=0),
            Bound(name=f"{name}, packets/s missing in the flood", seen=max(0.0, least - ours.flood_per_s), limit=0),
            Bound(name=f"{name}, name servers that said nothing", seen=float(ours.name_answers == 0), limit=0),
        ],
    )


def lease_renewal_gap_overload(soak: bool) -> Result:
    """Between two renewals arriving at the bridge, in the same run."""
    ours, _ = strained(soak)
    name = "lease_renewal_gap_overload"
    nobody = "exabgp healthcheck has no lease"
    return Result(
        [
            compare(name, "ms, longest", [max(ours.gaps_ms)], [], nobody),
            compare(f"{name}_each", "ms", ours.gaps_ms, [], nobody),
            compare(f"{name}_left", "ms of the lease left, least", [ours.least_left_ms], [], nobody),
        ],
        [Bound(name=f"{name}, ms", seen=max(ours.gaps_ms), limit=load_limits()["bench_lease_renewal_gap"].on("native"))],
    )


BENCHMARKS = {
    "false_withdrawals_overload": false_withdrawals_overload,
    "lease_renewal_gap_overload": lease_renewal_gap_overload,
}
