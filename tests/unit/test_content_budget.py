"""What one content after another may darken: `policy/budget.py`."""

from __future__ import annotations

import itertools

import pytest

from anycast.content.content import Content, Gateway, Intent, Site
from anycast.policy.budget import darkened, lit, shortfalls
from tests.support.contents import SITES, made

WHOLE = made().content


def test_what_the_budget_allows_is_allowed_and_one_more_is_not() -> None:
    two = made(ams="drained", fra="degraded").content
    assert shortfalls(WHOLE, two) == ()
    assert darkened(WHOLE, two) == {"ams", "fra"}, "degrading moves clients and counts"
    three = made(ams="drained", fra="degraded", lon="drained").content
    assert shortfalls(WHOLE, three) == (
        "3 sites attract by this content; its budget wants 4",
        "ams, fra, lon would go dark, and 3 sites attract all the while; the budget wants 4",
    )


def test_a_content_alone_is_judged_by_its_own_budget() -> None:
    assert shortfalls(None, WHOLE) == ()
    assert shortfalls(None, made(SITES[:3], budget="{min_sites: 3}").content) == ()
    dark = made(SITES[:3], budget="{min_sites: 3}", fra="drained").content
    assert shortfalls(None, dark) == ("2 sites attract by this content; its budget wants 3",)


def test_one_site_left() -> None:
    left = made(["fra"], budget="{min_sites: 1}").content
    assert shortfalls(WHOLE, left) == (
        "ams, lon, nyc, sin, tyo would go dark, and 1 site attracts all the while; the budget wants 4",
    ), "whoever leaves sites out does not leave out the budget that they were counted by"


def test_a_budget_is_lowered_by_a_content_that_darkens_nothing() -> None:
    lowered = made(budget="{min_sites: 1}").content
    dark = {name: "drained" for name in SITES[1:]}
    both = made(budget="{min_sites: 1}", **dark).content
    assert "the budget wants 4" in shortfalls(WHOLE, both)[0]
    assert shortfalls(WHOLE, lowered) == ()
    assert shortfalls(lowered, both) == ()


def test_who_comes_back_does_not_make_room_for_who_goes() -> None:
    before, after = made(ams="drained", fra="drained").content, made(lon="drained", nyc="drained").content
    assert len(lit(before)) == len(lit(after)) == 4
    problems = shortfalls(before, after)
    assert problems == ("lon, nyc would go dark, and 2 sites attract all the while; the budget wants 4",)
    back = made().content
    assert shortfalls(before, back) == shortfalls(back, after) == ()


def mixed(before: Content, after: Content, active: frozenset[str]) -> int:
    """Sites that attract while those of `active` run by `after` and the others by `before`."""
    return sum(
        bool((after if name in active else before).sites[name].attracts)
        for name in SITES
        if name in (after if name in active else before).sites
    )


def test_in_every_order_and_wherever_a_rollout_stops_the_budget_holds() -> None:
    """All contents that drain up to three of six sites, each after each, in all 64 mixtures."""
    sets = [set(dark) for size in range(4) for dark in itertools.combinations(SITES, size)]
    contents = [made(**dict.fromkeys(dark, "drained")).content for dark in sets]
    allowed = refused = 0
    subsets = [frozenset(each) for size in range(7) for each in itertools.combinations(SITES, size)]
    for before, after in itertools.product(contents, contents):
        if shortfalls(None, before) or before is after:
            continue
        worst = min(mixed(before, after, active) for active in subsets)
        if shortfalls(before, after):
            refused += 1
            assert worst < 4, "nothing is refused that could not go wrong"
        else:
            allowed += 1
            assert worst >= 4
    assert allowed > 100 and refused > 100


def test_dark_already_counts_but_never_refuses_light() -> None:
    drains = made(fra="drained").content
    assert shortfalls(WHOLE, drains, {"sin"}) == ()
    assert shortfalls(WHOLE, drains, {"sin", "tyo"}) == (
        "fra would go dark beside sin, tyo, and 3 sites attract all the while; the budget wants 4",
    )
    assert shortfalls(WHOLE, drains, {"fra", "sin"}) == (), "one that is dark goes dark at no cost"
    assert shortfalls(drains, WHOLE, set(SITES)) == (), "what brings light is never refused"


def without_announcements(content: Content, *names: str) -> Content:
    sites = dict(content.sites)
    for name in names:
        gateways = {
            gateway: Gateway(document=each.document, announces=dict.fromkeys(each.announces, ()))
            for gateway, each in sites[name].gateways.items()
        }
        sites[name] = sites[name].model_copy(update={"gateways": gateways})
    return content.model_copy(update={"sites": sites})


def test_a_site_without_prefixes_is_dark_whatever_it_is_called() -> None:
    three = without_announcements(WHOLE, "ams", "fra", "lon")
    assert all(site.intent is Intent.ANNOUNCED for site in three.sites.values())
    assert shortfalls(None, three) == ("3 sites attract by this content; its budget wants 4",)
    none = without_announcements(WHOLE, *SITES)
    assert shortfalls(None, none) == ("no site attracts by this content; its budget wants 4",)
    assert "nobody would go on announcing 2001:db8:a::/56" in shortfalls(WHOLE, none)[-1]


def test_one_prefix_less_is_dark_for_that_prefix() -> None:
    both = ("2001:db8:a::/56", "2001:db8:e::/56")

    def content(fewer: set[str]) -> Content:
        sites = {
            name: Site(
                intent=Intent.ANNOUNCED,
                gateways={f"{name}-gw1": Gateway(document="0" * 64, announces={"r": both[: 1 if name in fewer else 2]})},
            )
            for name in SITES
        }
        return WHOLE.model_copy(update={"sites": sites})

    assert shortfalls(content(set()), content({"ams", "fra"})) == ()
    assert shortfalls(content(set()), content({"ams", "fra", "lon"})) == (
        "ams, fra, lon would go dark, and 3 sites attract all the while; the budget wants 4",
    )
    last = shortfalls(content(set(SITES[1:])), content(set(SITES)))
    assert last == ("nobody would go on announcing 2001:db8:e::/56; a content that names it as retiring has to come before",)


def test_another_prefix_needs_the_first_to_retire() -> None:
    renumbered = made(prefix="2001:db8:a::/57").content
    assert shortfalls(WHOLE, renumbered)
    retiring = made(budget='{min_sites: 4, retiring: ["2001:db8:a::/56"]}').content
    assert shortfalls(WHOLE, retiring) == () == shortfalls(retiring, renumbered)
    # Who had nothing but that prefix loses nothing that counts, and is no site that is left, either.
    only_that = without_announcements(renumbered, "ams")
    assert shortfalls(retiring, only_that) == ()
    dark = made(prefix="2001:db8:a::/57", budget="{min_sites: 1}", fra="drained", lon="drained").content
    one_more = made(budget='{min_sites: 4, retiring: ["2001:db8:a::/56"]}', prefix="2001:db8:a::/57").content
    before = retiring.model_copy(update={"sites": {**one_more.sites, "ams": retiring.sites["ams"]}})
    assert shortfalls(before, without_announcements(dark, "ams")) == (
        "ams, fra, lon would go dark, and 3 sites attract all the while; the budget wants 4",
    )
    same_file = made(prefix="2001:db8:a::/57", budget='{min_sites: 4, retiring: ["2001:db8:a::/56"]}').content
    assert shortfalls(WHOLE, same_file), "not by the content that drops it"


def test_a_retiring_prefix_that_moves_takes_the_last_site_with_it() -> None:
    """In the middle of the rollout neither has it."""
    retiring = made(budget='{min_sites: 1, retiring: ["2001:db8:a::/56"]}').content
    one, other = retiring, made(budget="{min_sites: 1}").content
    for site in SITES:
        one = one if site == "ams" else without_announcements(one, site)
        other = other if site == "fra" else without_announcements(other, site)
    assert shortfalls(one, other) == ("ams would go dark, and no site attracts all the while; the budget wants 1",)


@pytest.mark.parametrize("change", ["drained", "removed", "moved", "floor gone"])
def test_a_region_has_a_floor_of_its_own(change: str) -> None:
    budget = "{min_sites: 1, regions: {eu: {min_sites: 3}}}"
    eu = dict.fromkeys(SITES[:3], "region: eu")
    before = made(budget=budget, more=eu).content
    assert shortfalls(None, before) == () == shortfalls(before, made(budget=budget, more=eu, sin="drained").content)
    without = {name: site for name, site in before.sites.items() if name != "fra"}
    after = {
        "drained": made(budget=budget, more=eu, fra="drained").content,
        "removed": before.model_copy(update={"sites": without}),
        "moved": before.model_copy(
            update={"sites": {**without, "fra": before.sites["fra"].model_copy(update={"region": "us"})}}
        ),
        "floor gone": made(budget="{min_sites: 1}", more=eu, fra="drained").content,
    }[change]
    said = "fra of region eu would go dark, and 2 sites attract all the while; the budget wants 3"
    assert said in shortfalls(before, after)


def test_capacity_has_a_floor() -> None:
    budget = "{min_sites: 1, min_capacity: 5000}"
    before = made(budget=budget).content
    assert shortfalls(before, made(budget=budget, fra="drained").content) == ()
    assert shortfalls(before, made(budget=budget, fra="drained", sin="drained").content) == (
        "the sites that attract by this content carry 4000 tunnels; the budget wants 5000",
        "without fra, sin the sites that attract carry 4000 tunnels; the budget wants 5000",
    )
    lowered = made(budget="{min_sites: 1}", fra="drained", sin="drained").content
    said = "without fra, sin the sites that attract carry 4000 tunnels; the budget wants 5000"
    assert shortfalls(before, lowered) == (said,)
    fewer = made(budget=budget, more={"fra": "capacity: 1"}).content
    assert shortfalls(before, fewer) == (), "5001 are left"
