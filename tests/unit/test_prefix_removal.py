"""What becomes of a site's values when it goes, or another one takes its name."""

from __future__ import annotations

import copy
import datetime
from typing import Any

import pytest

from anycast.fleet import yaml_text
from anycast.prefixes.allocation import Kind, nothing
from anycast.prefixes.planner import plan
from tests.support.documents import TREE
from tests.support.prefix_world import asked, block, site, tree

DAY = datetime.date(2026, 11, 29)
TOPOLOGIES = sorted((TREE / "labs" / "topologies").glob("*.fleet.yaml"))
SEVERAL = [path for path in TOPOLOGIES if len(yaml_text.parse(path.read_text()).value["sites"]) > 1]


@pytest.mark.parametrize("path", SEVERAL, ids=lambda path: path.name.partition(".")[0])
def test_a_site_of_a_written_fleet_can_be_removed(path: Any) -> None:
    """Its inside LAN stands behind other sites, too."""
    text = yaml_text.parse(path.read_text()).value
    text["addressing"] = {"blocks": {"more": {"prefix": "2001:db8:f000::/40", "use": ["subnets"]}}, "clients": "1"}
    lock = plan(asked(text), nothing(text["fleet"]), DAY).lock
    for name in text["sites"]:
        without = copy.deepcopy(text)
        del without["sites"][name]
        made = plan(asked(without), lock, DAY)
        assert made.findings == ()
        assert {each.what for each in made.changes} == {"freed"}
        given = {Kind.SPI_LABEL, *([Kind.TUNNEL] if "unicast_prefix" in text["sites"][name] else [])}
        assert {each.kind for each in made.lock.resting} == given, "nothing else was the plan's to give"


def test_what_a_provider_gave_is_the_providers_to_give_again() -> None:
    text = tree(
        {"pools4": (block(1, 20), ["pools"])},
        {name: site(clients=5, uplink={"ipv4": lan}) for name, lan in (("a", "198.51.100.0/28"), ("b", "198.51.100.16/28"))},
    )
    lock = plan(asked(text), nothing("world"), DAY).lock
    text["sites"]["c"] = text["sites"].pop("a")
    made = plan(asked(text), lock, DAY)
    assert made.findings == ()
    assert {each.kind for each in made.lock.resting} >= {Kind.POOL, Kind.SPI_LABEL}


def gateways(*names: str) -> dict[str, Any]:
    side = {"interface": "eth1"}
    return {name: {"uplink": side, "inside": side, "management": side} for name in names}


def two_sites() -> dict[str, Any]:
    uses = ["anycast", "unicast", "pools", "management", "uplink", "inside"]
    sites = {name: {**site(clients=60), "gateways": gateways(f"{name}-gw1")} for name in ("fra", "sin")}
    return tree({"all4": (block(1, 18), uses)}, sites)


@pytest.mark.parametrize(("goes", "stays"), [("sin", "fra"), ("fra", "sin")])
def test_a_site_takes_the_name_of_one_that_goes_in_the_same_edit(goes: str, stays: str) -> None:
    text = two_sites()
    lock = plan(asked(text), nothing("world"), DAY).lock
    text["sites"] = {goes: {**text["sites"][stays], "formerly": stays}}
    made = plan(asked(text), lock, DAY)
    assert made.findings == ()
    had = {key.removeprefix(f"sites.{stays}."): row.value for key, row in lock.held.items() if row.site == stays}
    has = {key.removeprefix(f"sites.{goes}."): row.value for key, row in made.lock.held.items() if row.site == goes}
    assert has == had
    assert {(each.key, each.value) for each in made.lock.resting} == {
        (key, row.value) for key, row in lock.held.items() if row.site == goes and row.kind is not Kind.ROUTER_ID
    }
    assert {each.what for each in made.changes} == {"renamed", "freed"}
    assert plan(asked(text), made.lock, DAY).changes == (), "it may go on saying so"


def test_a_site_that_goes_on_cannot_also_be_what_another_one_was() -> None:
    text = two_sites()
    lock = plan(asked(text), nothing("world"), DAY).lock
    del text["sites"]["sin"]
    text["sites"]["fra"]["formerly"] = "sin"
    made = plan(asked(text), lock, DAY)
    assert [(each.path, each.what) for each in made.findings] == [
        (
            ("sites", "fra", "formerly"),
            "sin, but fra is there already and goes on (its gateway fra-gw1 does): take this out,"
            " and what sin had will rest",
        )
    ]
    del text["sites"]["fra"]["formerly"]
    followed = plan(asked(text), lock, DAY)
    assert followed.findings == () and {each.what for each in followed.changes} == {"freed"}
