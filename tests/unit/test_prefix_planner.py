"""What a plan does with one change at a time."""

from __future__ import annotations

import copy
import datetime
import ipaddress
from typing import Any

import pytest

from anycast.prefixes.allocation import Allocation, Kind, Lock, nothing
from anycast.prefixes.planner import Change, Planned, plan
from anycast.prefixes.renumber import Refused, renumber
from anycast.prefixes.spi import SpiLabel
from tests.support.prefix_world import asked, block, block6, judge, site, tree

DAY = datetime.date(2026, 11, 29)
BASE = ipaddress.ip_network(block(1, 20)).network_address
PUBLIC = ipaddress.ip_network(block(2, 20)).network_address


def world(sites: dict[str, Any], **addressing: Any) -> dict[str, Any]:
    blocks = {"pools4": (block(1, 20), ["pools"]), "public4": (block(2, 20), ["anycast", "unicast"])}
    return tree(blocks, sites, headroom="0 %", **addressing)


def planned(text: dict[str, Any], lock: Lock | None = None, days: int = 0) -> Planned:
    wanted = asked(text)
    made = plan(wanted, lock or nothing("world"), DAY + datetime.timedelta(days=days))
    if not made.findings:
        judge(wanted, made.lock)
    return made


def pool(number: int, length: int) -> str:
    return f"{BASE + number}/{length}"


def value(made: Planned, key: str) -> str:
    return made.lock.held[key].value


def of(made: Planned, what: str) -> list[Change]:
    return [each for each in made.changes if each.what == what]


def test_the_largest_comes_first_and_the_rest_fills_up_without_a_hole() -> None:
    made = planned(world({"a": site(clients=10), "b": site(clients=200), "c": site(clients=60)}))
    assert [value(made, f"sites.{name}.pools.ipv4") for name in "bca"] == [pool(0, 24), pool(256, 26), pool(320, 28)]


def test_a_pool_grows_where_its_neighbour_is_free() -> None:
    text = world({"a": site(clients=60), "b": site(clients=200)})
    first = planned(text)
    assert value(first, "sites.a.pools.ipv4") == pool(256, 26)
    text["sites"]["a"]["clients"] = "100"
    grown = planned(text, first.lock, days=3)
    assert grown.changes == (Change("grown", "sites.a.pools.ipv4", pool(256, 26), pool(256, 25)),)
    assert grown.lock.held["sites.a.pools.ipv4"].since == "2026-12-02"


def test_a_pool_whose_neighbour_is_taken_has_a_second_one_beside_it() -> None:
    text = world({"a": site(clients=60), "b": site(clients=60)})
    first = planned(text)
    text["sites"]["a"]["clients"] = "200"
    second = planned(text, first.lock)
    assert second.changes == (Change("new", "sites.a.more_pools.p2.ipv4", "", pool(256, 24)),)
    text["sites"]["a"]["clients"] = "330"
    third = planned(text, second.lock)
    assert third.changes == (Change("new", "sites.a.more_pools.p3.ipv4", "", pool(128, 28)),)
    text["sites"]["a"]["clients"] = "360"
    grown = planned(text, third.lock)
    assert grown.changes == (Change("grown", "sites.a.more_pools.p3.ipv4", pool(128, 28), pool(128, 26)),)


def test_a_pool_that_became_too_large_stays() -> None:
    text = world({"a": site(clients=200)})
    first = planned(text)
    text["sites"]["a"]["clients"] = "5"
    again = planned(text, first.lock)
    assert again.changes == () and value(again, "sites.a.pools.ipv4") == pool(0, 24)
    assert "5 clients" in again.lock.held["sites.a.pools.ipv4"].why


def test_a_written_pool_that_is_too_small_has_a_second_one_beside_it_and_never_grows() -> None:
    made = planned(world({"a": site(clients=60, pools={"ipv4": pool(0, 28)})}))
    assert value(made, "sites.a.pools.ipv4") == pool(0, 28)
    assert value(made, "sites.a.more_pools.p2.ipv4") == pool(64, 26)


def test_a_mirrored_pair_has_twice_the_addresses() -> None:
    pair = planned(world({"a": site(clients=60, gateways=2, mirrored=True)}))
    alone = planned(world({"a": site(clients=60, gateways=2)}))
    assert [value(each, "sites.a.pools.ipv4") for each in (pair, alone)] == [pool(0, 25), pool(0, 26)]


def test_freed_space_rests_and_then_is_somebodys() -> None:
    both = world({"a": site(clients=60), "b": site(clients=60)}, quarantine="30 d")
    without = copy.deepcopy(both)
    del without["sites"]["a"]
    freed = planned(without, planned(both).lock)
    assert Change("freed", "sites.a.pools.ipv4", pool(0, 26), "") in freed.changes
    assert {(each.key, each.freed) for each in freed.lock.resting if each.kind is Kind.POOL} == {
        ("sites.a.pools.ipv4", "2026-11-29")
    }
    with_c = copy.deepcopy(without)
    with_c["sites"]["c"] = site(clients=60)
    early, late = (planned(with_c, freed.lock, days=days) for days in (29, 30))
    assert value(early, "sites.c.pools.ipv4") == pool(128, 26)
    assert value(late, "sites.c.pools.ipv4") == pool(0, 26)
    assert not [each for each in late.lock.resting if each.kind is Kind.POOL]


def test_who_comes_back_in_time_gets_what_was_its_own() -> None:
    both = world({"a": site(clients=60), "b": site(clients=60)})
    first = planned(both)
    without = copy.deepcopy(both)
    del without["sites"]["a"]
    back = planned(both, planned(without, first.lock).lock, days=29)
    assert {each.what for each in back.changes} == {"returned"}
    assert {each: value(back, each) for each in back.lock.held} == {each: value(first, each) for each in first.lock.held}
    assert back.lock.resting == ()


def test_time_alone_changes_nothing() -> None:
    both = world({"a": site(clients=60), "b": site(clients=60)})
    without = copy.deepcopy(both)
    del without["sites"]["a"]
    lock = planned(without, planned(both).lock).lock
    assert planned(without, lock, days=4000).lock is lock


def test_a_site_with_another_name_keeps_all_that_it_has() -> None:
    text = world({"a": site(clients=60), "b": site(clients=60)})
    first = planned(text)
    text["sites"]["ams"] = {**text["sites"].pop("a"), "formerly": "a"}
    renamed = planned(text, first.lock)
    assert {each.what for each in renamed.changes} == {"renamed"}
    assert value(renamed, "sites.ams.pools.ipv4") == value(first, "sites.a.pools.ipv4")
    assert renamed.lock.resting == ()
    assert planned(text, renamed.lock).changes == (), "it may go on saying so"


def test_a_pin_moves_only_what_it_names() -> None:
    text = world({"a": site(clients=60), "b": site(clients=60)})
    first = planned(text)
    text["sites"]["a"]["pools"] = {"ipv4": pool(1024, 26)}
    moved = planned(text, first.lock)
    assert moved.changes == (Change("moved", "sites.a.pools.ipv4", pool(0, 26), pool(1024, 26)),)
    assert [each.value for each in moved.lock.resting] == [pool(0, 26)]
    del text["sites"]["a"]["pools"]
    left = planned(text, moved.lock)
    assert left.changes == (Change("unpinned", "sites.a.pools.ipv4", pool(1024, 26), pool(1024, 26)),)


def test_a_move_goes_in_steps_and_moves_nothing_else() -> None:
    text = world({"a": site(clients=60), "b": site(clients=60)})
    first = planned(text)
    key = "sites.a.pools.ipv4"
    steps = renumber(asked(text), first.lock, key, DAY)
    assert not isinstance(steps, Refused) and len(steps) == 3
    lock = first.lock
    for number, step in enumerate(steps):
        for path, written in step.write.items():
            *around, last = path.split(".")
            here = text
            for name in around:
                here = here.setdefault(name, {})
            _ = here.update({last: written}) if written else here.pop(last)
        made = planned(text, lock, days=number)
        assert made.findings == ()
        lock = made.lock
        for name in ("b.pools.ipv4", "a.unicast_prefix.ipv4", "b.unicast_prefix.ipv4"):
            assert lock.held[f"sites.{name}"].value == value(first, f"sites.{name}")
        pools = {each.value for each in lock.of(Kind.POOL) if each.site == "a"}
        assert pools == ({pool(0, 26), pool(128, 26)} if number == 0 else {pool(128, 26)})
    assert not lock.held[key].pinned
    assert {(each.value, each.freed) for each in lock.resting if each.kind is Kind.POOL} == {(pool(0, 26), "2026-11-30")}


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("sites.a.nothing", "is not in the lock file"),
        ("service.prefixes.ipv4", "is what the world reaches the service by"),
        ("service.vips.ipv4", "moves with the prefix that it lies in"),
        ("sites.a.spi_label", "is a number"),
    ],
)
def test_what_does_not_move_in_steps_says_how_it_does(key: str, what: str) -> None:
    text = world({"a": site(clients=60)})
    refused = renumber(asked(text), planned(text).lock, key, DAY)
    assert isinstance(refused, Refused) and refused.findings[0].what.startswith(what)


def test_a_move_needs_room() -> None:
    text = world({"a": site(clients=4000)})
    refused = renumber(asked(text), planned(text).lock, "sites.a.pools.ipv4", DAY)
    assert isinstance(refused, Refused) and "is too small" in refused.findings[0].what


def test_a_pin_in_what_is_anothers_or_rests_is_refused() -> None:
    text = world({"a": site(clients=60), "b": site(clients=60)})
    first = planned(text)
    pinned = copy.deepcopy(text)
    pinned["sites"]["b"]["pools"] = {"ipv4": pool(32, 27)}
    assert [each.what for each in planned(pinned, first.lock).findings] == [
        f"{pool(32, 27)} overlaps {pool(0, 26)} of sites.a.pools.ipv4"
    ]
    gone = copy.deepcopy(text)
    del gone["sites"]["a"]
    lock = planned(gone, first.lock).lock
    gone["sites"]["b"]["pools"] = {"ipv4": pool(32, 27)}
    assert [each.what for each in planned(gone, lock, days=5).findings] == [
        f"{pool(32, 27)} overlaps {pool(0, 26)}, which sites.a.pools.ipv4 gave up on 2026-11-29 and which still rests"
    ]
    assert planned(gone, lock, days=30).findings == ()


def test_two_branches_that_were_merged_are_told() -> None:
    text = world({"a": site(clients=60)})
    base = planned(text).lock
    branches = []
    for name in ("b", "c"):
        branch = copy.deepcopy(text)
        branch["sites"][name] = site(clients=60)
        branches.append(planned(branch, base).lock.held)
    text["sites"] |= {"b": site(clients=60), "c": site(clients=60)}
    merged = plan(asked(text), Lock("world", {**branches[0], **branches[1]}, ()), DAY)
    assert [f"{'.'.join(map(str, each.path))} {each.what}" for each in merged.findings] == [
        f"sites.c.pools.ipv4 {pool(64, 26)} overlaps {pool(64, 26)} of sites.b.pools.ipv4",
        f"sites.c.unicast_prefix.ipv4 {PUBLIC + 32}/28 overlaps {PUBLIC + 32}/28 of sites.b.unicast_prefix.ipv4",
        "sites.c.spi_label 2 is also the label of sites.b.spi_label",
    ]


def test_a_block_that_went_is_not_a_reason_to_move_anything() -> None:
    text = world({"a": site(clients=60)})
    first = planned(text)
    text["addressing"]["blocks"]["pools4"]["prefix"] = block(5, 20)
    refused = plan(asked(text), first.lock, DAY)
    assert [each.what for each in refused.findings] == [
        f"holds {pool(0, 26)} of block pools4, and no block with pools in its use holds that now: bring it back, or write"
        " here what it shall be"
    ]


def test_what_is_written_in_an_address_is_what_the_prefix_around_it_is_planned_by() -> None:
    own = PUBLIC + 100
    made = planned(world({"a": site(clients=5, service_address={"ipv4": str(own)}), "b": site(clients=5)}))
    assert value(made, "sites.a.unicast_prefix.ipv4") == f"{PUBLIC + 96}/28"
    assert value(made, "sites.a.service_address.ipv4") == str(own)


def test_an_address_that_is_no_ones_block_plans_no_prefix_around_it() -> None:
    made = planned(world({"a": site(clients=5, service_address={"ipv4": "198.51.100.200"})}))
    assert "sites.a.unicast_prefix.ipv4" not in made.lock.held


def test_what_the_file_writes_anywhere_is_given_to_nobody() -> None:
    text = world({"a": site(clients=60)})
    text["sites"]["a"]["upstreams"]["rtr0"]["address"] = {"ipv4": str(BASE + 3)}
    assert value(planned(text), "sites.a.pools.ipv4") == pool(64, 26)


def test_ends_of_tunnels_are_no_first_or_last_address_and_lie_in_the_unicast_prefix_where_no_block_is_for_them() -> None:
    sites = {f"s{n:03}": site(clients=5) for n in range(300)}
    text = tree({"tunnels4": (block(1, 22), ["tunnels"])}, sites)
    ends = [ipaddress.ip_address(row.value) for row in planned(text).lock.of(Kind.TUNNEL)]
    assert len(ends) == len(set(ends)) == 300
    assert not [end for end in ends if end.packed[-1] in (0, 255)]
    made = planned(world({"a": site(clients=5)}))
    assert made.lock.held["sites.a.tunnel.ipv4"].source == "sites.a.unicast_prefix.ipv4"


def test_what_is_for_one_use_only_is_taken_first() -> None:
    blocks = {"only": (block(5, 26), ["pools"]), "both": (block(1, 26), ["pools", "anycast"])}
    made = planned(tree(blocks, {"a": site(clients=10)}, headroom="0 %"))
    assert made.lock.held["sites.a.pools.ipv4"].source == "only"


def test_labels_are_given_once_and_written_ones_are_left_alone() -> None:
    text = world({"a": site(clients=5), "b": site(clients=5, spi_label="1"), "c": site(clients=5)})
    made = planned(text)
    assert [value(made, f"sites.{name}.spi_label") for name in "abc"] == ["2", "1", "3"]
    full = world({f"s{n}": site(clients=5) for n in range(3)})
    lock = Lock("world", {
        f"sites.x{n}.spi_label": Allocation(f"sites.x{n}.spi_label", Kind.SPI_LABEL, str(n), "", False, "2026-11-29", "")
        for n in range(1, 4095)
    }, ())  # fmt: skip
    findings = plan(asked(full), lock, DAY).findings
    assert [(each.path, each.what) for each in findings] == [
        (("sites", name, "spi_label"), "no SPI label is free: there are 4095") for name in ("s1", "s2")
    ]


def test_a_label_is_one_range_of_esp_and_a_mask_of_ike() -> None:
    ranges = [SpiLabel(number).esp for number in (1, 2, 4095)]
    assert ranges[0].start > 255 and ranges[0].stop == ranges[1].start and ranges[2].stop == 1 << 32
    for number in (1, 4095):
        label = SpiLabel(number)
        assert {spi & label.esp_mask for spi in (label.esp[0], label.esp[-1])} == {label.esp[0]}
        assert label.ike & label.ike_mask == label.ike and label.ike >> 52 == number
    assert str(SpiLabel(2)) == "ESP 0x00200000 to 0x002fffff, IKE 0x0020000000000000/12"


def test_nothing_is_planned_in_a_family_that_no_block_is_for() -> None:
    made = planned(tree({"six": (block6(1), ["anycast", "pools"])}, {"a": site(clients=5)}))
    assert {row.kind for row in made.lock.held.values()} == {Kind.COVERING, Kind.VIP, Kind.POOL, Kind.SPI_LABEL}
    assert not [key for key in made.lock.held if key.endswith("ipv4")]


def test_a_lock_of_another_fleet_is_refused() -> None:
    assert [each.what for each in plan(asked(world({"a": site(clients=5)})), nothing("other"), DAY).findings] == [
        "is world, and the lock file of other: if that is what this fleet was called, write the new name into the first line"
        " of the lock file, too"
    ]


@pytest.mark.parametrize("seen", [True, False])
def test_what_is_of_others_is_not_taken(seen: bool) -> None:
    more = {"foreign": {"office": [pool(0, 25)]}} if seen else {}
    assert value(planned(world({"a": site(clients=60)}, **more)), "sites.a.pools.ipv4") == pool(128 if seen else 0, 26)


def test_a_pin_makes_ones_own_prefix_wider_or_narrower() -> None:
    text = world({"a": site(clients=60)})
    first = planned(text)
    for own in (pool(0, 27), pool(0, 25)):
        text["sites"] = {"a": site(clients=5, pools={"ipv4": own})}
        made = planned(text, first.lock)
        assert made.findings == () and value(made, "sites.a.pools.ipv4") == own


def lan(**written: Any) -> dict[str, Any]:
    text = tree({"lans": (block(3, 24), ["management"])}, {"a": site(clients=5, gateways=2), "b": site(clients=5)})
    for key, value in written.items():
        gateway, _, name = key.partition("_")
        text["sites"]["a"]["gateways"][gateway]["management"][name] = value
    return text


def test_an_address_or_a_label_that_rests_is_not_written_elsewhere_and_comes_back_only_if_nobody_has_it() -> None:
    first = planned(lan())
    key, mine = "sites.a.gateways.gw1.management.ipv4", value(first, "sites.a.gateways.gw1.management.ipv4")
    without = lan()
    del without["sites"]["a"]["gateways"]["gw1"], without["sites"]["b"]
    rested = planned(without, first.lock)
    pinned = lan(gw0_ipv4=mine)
    del pinned["sites"]["a"]["gateways"]["gw1"]
    pinned["sites"]["a"]["spi_label"] = "2"
    early = plan(asked({**pinned, "sites": {"a": pinned["sites"]["a"]}}), rested.lock, DAY + datetime.timedelta(days=2))
    assert [each.what for each in early.findings] == [
        f"{mine} is what {key} gave up on 2026-11-29, and still rests",
        "2 is what sites.b.spi_label gave up on 2026-11-29, and still rests",
    ]
    held = {**rested.lock.held}
    for other, written in (("sites.a.gateways.gw0.management.ipv4", mine), ("sites.a.spi_label", "2")):
        held[other] = held[other]._replace(value=written, pinned=True)
    back = lan(gw0_ipv4=mine)
    back["sites"]["a"]["spi_label"] = "2"
    made = plan(asked(back), rested.lock._replace(held=held), DAY + datetime.timedelta(days=2))
    assert value(made, key) != mine and value(made, "sites.b.spi_label") != "2"


def test_what_the_file_writes_meanwhile_does_not_come_back() -> None:
    text = world({"a": site(clients=60), "b": site(clients=60)})
    first = planned(text)
    without = copy.deepcopy(text)
    del without["sites"]["a"]
    lock = planned(without, first.lock).lock
    text["service"]["dns"] = [str(BASE + 9)]
    assert value(planned(text, lock), "sites.a.pools.ipv4") == pool(128, 26)


def test_ends_of_tunnels_stay_where_they_are_when_a_block_for_them_comes() -> None:
    text = world({"a": site(clients=5)})
    first = planned(text)
    text["addressing"]["blocks"]["tunnels4"] = {"prefix": block(7, 24), "use": ["tunnels"]}
    made = planned(text, first.lock)
    assert made.findings == () and made.changes == ()
    text["sites"]["b"] = site(clients=5)
    assert planned(text, first.lock).lock.held["sites.b.tunnel.ipv4"].source == "tunnels4"


def test_what_clients_reach_inside_is_only_for_inside_lans_whatever_else_the_block_is_for() -> None:
    uses = ["pools", "inside"]
    text = tree({"all4": (block(1, 20), uses)}, {"a": site(clients=60)}, headroom="0 %")
    text["service"]["inside"] = [pool(0, 21)]
    made = planned(text)
    assert value(made, "sites.a.inside.ipv4") == pool(0, 28)
    assert value(made, "sites.a.pools.ipv4") == pool(2048, 26)


@pytest.mark.parametrize(
    ("inside", "foreign", "where"),
    [
        (pool(0, 19), [], "service.inside"),
        ("192.0.2.0/24", [pool(0, 20)], "addressing.foreign"),
        (pool(0, 21), [pool(2048, 21)], "service.inside and addressing.foreign"),
    ],
)
def test_a_block_that_lies_in_what_is_others_is_not_called_too_small(inside: str, foreign: list[str], where: str) -> None:
    text = world({"a": site(clients=60)}, foreign={"office": foreign} if foreign else {})
    text["service"]["inside"] = [inside]
    said = [(each.path[2], each.what) for each in planned(text).findings]
    what = f"lies in {where}, of which nothing is taken for pools: no room for sites.a.pools.ipv4; a block of /26 that lies"
    assert said == [("pools4", f"{pool(0, 20)} {what} elsewhere would do")]


def test_a_larger_block_is_no_advice_where_its_other_half_is_others() -> None:
    text = world({"a": site(clients=6000)})
    assert "or a /18 in place of this one, would do" in planned(text).findings[0].what
    text["service"]["inside"] = [pool(4096, 20)]
    assert planned(text).findings[0].what.endswith("one more block of /19 elsewhere would do")


def test_a_full_lan_is_said_once_with_the_size_that_does_for_all() -> None:
    text = world({"a": site(clients=5, gateways=2, routers=9, uplink={"ipv4": "198.51.100.0/29"})})
    (finding,) = planned(text).findings
    assert finding.path == ("sites", "a", "uplink", "ipv4")
    names = "sites.a.upstreams.rtr6.address.ipv4, sites.a.upstreams.rtr7.address.ipv4, sites.a.upstreams.rtr8.address.ipv4"
    assert finding.what == f"no address of 198.51.100.0/29 is free for {names} and 3 more; a /28 would do"
    text["sites"]["a"]["uplink"]["ipv4"] = "198.51.100.0/28"
    assert planned(text).findings == ()


def test_what_was_given_out_and_is_somebody_elses_by_now_is_said() -> None:
    uses = ["anycast", "unicast", "pools", "management", "tunnels"]
    text = tree({"all4": (block(1, 20), uses)}, {"a": site(clients=60), "b": site(clients=5)}, headroom="0 %")
    first = planned(text)
    text["addressing"]["foreign"] = {"office": [], "lab": []}
    for key in ("sites.a.management.ipv4", "sites.a.tunnel.ipv4", "sites.b.pools.ipv4", "service.prefixes.ipv4"):
        held = value(first, key)
        theirs = held if "/" in held else f"{held}/32"
        text["addressing"]["foreign"]["office"] = [theirs]
        (finding,) = plan(asked(text), first.lock, DAY).findings
        assert (".".join(map(str, finding.path)), finding.what) == (
            key, f"{held} overlaps {theirs} of addressing.foreign.office"
        )  # fmt: skip
    text["addressing"]["foreign"] = {}
    server = ipaddress.ip_network(value(first, "sites.a.pools.ipv4"))[9]
    text["service"]["dns"] = [str(server), value(first, "service.vips.ipv4")]
    said = [finding.what for finding in plan(asked(text), first.lock, DAY).findings]
    assert f"{value(first, 'sites.a.pools.ipv4')} was given out, and holds {server}, which the file writes elsewhere" in said


def test_a_service_does_not_end_because_a_word_of_a_blocks_use_went() -> None:
    text = world({"a": site(clients=5)}, services={"dns": {}})
    first = planned(text)
    text["addressing"]["blocks"]["public4"]["use"] = ["unicast"]
    text["addressing"]["blocks"]["six"] = {"prefix": block6(1), "use": ["anycast"]}
    refused = plan(asked(text), first.lock, DAY)
    held = value(first, "service.vips.ipv4")
    assert {".".join(map(str, each.path)) for each in refused.findings} == {
        f"{here}.{what}.ipv4" for here in ("service", "addressing.services.dns") for what in ("prefixes", "vips")
    }
    assert (
        f"holds {held}, and no ipv4 block has anycast in its use now: bring it back, or write service.vips and"
        " service.prefixes of the families that it shall keep"
    ) in [each.what for each in refused.findings]
    written = plan(asked(text), nothing("world"), DAY).lock
    text["service"]["vips"] = {"ipv6": written.held["service.vips.ipv6"].value}
    del text["addressing"]["services"]["dns"]
    made = planned(text, first.lock)
    assert made.findings == () and Change("freed", "service.vips.ipv4", held, "") in made.changes


def test_a_service_or_a_subnet_that_gets_nothing_is_said() -> None:
    text = tree(
        {"pools4": (block(1, 20), ["pools"])}, {"a": site(clients=5)}, services={"dns": {}}, subnets={"v": {"ipv4": "/27"}}
    )
    assert [(each.path, each.what) for each in planned(text).findings] == [
        (("addressing", "services", "dns"), "gets nothing: no block has anycast in its use"),
        (("addressing", "subnets", "v"), "gets nothing: no block of its families has subnets in its use"),
    ]


def test_a_router_id_that_was_written_stays_when_the_file_leaves_it_out() -> None:
    uses = {"uplinks": (block(4, 20), ["uplink"])}
    text = tree(uses, {"a": site(clients=5)})
    text["sites"]["a"]["gateways"]["gw0"]["router_id"] = "192.0.2.77"
    key = "sites.a.gateways.gw0.router_id"
    first = planned(text)
    del text["sites"]["a"]["gateways"]["gw0"]["router_id"]
    left_out = planned(text, first.lock)
    assert left_out.changes == (Change("unpinned", key, "192.0.2.77", "192.0.2.77"),)
    text["sites"]["b"] = site(clients=5)
    later = planned(text, left_out.lock)
    assert value(later, key) == "192.0.2.77" and later.lock.held[key] == left_out.lock.held[key]
