"""The list of voluntary darkness: who may be dark, who is counted, and the line that says so."""

from __future__ import annotations

import pytest

from anycast.policy.floors import Budget, Floor, SiteShare, allowed, broken_by
from anycast.policy.ledger import Entry, Kind, Ledger, Site, Standing
from anycast.reasons import Reason

NAMES = ("ams", "fra", "lon", "nyc", "sin", "tyo")
UP = Standing(Site.ANNOUNCES)
DOWN = Standing(Site.DARK, "charon_exited")
LOST = Standing(Site.UNHEARD, "not heard of for 40 s")


def budget(min_sites: int = 2, **more: object) -> Budget:
    return Budget(min_sites=min_sites, sites=tuple(SiteShare(name=name) for name in NAMES), **more)


def entry(site: str, kind: str = Kind.DRAIN, **more: object) -> Entry:
    return Entry(**{"id": f"{site}-{kind}", "kind": kind, "site": site, "gateways": (f"{site}-gw1",), "by": "alice", **more})


def standings(**others: Standing) -> dict[str, Standing]:
    return dict.fromkeys(NAMES, UP) | others


@pytest.mark.parametrize(
    ("entries", "others", "site", "reason"),
    [
        ([], {}, "fra", Reason.WITHIN_BUDGET),
        ([entry("ams")], {}, "fra", Reason.WITHIN_BUDGET),
        ([entry("ams"), entry("lon")], {}, "fra", Reason.BUDGET_SPENT),
        ([entry("ams")], {"lon": DOWN}, "fra", Reason.BUDGET_SPENT),
        ([entry("ams")], {"lon": LOST}, "fra", Reason.BUDGET_SPENT),
        ([], {"ams": LOST, "lon": LOST, "nyc": LOST}, "fra", Reason.BUDGET_SPENT),
        ([entry("ams"), entry("ams", Kind.TOKEN)], {"ams": DOWN}, "fra", Reason.WITHIN_BUDGET),  # one site, one slot
        ([entry("ams"), entry("fra")], {}, "fra", Reason.WITHIN_BUDGET),  # it has its slot already
        ([], {"fra": DOWN}, "fra", Reason.WITHIN_BUDGET),
        ([entry("ams", Kind.HOLD), entry("lon", Kind.HOLD), entry("nyc", Kind.HOLD)], {}, "ams", Reason.BUDGET_SPENT),
        ([], {"fra": LOST}, "fra", Reason.SITE_UNHEARD),
        ([], {}, "bos", Reason.SITE_UNKNOWN),
    ],
)
def test_who_may_be_dark(entries: list[Entry], others: dict[str, Standing], site: str, reason: Reason) -> None:
    decision = Ledger(budget(4), entries).may_darken(site, standings(**others))
    assert (decision.granted, decision.cause.reason) == (reason is Reason.WITHIN_BUDGET, reason)


def test_a_coordinator_that_has_heard_nobody_grants_nothing() -> None:
    ledger = Ledger(budget(1))
    assert not ledger.may_darken("fra", dict.fromkeys(NAMES, LOST)).granted
    assert not ledger.may_darken("fra", dict.fromkeys(NAMES, LOST) | {"fra": UP}).granted


def test_the_line_that_says_it() -> None:
    ledger = Ledger(budget(), [entry("sin", Kind.TOKEN, by="dns"), entry("fra", until=4 * 3600.0)])
    assert ledger.summary(standings()) == "dark 2 of 4 allowed: fra drain by alice until 04:00, sin token dns"
    assert Ledger(budget()).summary(standings()) == "dark 0 of 4 allowed"
    assert Ledger(budget(), [entry("fra", ending="undrain")]).summary(standings(lon=DOWN, nyc=LOST)) == (
        "dark 3 of 4 allowed: fra drain by alice (ending: undrain), lon not announcing (charon_exited), "
        "nyc unheard (not heard of for 40 s)"
    )


def test_a_region_has_a_floor_of_its_own() -> None:
    europe = ("ams", "fra", "lon")
    shares = tuple(SiteShare(name=name, region="eu" if name in europe else None, capacity=100) for name in NAMES)
    of = Budget(min_sites=2, sites=shares, regions={"eu": Floor(min_sites=2)})
    ledger = Ledger(of, [entry("ams")])
    assert ledger.may_darken("tyo", standings()).granted
    refused = ledger.may_darken("fra", standings())
    assert refused.cause.reason is Reason.BUDGET_SPENT
    assert refused.cause.detail.startswith("2 sites of eu would be dark, 1 may be; dark 1 of 4 allowed: ams")
    assert ledger.summary(standings(), "eu") == "dark 1 of 1 allowed in eu: ams drain by alice"
    assert allowed(of, "eu") == 1


def test_capacity_is_a_floor_too() -> None:
    shares = tuple(SiteShare(name=name, capacity=1000 if name == "fra" else 100) for name in NAMES)
    of = Budget(min_sites=1, min_capacity=600, sites=shares)
    assert broken_by(of, {"ams", "lon"}) is None
    against = broken_by(of, {"fra"})
    assert against is not None and against.reason is Reason.CAPACITY_SHORT
    assert against.detail == "a capacity of 500 would be left, 600 must be"


def test_what_is_known_to_be_dark_leaves_out_who_is_not_heard_and_what_is_ending() -> None:
    ledger = Ledger(budget(), [entry("fra", Kind.TOKEN), entry("sin", Kind.TOKEN), entry("sin")])
    seen = standings(fra=DOWN, sin=DOWN, lon=LOST, nyc=DOWN)
    assert ledger.known_dark(seen) == {"fra", "sin", "nyc"}
    assert ledger.known_dark(seen, apart_from={"fra-token", "sin-token"}) == {"sin", "nyc"}, "sin is drained, too"


@pytest.mark.parametrize("bad", [{"min_sites": 0}, {"min_sites": 7}, {"sites": (SiteShare(name="a"),) * 2, "min_sites": 1}])
def test_a_budget_that_cannot_be_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Budget(**{"min_sites": 2, "sites": budget().sites, **bad})


def test_every_kind_has_its_line_and_time_ends_none_of_them() -> None:
    noon = 12 * 3600.0
    entries = [
        entry("fra", Kind.MAINTENANCE, until=noon),
        entry("sin", Kind.DEGRADE, until=noon + 1),
        entry("lon", Kind.DRAIN),
        entry("nyc", Kind.HOLD, by="operator", until=noon),
        entry("tyo", Kind.DRAIN, until=noon, ending="cause_gone"),
    ]
    ledger = Ledger(budget(1), entries)
    assert ledger.summary(standings()) == (
        "dark 5 of 5 allowed: fra maintenance by alice until 12:00, lon drain by alice, nyc hold by operator until 12:00,"
        " sin degrade by alice until 12:00, tyo drain by alice until 12:00 (ending: cause_gone)"
    )
    assert ledger.overdue(noon - 1) == []
    assert [each.site for each in ledger.overdue(noon)] == ["fra"], "a hold ends by its gateway's clock, and tyo is ending"
    assert [each.site for each in ledger.overdue(noon + 86400)] == ["fra", "sin"]
    assert len(ledger.entries) == 5
    assert ledger.words_of("fra") == "maintenance by alice until 12:00" and ledger.words_of("ams") == ""
