"""Fleet and cables joined: every address of the lab comes from fleet.yaml, and what does not fit is said by name."""

from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path

import pytest

from anycast.errors import ConfigError
from anycast.fleet.loading import load, loads
from anycast_lab import topology
from anycast_lab.machines import prepare, wiring
from site_agent.vrrp import pair_keys

TOPOLOGIES = Path(__file__).parents[2] / "labs" / "topologies"
TOPOLOGY = TOPOLOGIES / "two-site.clab.yml"
EVERY = pytest.mark.parametrize("path", sorted(TOPOLOGIES.glob("*.clab.yml")), ids=lambda path: path.name.partition(".")[0])


def planned(path: Path):
    return wiring.plan(load(prepare.fleet_file(path)), prepare.cables(topology.load(path)))


@pytest.fixture(scope="module")
def fleet():
    return load(prepare.fleet_file(TOPOLOGY))


@pytest.fixture(scope="module")
def plans():
    return planned(TOPOLOGY)


@pytest.fixture(scope="module")
def pairs():
    return planned(TOPOLOGIES / "two-site-pairs.clab.yml")


@EVERY
def test_every_node_of_the_topology_has_a_plan(path: Path) -> None:
    assert set(planned(path)) == set(topology.load(path).nodes)


@EVERY
def test_no_address_stands_in_the_topology(path: Path) -> None:
    text = path.read_text()
    assert not any(part in text for part in ("192.0.2.", "198.51.100.", "203.0.113.", "2001:db8"))


@EVERY
def test_both_ends_of_every_session_agree(path: Path) -> None:
    """Who says the neighbor is B with AS n must find at B a session back, except where B is a gateway (ExaBGP's end)."""
    plans = planned(path)
    ends = {(s.local, s.peer): (p.node, s) for p in plans.values() for s in p.sessions}
    for (local, peer), (node, session) in ends.items():
        if session.service_only:
            continue
        other_node, other = ends[(peer, local)]
        assert (other.local_asn, other.peer_asn) == (session.peer_asn, session.local_asn), f"{node} and {other_node}"


@EVERY
def test_the_next_hop_of_every_route_is_on_link(path: Path) -> None:
    for plan in planned(path).values():
        networks = [ipaddress.ip_interface(address).network for _, address in plan.addresses]
        for prefix, via in plan.routes:
            assert any(ipaddress.ip_address(via) in network for network in networks), f"{plan.node}: {prefix} via {via}"


def routes_of(text: str, path: Path) -> dict[str, dict[str, str]]:
    plans = wiring.plan(loads(text), prepare.cables(topology.load(path)))
    return {node: dict(plan.routes) for node, plan in plans.items() if plan.role == "router"}


def test_the_network_leads_to_each_sites_unicast_service_address() -> None:
    path = TOPOLOGIES / "three-site.clab.yml"
    (routes,) = routes_of(prepare.fleet_file(path).read_text(), path).values()
    assert routes == {
        f"{address}": next_hop
        for site in (1, 2, 3)
        for address, next_hop in (
            (f"198.51.100.{128 + site}/32", f"198.51.100.{16 * site - 14}"),
            (f"2001:db8:e:{site}::1/128", f"2001:db8:{site}::2"),
        )
    }


def test_through_an_upstream_router_it_leads_to_the_virtual_router() -> None:
    path = TOPOLOGIES / "two-site-pairs.clab.yml"
    text = prepare.fleet_file(path).read_text()
    made = text.replace("\n  fra:\n", "\n  fra:\n    service_address: {ipv4: 203.0.113.254}\n", 1)
    routes, fleet = routes_of(made, path), loads(made)
    assert fleet.sites["fra"].vrrp is not None and fleet.lab is not None and fleet.lab.transit is not None
    assert routes["fra-rtr"]["203.0.113.254/32"] == str(fleet.sites["fra"].vrrp.outside.ipv4)
    assert routes[fleet.lab.transit.node]["203.0.113.254/32"] == str(fleet.lab.transit.links["fra-rtr"].ipv4[1].ip)
    assert "203.0.113.254/32" not in routes["sin-rtr"]


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


@EVERY
def test_a_subnets_switch_is_at_the_other_end_of_every_cable_in_it(path: Path) -> None:
    """Or a path could not die silently between two that share the subnet."""
    fleet, cables, plans = load(prepare.fleet_file(path)), prepare.cables(topology.load(path)), planned(path)
    assert fleet.lab is not None
    for name, switch in fleet.lab.switches.items():
        site = fleet.sites[switch.site]
        attached = [(gateway, getattr(site.gateways[gateway], switch.side)) for gateway in site.gateways]
        assert {cables[gateway][one.interface] for gateway, one in attached} == {name}
        subnets = [getattr(site, switch.side).of(family) for family in getattr(site, switch.side).families]
        others = [plan for plan in plans.values() if plan.site == switch.site and plan.role in ("router", "server")]
        ports = {(p.node, port) for p in others for port, a in p.addresses if ipaddress.ip_interface(a).network in subnets}
        assert {cables[node][port] for node, port in ports} == {name}
        assert set(plans[name].bridge) == set(cables[name])
        assert not plans[name].addresses


def test_two_gateways_have_two_sessions_a_family_and_one_way_back(pairs) -> None:
    of_customers = [s.name for s in pairs["fra-rtr"].sessions if s.service_only]
    assert of_customers == ["fra_gw1_ipv4", "fra_gw1_ipv6", "fra_gw2_ipv4", "fra_gw2_ipv6"]
    assert pairs["fra-srv"].routes == (("203.0.113.64/27", "192.0.2.1"), ("2001:db8:c:1::/64", "2001:db8:b::1"))
    assert ("eth3", "192.0.2.65/29") in pairs["fra-gw1"].addresses


def test_bfd_reaches_the_router_that_the_fleet_asks_it_for(plans, pairs, tmp_path: Path) -> None:
    assert {node: [bool(s.bfd) for s in pairs[node].sessions if s.service_only] for node in ("fra-rtr", "sin-rtr")} == {
        "fra-rtr": [True] * 4,
        "sin-rtr": [False] * 4,
    }
    assert not any(s.bfd for plan in plans.values() for s in plan.sessions)
    prepare.prepare(topology.load(TOPOLOGIES / "two-site-pairs.clab.yml"), tmp_path)
    told = (tmp_path / "fra-rtr" / "etc" / "bird.conf").read_text()
    assert told.count("bfd { interval 100 ms; multiplier 10; };") == 4
    assert told.count("protocol bfd") == 1


def test_a_cable_to_the_wrong_machine_is_said() -> None:
    path = TOPOLOGIES / "two-site-pairs.clab.yml"
    cables = prepare.cables(topology.load(path))
    cables["fra-gw1"] = {"eth1": "fra-inside", "eth2": "fra-inside"}
    with pytest.raises(ConfigError) as caught:
        wiring.plan(load(prepare.fleet_file(path)), cables)
    assert str(caught.value).splitlines() == [
        "links.fra-gw1:eth1: leads to fra-inside, not to fra-lan, which carries its subnet",
        "links.fra-gw1:eth3: is no link, but the fleet file gives it addresses",
    ]


def test_without_bgp_the_router_knows_nothing_of_the_service() -> None:
    plans = planned(TOPOLOGIES / "pair.clab.yml")
    assert plans["router"].routes == plans["router"].sessions == ()
    assert plans["gw1"].routes == plans["gw2"].routes == (("0.0.0.0/0", "198.51.100.1"),)


def test_the_smallest_deployment_is_fifteen_lines() -> None:
    text = (TOPOLOGIES / "pair.fleet.yaml").read_text().partition("\nlab:\n")[0]
    assert len([line for line in text.splitlines() if line.strip() and not line.startswith("#")]) == 15


def test_both_gateways_of_a_site_have_the_same_seal_and_no_other_site_has_it(tmp_path: Path) -> None:
    prepare.prepare(topology.load(TOPOLOGIES / "two-site-pairs.clab.yml"), tmp_path)
    keys = {
        site: {file.read_bytes() for file in tmp_path.glob(f"{site}-gw*/etc/secrets/vrrp.keys")} for site in ("fra", "sin")
    }
    assert [len(files) for files in keys.values()] == [1, 1]
    assert all(len(pair_keys.decode(file).by_id) == 1 for files in keys.values() for file in files), "as the agent reads it"
    assert keys["fra"] != keys["sin"]


@EVERY
def test_birds_own_parser_accepts_every_router(path: Path, tmp_path: Path) -> None:
    prepare.prepare(topology.load(path), tmp_path)
    routers = [plan.node for plan in planned(path).values() if plan.sessions]
    others = {"pair": 0, "six-site": 1, "three-site": 1, "cgnat": 2, "small-mtu": 4, "four-site": 6}
    others |= dict.fromkeys(("site-pair", "baseline", "baseline-tuned"), 2)
    assert len(routers) == others.get(path.name.partition(".")[0], 3)
    for node in routers:
        config = tmp_path / node / "etc" / "bird.conf"
        done = subprocess.run(["bird", "-p", "-c", config], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{node}: {done.stderr}"


def test_secrets_are_for_root_only(tmp_path: Path) -> None:
    prepare.prepare(topology.load(TOPOLOGY), tmp_path)
    secret = [*tmp_path.glob("*/etc/secrets/*"), *tmp_path.glob("*/etc/bird.conf")]
    assert len(secret) >= 10
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}


SIX = TOPOLOGIES / "six-site.clab.yml"


def test_one_router_is_the_upstream_of_every_site() -> None:
    plans = planned(SIX)
    sessions = plans["transit"].sessions
    assert {(s.local, s.peer) for s in sessions} >= {("198.51.100.1", "198.51.100.2"), ("2001:db8:6::1", "2001:db8:6::2")}
    assert len(sessions) == 12 and all(s.service_only and s.passive and s.local_asn == 64500 for s in sessions)
    assert plans["fra-gw1"].routes == (("0.0.0.0/0", "198.51.100.1"), ("::/0", "2001:db8:1::1"))
    assert not [name for name in plans if name.endswith("-isp")]
    cables = prepare.cables(topology.load(SIX))
    networks = {ipaddress.ip_interface(a).network: port for port, a in plans["transit"].addresses}
    for plan in plans.values():
        if plan.role == "gateway":
            uplink = next(a for port, a in plan.addresses if port == "eth1")
            assert cables["transit"][networks[ipaddress.ip_interface(uplink).network]] == plan.node


def test_an_upstream_takes_a_sites_unicast_prefix_from_that_site_alone_and_nobody_writes_a_route_there() -> None:
    transit = planned(SIX)["transit"]
    assert {session.name: session.own for session in transit.sessions if session.name.startswith(("fra", "tyo"))} == {
        "fra_gw1_ipv4": ("203.0.113.160/28",),
        "fra_gw1_ipv6": ("2001:db8:e:100::/56",),
        "tyo_gw1_ipv4": ("203.0.113.240/28",),
        "tyo_gw1_ipv6": ("2001:db8:e:600::/56",),
    }
    assert transit.routes == (), "the gateways' announcement is the way to their service addresses"


def test_the_coordinator_is_on_the_lan_of_every_management_interface() -> None:
    plans, cables = planned(SIX), prepare.cables(topology.load(SIX))
    coord = plans["coord"]
    assert coord.role == "coordinator" and coord.addresses == ((wiring.BRIDGE, "192.0.2.129/28"),)
    gateways = [plan for plan in plans.values() if plan.role == "gateway"]
    assert len(gateways) == 6
    assert set(coord.bridge) == set(cables["coord"]) and set(cables["coord"].values()) == {plan.node for plan in gateways}
    own = {next(a for port, a in plan.addresses if port == "eth3") for plan in gateways}
    assert own == {f"192.0.2.{last}/28" for last in range(130, 136)}


def test_a_gateway_that_has_no_cable_to_the_coordinator_is_named() -> None:
    cables = prepare.cables(topology.load(SIX))
    cables["ams-gw1"]["eth3"] = "transit"
    del cables["lon-gw1"]["eth3"], cables["tyo-gw1"]["eth1"], cables["transit"]["eth6"]
    with pytest.raises(ConfigError) as caught:
        wiring.plan(load(prepare.fleet_file(SIX)), cables)
    assert str(caught.value).splitlines() == [
        "links.ams-gw1:eth3: leads to transit, not to coord, which carries its subnet",
        "links.lon-gw1:eth3: is no link, but the fleet file gives it addresses",
        "links.tyo-gw1:eth1: is no link, but the fleet file gives it addresses",
        "links.transit: has no link to tyo-gw1, which the fleet file asks for",
    ]


def test_carriers_that_peer_tell_each_other_what_their_customers_announce(tmp_path: Path) -> None:
    path = TOPOLOGIES / "small-mtu.clab.yml"
    plans = planned(path)
    sessions = {
        node: {s.peer_asn: s for s in plans[node].sessions if s.families == ("ipv4",)} for node in ("transit", "second")
    }
    assert sessions["transit"][64499].peering and sessions["second"][64500].peering
    assert sessions["transit"][64499].preference < sessions["second"][64511].preference, "a customer's path comes first"
    assert ("198.51.100.96/28", "198.51.100.46") in plans["transit"].routes, "to the client behind the other one"
    assert plans["second"].routes == (("0.0.0.0/0", "198.51.100.45"), ("::/0", "2001:db8:f:4::1"))
    assert [via for prefix, via in plans["sin-rtr"].routes if prefix == "0.0.0.0/0"] == ["198.51.100.37"], "by the transit"
    prepare.prepare(topology.load(path), tmp_path)
    text = (tmp_path / "second" / "etc" / "bird.conf").read_text()
    assert "export where source = RTS_BGP && preference > 50;" in text
    assert "merge paths off" in text


def test_paths_of_equal_cost_are_all_in_the_kernel(tmp_path: Path) -> None:
    for name in ("small-mtu.clab.yml", "small-mtu.fleet.yaml"):
        text = (TOPOLOGIES / name).read_text()
        (tmp_path / name).write_text(text.replace("    prefer: fra-rtr\n", "    ecmp: yes\n"))
    prepare.prepare(topology.load(tmp_path / "small-mtu.clab.yml"), tmp_path / "lab")
    etc = tmp_path / "lab" / "transit" / "etc"
    assert "merge paths on" in (etc / "bird.conf").read_text()
    assert "net.ipv4.fib_multipath_hash_policy = 1" in (etc / "sysctl.conf").read_text()
    fleet = load(tmp_path / "small-mtu.fleet.yaml")
    transit = wiring.plan(fleet, prepare.cables(topology.load(tmp_path / "small-mtu.clab.yml")))["transit"]
    assert {s.preference for s in transit.sessions if s.peer_asn == 64511} == {100}


def test_routers_without_ipv4_have_ids_of_their_own() -> None:
    ids = [plan.router_id for plan in planned(TOPOLOGIES / "ipv6-only.clab.yml").values() if plan.sessions]
    assert len(set(ids)) == len(ids) == 3
    assert all(int(ipaddress.IPv4Address(text)) for text in ids)
    again = [plan.router_id for plan in planned(TOPOLOGIES / "ipv6-only.clab.yml").values() if plan.sessions]
    assert again == ids


def test_a_guest_has_a_clients_files_and_does_not_start(tmp_path: Path) -> None:
    prepare.prepare(topology.load(TOPOLOGIES / "four-site.clab.yml"), tmp_path)
    guest, client = (tmp_path / node / "etc" for node in ("plain", "anna"))
    assert "exec sh $here/start-client" in (client / "boot").read_text()
    assert "start-client" not in (guest / "boot").read_text() and (guest / "start-client").exists()
    assert "local_port" not in (guest / "swanctl/swanctl.conf").read_text(), "it begins on port 500"
    assert "merge paths on" in (tmp_path / "west/etc/bird.conf").read_text()
