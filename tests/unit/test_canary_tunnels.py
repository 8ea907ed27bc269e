"""The canary's judgement, its pace, what its charon is told, and how its namespace is furnished."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest
from vici.protocol import FiniteStream, Message

from anycast.document import Sync
from anycast.errors import PeerError
from anycast.model import Status
from anycast.reasons import Reason
from site_agent.canary import plan
from site_agent.canary.process import Canary
from site_agent.canary.tunnels import (
    FIRST_RETRY_S,
    LONGEST_RETRY_S,
    SILENT_LOOKS,
    Echo,
    Reconnect,
    Tunnel,
    connection,
    judge,
    read_tunnels,
    states,
)
from site_agent.checks.canary import CanaryCheck
from site_agent.checks.child_sas import of_clients
from site_agent.ike.child_sa import client_child_sas
from tests.support.documents import document
from tests.support.tunnels import VIP, child, event

NAMES = ("canary-ipv4", "canary-ipv6")
INNER = (IPv4Address("203.0.113.65"), IPv6Address("2001:db8:c:1::1"))
UP = Tunnel(unique_id="1", established=True, installed=True, inner=INNER)
BARE = Tunnel(unique_id="2", established=True, installed=False, inner=INNER)
CONNECTING = Tunnel(unique_id="3", established=False, installed=False, inner=())


def echoes(*rtts: float | None) -> list[Echo]:
    return [Echo(name, f"192.0.2.{10 + i}", rtt) for name in NAMES for i, rtt in enumerate(rtts)]


def test_every_target_through_every_tunnel_passes_with_the_longest_round_trip() -> None:
    seen = judge(NAMES, dict.fromkeys(NAMES, UP), echoes(0.4, 7.5), "")
    assert (seen.status, seen.value) == (Status.PASSING, 7.5)


@pytest.mark.parametrize(
    ("tunnels", "answers", "said"),
    [
        ({}, [], "canary-ipv4: no IKE_SA (received AUTHENTICATION_FAILED); canary-ipv6: no IKE_SA"),
        ({NAMES[0]: CONNECTING, NAMES[1]: UP}, [Echo(NAMES[1], "192.0.2.10", 1.0)], "canary-ipv4: no IKE_SA"),
        ({NAMES[0]: BARE, NAMES[1]: UP}, [Echo(NAMES[1], "192.0.2.10", 1.0)], "canary-ipv4: no CHILD_SA"),
        (dict.fromkeys(NAMES, UP), echoes(1.0, None), "canary-ipv4: no answer from 192.0.2.11"),
        (dict.fromkeys(NAMES, UP), [], "no inner address of any target's family"),
    ],
)
def test_what_failed_is_said_by_family(tunnels: dict[str, Tunnel], answers: list[Echo], said: str) -> None:
    seen = judge(NAMES, tunnels, answers, "received AUTHENTICATION_FAILED")
    assert (seen.status, seen.reason) == (Status.FAILING, Reason.CANARY_FAILING)
    assert said in seen.detail


def test_a_gateway_in_trouble_meets_one_handshake_a_minute() -> None:
    pace, now, tried = Reconnect(), 0.0, []
    while now < 600:
        if pace.due(now):
            tried.append(now)
            pace.tried(now)
        now += 1.0
    gaps = [b - a for a, b in itertools.pairwise(tried)]
    assert gaps[0] == FIRST_RETRY_S
    assert gaps[-1] == LONGEST_RETRY_S
    assert gaps == sorted(gaps)


def test_a_tunnel_that_carries_nothing_is_given_up_and_one_that_answers_is_not() -> None:
    pace = Reconnect()
    pace.tried(0.0)
    pace.looked(answered=True)
    for _ in range(SILENT_LOOKS):
        assert not pace.given_up(100.0)
        pace.looked(answered=False)
    assert pace.given_up(100.0)
    pace.tried(100.0)
    assert not pace.given_up(100.0 + FIRST_RETRY_S), "the new one gets its looks"
    pace.looked(answered=True)
    assert pace.due(100.0), "what answered may be made anew at once when it is lost"


def test_another_certificate_is_tried_at_once_even_where_a_tunnel_stands() -> None:
    pace = Reconnect()
    for _ in range(5):
        pace.tried(0.0)
    assert not pace.due(1.0)
    pace.renew()
    assert pace.due(1.0) and pace.given_up(1.0)
    pace.tried(1.0)
    assert not pace.given_up(1.0 + LONGEST_RETRY_S), "once"


def list_sa(*, state: bytes = b"ESTABLISHED", child: bytes | None = b"INSTALLED", name: str = NAMES[0], uid: bytes = b"7"):
    children = {} if child is None else {f"{name}-1": {"state": child}}
    return {name: {"uniqueid": uid, "state": state, "local-vips": [b"203.0.113.65"], "child-sas": children}}


def test_the_best_of_two_tunnels_of_one_name_counts() -> None:
    rekeying = [list_sa(child=None, uid=b"1"), list_sa(uid=b"2"), list_sa(state=b"CONNECTING", child=None, uid=b"3")]
    found = read_tunnels(rekeying)
    assert found == {NAMES[0]: Tunnel("2", established=True, installed=True, inner=(ip_address("203.0.113.65"),))}


def test_how_far_ike_came_is_told_where_there_is_no_esp() -> None:
    assert states(NAMES, {NAMES[0]: BARE}) == "canary-ipv4: IKE_SA established, canary-ipv6: no IKE_SA"
    assert BARE.complete(esp=False) and not BARE.complete(esp=True)


@pytest.mark.parametrize("event", [{"x": b"1"}, {"x": {}}, {"x": {"uniqueid": b"1", "state": b"UP", "local-vips": [b"?"]}}])
def test_a_list_that_means_nothing_is_charons_fault(event: dict[str, object]) -> None:
    with pytest.raises(PeerError):
        read_tunnels([event])


def test_its_connection_is_a_clients_and_can_be_sent() -> None:
    made = document()
    canary = made.service.checks.canary
    assert canary is not None
    vip = ip_address(made.service.vips[0])
    message = connection(made.service, canary, vip, certificate=b"cert", gateway_ca=b"root")
    sent = Message.deserialize(FiniteStream(Message.serialize(message)))["canary-ipv4"]
    assert sent["remote_addrs"] == [made.service.vips[0].encode()]
    assert (sent["local"]["id"], sent["remote"]["id"]) == (b"canary.vpn.example.org", b"vpn.example.org")
    assert sent["remote"]["cacerts"] == [b"root"], "it trusts what a stranger trusts, not the file on this machine"
    assert sent["vips"] == [b"0.0.0.0", b"::"]
    child = sent["children"]["canary-ipv4"]
    assert (child["start_action"], child["dpd_action"], child["close_action"]) == (b"none", b"clear", b"none")
    assert sent["keyingtries"] == b"1", "the pace is the agent's"


def test_nothing_of_the_gateways_own_addressing_is_hidden() -> None:
    outer = plan.outer_addresses(document())
    assert [way.own.version for way in outer] == [4, 6]
    assert outer[0].own in ip_network("169.254.0.0/24"), "the part of the block that no host picks by itself"
    assert ip_address(outer[1].own).packed[0] == 0xFD
    assert outer[1].own != plan.unique_local(document("sin-gw1")), "40 bits of its own (RFC 4193)"
    assert plan.unique_local(document()) == plan.unique_local(document()), "the same at every start"
    assert len(plan.INTERFACE) <= 15, "IFNAMSIZ"


def test_only_tunnels_carry_anything_out_of_the_namespace() -> None:
    batch = plan.interface_batch(plan.outer_addresses(document()))
    for anywhere in ("0.0.0.0/0", "::/0"):
        assert f"xfrm policy add src {anywhere} dst {anywhere} dir out action block priority {2**32 - 1}\n" in batch
    assert batch.count("nud permanent") == 2


def test_the_canary_is_no_client_to_the_fact_about_clients() -> None:
    canary, client = (
        dataclasses.replace(child(n), identity=f"{name}.vpn.example.org") for n, name in ((1, "canary"), (2, "a"))
    )
    assert of_clients([canary, client], "canary.vpn.example.org") == (client,)
    assert of_clients([canary, client], None) == (canary, client), "where no canary is configured, it is a client"


def test_a_tunnels_identity_is_read_from_charons_list() -> None:
    listed = event()
    for ike_sa in listed.values():
        ike_sa["remote-id"] = b"canary.vpn.example.org"
    (found,) = client_child_sas(listed, frozenset({VIP}))
    assert found.identity == "canary.vpn.example.org"


@pytest.mark.parametrize(("mirrored", "active", "asks"), [(True, False, False), (True, True, True), (False, False, True)])
def test_a_backup_whose_clients_are_the_other_ones_has_no_canary(mirrored: bool, active: bool, asks: bool) -> None:
    """Gate and door keep it from any tunnel there: that is no failure. Without a mirror a Backup serves whoever comes."""
    made = document()
    if mirrored:
        peer = Sync(peer="fra-gw2", rank=0, own_address="192.0.2.65", peer_address="192.0.2.66", port=4517)
        made = made.model_copy(update={"sync": peer})
    canary = Canary(made, etc_dir=Path("/nowhere"))
    canary.problem = "no cage in this test"
    [seen] = asyncio.run(CanaryCheck(canary, made, active=lambda: active).look())
    assert (seen.status, seen.reason) == (Status.UNKNOWN, Reason.CHECK_REFUSED if asks else Reason.CHECK_UNAVAILABLE)
    assert ("Backup" in seen.detail) is not asks
