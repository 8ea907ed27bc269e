"""Every way in which two gateways and their virtual router can be written wrongly, and the one sentence that it gets."""

# ruff: noqa: E501

from __future__ import annotations

import contextlib

import pydantic
import pytest

from anycast.errors import ConfigError
from anycast.fleet import yaml_text
from anycast.fleet.compile import compile_fleet
from anycast.fleet.loading import load, loads
from anycast.fleet.pair_checks import PAIR_RULES
from anycast.fleet.schema import Fleet
from tests.support.documents import TREE

DATA = TREE / "tests" / "data"
SHARED, ROUTED, WITHOUT_BGP, KEEPALIVED = "pair", "pair-routed", "pair-without-bgp", "beside-keepalived"
MIRRORED = "pair-mirrored"
VRRP, FRA = "sites.fra.vrrp", "sites.fra"


@pytest.mark.parametrize("name", [SHARED, ROUTED, WITHOUT_BGP, KEEPALIVED, MIRRORED])
def test_what_the_cases_are_made_of_is_good(name: str) -> None:
    assert compile_fleet(load(DATA / f"{name}.fleet.yaml"))


Change = tuple[str, str]
CASES: list[tuple[str, list[Change], list[str]]] = [
    # What moves
    (SHARED, [("outside: {ipv4: 198.51.100.4", "outside: {ipv4: 198.51.100.20")],
     [f"{VRRP}.outside.ipv4: 198.51.100.20 is outside {FRA}.uplink 198.51.100.0/28"]),
    (SHARED, [("outside: {ipv4: 198.51.100.4", "outside: {ipv4: 198.51.100.15")],
     [f"{VRRP}.outside.ipv4: 198.51.100.15 is no host's address in 198.51.100.0/28"]),
    (SHARED, [("outside: {ipv4: 198.51.100.4", "outside: {ipv4: 198.51.100.3")],
     [f"{VRRP}.outside.ipv4: 198.51.100.3 is also the address of {FRA}.gateways.fra-gw2.uplink"]),
    (SHARED, [("outside: {ipv4: 198.51.100.4", "outside: {ipv4: 198.51.100.1")],
     [f"{VRRP}.outside.ipv4: 198.51.100.1 is also the address of {FRA}.upstreams.fra-rtr.address"]),
    (SHARED, [("outside: {ipv4: 198.51.100.4", "outside: {ipv4: 203.0.113.1")],
     [f"{VRRP}.outside.ipv4: 203.0.113.1 is outside {FRA}.uplink 198.51.100.0/28"]),
    (SHARED, [("inside: {ipv4: 192.0.2.1,", "inside: {ipv4: 192.0.2.9,")],
     [f"{VRRP}.inside.ipv4: 192.0.2.9 is also the address of {FRA}.inside_routers.fra-core.address"]),
    (SHARED, [("inside: {ipv4: 192.0.2.1,", "inside: {ipv4: 192.0.2.33,")],
     [f"{VRRP}.inside.ipv4: 192.0.2.33 is outside {FRA}.inside 192.0.2.0/28"]),
    (SHARED, [('outside: {ipv4: 198.51.100.4, ipv6: "2001:db8:1::4"}', "outside: {ipv4: 198.51.100.4}")],
     [f"{VRRP}.outside: has no ipv6, but service.vips has"]),
    (SHARED, [('inside: {ipv4: 192.0.2.1, ipv6: "2001:db8:b::1"}', "inside: {ipv4: 192.0.2.1}")],
     [f"{VRRP}.inside: has no ipv6, but {FRA}.pools has"]),
    (SHARED, [('      outside: {ipv4: 198.51.100.4, ipv6: "2001:db8:1::4"}\n', "")],
     [f"{VRRP}: has no outside: the next hop of the routes, in the upstreams' subnet; or uplink: routed"]),
    # Two gateways
    (SHARED, [('    vrrp:\n      outside: {ipv4: 198.51.100.4, ipv6: "2001:db8:1::4"}\n'
               '      inside: {ipv4: 192.0.2.1, ipv6: "2001:db8:b::1"}\n', ""), ("        priority: 110\n", "")],
     [f"{FRA}.gateways: are two, but the site has no vrrp, so both would answer for one address"]),
    (SHARED, [("    vrrp:\n", "    vrrp:\n      peer: {ipv4: 198.51.100.7}\n")],
     [f"{VRRP}.peer: is not needed: the other router is fra-gw2"]),
    (SHARED, [("    vrrp:\n", "    vrrp:\n      interop: keepalived\n")],
     [f"{VRRP}.interop: keepalived, but the other router is fra-gw2, a gateway of this fleet; leave it out"]),
    (SHARED, [("    vrrp:\n", "    vrrp:\n      transport: multicast\n")],
     [f"{VRRP}.transport: multicast is for interop only; between two of ours unicast tells nobody else"]),
    (SHARED, [("    vrrp:\n", "    vrrp:\n      preempt: yes\n"), ("priority: 110", "priority: 100")],
     [f"{VRRP}.preempt: is yes, but both gateways have the same priority, so neither takes over; "
      "give one a higher priority"]),
    (SHARED, [("    vrrp:\n", "    vrrp:\n      preempt_delay: 5 s\n")],
     [f"{VRRP}.preempt_delay: delays nothing: preempt is no"]),
    (SHARED, [("    vrrp:\n", "    vrrp:\n      preempt: yes\n      preempt_delay: 2 h\n")],
     [f"{VRRP}.preempt_delay: 7200 s is not between 0 s and 3600 s (a machine that is back is believed some day)"]),
    (SHARED, [("    vrrp:\n", "    vrrp:\n      keys: /etc/vrrp.keys\n")],
     [f"{VRRP}.keys: /etc/vrrp.keys is below no folder `secrets`, which root alone reads (/etc/anycast/secrets/vrrp.keys)"]),
    (SHARED, [("    vrrp:\n", "    vrrp:\n      interval: 45 s\n")],
     [f"{VRRP}.interval: 45 s is not between 10 ms and 40 s (RFC 9568 section 5.2.7: 12 bits of centiseconds)"]),
    (SHARED, [("    vrrp:\n", "    vrrp:\n      interval: 5 ms\n")],
     [f"{VRRP}.interval: 5 ms is not between 10 ms and 40 s (RFC 9568 section 5.2.7: 12 bits of centiseconds)"]),
    (SHARED, [("    vrrp:\n", "    vrrp:\n      interval: 25 ms\n")],
     [f"{VRRP}.interval: 25 ms is not a multiple of 10 ms, which is what VRRP counts (RFC 9568 section 5.2.7)"]),
    (SHARED, [("    vrrp:\n", "    vrrp:\n      witnesses: {ipv4: 192.0.2.9}\n")],
     [f"{VRRP}.witnesses.ipv4: 192.0.2.9 is not in {FRA}.uplink; ask a router that stands there"]),
    (SHARED, [("    vrrp:\n", "    vrrp:\n      witnesses: {ipv4: 198.51.100.3}\n")],
     [f"{VRRP}.witnesses.ipv4: 198.51.100.3 is fra-gw2's own; ask a router"]),
    (SHARED, [("    vrrp:\n", "    vrrp:\n      witnesses: {ipv4: 198.51.100.4}\n")],
     [f"{VRRP}.witnesses.ipv4: 198.51.100.4 is what moves, so the Active would ask itself; ask a router"]),
    (SHARED, [('{interface: eth1, ipv4: 198.51.100.3, ', '{interface: eth1, subnet: {ipv4: 198.51.100.2/31}, ipv4: 198.51.100.3, ')],
     [f"{FRA}.gateways.fra-gw2.uplink.subnet: is written with vrrp.uplink: routed only; where it is shared, the site's subnet "
      "is everybody's"]),
    # Management, interfaces
    (SHARED, [("        management: {interface: eth3, ipv4: 192.0.2.66}\n", "")],
     [f"{FRA}.gateways.fra-gw1.management: leads to nobody: fra-gw2 has no management interface"]),
    (SHARED, [("        management: {interface: eth3, ipv4: 192.0.2.65}\n", ""),
              ("        management: {interface: eth3, ipv4: 192.0.2.66}\n", "")],
     [f"{FRA}.management: has subnets, but no gateway has a management interface in them"]),
    (SHARED, [("    management: {ipv4: 192.0.2.64/29}", "    management: {ipv4: 192.0.2.0/25}")],
     [f"{FRA}.management.ipv4: 192.0.2.0/25 is also the inside; a path of its own still leads to the other gateway when that "
      "one is cut"]),
    (SHARED, [("    management: {ipv4: 192.0.2.64/29}\n", "")],
     [f"{FRA}.gateways.fra-gw1.management.ipv4: {FRA}.management has no IPv4 subnet",
      f"{FRA}.gateways.fra-gw2.management.ipv4: {FRA}.management has no IPv4 subnet"]),
    (SHARED, [("eth3, ipv4: 192.0.2.66", "eth3, ipv4: 192.0.2.73")],
     [f"{FRA}.gateways.fra-gw2.management.ipv4: 192.0.2.73 is outside {FRA}.management 192.0.2.64/29"]),
    (SHARED, [("eth3, ipv4: 192.0.2.66", "eth2, ipv4: 192.0.2.66")],
     [f"{FRA}.gateways.fra-gw2.management.interface: eth2 is the inside's interface; management needs its own"]),
    (SHARED, [("    management: {ipv4: 192.0.2.64/29}", '    management: {ipv4: 192.0.2.64/29, ipv6: "2001:db8:e::/64"}')],
     [f"{FRA}.gateways.fra-gw1.management: has no ipv6, but {FRA}.management has a subnet for it",
      f"{FRA}.gateways.fra-gw2.management: has no ipv6, but {FRA}.management has a subnet for it"]),
    (SHARED, [("    management: {ipv4: 192.0.2.64/29}", "    management: {ipv4: 203.0.113.64/29}"),
              ("eth3, ipv4: 192.0.2.65", "eth3, ipv4: 203.0.113.65"), ("eth3, ipv4: 192.0.2.66", "eth3, ipv4: 203.0.113.66")],
     [f"{FRA}.pools.ipv4: 203.0.113.64/27 overlaps {FRA}.management.ipv4 203.0.113.64/29"]),
    # Routers
    (SHARED, [("bfd: {}", "bfd: {interval: 5 ms}")],
     [f"{FRA}.upstreams.fra-rtr.bfd.interval: 5 ms is not between 10 ms and 1 s "
      "(below it a busy machine is taken for a dead one)"]),
    (SHARED, [("bfd: {}", "bfd: {multiplier: 1}")],
     [f"{FRA}.upstreams.fra-rtr.bfd.multiplier: 1 is not a detection multiplier (2 to 50)"]),
    (SHARED, [('{asn: 64601, address: {ipv4: 192.0.2.9, ipv6: "2001:db8:b::9"}}', "{asn: 64601, address: {ipv4: 192.0.2.9}}")],
     [f"{FRA}.inside_routers: no router inside has an ipv6 address, so 2001:db8:c:1::/64 would not be announced to it"]),
    (SHARED, [("192.0.2.9, ipv6", "192.0.2.33, ipv6")],
     [f"{FRA}.inside_routers.fra-core.address.ipv4: 192.0.2.33 is outside {FRA}.inside 192.0.2.0/28"]),
    (SHARED, [("asn: 64601", "asn: 100")],
     [f"{FRA}.inside_routers.fra-core.asn: 100 is neither a documentation nor a private AS number (RFC 5398, RFC 6996)"]),
    (SHARED, [("fra-core:", "fra-rtr:")],
     [f"{FRA}.inside_routers.fra-rtr: is also the name of {FRA}.upstreams.fra-rtr"]),
    (SHARED, [("    asn: 64501\n", "")], [f"{FRA}: has routers to speak BGP with, but no asn"]),
    (SHARED, [("        router_id: 198.51.100.3\n", "")], [f"{FRA}.gateways.fra-gw2: has no router_id, which BGP needs"]),
    # A link of its own for each
    (ROUTED, [("    vrrp:\n", "    vrrp:\n      outside: {ipv4: 198.51.100.5}\n")],
     [f"{VRRP}.outside: moves nowhere: with uplink: routed each gateway announces its own address"]),
    (ROUTED, [("    vrrp:\n", "    vrrp:\n      witnesses: {ipv4: 198.51.100.0}\n")],
     [f"{VRRP}.witnesses: is not read with uplink: routed; each gateway asks the upstream at its own link's end"]),
    (ROUTED, [(', subnet: {ipv4: 198.51.100.0/31, ipv6: "2001:db8:1::/127"}', ', subnet: {ipv4: 198.51.100.0/31}')],
     [f"{FRA}.gateways.fra-gw1.uplink: has no subnet.ipv6: the gateway's own link, which vrrp.uplink: routed needs",
      f"{FRA}.upstreams.fra-rtr1.address.ipv6: 2001:db8:1:: is on no gateway's own link"]),
    (ROUTED, [("ipv4: 198.51.100.2/31", "ipv4: 198.51.100.4/31")],
     [f"{FRA}.gateways.fra-gw2.uplink.ipv4: 198.51.100.3 is outside the gateway's own 198.51.100.4/31",
      f"{FRA}.gateways.fra-gw2.uplink.subnet.ipv4: no upstream has an address in 198.51.100.4/31, so nobody would hear fra-gw2",
      f"{FRA}.upstreams.fra-rtr2.address.ipv4: 198.51.100.2 is on no gateway's own link"]),
    (ROUTED, [("ipv4: 198.51.100.2/31", "ipv4: 198.51.100.0/30")],
     [f"{FRA}.gateways.fra-gw2.uplink.ipv4: 198.51.100.3 is no host's address in 198.51.100.0/30",
      f"{FRA}.gateways.fra-gw2.uplink.subnet.ipv4: 198.51.100.0/30 is also the link of fra-gw1"]),
    (ROUTED, [("uplink: {ipv4: 198.51.100.0/29", "uplink: {ipv4: 198.51.100.0/30"), ("198.51.100.2/31", "198.51.100.0/29"),
              ("198.51.100.0/31", "198.51.100.0/32")],
     [f"{FRA}.gateways.fra-gw1.uplink.ipv4: 198.51.100.1 is outside the gateway's own 198.51.100.0/32",
      f"{FRA}.gateways.fra-gw2.uplink.subnet.ipv4: 198.51.100.0/29 is also the link of fra-gw1",
      f"{FRA}.gateways.fra-gw2.uplink.subnet.ipv4: 198.51.100.0/29 is outside {FRA}.uplink.ipv4 198.51.100.0/30"]),
    (ROUTED, [("fra-rtr1: {asn: 64511, address: {ipv4: 198.51.100.0,", "fra-rtr1: {asn: 64511, address: {ipv4: 198.51.100.4,"),
              ("198.51.100.0/31", "198.51.100.0/30"), ("198.51.100.2/31", "198.51.100.4/30"),
              ("eth1, ipv4: 198.51.100.3,", "eth1, ipv4: 198.51.100.5,")],
     [f"{FRA}.upstreams.fra-rtr1.address.ipv4: 198.51.100.4 is no host's address in 198.51.100.4/30"]),
    (WITHOUT_BGP, [("    vrrp: {inside", "    vrrp: {uplink: routed, inside"), (", witnesses: {ipv4: 198.51.100.1}", ""),
                   ("ipv4: 198.51.100.2}", "ipv4: 198.51.100.2, subnet: {ipv4: 198.51.100.2/31}}"),
                   ("ipv4: 198.51.100.3}", "ipv4: 198.51.100.3, subnet: {ipv4: 198.51.100.2/31}}")],
     ["sites.home.gateways.gw2.uplink.subnet.ipv4: 198.51.100.2/31 is also the link of gw1",
      "sites.home.vrrp.uplink: routed needs upstreams to tell which gateway to send to"]),
    # Without BGP the VIP moves
    (WITHOUT_BGP, [("vips: {ipv4: 198.51.100.10}", "vips: {ipv4: 203.0.113.1}")],
     ["service.vips.ipv4: 203.0.113.1 is outside sites.home.uplink 198.51.100.0/28"]),
    (WITHOUT_BGP, [("vips: {ipv4: 198.51.100.10}", "vips: {ipv4: 198.51.100.2}")],
     ["service.vips.ipv4: 198.51.100.2 is also the address of sites.home.gateways.gw1.uplink"]),
    (WITHOUT_BGP, [("{inside: {ipv4: 192.0.2.1}", "{outside: {ipv4: 198.51.100.9}, inside: {ipv4: 192.0.2.1}")],
     ["sites.home.vrrp.outside: is not service.vips; without upstreams the VIPs themselves move, so leave it out"]),
    (WITHOUT_BGP, [("    vrrp: {inside: {ipv4: 192.0.2.1}, witnesses: {ipv4: 198.51.100.1}}\n", "")],
     ["sites.home: has neither upstreams, which announce the service, nor vrrp, which holds its address",
      "sites.home.gateways: are two, but the site has no vrrp, so both would answer for one address"]),
    (WITHOUT_BGP, [("gw2: {uplink", "gw2: {router_id: 198.51.100.2, uplink")],
     ["sites.home.gateways.gw1: has no router_id, but the other gateway has; write both or neither"]),
    (WITHOUT_BGP, [("witnesses: {ipv4: 198.51.100.1}", "witnesses: {ipv4: 198.51.100.10}")],
     ["sites.home.vrrp.witnesses.ipv4: 198.51.100.10 is what moves, so the Active would ask itself; ask a router"]),
    # Beside keepalived
    (KEEPALIVED, [("      interop: keepalived\n", "")],
     ["sites.home.vrrp: has one gateway and no second router; add a gateway, or say by interop that keepalived is the other one"]),
    (KEEPALIVED, [("      peer_inside: {ipv4: 192.0.2.3}\n", "")],
     ["sites.home.vrrp: has no peer_inside: where keepalived's advertisements come from and ours go to; "
      "or transport: multicast"]),
    (KEEPALIVED, [("peer: {ipv4: 198.51.100.3}", "peer: {ipv4: 198.51.100.33}")],
     ["sites.home.vrrp.peer.ipv4: 198.51.100.33 is outside sites.home.uplink 198.51.100.0/28"]),
    (KEEPALIVED, [("peer: {ipv4: 198.51.100.3}", "peer: {ipv4: 198.51.100.2}")],
     ["sites.home.vrrp.peer.ipv4: 198.51.100.2 is also the address of sites.home.gateways.gw1.uplink"]),
    (KEEPALIVED, [("interop: keepalived", "interop: keepalived\n      transport: multicast"),
                  ("      peer_inside: {ipv4: 192.0.2.3}\n", "")],
     ["sites.home.vrrp.peer: is not needed: multicast finds it"]),
    (KEEPALIVED, [("interop: keepalived", "interop: keepalived\n      keys: /etc/anycast/secrets/vrrp.keys")],
     ["sites.home.vrrp.keys: is of no use: keepalived knows no seal"]),
    (KEEPALIVED, [("    pools:", "    management: {ipv4: 192.0.2.64/29}\n    pools:"),
                  ("gw1: {", "gw1: {management: {interface: eth3, ipv4: 192.0.2.65}, ")],
     ["sites.home.gateways.gw1.management: leads to nobody: the site has one gateway, and the fleet no coordinator; take it out"]),
    # The mirror
    (WITHOUT_BGP, [("    gateways:\n", "    sync: {}\n    gateways:\n")],
     ["sites.home.sync: needs management at gw1 and gw2: tunnels' secrets cross a link between the two gateways only"]),
    (KEEPALIVED, [("    gateways:\n", "    sync: {}\n    gateways:\n")],
     ["sites.home.sync: needs two gateways; home has one, and nobody to mirror its tunnels to",
      "sites.home.sync: needs a vrrp without interop: keepalived has no mirror",
      "sites.home.sync: needs management at gw1: tunnels' secrets cross a link between the two gateways only"]),
    (MIRRORED, [('        management: {interface: eth3, ipv4: 192.0.2.66, ipv6: "2001:db8:e::2"}\n', "")],
     [f"{FRA}.gateways.fra-gw1.management: leads to nobody: fra-gw2 has no management interface",
      f"{FRA}.sync: needs management at fra-gw2: tunnels' secrets cross a link between the two gateways only"]),
    (MIRRORED, [('    vrrp:\n      outside: {ipv4: 198.51.100.4, ipv6: "2001:db8:1::4"}\n'
                 '      inside: {ipv4: 192.0.2.1, ipv6: "2001:db8:b::1"}\n', ""), ("        priority: 110\n", "")],
     [f"{FRA}.gateways: are two, but the site has no vrrp, so both would answer for one address",
      f"{FRA}.sync: needs vrrp, which says whose tunnels are mirrored"]),
    *((MIRRORED, [("sync: {}", f"sync: {{port: {port}}}")], [f"{FRA}.sync.port: {port} is not a port for the channel (1024 to 32767)"])
      for port in (1023, 32768)),
    (MIRRORED, [("sync: {}", "sync: {ports: 4517}")], [f"{FRA}.sync.ports: is not known here; did you mean `port`?"]),
    (MIRRORED, [("sync: {}", "sync: yes")], [f'{FRA}.sync: expected a mapping, found "yes"']),
    ("small", [("router_id: 198.51.100.18", "router_id: 198.51.100.18\n        priority: 7")],
     ["sites.sin.gateways.sin-gw1.priority: is of a virtual router, and the site has no vrrp"]),
    ("small", [("    upstreams:\n      sin-rtr: {asn: 64511, address: {ipv4: 198.51.100.17}}\n", "")],
     ["sites.sin: has neither upstreams, which announce the service, nor vrrp, which holds its address",
      "sites.sin: has no upstreams; without BGP nobody learns which site has the VIP, so such a fleet is one site"]),
]  # fmt: skip


def changed(name: str, changes: list[Change]) -> str:
    text = (DATA / f"{name}.fleet.yaml").read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(("name", "changes", "said"), CASES, ids=[said[0][:90] for _, _, said in CASES])
def test_what_is_wrong_is_said_at_its_place_and_nothing_else(name: str, changes: list[Change], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(changed(name, changes))
    assert sorted(f"{problem.where}: {problem.what}" for problem in caught.value.problems) == sorted(said)
    assert all(problem.line for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (SHARED, [("    vrrp:\n", "    vrrp:\n      interval: 10 ms\n")]),
        (SHARED, [("    vrrp:\n", "    vrrp:\n      interval: 40 s\n")]),
        (SHARED, [("    vrrp:\n", "    vrrp:\n      preempt: yes\n      preempt_delay: 0 s\n")]),
        (SHARED, [("    vrrp:\n", "    vrrp:\n      witnesses: {ipv4: 198.51.100.1}\n")]),
        (SHARED, [("bfd: {}", "bfd: {interval: 1 s, multiplier: 50}")]),
        (KEEPALIVED, [("      peer: {ipv4: 198.51.100.3}\n      peer_inside: {ipv4: 192.0.2.3}\n", "      transport: multicast\n")]),
        (KEEPALIVED, [("interop: keepalived", "interop: keepalived_as_v2")]),
        (WITHOUT_BGP, [("{inside: {ipv4: 192.0.2.1}", "{outside: {ipv4: 198.51.100.10}, inside: {ipv4: 192.0.2.1}")]),
        (MIRRORED, [("sync: {}", "sync: {port: 1024}")]),
        (MIRRORED, [("sync: {}", "sync: {port: 32767}")]),
    ],
)  # fmt: skip
def test_what_is_right_is_let_through(name: str, changes: list[Change]) -> None:
    assert compile_fleet(loads(changed(name, changes)))


def test_every_rule_has_a_case() -> None:
    """A rule that no case breaks is a rule that nobody has seen work."""
    broken = set()
    for name, changes, _ in CASES:
        with contextlib.suppress(pydantic.ValidationError):
            fleet = Fleet.model_validate(yaml_text.parse(changed(name, changes)).value)
            broken |= {rule.__name__ for rule in PAIR_RULES if list(rule(fleet))}
    assert broken == {rule.__name__ for rule in PAIR_RULES}
