"""The rendered nftables table: the arithmetic of the MSS, and the name that stands for the whole text."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.document import Bfd, Document
from anycast.errors import DecodeError
from site_agent.doctor.judge.nft_rules import Ruleset
from site_agent.netlink.nftables import decode_generation, encode_get_chain
from site_agent.render.nftables import clamped_mss, marker, render_nftables, tracked
from site_agent.untracking import obstacles
from tests.support.documents import document
from tests.unit.test_rendered_files import GOLDEN, Golden, changed, pair

BLOCK = 4
BFD = Bfd(interval_ms=100, multiplier=3)


def in_esp_in_udp(inner: int, outer_header: int) -> int:
    """Bytes on the wire of an inner packet of `inner` bytes: RFC 4303 2.4 pads to 4 bytes, RFC 3948 adds UDP."""
    padded = -(-(inner + 2) // BLOCK) * BLOCK
    return outer_header + 8 + 8 + 8 + padded + 16


@given(st.integers(600, 9000))
def test_a_segment_of_that_size_passes_and_the_next_larger_does_not(mtu: int) -> None:
    for family, headers in (("ipv4", 40), ("ipv6", 60)):
        mss = clamped_mss(family, mtu)  # type: ignore[arg-type]
        assert in_esp_in_udp(mss + headers, outer_header=40) <= mtu
        assert in_esp_in_udp(mss + headers + 1, outer_header=40) > mtu, "not smaller than it need be"


def test_the_figures_that_the_documentation_gives() -> None:
    assert (clamped_mss("ipv4"), clamped_mss("ipv6")) == (1158, 1138)


def test_the_marker_changes_with_anything_else_in_the_file() -> None:
    texts = [render_nftables(document()), render_nftables(changed(document(), "service", "vips", 0, to="203.0.113.2"))]
    assert marker(texts[0]) != marker(texts[1])
    assert marker(texts[0]) == marker(render_nftables(document()))
    assert len(marker(texts[0])) < 128, "the kernel's NFT_NAME_MAXLEN is 256, iptables-nft's 32 is not met here"


@pytest.mark.parametrize("family", [0, 1])
def test_a_service_of_one_family_gets_rules_of_that_family_only(family: int) -> None:
    made = document()
    one = changed(made, "service", "vips", to=[made.service.vips[family]])
    one = changed(one, "service", "pools", to=[one.service.pools[family].model_dump()])
    one = changed(one, "bgp", "neighbors", to=[one.bgp.neighbors[family].model_dump()])
    text = render_nftables(one)
    assert ("\t\tip " in text, "\t\tip6 " in text) == (family == 0, family == 1)
    assert "{  }" not in text, "nft refuses an empty set"


def test_bfd_is_kept_out_of_tracking_both_ways_where_it_is_spoken() -> None:
    """Two flows that nobody answers: the first that a full table forgets, and BGP would go with them."""
    assert "3784" not in render_nftables(document())
    asking = document(bfd=BFD)
    text = render_nftables(asking)
    for neighbor in asking.bgp.neighbors:
        word, ours, theirs = ("ip6" if ":" in neighbor.address else "ip"), neighbor.local_address, neighbor.address
        assert (
            f"\t\t{word} saddr {theirs} {word} daddr {ours} udp dport 3784 notrack\n" in text.partition("untracked_out")[0]
        )
        assert (
            f"\t\t{word} saddr {ours} {word} daddr {theirs} udp dport 3784 notrack\n" in text.partition("untracked_out")[2]
        )


def test_rules_that_live_by_tracking_bfd_are_an_obstacle_with_its_mend() -> None:
    state = {"match": {"op": "==", "left": {"ct": {"key": "state"}}, "right": ["new", "established"]}}
    udp = {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 3784}}
    everything_else = [{"match": {"op": "!=", "left": udp["match"]["left"], "right": 3784}}, {"accept": None}]

    def seen(hook: str) -> list[str]:
        place = {"family": "inet", "table": "t"}
        listing = [
            {"chain": {**place, "name": "c", "hook": hook, "policy": "drop"}},
            {"rule": {**place, "chain": "c", "expr": everything_else}},
            {"rule": {**place, "chain": "c", "expr": [udp, state, {"accept": None}]}},
        ]
        return [o.mend for o in obstacles(Ruleset({"nftables": listing}), document(bfd=BFD)) if "BFD" in o.seen]

    theirs, ours = document().bgp.neighbors[0].address, document().bgp.neighbors[0].local_address
    assert f"nft insert rule inet t c ip saddr {theirs} ip daddr {ours} udp dport 3784 accept" in seen("input")
    assert f"nft insert rule inet t c ip saddr {ours} ip daddr {theirs} udp dport 3784 accept" in seen("output")


def test_the_question_to_the_kernel_is_aligned() -> None:
    payload = encode_get_chain("anycast", "rendered_0")
    assert payload == b"\1\0\0\0" + b"\x0c\0\1\0anycast\0" + b"\x0f\0\3\0rendered_0\0\0"


@given(st.binary(max_size=80))
def test_any_answer_is_a_generation_or_a_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        assert 0 <= decode_generation(data) < 1 << 32


def test_a_generation_as_linux_6_1_says_it() -> None:
    answer = b"\0\0\0\1\x08\0\1\0\0\0\0\7\x08\0\2\0\0\0\x13\x12\x0b\0\3\0python\0\0"
    assert decode_generation(answer) == 7


def test_the_virtual_router_hears_the_other_gateway_only_and_is_not_tracked() -> None:
    made = pair("pair", "fra-gw1")
    text = render_nftables(made)
    assert made.vrrp is not None
    voices = [(path.interface, voice) for path in made.vrrp.paths for voice in path.voices]
    assert len(voices) == 5
    for interface, voice in voices:
        word, ours, theirs = ("ip6" if ":" in voice.source else "ip"), voice.source, voice.destination
        came, went = text.partition("untracked_out")[0], text.partition("untracked_out")[2]
        assert f"\t\t{word} saddr {theirs} {word} daddr {ours} meta l4proto 112 notrack\n" in came
        assert f"\t\t{word} saddr {ours} {word} daddr {theirs} meta l4proto 112 notrack\n" in went
        assert f'\t\tiifname "{interface}" {word} saddr != {theirs} meta l4proto 112 @th,8,8 51 counter drop\n' in text
    assert text.count("@th,8,8") == 5
    assert "@th,8,8" in tracked(text), "it is no matter of tracking"
    assert "112" not in render_nftables(document())


def to_groups() -> Document:
    """As `transport: multicast` is compiled."""
    data = pair("pair", "fra-gw1").model_dump(mode="json")
    for path in data["vrrp"]["paths"]:
        for voice in path["voices"]:
            six = ":" in voice["destination"]
            voice.update(destination="ff02::12" if six else "224.0.0.18", source="" if six else voice["source"])
    return Document.model_validate(data)


def test_where_advertisements_go_to_a_group_they_are_not_tracked_and_nobody_is_kept_out(golden: Golden) -> None:
    text = render_nftables(to_groups())
    golden(GOLDEN / "pair-multicast" / "fra-gw1" / "nftables.conf", text)
    came, went = text.partition("untracked_out")[0], text.partition("untracked_out")[2]
    assert "vrrp_peers" not in text
    for interface, word, group in (
        ("eth1", "ip", "224.0.0.18"), ("eth1", "ip6", "ff02::12"), ("eth2", "ip", "224.0.0.18"), ("eth2", "ip6", "ff02::12"),
        ("eth3", "ip", "224.0.0.18"),
    ):  # fmt: skip
        ours = f"{word} daddr {group} meta l4proto 112 @th,8,8 51 notrack\n"
        assert f'\t\tiifname "{interface}" {ours}' in came
        assert f'\t\toifname "{interface}" {ours}' in went
    assert text.count("112") == 10 and "112" not in tracked(text)


def vrrp_obstacles(made: Document, hook: str, *rules: list[object]) -> list[str]:
    """Mends for the advertisements where these rules of a hook accept, and its policy drops the rest."""
    place = {"family": "inet", "table": "t"}
    listing = [
        {"chain": {**place, "name": "c", "hook": hook, "policy": "drop"}},
        *({"rule": {**place, "chain": "c", "expr": [*match, {"accept": None}]}} for match in rules),
    ]
    return [o.mend for o in obstacles(Ruleset({"nftables": listing}), made) if "VRRP" in o.seen]


VRRP = {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "vrrp"}}
FROM = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "198.51.100.3"}}


def of_state(*states: str) -> dict[str, object]:
    return {"match": {"op": "==", "left": {"ct": {"key": "state"}}, "right": list(states)}}


def test_an_advertisement_that_goes_out_is_a_flow_of_its_own() -> None:
    made = pair("pair", "fra-gw1")
    assert vrrp_obstacles(made, "output", [VRRP, of_state("established")]) == [], "it was dropped before"
    assert "nft insert rule inet t c ip saddr 198.51.100.2 ip daddr 198.51.100.3 meta l4proto 112 accept" in vrrp_obstacles(
        made, "output", [VRRP, of_state("new")]
    )


def test_rules_about_who_sends_to_a_group_are_no_matter_of_tracking() -> None:
    made = to_groups()
    for hook in ("input", "output"):
        assert vrrp_obstacles(made, hook, [VRRP]) == []
        assert set(vrrp_obstacles(made, hook, [VRRP, of_state("new", "established")])) == {
            f"nft insert rule inet t c {group} meta l4proto 112 accept"
            for group in ("ip daddr 224.0.0.18", "ip6 daddr ff02::12")
        }
    assert vrrp_obstacles(made, "input", [VRRP, FROM]) == []
    assert len(vrrp_obstacles(made, "input", [VRRP, FROM, of_state("new")])) == 1


def test_rules_that_live_by_tracking_vrrp_are_an_obstacle_with_its_mend() -> None:
    made = pair("pair", "fra-gw1")
    assert "nft insert rule inet t c ip saddr 198.51.100.3 ip daddr 198.51.100.2 meta l4proto 112 accept" in vrrp_obstacles(
        made, "input", [VRRP, of_state("new", "established")]
    )
    assert vrrp_obstacles(made, "input", [VRRP]) == []
    number = {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": 112}}
    assert vrrp_obstacles(made, "input", [number]) == []
