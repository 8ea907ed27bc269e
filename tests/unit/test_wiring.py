"""Fleet and cables joined: every address of the lab comes from fleet.yaml, and what does not fit is said by name."""

from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path

import pytest

from anycast.errors import ConfigError
from anycast.fleet.loading import load
from anycast_lab import topology
from anycast_lab.machines import prepare, wiring

TOPOLOGY = Path(__file__).parents[2] / "labs" / "topologies" / "two-site.clab.yml"


@pytest.fixture(scope="module")
def fleet():
    return load(prepare.fleet_file(TOPOLOGY))


@pytest.fixture(scope="module")
def plans(fleet):
    return wiring.plan(fleet, prepare.cables(topology.load(TOPOLOGY)))


def test_every_node_of_the_topology_has_a_plan(plans) -> None:
    assert set(plans) == set(topology.load(TOPOLOGY).nodes)


def test_no_address_stands_in_the_topology() -> None:
    text = TOPOLOGY.read_text()
    assert not any(part in text for part in ("192.0.2.", "198.51.100.", "203.0.113.", "2001:db8"))


def test_both_ends_of_every_session_agree(plans) -> None:
    """Who says the neighbor is B with AS n must find at B a session back, except where B is a gateway (ExaBGP's end)."""
    ends = {(s.local, s.peer): (p.node, s) for p in plans.values() for s in p.sessions}
    for (local, peer), (node, session) in ends.items():
        if session.service_only:
            continue
        other_node, other = ends[(peer, local)]
        assert (other.local_asn, other.peer_asn) == (session.peer_asn, session.local_asn), f"{node} and {other_node}"


def test_the_next_hop_of_every_route_is_on_link(plans) -> None:
    for plan in plans.values():
        networks = [ipaddress.ip_interface(address).network for _, address in plan.addresses]
        for prefix, via in plan.routes:
            assert any(ipaddress.ip_address(via) in network for network in networks), f"{plan.node}: {prefix} via {via}"


def test_md5_and_gtsm_reach_the_router_that_the_fleet_asks_them_for(plans) -> None:
    asked = {
        node: [(bool(s.md5_key), s.gtsm) for s in plans[node].sessions if s.service_only] for node in ("fra-rtr", "sin-rtr")
    }
    assert asked == {"fra-rtr": [(True, True)] * 2, "sin-rtr": [(False, False)] * 2}


def test_a_missing_cable_and_a_stranger_are_told_together(fleet) -> None:
    cables = prepare.cables(topology.load(TOPOLOGY))
    del cables["fra-gw1"]
    cables["stranger"] = {"eth1": "transit"}
    with pytest.raises(ConfigError) as caught:
        wiring.plan(fleet, cables)
    text = str(caught.value)
    assert "nodes.stranger: stands in the topology but nowhere in the fleet file" in text
    assert "fra-gw1: stands in the fleet file but has no link in the topology" in text


def test_birds_own_parser_accepts_every_router(plans, fleet, tmp_path: Path) -> None:
    prepare.prepare(topology.load(TOPOLOGY), tmp_path)
    routers = [plan.node for plan in plans.values() if plan.sessions]
    assert len(routers) == 3
    for node in routers:
        config = tmp_path / node / "etc" / "bird.conf"
        done = subprocess.run(["bird", "-p", "-c", config], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{node}: {done.stderr}"


def test_secrets_are_for_root_only(tmp_path: Path) -> None:
    prepare.prepare(topology.load(TOPOLOGY), tmp_path)
    secret = [*tmp_path.glob("*/etc/secrets/*"), *tmp_path.glob("*/etc/bird.conf")]
    assert len(secret) >= 10
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}
