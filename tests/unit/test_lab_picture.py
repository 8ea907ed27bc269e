"""The picture of a lab: every machine and cable of a topology is there, in its own place; a live one says what was seen."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from anycast.fleet.loading import load as load_fleet
from anycast.fleet.schema import Fleet
from anycast_lab.machines.prepare import fleet_file
from anycast_lab.picture.draw import WIDTH, draw
from anycast_lab.picture.facts import Live, Seen
from anycast_lab.picture.ways import Hop, Way, follow
from anycast_lab.topology import Endpoint, Link, Topology, load

TOPOLOGIES = sorted((Path(__file__).resolve().parents[2] / "labs" / "topologies").glob("*.clab.yml"))
SVG = "{http://www.w3.org/2000/svg}"


def both(file: Path) -> tuple[Topology, Fleet]:
    topology = load(file)
    return topology, load_fleet(fleet_file(topology.path))


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def boxes(svg: str) -> list[tuple[float, float, float, float]]:
    """Of the machines: what has a frame or is a switch's bar; left, top, right, bottom."""
    found = []
    for r in ElementTree.fromstring(svg).iter(f"{SVG}rect"):
        if r.get("rx") == "4" or r.get("fill") == "#777777":
            x, y, w, h = (float(r.get(key, "")) for key in ("x", "y", "width", "height"))
            found.append((x, y, x + w, y + h))
    return found


@pytest.mark.parametrize("file", TOPOLOGIES, ids=lambda file: file.name.partition(".")[0])
def test_every_machine_and_every_cable_is_there_and_no_machine_stands_on_another(file: Path) -> None:
    topology, fleet = both(file)
    svg = draw(topology, fleet)
    assert svg == draw(*both(file))
    root = ElementTree.fromstring(svg)
    said = " ".join([*texts(svg), *(title.text or "" for title in root.iter(f"{SVG}title"))])
    assert [name for name in topology.nodes if name not in said] == []
    places = boxes(svg)
    assert len(places) == len(topology.nodes)
    height = float(root.get("viewBox", "").split()[3])
    assert all(x >= 0 and x2 <= WIDTH and y >= 0 and y2 <= height for x, y, x2, y2 in places)
    for (ax, ay, ax2, ay2), (bx, by, bx2, by2) in itertools.combinations(places, 2):
        assert ax2 <= bx or bx2 <= ax or ay2 <= by or by2 <= ay
    drawn, told = (
        len(list(root.iter(f"{SVG}polyline"))),
        sum(text.count(",") + 1 for text in texts(svg) if text.startswith("cables to ")),
    )
    assert drawn + told == len(topology.links)


def test_a_long_name_stays_inside_its_box() -> None:
    topology, fleet = both(TOPOLOGIES[-1])
    name = next(iter(topology.nodes))
    gateways = {
        name: Seen("active", "not serving, hold withdraw", "charon_socket_and_ike_silent_for_too_long", "0/4 routes")
    }
    live = Live("2026-11-30 06:00:00 UTC", {}, gateways, frozenset(), {})
    assert max(len(text) for text in texts(draw(topology, fleet, live))) * 6 < WIDTH
    assert any(text.endswith("…") for text in texts(draw(topology, fleet, live)))


def cable(a: str, b: str) -> Link:
    ends = [Endpoint(*end.split(":")) for end in (a, b)]
    return Link(ends[0], ends[1], 1500)


CABLES = {
    "client": cable("client:eth1", "router:eth1"),
    "out": cable("router:eth2", "lan:eth1"),
    "one": cable("lan:eth2", "gw1:eth1"),
    "two": cable("lan:eth3", "gw2:eth1"),
}
ADDRESSES = {
    "client": frozenset({"198.51.100.2"}),
    "router": frozenset({"198.51.100.1"}),
    "gw1": frozenset({"192.0.2.4", "203.0.113.1"}),
    "gw2": frozenset[str](),
}
HOPS = {
    "client": Hop("eth1", "198.51.100.1"),
    "router": Hop("eth2", "192.0.2.4"),
    "gw1": Hop("lo", "203.0.113.1", here=True),
}
WHOLE = (CABLES["client"], CABLES["out"], CABLES["one"])


@pytest.mark.parametrize(
    ("hops", "dead", "way"),
    [
        ({}, "", Way(WHOLE, "gw1", True)),
        ({"gw1": Hop("eth1", "192.0.2.9")}, "", Way(WHOLE, "gw1", False)),
        ({}, "one", Way(WHOLE[:1], "router", False)),
        ({}, "client", Way((), "client", False)),
        ({"router": Hop("eth1", "198.51.100.2")}, "", None),
    ],
    ids=["arrives", "nobody has the next hop", "no cable to who has it", "no cable at all", "a circle ends"],
)
def test_the_way_of_a_packet(hops: dict[str, Hop], dead: str, way: Way | None) -> None:
    live = [link for name, link in CABLES.items() if name != dead]
    found = follow("client", HOPS | hops, ADDRESSES, live, frozenset({"lan"}))
    assert not found.arrived if way is None else found == way


def test_a_router_that_bridges_a_sites_subnet_routes_by_its_bridge() -> None:
    cables = [cable("client:eth1", "router:eth9"), cable("router:eth1", "gw1:eth1"), cable("router:eth2", "gw2:eth1")]
    hops = HOPS | {"router": Hop("br0", "192.0.2.4")}
    assert follow("client", hops, ADDRESSES, cables, frozenset()) == Way(tuple(cables[:2]), "gw1", True)
    assert follow("client", hops, ADDRESSES, [cables[0], cables[2]], frozenset()) == Way((cables[0],), "router", False)


def test_a_live_picture_says_states_roles_dead_cables_and_ways() -> None:
    topology, fleet = both(next(file for file in TOPOLOGIES if file.name.startswith("two-site-pairs")))
    taken = tuple(topology.links_of("direct"))
    dead = frozenset(topology.links_of("sin-rtr")[:1])
    live = Live(
        "2026-11-30 06:00:00 UTC",
        {"sin-gw1": "off"},
        {"fra-gw1": Seen("active", "serving", "", "4/4 routes"), "sin-gw1": Seen("", "off")},
        dead,
        {"direct": Way(taken, "fra-gw1", True), "roamer": Way((), "natter", False)},
    )
    svg = draw(topology, fleet, live)
    said = texts(svg)
    assert {"fra-gw1 Active", "serving", "4/4 routes", "sin-gw1: off", "→ fra-gw1", "✗ ends at natter"} <= set(said)
    assert said.count("×") == 1 and said.count("A") == len(taken)
    assert svg.count('stroke-dasharray="5 3"') == 1 and svg.count('stroke-width="3"') == 1 + len(taken)
