"""What the coordinator makes of reports: silence is no news, and one site is what its gateways say together."""

from __future__ import annotations

from typing import Any

import pytest

from anycast.coordinator.fleet_view import FleetView, SiteState, SiteView
from anycast.link_wire import FRESH_S, CauseTold, Hello, HoldTold, Report

CAUSE = CauseTold(reason="charon_exited", check="charon", detail="pid 7")


def hello(gateway: str, *, instance: str = "i") -> Hello:
    site = gateway.partition("-")[0]
    return Hello(protocols=(1,), fleet="example", site=site, gateway=gateway, agent="1", instance=instance, boot="b")


def report(**changes: Any) -> Report:
    known: dict[str, Any] = {"number": 1, "document": "d", "generation": 0, "serving": True, "announced": 2, "routes": 2}
    return Report(**{**known, "role": "none", "tunnels": 5, **changes})


DARK = report(serving=False, announced=0, causes=(CAUSE,))


def seen(*reports: tuple[str, Report, float], at: float = 10.0) -> SiteView:
    view = FleetView()
    for gateway, told, when in reports:
        view.connected(hello(gateway), when)
        view.reported(gateway, told, when)
    [site] = view.sites(at)
    return site


def test_a_site_announces_where_one_of_its_gateways_does() -> None:
    site = seen(("fra-gw1", DARK, 10), ("fra-gw2", report(role="active"), 10))
    assert (site.state, site.why) == (SiteState.ANNOUNCING, "")


def test_a_dark_site_says_why() -> None:
    assert seen(("fra-gw1", DARK, 10)).why == "charon_exited: pid 7"
    held = report(serving=True, announced=0, hold=HoldTold(kind="withdraw", reason="fibre works", left_s=60))
    assert seen(("fra-gw1", held, 10)).why == "hold withdraw: fibre works", "an operator's word comes before a check's"
    assert seen(("fra-gw1", report(announced=0, routes=0), 10)).why == "it speaks no BGP"
    assert "no upstream" in seen(("fra-gw1", report(announced=0), 10)).why


def test_silence_is_unknown_and_never_dark() -> None:
    late = seen(("fra-gw1", report(), 10), at=10 + FRESH_S + 0.1)
    assert (late.state, late.tunnels) == (SiteState.UNKNOWN, None)
    assert late.gateways[0].report is not None, "what it said last is still shown"
    half = seen(("fra-gw1", DARK, 10), ("fra-gw2", report(), 10 - FRESH_S - 0.1))
    assert half.state is SiteState.UNKNOWN, "the other one may announce"
    assert "fra-gw2 was not heard lately" in half.why


def test_who_only_introduces_himself_makes_nothing_fresh_that_he_said_before() -> None:
    """A link that breaks again and again before the first report would keep a site announcing that long is not."""
    view = FleetView()
    view.connected(hello("fra-gw1"), 10)
    view.reported("fra-gw1", report(), 10)
    view.disconnected("fra-gw1")
    view.connected(hello("fra-gw1"), 12)
    assert view.sites(12)[0].state is SiteState.ANNOUNCING, "a moment's break is none"
    view.connected(hello("fra-gw1"), 10 + FRESH_S + 1)
    [site] = view.sites(10 + FRESH_S + 1)
    assert (site.state, site.gateways[0].connected, site.gateways[0].age_s) == (SiteState.UNKNOWN, True, FRESH_S + 1)


def test_tunnels_are_counted_where_they_are_served() -> None:
    pair = seen(("fra-gw1", report(role="active", tunnels=5), 10), ("fra-gw2", report(role="backup", tunnels=5), 10))
    assert pair.tunnels == 5, "the Backup's are copies"


def test_another_process_of_a_gateway_has_said_nothing_yet() -> None:
    view = FleetView()
    view.connected(hello("fra-gw1"), 10)
    view.reported("fra-gw1", report(), 10)
    view.connected(hello("fra-gw1"), 11)
    assert view.sites(11)[0].state is SiteState.ANNOUNCING, "the same one, over another connection"
    view.connected(hello("fra-gw1", instance="other"), 12)
    assert view.sites(12)[0].state is SiteState.UNKNOWN


@pytest.mark.parametrize(("second", "news"), [(report(number=2), False), (DARK, True)])
def test_only_what_is_new_is_news(second: Report, news: bool) -> None:
    view = FleetView()
    view.connected(hello("fra-gw1"), 10)
    assert view.reported("fra-gw1", report(), 10) is True
    assert view.reported("fra-gw1", second, 11) is news
