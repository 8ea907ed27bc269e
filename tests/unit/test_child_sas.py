"""What charon's list and the kernel's mean together: what a CHILD_SA needs, and what a judgement says of the fact."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from anycast.errors import PeerError
from anycast.model import EvidenceClass, Status
from anycast.reasons import Reason
from site_agent.checks.child_sas import NAME, ORPHANS, PARTIAL, ChildSaCheck, findings, judge_orphans
from site_agent.ike.child_sa import client_child_sas, parse_selector
from site_agent.ike.tunnel_repair import Judgement, State
from site_agent.netlink.xfrm_keys import FORWARD, IN, OUT, PackedNetwork, make_policy_key, make_sa_key, pack_network
from tests.support.tunnels import VIP, child, event


def packed(network: str) -> PackedNetwork:
    whole = ip_network(network)
    return pack_network(whole.network_address, whole.prefixlen)


def summary(state: State, listed: int, lost: int) -> dict[str, tuple[Status, Reason]]:
    judged = Judgement(state=state, listed=listed, lost=tuple(child(number) for number in range(lost)))
    return {f.name: (f.status, f.reason) for f in findings(judged)}


PASSING = (Status.PASSING, Reason.HEALTHY)


def test_only_what_could_not_be_mended_is_the_fact() -> None:
    assert summary(State.WHOLE, 0, 0) == {NAME: PASSING, PARTIAL: PASSING}, "an idle gateway is healthy"
    assert summary(State.WHOLE, 2, 0) == {NAME: PASSING, PARTIAL: PASSING}
    nothing_known = (Status.UNKNOWN, Reason.SA_STATE_PARTIAL)
    assert summary(State.UNSETTLED, 1, 1) == {NAME: nothing_known, PARTIAL: nothing_known}, "another one at each look"
    assert summary(State.PARTIAL, 2, 1) == {NAME: PASSING, PARTIAL: (Status.FAILING, Reason.SA_STATE_PARTIAL)}
    assert summary(State.LOST, 2, 2) == {NAME: (Status.FAILING, Reason.SA_STATE_LOST), PARTIAL: PASSING}


def test_what_may_withdraw_is_the_fact_alone() -> None:
    facts = {name for name, evidence_class in ChildSaCheck.reports.items() if evidence_class is EvidenceClass.FACT}
    assert facts == {NAME}


def test_orphans_are_shown() -> None:
    assert (judge_orphans(0).status, judge_orphans(0).name) == (Status.PASSING, ORPHANS)
    assert (judge_orphans(3).status, judge_orphans(3).reason) == (Status.FAILING, Reason.SA_STATE_ORPHANED)


def test_a_tunnel_needs_two_sas_and_three_policies_a_pair_of_selectors() -> None:
    (found,) = client_child_sas(event(), frozenset({VIP}))
    assert (found.unique_id, found.ike_id, found.connection, found.child, found.reqid) == ("7", "3", "vpn", "c", 9)
    assert found.name == "c{7}"
    client = ip_address("198.51.100.66")
    assert found.sas == (make_sa_key(ip_address(VIP), 50, 0xC1), make_sa_key(client, 50, 0xC2))
    inside, inner = packed("192.0.2.0/28"), packed("203.0.113.65/32")
    inside6, inner6 = packed("2001:db8:b::/64"), packed("2001:db8:c:1::1/128")
    reqid = struct.pack("=I", 9)
    assert found.policies == {
        key
        for here, there in ((inside, inner), (inside6, inner6))
        for key in (
            make_policy_key(OUT, reqid, here, there),
            make_policy_key(IN, reqid, there, here),
            make_policy_key(FORWARD, reqid, there, here),
        )
    }
    (transport,) = client_child_sas(event(mode=b"TRANSPORT"), frozenset({VIP}))
    assert transport.policies == frozenset()


def test_an_ike_sa_that_is_being_made_hides_no_other() -> None:
    """strongSwan writes %any for a host that it does not have yet; so does one made of the other gateway's messages."""
    for end in ("local-host", "remote-host"):
        made = event() | {"made": {**event()["vpn"], end: b"%any", "child-sas": {}}}
        assert client_child_sas(made, frozenset({VIP})) == client_child_sas(event(), frozenset({VIP}))


def test_whose_tunnels_count_and_when() -> None:
    assert client_child_sas(event("192.0.2.2"), frozenset({VIP})) == [], "the operator's own tunnels stay the operator's"
    states = {
        state: client_child_sas(event(state=state), frozenset({VIP}))[0]
        for state in (b"INSTALLED", b"REKEYING", b"REKEYED", b"DELETED")
    }
    assert [sa.carrying for sa in states.values()] == [True, True, False, False]
    assert states[b"REKEYING"].rekeying, "asked and not answered: it must not pass for an idle gateway"


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.0/28", "192.0.2.0/28"),
        ("203.0.113.65/32[tcp/https]", "203.0.113.65/32"),
        ("192.0.2.16..192.0.2.31", "192.0.2.16/28"),
        ("192.0.2.3..192.0.2.4[udp]", "192.0.2.0/29"),
        ("2001:db8::1..2001:db8::1", "2001:db8::1/128"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_selectors_are_read_as_charon_writes_them(text: str, network: str) -> None:
    assert parse_selector(text) == packed(network)


@pytest.mark.parametrize(
    "fields",
    [
        {"spi-in": b"not hex"},
        {"spi-in": b"123456789"},
        {"protocol": b"IPCOMP"},
        {"state": None},
        {"reqid": b"-1"},
        {"local-ts": [b"dynamic"]},
        {"remote-ts": [b"192.0.2.0/33"]},
        {"local-ts": [b"192.0.2.1..2001:db8::1"]},
    ],
)
def test_what_cannot_be_understood_is_charons_fault(fields: dict[str, Any]) -> None:
    damaged: dict[str, Any] = event(**fields)
    sa = damaged["vpn"]["child-sas"]["vpn-7"]
    for key in [key for key, value in sa.items() if value is None]:
        del sa[key]
    with pytest.raises(PeerError):
        client_child_sas(damaged, frozenset({VIP}))
