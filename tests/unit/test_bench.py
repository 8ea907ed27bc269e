"""What the benchmarks compute: figures, and what their BGP peer reads in an UPDATE."""

from __future__ import annotations

import struct

import pytest
from vici.protocol import Message, Packet

from benchmarks import crowd, loud_names
from benchmarks.bench_promotion import promotions
from benchmarks.bgp_peer import changes
from benchmarks.report import compare, percentile, table
from benchmarks.run import discover
from site_agent.checks.dns_message import TCP_BYTES, Reply, decode_reply, encode_query, is_answer
from site_agent.ike.child_sa import client_child_sas


def test_percentile_is_the_nearest_rank() -> None:
    samples = [float(n) for n in range(100, 0, -1)]
    assert percentile(samples, 0.99) == 99, "99 of 100 samples do not exceed it"
    assert percentile(samples, 0.5) == 50
    assert percentile([7.0], 0.99) == 7


def test_a_ratio_below_one_is_a_win() -> None:
    figure = compare("x", "ms", [1, 2, 3], [8, 8], "peer")
    assert (figure.ours, figure.p50, figure.p99, figure.peer, figure.ratio, figure.runs) == (2, 2, 3, 8, 0.25, 3)


def test_a_peer_that_never_does_it_has_no_figure_and_says_so() -> None:
    figure = compare("x", "ms", [1], [], "never")
    assert (figure.peer, figure.ratio) == (None, None)
    assert table([figure]).endswith("never")


def test_the_benchmarks_of_the_issue_exist() -> None:
    skeleton = {"withdraw_on_charon_kill", "withdraw_on_frozen_controller", "agent_cpu_at_rest"}
    health = {"false_withdrawals_overload", "lease_renewal_gap_overload", "gateway_memory", "conntrack_check_cost"}
    vrrp = {"failover_gap_10ms", "failover_gap_100ms", "handover_lost", "false_transitions"}
    mirror = {"xfrm_digest_20000_uml", "conntrack_copy_200k", "conntrack_lag_30k"}
    mirror |= {"promotion_20_uml", "promotion_200_uml", "promotion_500_uml", "promotion_kernel_20000_uml"}
    coordinator = {"plan_500x200", "events_per_second"}
    assert skeleton | health | vrrp | mirror | coordinator <= discover().keys()


def test_a_crowd_of_tunnels_reads_as_charons_own_list() -> None:
    vip, whole = "203.0.113.1", memoryview(crowd.answer(3, "203.0.113.1"))
    children = []
    while whole:
        (length,) = crowd.LENGTH.unpack_from(whole)
        packet, whole = Packet.parse(bytes(whole[4 : 4 + length])), whole[4 + length :]
        if packet.response_type == Packet.EVENT:
            children += client_child_sas(Message.deserialize(packet.payload), frozenset({vip}))
    assert packet.response_type == Packet.CMD_RESPONSE, "the answer comes last"
    assert [child.unique_id for child in children] == ["1", "2", "3"]
    assert len({key for child in children for key in child.sas}) == 6, "two SAs each, no two the same"


def update(withdrawn: bytes, attributes: bytes, nlri: bytes) -> bytes:
    return struct.pack("!H", len(withdrawn)) + withdrawn + struct.pack("!H", len(attributes)) + attributes + nlri


V4 = b"\x1c\xcb\x00\x71\x00"  # 203.0.113.0/28
V6 = b"\x38\x20\x01\x0d\xb8\x00\x0a\x00"  # 2001:db8:a::/56
MP_REACH = b"\x00\x02\x01\x10" + bytes(16) + b"\x00" + V6
MP_UNREACH = b"\x00\x02\x01" + V6


@pytest.mark.parametrize(
    ("body", "heard"),
    [
        (update(V4, b"", b""), [(False, "203.0.113.0/28")]),
        (update(b"", b"\x40\x01\x01\x00", V4), [(True, "203.0.113.0/28")]),
        (update(b"", bytes([0x80, 14, len(MP_REACH)]) + MP_REACH, b""), [(True, "2001:db8:a::/56")]),
        (update(b"", bytes([0x90, 15, 0, len(MP_UNREACH)]) + MP_UNREACH, b""), [(False, "2001:db8:a::/56")]),
        (update(b"", b"", b""), []),
    ],
    ids=["withdraw", "announce", "announce IPv6", "withdraw IPv6, extended length", "End-of-RIB"],
)
def test_the_peer_reads_an_update(body: bytes, heard: list[tuple[bool, str]]) -> None:
    assert list(changes(body)) == heard


def test_the_loud_name_server_answers_as_loudly_as_it_says() -> None:
    query = encode_query("vpn.example.org", "A", 7)
    assert not is_answer(loud_names.guess(query, 5), query)
    assert is_answer(loud_names.guess(query, 65535), query), "every id but ours, until they come round"
    assert decode_reply(loud_names.truncated(query), query).truncated
    whole = loud_names.longest(query)
    assert TCP_BYTES - 16 < len(whole) <= TCP_BYTES
    assert len(decode_reply(whole, query).addresses) == 256, "500 records of 256 addresses"
    other = encode_query("vpn.example.org", "AAAA", 7)
    assert decode_reply(loud_names.longest(other), other) == Reply(rcode=0, authoritative=True, truncated=False)


def moment(
    t_ms: float, source: str, event: str, subject: str = "", detail: str = "", took_us: int | None = None
) -> dict[str, object]:
    return {"t_ms": t_ms, "source": source, "event": event, "subject": subject, "detail": detail, "took_us": took_us}


def test_a_promotion_is_counted_from_the_decision() -> None:
    timeline = [
        moment(-5, "gw1/site-agent", "VrrpStateChanged", "", "active (start)", 10),
        moment(1000, "gw2/site-agent", "VrrpStateChanged", "", "active (peer_silent)", 40_000),
        moment(1010, "gw2/site-agent", "PromotionStepTaken", "ready", "2 SAs", 7_000),
        moment(1011, "gw1/site-agent", "PromotionStepTaken", "serve", "", 9_000),
        moment(1100, "crowd-0001", "crowd_good_again", "203.0.113.131"),
        moment(1140, "crowd-0001", "crowd_good_again", "2001:db8:c:1::1"),
        moment(1900, "crowd-0001", "crowd_good_again", "203.0.113.131"),
        moment(9960, "crowd", "crowd_answered"),
        moment(20_000, "gw1/site-agent", "VrrpStateChanged", "", "active (peer_silent)", 10_000),
        moment(20_090, "crowd-0001", "crowd_good_again", "203.0.113.131"),
    ]
    first, second = promotions({"timeline": timeline})
    assert (first.packets, first.answered, first.addresses) == ((140.0, 180.0), 9000.0, 40.0)
    assert first.steps == {"ready": 7.0}, "of the gateway that was promoted"
    assert second.packets == (100.0,)
