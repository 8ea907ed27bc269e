"""What charon's list and the kernel's mean together: lost, partial, idle, and whose tunnels count."""

from __future__ import annotations

from typing import Any

import pytest

from anycast.errors import PeerError
from anycast.model import EvidenceClass, Status
from anycast.reasons import Reason
from site_agent.checks.child_sas import NAME, PARTIAL, ChildSa, ChildSaCheck, client_child_sas, judge

VIP = "203.0.113.1"


def child(number: int) -> ChildSa:
    return ChildSa(str(number), "1", f"vpn-{number}", ((VIP, 50, number), ("198.51.100.66", 50, number + 100)))


def event(local: str = VIP, **fields: Any) -> dict[str, Any]:
    """One `list-sa` event as VICI gives it, shortened to what is read."""
    sa = {"name": b"vpn", "uniqueid": b"7", "state": b"INSTALLED", "protocol": b"ESP", "spi-in": b"c1", "spi-out": b"c2"}
    children = {"vpn-7": {**sa, **fields}}
    return {"vpn": {"local-host": local.encode(), "remote-host": b"198.51.100.66", "uniqueid": b"3", "child-sas": children}}


def summary(children: list[ChildSa], missing: set[str]) -> dict[str, tuple[Status, Reason]]:
    return {f.name: (f.status, f.reason) for f in judge(children, frozenset(missing))}


PASSING = (Status.PASSING, Reason.HEALTHY)


def test_an_idle_gateway_is_healthy() -> None:
    assert summary([], set()) == {NAME: PASSING, PARTIAL: PASSING}


def test_all_missing_is_a_fact() -> None:
    lost = (Status.FAILING, Reason.SA_STATE_LOST)
    assert summary([child(1), child(2)], {"1", "2"}) == {NAME: lost, PARTIAL: PASSING}
    assert summary([child(1)], {"1"}) == {NAME: lost, PARTIAL: PASSING}


def test_some_missing_is_load() -> None:
    assert summary([child(1), child(2)], {"1"}) == {NAME: PASSING, PARTIAL: (Status.FAILING, Reason.SA_STATE_PARTIAL)}
    assert ChildSaCheck.reports[PARTIAL] is EvidenceClass.LOAD, "a repair by rekey, never a withdrawal"


def test_one_that_came_meanwhile_is_not_missing() -> None:
    assert summary([child(3)], {"1", "2"}) == {NAME: PASSING, PARTIAL: PASSING}, "rekeyed between the looks"


def test_only_installed_tunnels_of_our_addresses_count() -> None:
    (found,) = client_child_sas(event(), frozenset({VIP}))
    assert (found.unique_id, found.ike_id) == ("7", "3")
    assert found.keys == ((VIP, 50, 0xC1), ("198.51.100.66", 50, 0xC2))
    assert client_child_sas(event("192.0.2.2"), frozenset({VIP})) == [], "the operator's own tunnels stay the operator's"
    assert client_child_sas(event(state=b"REKEYED"), frozenset({VIP})) == []


@pytest.mark.parametrize("fields", [{"spi-in": b"not hex"}, {"protocol": b"IPCOMP"}, {"state": None, "uniqueid": None}])
def test_what_cannot_be_understood_is_charons_fault(fields: dict[str, Any]) -> None:
    damaged = event(**fields)
    if fields.get("state", b"") is None:
        del damaged["vpn"]["child-sas"]["vpn-7"]["state"]
    with pytest.raises(PeerError):
        client_child_sas(damaged, frozenset({VIP}))
