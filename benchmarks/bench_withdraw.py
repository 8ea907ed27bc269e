"""How fast a gateway that cannot serve stops attracting traffic, and what watching costs.

Ours: the real agent, its charon, its ExaBGP and bridge, with the two-site fleet's own settings except the pause before a
route returns. The peer is what ExaBGP itself brings for this: `exabgp healthcheck`, watching the same charon by its pid
file, once with its defaults and once as fast as it still makes sense to set it (a look every 10 ms, one look decides). In
both cases with --withdraw-on-down: by default it does not withdraw at all but announces a worse MED. The fault is stamped
before the signal is sent, the WITHDRAW when `recv` at the BGP peer returned, both by this process; ours counts when the
last prefix is gone (two sessions, IPv4 and IPv6), the peer's is one IPv4 prefix.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Iterator, Sequence

from anycast.runtime import boottime_ns
from anycast_lab.drills.drill import load_limits
from anycast_lab.embedded.root import PYTHON
from benchmarks.bgp_peer import PeerTimeout
from benchmarks.report import Bound, Figure, Result, compare, percentile
from benchmarks.rig import GATEWAY, Rig, cpu_seconds
from site_agent import control

KILLS = 100
KILLS_AN_AGENT = 5
"""Then the agent is restarted, cleanly: the pause before it starts a charon that keeps dying doubles each time."""
PEER_KILLS = {"defaults": 10, "fastest": 30}
FREEZES = 10
NEVER_S = 15.0
"""How long the peer's withdrawal is waited for before it counts as never."""
REST_S = 20.0
START_S = 60.0
"""For an announcement after a start or a fault: nothing measured, only an end to waiting."""
SETTINGS = {
    "defaults": "",
    "fastest": "interval = 0.01\nfast-interval = 0.01\nrise = 1\nfall = 1\ndebounce\n",
}
PEER_NAMES = {
    "defaults": "exabgp healthcheck, defaults",
    "fastest": "exabgp healthcheck, a look every 10 ms, rise 1, fall 1",
}


Child = subprocess.Popen[bytes]


class Ours:
    """The agent on a rig's gateway."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.expected = set(rig.document.service.prefixes)
        self.agent = self.start()
        self.await_announced()

    def start(self) -> Child:
        """One more agent; for whoever ended the last."""
        command = (PYTHON, "/opt/anycast/.venv/bin/site-agent", "run")
        return self.rig.start(*map(str, command), "--fleet", "/etc/anycast/fleet.yaml", "--gateway", GATEWAY)

    def await_announced(self) -> None:
        self.rig.peer.wait(lambda: self.rig.peer.routes == self.expected, START_S)

    def forget_flaps(self) -> None:
        """What is measured is how a route goes; after the sixth time flap control would rightly keep it away."""
        control.ask(self.rig.path("/run/site-agent/control.sock"), "flap-clear")

    def restart(self) -> None:
        """Cleanly: the route stays."""
        self.agent.send_signal(signal.SIGTERM)
        self.agent.wait(START_S)
        self.agent = self.start()
        self.rig.peer.serve(3)  # its first looks
        self.await_announced()


@contextlib.contextmanager
def healthcheck(rig: Rig, settings: str) -> Iterator[None]:
    """ExaBGP with its own health check on a rig's gateway, which watches charon by its pid file."""
    document = rig.document
    neighbor = document.bgp.neighbors[0]
    folder = rig.path("/run/peer")
    folder.mkdir(exist_ok=True)
    (folder / "healthcheck.conf").write_text(
        f"command = kill -0 $(cat /run/charon.pid)\nip = {document.service.prefixes[0]}\n"
        f"next-hop = {neighbor.next_hop['ipv4']}\nno-ip-setup\nwithdraw-on-down\nno-syslog\n{SETTINGS[settings]}"
    )
    (folder / "exabgp.conf").write_text(
        f"process watch {{ run {PYTHON} -m exabgp healthcheck --config /run/peer/healthcheck.conf; encoder text; }}\n"
        f"neighbor {neighbor.address} {{\n"
        f"  router-id {document.bgp.router_id}; local-address {neighbor.local_address};\n"
        f"  local-as {document.bgp.asn}; peer-as {neighbor.asn}; hold-time {document.bgp.hold_time_s};\n"
        "  family { ipv4 unicast; }\n  api { processes [ watch ]; }\n}\n"
    )
    environment = os.environ | {"exabgp_daemon_drop": "false", "exabgp_api_cli": "false", "exabgp_log_enable": "false"}
    rig.start(str(PYTHON), "-m", "exabgp", "server", "/run/peer/exabgp.conf", env=environment)
    yield
    rig.end_all()
    rig.peer.wait(lambda: not rig.peer.routes, START_S)


def start_charon(rig: Rig) -> Child:
    """A charon for the peer to watch, once it has written its pid file."""
    pid_file = rig.path("/run/charon.pid")
    pid_file.unlink(missing_ok=True)
    charon = rig.start("/usr/lib/ipsec/charon")
    rig.peer.wait(pid_file.exists, START_S)
    return charon


def time_to_withdrawal(rig: Rig, pid: int, number: signal.Signals, timeout_s: float, reap: Child | None = None) -> float:
    """Signal a process; milliseconds until no route is left. Raises PeerTimeout.

    `reap` is that process where it is our own child: a zombie would still answer the peer's `kill -0`.
    """
    assert rig.peer.routes
    heard = len(rig.peer.heard)
    fault_ns = boottime_ns()
    os.kill(pid, number)
    if reap is not None:
        reap.wait()
    rig.peer.wait(lambda: not rig.peer.routes, timeout_s)
    last_ns = max(h.at_ns for h in rig.peer.heard[heard:] if not h.announced)
    return (last_ns - fault_ns) / 1e6


def kill_ours(rig: Rig) -> list[float]:
    ours = Ours(rig)
    samples = []
    for run in range(KILLS):
        if run and run % KILLS_AN_AGENT == 0:
            ours.restart()
        rig.peer.serve(random.uniform(0.2, 0.6))  # at no particular phase of the lease
        charon = rig.charon()
        assert charon is not None
        samples.append(time_to_withdrawal(rig, charon, signal.SIGKILL, START_S))
        ours.forget_flaps()
        ours.await_announced()
    return samples


def kill_peer(rig: Rig, settings: str) -> list[float]:
    samples = []
    charon = start_charon(rig)
    with healthcheck(rig, settings):
        for _ in range(PEER_KILLS[settings]):
            rig.peer.wait(lambda: bool(rig.peer.routes), START_S)
            rig.peer.serve(random.uniform(0, 5) if settings == "defaults" else random.uniform(0.2, 0.6))
            samples.append(time_to_withdrawal(rig, charon.pid, signal.SIGKILL, START_S, reap=charon))
            charon = start_charon(rig)
    return samples


def withdraw_on_charon_kill(soak: bool) -> Result:
    """charon SIGKILL → the last WITHDRAW at the BGP peer."""
    with Rig() as rig:
        peers = {settings: kill_peer(rig, settings) for settings in SETTINGS}
        samples = kill_ours(rig)
    name = "withdraw_on_charon_kill"
    median, p99 = (load_limits()[bound].on("native") for bound in ("bench_withdraw_median", "bench_withdraw_p99"))
    return Result(
        [
            compare(name, "ms", samples, peers["fastest"], PEER_NAMES["fastest"]),
            compare(f"{name}_beside_defaults", "ms", samples, peers["defaults"], PEER_NAMES["defaults"]),
        ],
        [
            Bound(name=f"{name} median, ms", seen=percentile(samples, 0.5), limit=median),
            Bound(name=f"{name} p99, ms", seen=percentile(samples, 0.99), limit=p99),
        ],
    )


def withdraw_on_frozen_controller(soak: bool) -> Result:
    """The deciding process SIGSTOP → the last WITHDRAW at the BGP peer."""
    name = "withdraw_on_frozen_controller"
    with Rig() as rig:
        start_charon(rig)
        with healthcheck(rig, "fastest"):
            rig.peer.wait(lambda: bool(rig.peer.routes), START_S)
            (watcher,) = rig.processes(lambda argv: "healthcheck" in argv)
            peer_name = f"exabgp healthcheck: never (watched for {NEVER_S:g} s)"
            peer: list[float] = []
            with contextlib.suppress(PeerTimeout):
                peer.append(time_to_withdrawal(rig, watcher, signal.SIGSTOP, NEVER_S))
                peer_name = PEER_NAMES["fastest"]
        ours = Ours(rig)
        samples = []
        for _ in range(FREEZES):
            rig.peer.serve(random.uniform(0.5, 1.5))
            samples.append(time_to_withdrawal(rig, ours.agent.pid, signal.SIGSTOP, START_S))
            ours.agent.send_signal(signal.SIGCONT)
            ours.forget_flaps()
            ours.await_announced()
    bound = Bound(name=f"{name} worst, ms", seen=max(samples), limit=load_limits()["bench_withdraw_frozen"].on("native"))
    return Result([compare(name, "ms", samples, peer, peer_name)], [bound])


def processor_use(rig: Rig, pids: Sequence[int]) -> float:
    """Milliseconds of processor a second, of these processes and of the children they waited for, over `REST_S`."""
    started_ns, before = boottime_ns(), sum(map(cpu_seconds, pids))
    rig.peer.serve(REST_S)
    return (sum(map(cpu_seconds, pids)) - before) * 1e3 / ((boottime_ns() - started_ns) / 1e9)


def agent_cpu_at_rest(soak: bool) -> Result:
    """What watching costs while nothing happens."""
    unit = "ms of processor a second"
    peer: dict[str, float] = {}
    with Rig() as rig:
        for settings in SETTINGS:
            start_charon(rig)
            with healthcheck(rig, settings):
                rig.peer.wait(lambda: bool(rig.peer.routes), START_S)
                peer[settings] = processor_use(rig, rig.processes(lambda argv: "healthcheck" in argv))
        ours = Ours(rig)
        rig.peer.serve(2)
        used = processor_use(rig, [ours.agent.pid])
    figures: list[Figure] = [
        compare("agent_cpu_at_rest", unit, [used], [peer["fastest"]], PEER_NAMES["fastest"]),
        compare("agent_cpu_at_rest_beside_defaults", unit, [used], [peer["defaults"]], PEER_NAMES["defaults"]),
    ]
    bound = Bound(name=f"agent_cpu_at_rest, {unit}", seen=used, limit=load_limits()["bench_agent_cpu"].on("native"))
    return Result(figures, [bound])


BENCHMARKS = {
    "withdraw_on_charon_kill": withdraw_on_charon_kill,
    "withdraw_on_frozen_controller": withdraw_on_frozen_controller,
    "agent_cpu_at_rest": agent_cpu_at_rest,
}
