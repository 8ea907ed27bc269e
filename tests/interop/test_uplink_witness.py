"""The uplink's proof on a real link: a router behind a bridge, which dies without our carrier's knowing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.support.namespace import in_namespace
from tests.support.vrrp_pair import TREE, inside, ip

pytestmark = [pytest.mark.root, pytest.mark.alone]

LEASE_S = 1.0
LOADED_S = 0.3
PATIENCE_S = 10.0
ROUTER = {4: "198.51.100.1", 6: "2001:db8:1::1"}
OWN = {4: "198.51.100.{}/28", 6: "2001:db8:1::{}/64"}
CODE = """
import asyncio, json, sys
from ipaddress import ip_address, ip_interface
from site_agent.vrrp.uplink_witness import UplinkWitness

class Told(UplinkWitness):
    def _perform(self, action):
        super()._perform(action)
        print(action, flush=True)

given = json.load(sys.stdin)
routers, peers = ([ip_address(address) for address in given[name]] for name in ("routers", "peers"))
told = Told(interface="eth1", own=[ip_interface(address) for address in given["own"]], witnesses=routers, peers=peers,
            vrid=51, lease_s=1.0, tell=lambda proven: None)
asyncio.run(told.run())
"""


class Asker:
    """The witness's shell in gateway 1's namespace, and what it says."""

    def __init__(self, families: tuple[int, ...]) -> None:
        command = ["ip", "netns", "exec", "gw1", sys.executable, "-c", CODE]
        environment = {**os.environ, "PYTHONPATH": f"{TREE}:{TREE / 'site-agent'}"}
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert self.child.stdin is not None and self.child.stdout is not None
        given = {
            "own": [OWN[family].format(2) for family in families],
            "routers": [ROUTER[family] for family in families],
            "peers": [OWN[family].format(3).partition("/")[0] for family in families],
        }
        self.child.stdin.write(json.dumps(given).encode())
        self.child.stdin.close()
        self._rest = b""
        self.said: list[str] = []

    def wait(self, pattern: str, why: str, within_s: float = PATIENCE_S, *, times: int = 1) -> float:
        """Until so many lines matched that were said from now on; returns how long that took."""
        assert self.child.stdout is not None
        began, found = time.monotonic(), 0
        while True:
            left = began + within_s - time.monotonic()
            assert left > 0, f"not within {within_s} s: {why}; said last: {self.said[-12:]}"
            if select.select([self.child.stdout], [], [], left)[0]:
                data = os.read(self.child.stdout.fileno(), 65536)
                assert data, f"it has ended: {self.said[-5:]}"
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in map(bytes.decode, lines):
                    self.said.append(line)
                    found += bool(re.search(pattern, line))
                if found >= times:
                    return time.monotonic() - began

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


PROVEN, NOT_PROVEN, NOT_TOLD = (rf"Proven\(proven={value}\)" for value in (True, False, None))


@contextlib.contextmanager
def uplink(*families: int) -> Iterator[Asker]:
    """A bridge with the router and both gateways on it."""
    os.makedirs("/run/netns", exist_ok=True)
    for name in ("lan", "gw1", "gw2", "router"):
        ip(f"netns add {name}")
    ip("-n lan link add br0 type bridge forward_delay 0 mcast_snooping 0")
    ip("-n lan link set br0 up")
    for name, port, n in (("router", "pr", 1), ("gw1", "p1", 2), ("gw2", "p2", 3)):
        connect(name, port)
        for family in families:
            ip(f"-n {name} addr add {OWN[family].format(n)} dev eth1{' nodad' if family == 6 else ''}")
    asker = Asker(families)
    try:
        yield asker
    finally:
        asker.child.kill()
        asker.child.wait()


def connect(name: str, port: str) -> None:
    ip(f"link add eth1 netns {name} type veth peer name {port} netns lan")
    ip(f"-n lan link set {port} master br0 up")
    ip(f"-n {name} link set eth1 up")


def dies_and_comes_back(*families: int) -> None:
    with uplink(*families) as asker:
        asker.wait(PROVEN, "the router answers")
        ip("-n lan link set pr down")
        carrier = ip("-n gw1 -o link show eth1")
        assert "LOWER_UP" in carrier, "our own link sees nothing of it"
        asker.wait(NOT_PROVEN, "the router is dead", LEASE_S + LOADED_S)
        ip("-n lan link set pr up")
        asker.wait(PROVEN, "the router is back", LEASE_S / 6 + LOADED_S + 1.0)  # veth tells its carrier a second later
        assert not [line for line in asker.said if re.search(NOT_TOLD, line)]


@in_namespace
def test_a_router_that_dies_behind_a_bridge_by_ipv4() -> None:
    dies_and_comes_back(4)


@in_namespace
def test_a_router_that_dies_behind_a_bridge_by_ipv6() -> None:
    dies_and_comes_back(6)


@in_namespace
def test_either_family_proves_it_and_none_disproves_it() -> None:
    with uplink(4, 6) as asker:
        asker.wait(PROVEN, "the router answers")
        ip(f"-n router addr del {OWN[4].format(1)} dev eth1")
        asker.wait(f"Ask.*{ROUTER[6]}", "IPv6 is asked for two leases", times=12)
        ip(f"-n router addr add {OWN[4].format(1)} dev eth1")
        ip(f"-n router addr del {OWN[6].format(1)} dev eth1")
        asker.wait(f"Ask.*{ROUTER[4]}", "IPv4 is asked for two leases", times=12)
        assert [line for line in asker.said if "Proven" in line] == ["Proven(proven=True)"]
        ip("-n lan link set pr down")
        asker.wait(NOT_PROVEN, "the router is dead", LEASE_S + LOADED_S)


@in_namespace
def test_the_other_gateway_proves_nothing_for_a_dead_router() -> None:
    with uplink(4) as asker:
        asker.wait(PROVEN, "the router answers")
        ip("-n lan link set pr down")
        ip(f"-n gw2 addr add {ROUTER[4]}/32 dev eth1")  # as one that proxies does
        asker.wait(NOT_TOLD, "an answer that is the other gateway's", LEASE_S + LOADED_S)
        asker.wait(f"Ask.*{ROUTER[4]}", "it goes on being asked", times=12)
        assert [line for line in asker.said if "Proven" in line] == ["Proven(proven=True)", "Proven(proven=None)"]


@in_namespace
def test_an_interface_that_goes_and_returns() -> None:
    with uplink(4, 6) as asker:
        asker.wait(PROVEN, "the router answers")
        ip("-n lan link del p1")
        asker.wait(NOT_PROVEN, "nothing passes", LEASE_S + LOADED_S)
        connect("gw1", "p1")
        for family in (4, 6):
            ip(f"-n gw1 addr add {OWN[family].format(2)} dev eth1{' nodad' if family == 6 else ''}")
        asker.wait(PROVEN, "it is there again")


@in_namespace
def test_a_flood_of_answers_costs_next_to_nothing_and_disproves_nothing() -> None:
    frames = 40_000
    with uplink(4) as asker:
        asker.wait(PROVEN, "the router answers")
        with inside("gw2"):
            wires = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        wires.bind(("eth1", 0))
        (link,) = json.loads(ip("-j -n gw1 link show eth1"))
        ours, theirs = bytes.fromhex(link["address"].replace(":", "")), wires.getsockname()[4]
        head = ours + theirs + b"\x08\x06" + bytes.fromhex("0001080006040002") + theirs
        tail = ours + ip_address("198.51.100.2").packed
        flood = [head + ip_address(address).packed + tail for address in ("198.51.100.9", "198.51.100.3")]
        before = asker.cpu_s()
        for _ in range(frames // 2):
            for frame in flood:  # one that the filter drops, and one that it must let through
                wires.send(frame)
        asker.wait(f"Ask.*{ROUTER[4]}", "it goes on", times=8)
        spent = asker.cpu_s() - before
        assert spent < 0.5, f"{spent:.2f} s of processor time for {frames} frames"
        assert [line for line in asker.said if "Proven" in line] == ["Proven(proven=True)"]
        wires.close()
