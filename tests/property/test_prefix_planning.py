"""Plans of any fleet, over any history of edits: no overlap ever, nothing else moves, same input same bytes, and what is
declared is served, or refused with the size that would do."""

from __future__ import annotations

import copy
import datetime
import ipaddress
import random
import re
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from anycast.prefixes.allocation import Kind, Lock, nothing
from anycast.prefixes.lock import decode_lock, encode_lock
from anycast.prefixes.planner import Planned, plan
from tests.support.prefix_world import USES, Network, asked, block, block6, judge, network, site, spaces, tree

DAY = datetime.date(2026, 11, 29)

sizes = st.sampled_from([1, 5, 13, 14, 60, 200, 900, 4000])
sites = st.builds(
    site,
    clients=sizes,
    gateways=st.sampled_from([1, 2]),
    routers=st.sampled_from([0, 1, 2]),
    mirrored=st.booleans(),
)
names = st.sampled_from([f"s{n}" for n in range(12)])


@st.composite
def worlds(draw: st.DrawFn, *, tight: bool = False) -> dict[str, Any]:
    """Each use has a block of a family or none; some share one."""
    blocks: dict[str, tuple[str, list[str]]] = {}
    for region, use in enumerate(USES):
        length = draw(st.sampled_from([18, 20, 22, 24, 26, 28] if tight else [12, 13]))
        if draw(st.integers(0, 9)) > 0:
            blocks[f"{use}4"] = (block(region, length), [use])
    shared = draw(st.lists(st.sampled_from(USES), min_size=1, max_size=4, unique=True))
    blocks["shared4"] = (block(8, 20 if tight else 12), shared)
    blocks["shared6"] = (block6(1), list(USES) if draw(st.booleans()) else ["anycast", "unicast", "pools", "tunnels"])
    served = any("subnets" in uses for _, uses in blocks.values())
    world = tree(
        blocks,
        draw(st.dictionaries(names, sites, min_size=1, max_size=8)),
        services={name: {} for name in draw(st.lists(st.sampled_from(["dns", "web"]), unique=True))},
        headroom=f"{draw(st.sampled_from([0, 25, 100]))} %",
        subnets={"voice": {"ipv4": "29", "ipv6": "64"}} if served and draw(st.booleans()) else {},
    )
    if draw(st.booleans()):
        begin = int(ipaddress.ip_network(blocks["shared4"][0]).network_address)
        world["addressing"]["foreign"] = {"office": [f"{ipaddress.IPv4Address(begin + 512)}/23"]}
    return world


def shuffled(world: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same file with its mappings in another order."""

    def mixed(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        rows = [(key, mixed(each)) for key, each in value.items()]
        chance.shuffle(rows)
        return dict(rows)

    chance = random.Random(seed)
    return mixed(world)  # type: ignore[no-any-return]


def moved(before: Lock, after: Lock, but: set[str] = frozenset()) -> dict[str, tuple[str, str]]:  # type: ignore[assignment]
    """What both have, and not in the same place; a pool that grew around its place did not move."""
    found = {}
    for key, old in before.held.items():
        new = after.held.get(key)
        if new is None or new.value == old.value or key in but:
            continue
        if old.kind is Kind.POOL and network(old).subnet_of(network(new)):  # type: ignore[arg-type]
            continue
        found[key] = (old.value, new.value)
    return found


def served(planned: Planned, world: dict[str, Any]) -> None:
    """Everything that is asked for is there, and pools hold the clients that the file declares; counted from the file."""
    wanted = asked(world)
    assert wanted.wants.keys() <= planned.lock.held.keys()
    headroom = int(world["addressing"]["headroom"].split()[0])
    blocks = [(ipaddress.ip_network(each["prefix"]), each["use"]) for each in world["addressing"]["blocks"].values()]
    planned_here = any(around.version == 4 and "pools" in uses for around, uses in blocks)
    for name, each in world["sites"].items():
        if planned_here:
            clients = int(each["clients"]) * (100 + headroom) / 100 * (2 if "sync" in each else 1)
            held = [row for row in planned.lock.held.values() if row.kind is Kind.POOL and row.site == name]
            assert sum(network(row).num_addresses - 2 for row in held if network(row).version == 4) >= clients


@given(worlds(), st.integers(0, 99))
@settings(max_examples=60)
def test_a_first_plan_serves_everything_whatever_the_order_of_the_file(world: dict[str, Any], seed: int) -> None:
    wanted = asked(world)
    planned = plan(wanted, nothing("world"), DAY)
    assert planned.findings == ()
    judge(wanted, planned.lock)
    served(planned, world)
    text = encode_lock(planned.lock)
    assert encode_lock(plan(asked(shuffled(world, seed)), nothing("world"), DAY).lock) == text
    assert decode_lock(text) == planned.lock
    later = plan(wanted, decode_lock(text), DAY + datetime.timedelta(days=400))
    assert later.changes == () and encode_lock(later.lock) == text


@given(st.lists(st.integers(20, 29), min_size=1, max_size=40))
@settings(max_examples=60)
def test_from_nothing_a_block_of_just_the_sum_is_enough_and_no_hole_is_left(lengths: list[int]) -> None:
    """Utilisation, from the declared lengths alone: what is asked for by its size (`addressing.subnets`) at one site."""
    declared = sum(1 << (32 - length) for length in lengths)
    fitting = 32 - (declared - 1).bit_length()
    names = {f"n{number}": {"ipv4": f"/{length}"} for number, length in enumerate(lengths)}
    world = tree({"all": (block(1, fitting), ["subnets"])}, {"a": site(clients=1)}, subnets=names)
    planned = plan(asked(world), nothing("world"), DAY)
    assert planned.findings == ()
    given_out = [network(row) for row in planned.lock.of(Kind.SUBNET)]
    assert sorted(each.prefixlen for each in given_out) == sorted(lengths)
    first = min(int(each.network_address) for each in given_out)
    behind = max(int(each.broadcast_address) + 1 for each in given_out)
    assert behind - first <= declared * 1.1


edits = st.tuples(
    st.sampled_from(["add", "remove", "rename", "takeover", "clients", "gateways", "service", "pin", "crash"]),
    names,
    names,
    sites,
)
histories = st.lists(st.tuples(st.lists(edits, min_size=1, max_size=4), st.integers(0, 40)), min_size=1, max_size=8)
"""What is edited between two plans, and how many days lie between them."""


@given(worlds(), histories)
@settings(max_examples=120)
def test_no_history_moves_what_is_held_or_gives_away_what_rests(world: dict[str, Any], history: list[Any]) -> None:
    lock, day = plan(asked(world), nothing("world"), DAY).lock, DAY
    freed: list[tuple[str, Network, datetime.date]] = []
    """Kept by the test: whose, what, when."""
    for step, days in history:
        day += datetime.timedelta(days=days)
        before, edited = lock, copy.deepcopy(world)
        for what, name, other, made in step:
            edit(edited, what, name, other, made, lock)
        taken = {old: name for name, each in edited["sites"].items() if (old := each.get("formerly")) in world["sites"]}
        renamed = {f"sites.{old}.": f"sites.{new}." for old, new in taken.items() if old not in edited["sites"]}
        planned = plan(asked(edited), before, day)
        if any(what == "crash" for what, *_ in step):  # before its file is written: the same comes out again
            again = plan(asked(edited), decode_lock(encode_lock(before)), day)
            assert encode_lock(again.lock) == encode_lock(planned.lock)
        if planned.findings:
            continue  # is refused, so nothing is written
        judge(asked(edited), planned.lock)
        served(planned, edited)
        gone = {key: row for key, row in before.held.items() if key.startswith(tuple(renamed.values()))}
        was = {new_key(key, renamed): row for key, row in before.held.items() if key not in gone}
        pins = {key for key, row in planned.lock.held.items() if row.pinned}
        assert moved(Lock("world", was, ()), planned.lock, pins) == {}, step
        given_now = {
            key: lying
            for key, lying in spaces(planned.lock).items()
            if key not in pins and (key not in was or was[key].value != planned.lock.held[key].value)
        }
        for owner, lying, since in freed:
            for key, now in given_now.items() if (day - since).days < 30 else ():
                assert key == owner or now.version != lying.version or not now.overlaps(lying), f"{key} {now} of {owner}"
        freed = [(new_key(owner, renamed), lying, since) for owner, lying, since in freed]
        held_now = spaces(planned.lock)
        freed += [(key, lying, day) for key, lying in spaces(Lock("", was, ())).items() if held_now.get(key) != lying]
        freed += [(key, lying, day) for key, lying in spaces(Lock("", gone, ())).items()]
        rests = {str(network(rest)) for rest in planned.lock.resting if rest.kind is not Kind.SPI_LABEL}
        for key, lying, since in freed:
            if since == day and not any(now.version == lying.version and now.overlaps(lying) for now in held_now.values()):
                assert str(lying) in rests, f"{key} {lying} is lost"
        world, lock = edited, planned.lock
        for each in world["sites"].values():
            each.pop("formerly", None)


def new_key(key: str, renamed: dict[str, str]) -> str:
    for old, new in renamed.items():
        if key.startswith(old):
            return new + key[len(old) :]
    return key


def edit(world: dict[str, Any], what: str, name: str, other: str, made: dict[str, Any], lock: Lock) -> None:
    here = world["sites"]
    match what:
        case "add":
            here.setdefault(name, made)
        case "remove" if len(here) > 1:
            here.pop(name, None)
        case "rename" if name in here and other not in here:
            here[other] = {"formerly": name, **here.pop(name)}
        case "takeover" if name in here and name != other:
            here.pop(other, None)
            here[other] = {"formerly": name, **here.pop(name)}
        case "clients" if name in here:
            here[name]["clients"] = made["clients"]
        case "gateways" if name in here:
            for key in ("gateways", "vrrp", "sync"):
                here[name].pop(key, None)
                if key in made:
                    here[name][key] = made[key]
        case "service":
            services = world["addressing"]["services"]
            services.pop("dns") if "dns" in services else services.update(dns={})
        case "pin" if name in here and (own := lock.held.get(f"sites.{name}.pools.ipv4")) is not None:
            here[name]["pools"] = {"ipv4": own.value}


@given(worlds(tight=True))
@example(
    tree(
        {"shared4": (block(8, 20), ["anycast", "pools"])},
        {name: site(clients=4000) for name in ("a", "b")},
        headroom="0 %",
    )
)
@settings(max_examples=120)
def test_what_is_refused_names_the_block_and_the_size_that_would_do(world: dict[str, Any]) -> None:
    wanted = asked(world)
    first = plan(wanted, nothing("world"), DAY)
    judge(wanted, first.lock)
    if not first.findings:
        served(first, world)
        return
    more, grown = copy.deepcopy(world), copy.deepcopy(world)
    for number, finding in enumerate(first.findings):
        said = re.search(r"from (ipv[46]) blocks for (\w+): .* one more block of /(\d+), or a /(\d+) in place", finding.what)
        assert said is not None and finding.path[:2] == ("addressing", "blocks"), finding
        family, use, length, larger = said.groups()
        assert family == "ipv4"
        region = ipaddress.IPv4Address((172 << 24) + (number << 20))
        more["addressing"]["blocks"][f"more{number}"] = {"prefix": f"{region}/{length}", "use": [use]}
        own = grown["addressing"]["blocks"][finding.path[2]]
        base = ipaddress.ip_network(own["prefix"]).network_address
        own["prefix"] = f"{base}/{min(int(larger), int(own['prefix'].split('/')[1]))}"
    for better in (more, grown):
        planned = plan(asked(better), first.lock, DAY)
        assert planned.findings == (), better["addressing"]["blocks"]
        served(planned, better)
        assert moved(first.lock, planned.lock) == {}
