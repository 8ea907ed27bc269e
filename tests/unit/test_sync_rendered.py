"""What a mirror adds to the rendered files, and what the operator's own rules have to let through for it."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import pytest

from anycast.document import Document
from anycast.fleet.compile import compile_gateway
from anycast.fleet.loading import loads
from site_agent.checks.silence import NEVER_WAIT
from site_agent.doctor.judge import firewall
from site_agent.doctor.judge.nft_rules import Packet, Ruleset
from site_agent.ike import settings_file
from site_agent.ike.swanctl_text import connection_message, parse
from site_agent.render.nftables import render_nftables, tracked
from site_agent.render.strongswan import MIRROR_PLUGINS, render_strongswan
from site_agent.render.sysctl import settings
from site_agent.sync import ha_wire
from site_agent.sync.numbers import BLOCK_BITS, LIFE_PACKETS, REKEY_PACKETS
from site_agent.untracking import obstacles, of_the_mirror
from tests.support.documents import TREE
from tests.unit.test_rendered_files import pair

TEXT = (TREE / "tests" / "data" / "pair-mirrored.fleet.yaml").read_text()
RUN = PurePath("/run/site-agent")
IPV6_ONLY = TEXT.replace("{ipv4: 192.0.2.64/29, ", "{").replace("ipv4: 192.0.2.65, ", "").replace("ipv4: 192.0.2.66, ", "")


def mirrored(gateway: str = "fra-gw1", text: str = TEXT) -> Document:
    return compile_gateway(loads(text), gateway)


def plain(gateway: str = "fra-gw1") -> Document:
    return mirrored(gateway, TEXT.replace("    sync: {}\n", ""))


def added(before: str, after: str) -> list[str]:
    """Lines that `after` has and `before` has not, in which nothing else changed."""
    rest = iter(after.splitlines())
    more = []
    for line in before.splitlines():
        for found in rest:
            if found == line or found.partition(" ")[0] == line.partition(" ")[0] == "chain":
                break
            more.append(found.strip())
        else:
            pytest.fail(f"gone: {line}")
    return more + [line.strip() for line in rest]


def test_charons_settings_of_the_plugin() -> None:
    conf = settings_file.parse("x", render_strongswan(mirrored(), run_dir=RUN)["strongswan.conf"])
    ha = "charon.plugins.ha"
    assert conf.get(f"{ha}.local") == "127.0.0.1" and conf.get(f"{ha}.remote") == "127.0.0.2"
    assert not conf.enabled(f"{ha}.monitor", True) and not conf.enabled(f"{ha}.resync", True)
    assert conf.enabled(f"{ha}.fifo_interface", False)
    assert conf.number(f"{ha}.segment_count", 0) == 1 and conf.number(f"{ha}.buflen", 0) == ha_wire.MAX_BYTES
    assert conf.get(f"{ha}.secret") is None and not conf.names(f"{ha}.pools"), (
        "TLS protects it, the agent hands out addresses"
    )
    assert not conf.enabled("charon.plugins.kernel-netlink.roam_events", True)
    assert conf.get("charon.interfaces_ignore") == "eth2, eth3"
    assert (conf.get("charon.load") or "").split()[-1] == "ha" and conf.get("charon.load_modular") is None


def test_without_a_mirror_charon_does_not_know_the_plugin() -> None:
    text = render_strongswan(plain(), run_dir=RUN)["strongswan.conf"]
    assert " ha\n" not in text and " ha {" not in text


def test_a_charon_with_the_plugin_can_still_be_told_to_hang() -> None:
    """What is not known to wait for nobody keeps `charon_answers` from ever saying anything."""
    assert set(MIRROR_PLUGINS) <= NEVER_WAIT


def test_the_kernel_ends_an_sa_before_its_block_does() -> None:
    tree = parse(render_strongswan(mirrored(), run_dir=RUN)["swanctl/swanctl.conf"])
    child = connection_message(tree["connections"]["vpn"], lambda path: b"")["children"]["vpn"]
    assert child["life_packets"] == str(LIFE_PACKETS) and child["rekey_packets"] == str(REKEY_PACKETS)
    assert int(child["rekey_packets"]) < int(child["life_packets"]) < 1 << BLOCK_BITS
    assert int(child["replay_window"]) >= 2048 and child["hw_offload"] == "no"
    assert child["start_action"] == child["close_action"] == "none" and child["dpd_action"] == "clear"


def test_nothing_else_is_added() -> None:
    before, after = (render_strongswan(made, run_dir=RUN) for made in (plain(), mirrored()))
    keys = [
        line.partition(" ")[0]
        for line in added(before["swanctl/swanctl.conf"], after["swanctl/swanctl.conf"])
        if "=" in line
    ]
    assert keys == ["life_packets", "rekey_packets", "hw_offload"]
    assert [(s.name, s.value) for s in settings(mirrored()) if s not in settings(plain())] == [
        ("net.core.xfrm_aevent_rseqth", 100), ("net.core.xfrm_aevent_etime", 10),
        ("net.netfilter.nf_conntrack_events", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("gateway", "came", "went"), [("fra-gw1", "sport", "dport"), ("fra-gw2", "dport", "sport")])
@pytest.mark.parametrize(("text", "word"), [(TEXT, "ip"), (IPV6_ONLY, "ip6")], ids=["IPv4", "IPv6"])
def test_the_channel_is_not_tracked_and_the_first_in_the_alphabet_calls(
    gateway: str, came: str, went: str, text: str, word: str
) -> None:
    made = mirrored(gateway, text.replace("sync: {}", "sync: {port: 5000}"))
    assert made.sync is not None
    own, peer, table = made.sync.own_address, made.sync.peer_address, render_nftables(made)
    inward, _, outward = table.partition("untracked_out")
    assert f'\t\tiifname "eth3" {word} saddr {peer} {word} daddr {own} tcp {came} 5000 notrack\n' in inward
    assert f'\t\toifname "eth3" {word} saddr {own} {word} daddr {peer} tcp {went} 5000 notrack\n' in outward
    assert table.count(" 5000 ") == 2 and table.count("udp dport 4510 notrack") == 2
    assert "5000" not in tracked(table) and "meta skuid != 0" in tracked(table), (
        "who may speak to charon is no matter of tracking"
    )
    assert "4510" not in render_nftables(plain(gateway))


PLACE = {"family": "inet", "table": "t"}


def match(left: object, right: object, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def field(protocol: str, name: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": name}}


STATE = {"ct": {"key": "state"}}
LOOPBACK = [match({"meta": {"key": "iif"}}, "lo")]
ESTABLISHED = [match(STATE, ["established", "related"])]


def rules(hook: str, *matches: list[Any]) -> Ruleset:
    """These are accepted, and the policy drops the rest."""
    chain = {**PLACE, "name": "c", "hook": hook, "policy": "drop"}
    accepted = ({"rule": {**PLACE, "chain": "c", "expr": [*each, {"accept": None}]}} for each in matches)
    return Ruleset({"nftables": [{"chain": chain}, *accepted]})


def mends(ruleset: Ruleset, gateway: str) -> list[str]:
    return [each.mend for each in obstacles(ruleset, mirrored(gateway)) if "mirror" in each.seen]


def test_rules_that_live_by_tracking_the_channel_are_an_obstacle_with_its_mend() -> None:
    by_state = [match(field("tcp", "dport"), 4517), match(STATE, ["new"])]
    accept = "nft insert rule inet t c ip saddr 192.0.2.65 ip daddr 192.0.2.66 tcp dport 4517 accept"
    assert mends(rules("input", LOOPBACK, ESTABLISHED, by_state), "fra-gw2") == [accept]
    answers = "nft insert rule inet t c ip saddr 192.0.2.66 ip daddr 192.0.2.65 tcp sport 4517 accept"
    assert mends(rules("input", LOOPBACK, ESTABLISHED), "fra-gw1") == [answers]
    called = "nft insert rule inet t c ip saddr 192.0.2.65 ip daddr 192.0.2.66 tcp dport 4517 accept"
    out = [match({"meta": {"key": "oifname"}}, "lo")]
    assert mends(rules("output", out, ESTABLISHED), "fra-gw1") == [called]


@pytest.mark.parametrize("name", ["eth3", "eth*"])
def test_rules_by_interface_are_no_obstacle(name: str) -> None:
    management = [match({"meta": {"key": "iifname"}}, name)]
    for gateway in ("fra-gw1", "fra-gw2"):
        assert mends(rules("input", LOOPBACK, ESTABLISHED, management), gateway) == []
    other = [match({"meta": {"key": "iifname"}}, "wan*")]
    assert len(mends(rules("input", LOOPBACK, ESTABLISHED, other), "fra-gw1")) == 1


def test_datagrams_on_loopback_need_its_rule() -> None:
    udp = [match({"meta": {"key": "l4proto"}}, "udp"), match(STATE, ["new", "established"])]
    found = mends(rules("input", udp), "fra-gw1")
    assert "nft insert rule inet t c ip saddr 127.0.0.2 ip daddr 127.0.0.1 udp sport 4510 udp dport 4510 accept" in found


def test_an_interface_that_is_not_known_may_be_any() -> None:
    only = rules("input", [match({"meta": {"key": "iifname"}}, "eth9")])
    packet = Packet(name="x", family="ip", protocol="udp", dport=500)
    assert only.dropped(packet, "input")[0] is None
    assert [only.dropped(each, "input")[0] for each in of_the_mirror(mirrored())] == [True] * 3


def test_doctor_names_what_of_the_mirror_is_dropped_and_how_to_let_it_in() -> None:
    def dropped(ruleset: Ruleset, gateway: str = "fra-gw2") -> list[tuple[str, str]]:
        reading = firewall.FirewallReading(
            ruleset=ruleset, legacy=False, families=(), bgp=False, charon_clamps=True,
            mirror=tuple(of_the_mirror(mirrored(gateway))),
        )  # fmt: skip
        return [
            (f.seen, f.mend[0].partition("  #")[0]) for f in firewall.judge(reading) if f.id == "firewall_drops" and f.mend
        ]

    start = "nft insert rule inet t c iifname"
    assert dropped(rules("input")) == [
        (
            "the mirror's channel of 192.0.2.65 is dropped by chain inet t c",
            f"{start} eth3 ip saddr 192.0.2.65 tcp dport 4517 accept",
        ),
        (
            "charon's mirror of 127.0.0.1 is dropped by chain inet t c",
            f"{start} lo ip saddr 127.0.0.1 udp dport 4510 accept",
        ),
        (
            "charon's mirror of 127.0.0.2 is dropped by chain inet t c",
            f"{start} lo ip saddr 127.0.0.2 udp dport 4510 accept",
        ),
    ]
    assert dropped(rules("input"), "fra-gw1")[0][1] == f"{start} eth3 ip saddr 192.0.2.66 tcp sport 4517 accept"
    assert dropped(rules("input", LOOPBACK, [match({"meta": {"key": "iifname"}}, "eth3")])) == []


def test_a_pair_without_a_mirror_needs_none_of_it() -> None:
    assert not list(of_the_mirror(pair("pair", "fra-gw1")))
