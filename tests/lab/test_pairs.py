"""The labs with two gateways a site come up natively with one Active a pair, and who looks on from outside sees just that.

The witnesses are neighbours: a router's own table of MAC addresses, BIRD's routes, ICMP echoes. Natively: without ESP.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anycast_lab.control import launch
from anycast_lab.control.client import Client
from tests.support.lab_watch import ends_with_us

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.pairs]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
TOPOLOGIES = Path(__file__).resolve().parents[2] / "labs" / "topologies"
UP_S = 240
PATIENCE_S = 60.0
"""Neither is a bound that is asserted; both only end the waiting."""


class Lab:
    """One lab that is up, by the socket that the command line uses, too."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def execute(self, node: str, *words: str) -> tuple[int, str]:
        said = bytearray()
        answer = self.client.ask("exec", node=node, argv=words, timeout=PATIENCE_S, output=lambda _, data: said.extend(data))
        return answer["rc"], said.decode()

    def run(self, node: str, *words: str) -> str:
        status, said = self.execute(node, *words)
        assert status == 0, said
        return said

    def fault(self, kind: str, node: str, **fields: str) -> None:
        self.client.ask(kind, node=node, **fields)

    def answers(self, node: str, address: str) -> bool:
        return self.execute(node, "ping", "-c", "1", "-W", "1", address)[0] == 0

    def roles(self) -> dict[str, str]:
        return {name: node["role"] for name, node in self.client.ask("status")["nodes"].items() if node["role"]}

    def active(self, *gateways: str) -> str:
        roles = self.roles()
        (found,) = [gateway for gateway in gateways if roles.get(gateway) == "active"]
        return found

    def mac(self, node: str, interface: str) -> str:
        return str(json.loads(self.run(node, "ip", "-json", "link", "show", interface))[0]["address"])

    def neighbour(self, node: str, address: str) -> str:
        """The MAC address under which `node` reaches `address`."""
        entries = json.loads(self.run(node, "ip", "-json", "neigh", "show", address))
        return str(entries[0].get("lladdr", "")) if entries else ""


def until(condition: Callable[[], bool], what: str) -> None:
    """Ask until it is so; each question is an event of the lab, so nothing is hurried past."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, what


def brought_up(topology: str, name: str) -> Iterator[Lab]:
    began = time.monotonic()
    command = [ANYCAST, "lab", "up", "-t", str(TOPOLOGIES / f"{topology}.clab.yml"), "-n", ends_with_us(name)]
    subprocess.run(command, check=True, timeout=UP_S, env={**os.environ, "LAB_KERNEL": "native"})
    print(f"{topology} was up after {time.monotonic() - began:.1f} s")
    client = Client.connect(name)
    yield Lab(client)
    client.close()
    assert launch.stop(name)


@pytest.fixture(scope="module")
def pairs(testrun_uid: str, worker_id: str) -> Iterator[Lab]:
    yield from brought_up("two-site-pairs", f"pairs-{testrun_uid[:4]}-{worker_id}")


@pytest.fixture(scope="module")
def pair(testrun_uid: str, worker_id: str) -> Iterator[Lab]:
    yield from brought_up("pair", f"pair-{testrun_uid[:4]}-{worker_id}")


def test_each_site_has_one_active_and_a_backup(pairs: Lab) -> None:
    roles = pairs.roles()
    assert sorted(roles) == ["fra-gw1", "fra-gw2", "sin-gw1", "sin-gw2"]
    for site in ("fra", "sin"):
        assert sorted(roles[f"{site}-gw{i}"] for i in (1, 2)) == ["active", "backup"]


@pytest.mark.parametrize(
    ("site", "prefix", "next_hop"),
    [
        ("fra", "203.0.113.0/28", "198.51.100.4"),
        ("fra", "2001:db8:a::/56", "2001:db8:1::4"),
        ("sin", "203.0.113.0/28", "198.51.100.20"),
        ("sin", "2001:db8:a::/56", "2001:db8:2::4"),
    ],
)
def test_both_gateways_announce_the_address_of_whoever_is_active(pairs: Lab, site: str, prefix: str, next_hop: str) -> None:
    """Third-party next hop: the upstream reaches the VIP by the Active's MAC address, whoever announced."""
    table = pairs.run(f"{site}-rtr", "birdc", "-s", "/run/bird.ctl", "show", "route", "all", prefix)
    hops = [line.split()[1] for line in table.splitlines() if line.strip().startswith("BGP.next_hop:")]
    assert hops == [next_hop, next_hop], table
    active = pairs.active(f"{site}-gw1", f"{site}-gw2")
    pairs.answers(f"{site}-rtr", next_hop)
    assert pairs.neighbour(f"{site}-rtr", next_hop) == pairs.mac(active, "eth1")


def test_the_transit_hears_every_site_in_both_families(pairs: Lab) -> None:
    for prefix in ("203.0.113.0/28", "2001:db8:a::/56"):
        table = pairs.run("transit", "birdc", "-s", "/run/bird.ctl", "show", "route", "all", prefix)
        paths = [line.split(":")[1].strip() for line in table.splitlines() if line.strip().startswith("BGP.as_path:")]
        assert sorted(paths) == ["64511 64501", "64511 64502"], table
    assert pairs.answers("direct", "203.0.113.1")


def test_the_servers_way_back_is_the_active(pairs: Lab) -> None:
    active = pairs.active("fra-gw1", "fra-gw2")
    assert pairs.answers("fra-srv", "192.0.2.1")
    assert pairs.neighbour("fra-srv", "192.0.2.1") == pairs.mac(active, "eth2")


@pytest.mark.parametrize("gateway", ["fra-gw1", "fra-gw2"])
def test_the_doctor_finds_nothing_wrong_with_a_gateway_of_a_pair(pairs: Lab, gateway: str) -> None:
    document = ("--fleet", "/etc/anycast/fleet.yaml", "--gateway", gateway)
    _, said = pairs.execute(gateway, "site-agent", "doctor", "--json", *document)
    assert [finding for finding in json.loads(said)["findings"] if finding["severity"] == "wrong"] == []


def test_a_picture_of_now_shows_the_actives_and_the_way_of_each_clients_packets(pairs: Lab, tmp_path: Path) -> None:
    svg = tmp_path / "now.svg"
    named = ("-t", str(TOPOLOGIES / "two-site-pairs.clab.yml"), "-n", pairs.client.name)
    subprocess.run([ANYCAST, "lab", "graph", "--live", "-o", str(svg), *named], check=True, timeout=UP_S)
    said = svg.read_text()
    for site in ("fra", "sin"):
        assert f">{pairs.active(f'{site}-gw1', f'{site}-gw2')} Active<" in said
    assert said.count(">serving<") == 4 and "×" not in said
    # The transit prefers fra: direct's packets pass transit, router, LAN and the Active; the roamer's its NAT before.
    assert said.count(f">→ {pairs.active('fra-gw1', 'fra-gw2')}<") == 2
    assert (said.count(">AB<"), said.count(">A<"), said.count(">B<")) == (3, 1, 2)


def test_a_path_can_die_while_everybody_keeps_carrier(pairs: Lab) -> None:
    """The Backup's cable to the switch is silent: nobody's interface says so, and nobody else's path is touched."""
    active = pairs.active("fra-gw1", "fra-gw2")
    backup, port = ("fra-gw2", "eth2") if active == "fra-gw1" else ("fra-gw1", "eth1")
    assert pairs.answers(backup, "198.51.100.1")
    pairs.fault("link_mute", "fra-lan", interface=port)
    try:
        assert not pairs.answers(backup, "198.51.100.1")
        assert pairs.answers(active, "198.51.100.1")
        assert pairs.run(backup, "cat", "/sys/class/net/eth1/carrier") == "1\n"
        assert pairs.active("fra-gw1", "fra-gw2") == active
    finally:
        pairs.fault("link_unmute", "fra-lan", interface=port)
    until(lambda: pairs.answers(backup, "198.51.100.1"), "the cable is not mended")


def test_the_smallest_deployment_answers_at_its_vip_and_runs_no_bgp(pair: Lab) -> None:
    active = pair.active("gw1", "gw2")
    assert pair.answers("client", "198.51.100.10")
    assert pair.neighbour("router", "198.51.100.10") == pair.mac(active, "eth1")
    for gateway in ("gw1", "gw2"):
        commands = pair.run(gateway, "ps", "-eo", "args")
        assert "charon" in commands
        assert "exabgp" not in commands


def test_nor_in_the_smallest_deployment(pair: Lab) -> None:
    document = ("--fleet", "/etc/anycast/fleet.yaml", "--gateway", "gw1")
    _, said = pair.execute("gw1", "site-agent", "doctor", "--json", *document)
    assert [finding for finding in json.loads(said)["findings"] if finding["severity"] == "wrong"] == []


def test_and_goes_on_answering_without_the_gateway_that_was_active(pair: Lab) -> None:
    active = pair.active("gw1", "gw2")
    other = "gw2" if active == "gw1" else "gw1"
    pair.fault("power_off", active)
    until(lambda: pair.roles() == {other: "active"}, f"{other} does not take over")
    assert pair.answers("client", "198.51.100.10")
    assert pair.neighbour("router", "198.51.100.10") == pair.mac(other, "eth1")
    pair.fault("power_on", active)
    until(
        lambda: pair.roles() == {other: "active", active: "backup"}, "who returns to a pair that serves well is its Backup"
    )
