"""The doctor's judges: what each reading means. The same faults on a real machine are in tests/interop/test_doctor.py."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest

from anycast.errors import BugError
from site_agent.doctor.examination import Examination
from site_agent.doctor.finding import Finding, Kind, Severity, Unseen
from site_agent.doctor.judge import bgp, certificates, charon, clock, connections, firewall, kernel, routes, services
from site_agent.doctor.judge.nft_rules import Packet, Ruleset
from site_agent.doctor.registry import TOPICS, table
from site_agent.ike.settings_file import parse
from site_agent.render.sysctl import Setting

TREE = Path(__file__).resolve().parents[2]
KINDS = [kind for kinds in TOPICS.values() for kind in kinds]


def said(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.id, finding.severity.value) for finding in findings]


def test_the_table_in_the_docs_is_the_registry() -> None:
    lines = (TREE / "docs" / "doctor.md").read_text().splitlines()
    at = lines.index(next(table()))
    assert lines[at : at + len(KINDS) + 2] == list(table()), "paste the output of site_agent.doctor.registry.table()"


def test_every_kind_has_an_id_of_its_own_and_one_sentence() -> None:
    assert len({kind.id for kind in KINDS}) == len(KINDS)
    assert all(not kind.why.endswith(".") and "|" not in kind.why + kind.looks_at for kind in KINDS)


def test_nothing_is_worse_than_its_kind_says_and_nothing_bad_is_without_a_mend() -> None:
    kind = Kind(id="x", looks_at="x", why="x", worst=Severity.RISKY)
    with pytest.raises(BugError):
        kind.found(Severity.WRONG, "seen", "mend")
    with pytest.raises(BugError):
        kind.found(Severity.RISKY, "seen")
    assert kind.found(Severity.NOTE, "seen").mend == ()


def test_the_thresholds_in_the_docs_are_those_of_the_judges() -> None:
    text = " ".join((TREE / "docs" / "doctor.md").read_text().split())
    for said in (
        f"risky {certificates.SOON.days} days before",
        f"{clock.SLACK.days} day behind",
        f"longer than {bgp.LONGEST_S} s",
        f"less than {connections.LEAST_WINDOW} packets",
        f"{charon.CROWDED} clients",
        f"`block_threshold` below {charon.BLOCK_LEAST}",
        f"{kernel.MEMORY_SHARE:.0%} of the memory",
        f"{kernel.FLOWS_A_CLIENT} flows",
        f"{kernel.ENTRY_BYTES} bytes",
        f"more than {kernel.LONGEST_CHAIN} entries",
        f"less than {kernel.LEAST_FILES:,}",
        f"below {routes.LEAST_INNER + routes.OVERHEAD:,}",
        f"longer than {services.SLOW_S:g} s",
    ):
        assert said in text, said


def test_exit_status() -> None:
    def status(severities: list[Severity], needs: str = "") -> int:
        findings = tuple(Finding(id="x", severity=severity, seen="", why="") for severity in severities)
        missed = (Unseen(what="x", needs=needs),)
        return Examination(pids=(), uncertain=(), gateway="", findings=findings, unseen=missed).exit_status

    assert status([Severity.RISKY]) == 0 and status([Severity.OK], "root") == 2 and status([Severity.WRONG], "root") == 1


# -- kernel


def test_a_setting_that_all_makes_too_large_is_mended_at_all() -> None:
    setting = Setting(name="net.ipv4.conf.eth0/7.rp_filter", value=0, joined="net.ipv4.conf.all.rp_filter", reason="")
    reading = kernel.SettingReading(setting=setting, found=0, joined=1)
    (finding,) = kernel.judge_settings([reading], planned=True)
    assert finding.severity is Severity.WRONG
    assert [line.split("'")[1] for line in finding.mend] == [
        "net.ipv4.conf.all.rp_filter = 0",
        "net.ipv4.conf.eth0/7.rp_filter = 0",
    ]
    assert said(kernel.judge_settings([reading], planned=False)) == [("rp_filter", "risky")], "a guess may be meant so"


@pytest.mark.parametrize(
    ("maximum", "buckets", "memory", "clients", "expected"),
    [
        (262_144, 262_144, 8 << 30, 0, ["ok", "ok"]),
        (65_536, 65_536, 8 << 30, 0, ["risky", "ok"]),  # less than the kernel chooses by itself
        (262_144, 16_384, 8 << 30, 0, ["ok", "risky"]),
        (262_144, 262_144, 8 << 30, 4096, ["risky", "ok"]),  # 64 flows a client
        (4_000_000, 4_000_000, 1 << 30, 0, ["risky", "ok"]),  # 1.4 GiB of 1 GiB
        (65_536, 65_536, 2 << 30, 0, ["ok", "ok"]),
    ],
)
def test_the_table_fits_the_memory_and_the_clients(
    maximum: int, buckets: int, memory: int, clients: int, expected: list[str]
) -> None:
    reading = kernel.ConntrackReading(maximum=maximum, buckets=buckets, memory=memory, clients=clients)
    assert [severity for _, severity in said(kernel.judge_conntrack(reading))] == expected


def test_what_a_mend_of_the_table_sets_is_content() -> None:
    for memory in (512 << 20, 1 << 30, 2 << 30, 8 << 30, 64 << 30):
        for clients in (0, 100, 10_000, 1_000_000):
            for maximum in (1000, 10_000_000):
                reading = kernel.ConntrackReading(maximum=maximum, buckets=maximum, memory=memory, clients=clients)
                first = kernel.judge_conntrack(reading)[0]
                if first.mend:
                    wanted = int(first.mend[0].split("= ")[1].split("'")[0])
                    after = kernel.ConntrackReading(maximum=wanted, buckets=wanted, memory=memory, clients=clients)
                    assert kernel.judge_conntrack(after)[0].severity is Severity.OK


@pytest.mark.parametrize(
    ("ready", "loadable", "lab", "expected"),
    [
        ({4, 6}, set(), False, "ok"),
        (set(), {4, 6}, False, "note"),
        ({4}, set(), False, "wrong"),
        (set(), set(), True, "note"),
    ],
)
def test_esp(ready: set[int], loadable: set[int], lab: bool, expected: str) -> None:
    reading = kernel.EspReading(families=(4, 6), ready=frozenset(ready), loadable=frozenset(loadable), lab=lab)
    assert kernel.judge_esp(reading).severity.value == expected


def test_no_line_restarts_the_machine_when_it_is_pasted() -> None:
    reading = kernel.EspReading(families=(4, 6), ready=frozenset(), loadable=frozenset(), lab=False)
    (line,) = kernel.judge_esp(reading).mend
    command, _, comment = line.partition("#")
    assert "reboot" not in command and "reboot" in comment and "ends every tunnel" in comment
    sources = (TREE / "site-agent" / "site_agent" / "doctor").rglob("*.py")
    assert not [path for path in sources if re.search(r"(&&|;) *(reboot|shutdown|poweroff)", path.read_text())]


def test_open_files_are_raised_as_far_as_the_process_allows() -> None:
    def line(hard: int) -> str:
        return kernel.judge_files(kernel.FilesReading(pid=7, unit="", soft_limit=512, hard_limit=hard)).mend[0]

    assert (
        line(1 << 20) == "prlimit --pid 7 --nofile=65536:" and line(4096).endswith("=4096:") and line(512).endswith("=65536")
    )


# -- routes


def test_a_pool_without_a_route() -> None:
    def severity(interface: str | None, *, installs: bool) -> str:
        pool = routes.PoolReading(pool="p", prefix="203.0.113.64/27", interface=interface)
        reading = routes.RoutesReading(
            pools=(pool,), charon_installs=installs, uplink="eth1", uplink_mtu=0, inside="eth2", families=(),
            missing=(), default_routes=frozenset(),
        )  # fmt: skip
        return dict(said(routes.judge(reading)))["pool_route"]

    assert severity(None, installs=False) == "wrong" and severity(None, installs=True) == "note"
    assert severity("eth2", installs=True) == "risky" and severity("eth1", installs=False) == "ok"


# -- firewall


def rules(*chains: dict[str, Any], sets: tuple[dict[str, Any], ...] = ()) -> Ruleset:
    """Chains of table `inet t`, each with `rules`: lists of statements."""
    listing: list[dict[str, Any]] = [{"set": {"family": "inet", "table": "t", **each}} for each in sets]
    for chain in chains:
        place = {"family": "inet", "table": "t"}
        listing.append({"chain": {**place, **{key: value for key, value in chain.items() if key != "rules"}}})
        listing += [{"rule": {**place, "chain": chain["name"], "expr": rule}} for rule in chain["rules"]]
    return Ruleset({"nftables": listing})


def base(*statements: list[dict[str, Any]], policy: str = "accept", hook: str = "input") -> dict[str, Any]:
    return {"name": "i", "hook": hook, "policy": policy, "rules": list(statements)}


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


DPORT = {"payload": {"protocol": "udp", "field": "dport"}}
SOURCE = {"payload": {"protocol": "ip", "field": "saddr"}}
STATE = {"ct": {"key": "state"}}
IKE = Packet(name="ike", family="ip", protocol="udp", sport=500, dport=500)
ESP = Packet(name="esp", family="ip6", protocol="esp")


@pytest.mark.parametrize(
    ("chain", "packet", "dropped"),
    [
        (base(policy="drop"), IKE, True),
        (base(), IKE, False),
        (base([match(DPORT, {"set": [500, 4500]}), {"accept": None}], policy="drop"), IKE, False),
        (base([match(DPORT, {"range": [400, 600]}), {"counter": None}, {"drop": None}]), IKE, True),
        (base([match(DPORT, 500), {"accept": None}], policy="drop"), ESP, True),
        (base([match(DPORT, 500, "!="), {"drop": None}]), IKE, False),
        (base([match(DPORT, "@ports"), {"accept": None}], policy="drop"), IKE, False),
        (base([match(SOURCE, "192.0.2.1"), {"drop": None}]), IKE, None),
        (base([match(SOURCE, "192.0.2.1"), {"drop": None}]), ESP, False),  # has no IPv4 header
        (base([match(STATE, ["established", "related"], "in"), {"accept": None}], policy="drop"), IKE, True),
        (base([{"limit": {"rate": 5}}, {"accept": None}], policy="drop"), IKE, None),
        (base([{"xt": {"type": "match", "name": "multiport"}}, {"accept": None}], policy="drop"), IKE, None),
        (base([{"vmap": {"key": DPORT, "data": {"set": [[500, {"drop": None}]]}}}]), IKE, True),
        (base([{"vmap": {"key": DPORT, "data": {"set": [[4500, {"drop": None}]]}}}]), IKE, False),
        (base([{"jump": {"target": "own"}}], policy="drop"), IKE, False),
        (base([{"jump": {"target": "own"}}], policy="drop"), ESP, True),
        (base([{"jump": {"target": "nowhere"}}]), IKE, False),
        (base([{"xt": None}, {"drop": None}]), IKE, None),
        (base([{"match": None}, {"drop": None}]), IKE, None),
        (base([{"vmap": {"key": DPORT, "data": {"set": [[{"concat": [1]}, {"drop": None}]]}}}]), IKE, None),
    ],
)
def test_what_rules_do_with_a_packet(chain: dict[str, Any], packet: Packet, dropped: bool | None) -> None:
    own = {
        "name": "own",
        "rules": [[match({"meta": {"key": "l4proto"}}, "udp", "!="), {"return": None}], [{"accept": None}]],
    }
    ruleset = rules(chain, own, sets=({"name": "ports", "elem": [500, 4500]},))
    assert ruleset.dropped(packet, "input")[0] is dropped


def test_the_address_of_the_service_is_known() -> None:
    vip = {"payload": {"protocol": "ip", "field": "daddr"}}
    ruleset = rules(base([match(vip, {"set": ["203.0.113.1"]}), {"notrack": None}], hook="prerouting"))
    assert ruleset.untracked(dataclasses.replace(IKE, daddr="203.0.113.1")) is True
    assert ruleset.untracked(dataclasses.replace(IKE, daddr="203.0.113.2")) is False and ruleset.untracked(IKE) is None


def test_bgp_that_is_not_tracked_is_not_established() -> None:
    peer = {"payload": {"protocol": "ip", "field": "saddr"}}
    raw = {**base([match(peer, "198.51.100.1"), {"notrack": None}], hook="prerouting"), "name": "raw"}
    stateful = base([match(STATE, ["established", "related"], "in"), {"accept": None}], policy="drop")

    def dropped(*chains: dict[str, Any]) -> list[str]:
        reading = firewall.FirewallReading(
            ruleset=rules(*chains), legacy=False, families=(), bgp=True, charon_clamps=True,
            sessions=(("198.51.100.1", "198.51.100.2"),),
        )  # fmt: skip
        return [line for finding in firewall.judge(reading) if finding.severity is Severity.WRONG for line in finding.mend]

    assert dropped(stateful) == []
    (line,) = dropped(stateful, raw)
    assert "nft insert rule inet t i ip saddr 198.51.100.1 tcp sport 179 accept" in line


def test_a_second_chain_may_drop_what_the_first_accepted() -> None:
    second = {"name": "j", "hook": "input", "policy": "drop", "rules": []}
    assert rules(base([{"accept": None}]), second).dropped(IKE, "input") == (True, "inet t j")


def test_chains_in_a_circle_end() -> None:
    circle = {"name": "c", "rules": [[{"jump": {"target": "c"}}]]}
    assert rules(base([{"jump": {"target": "c"}}]), circle).dropped(IKE, "input")[0] is None


def test_chains_that_fan_out_are_walked_once() -> None:
    """Sixteen chains of sixteen jumps each: 16 to the power of 16 ways through them."""
    chains = [{"name": f"c{n}", "rules": [[{"limit": {}}, {"jump": {"target": f"c{n + 1}"}}]] * 16} for n in range(16)]
    assert rules(base([{"jump": {"target": "c0"}}], policy="drop"), *chains).dropped(IKE, "input")[0] is True


def test_a_return_from_a_base_chain_is_its_policy() -> None:
    assert rules(base([{"return": None}, {"accept": None}], policy="drop")).dropped(IKE, "input")[0] is True


def test_a_notrack_that_may_not_be_reached_is_not_certain() -> None:
    own = {"name": "own", "rules": [[{"notrack": None}]]}
    perhaps = base([match(SOURCE, "192.0.2.1"), {"jump": {"target": "own"}}], hook="prerouting")
    assert rules(perhaps, own).untracked(IKE) is None
    after = base([match(SOURCE, "192.0.2.1"), {"accept": None}], [{"notrack": None}], hook="prerouting")
    assert rules(after).untracked(IKE) is None


def test_untracked_is_seen_where_it_is_certain() -> None:
    raw = base([match(DPORT, 500), {"notrack": None}], hook="prerouting")
    assert rules(raw).untracked(IKE) is True and rules(raw).untracked(ESP) is False
    assert rules(base([{"xt": {"type": "target", "name": "CT"}}], hook="prerouting")).untracked(IKE) is None


def test_a_filter_that_waits_for_established_is_opened_for_what_is_no_longer_tracked() -> None:
    udp = match({"meta": {"key": "l4proto"}}, "udp")
    ruleset = rules(base([match(STATE, ["new"], "in"), udp, {"accept": None}], policy="drop"))
    reading = firewall.FirewallReading(ruleset=ruleset, legacy=False, families=("ip",), bgp=False, charon_clamps=True)
    tracked = next(finding for finding in firewall.judge(reading) if finding.id == "ike_tracked")
    assert sum("insert rule inet t i udp dport" in line for line in tracked.mend) == 2, (
        "else its mend would close the gateway"
    )


def test_bgp_is_looked_at_only_where_it_is_spoken() -> None:
    def drops(*, bgp: bool) -> int:
        ruleset = rules(base(policy="drop"))
        reading = firewall.FirewallReading(ruleset=ruleset, legacy=True, families=("ip",), bgp=bgp, charon_clamps=True)
        return sum(finding.severity is Severity.WRONG for finding in firewall.judge(reading))

    assert (drops(bgp=False), drops(bgp=True)) == (3, 4)


def test_a_filter_that_drops_bfd_is_opened_for_the_router_alone() -> None:
    reading = firewall.FirewallReading(
        ruleset=rules(base(policy="drop")), legacy=False, families=(), bgp=False, charon_clamps=True,
        bfd=(("2001:db8:1::1", "2001:db8:1::2"),),
    )  # fmt: skip
    (drops,) = (finding for finding in firewall.judge(reading) if finding.severity is Severity.WRONG)
    assert "BFD of 2001:db8:1::1" in drops.seen
    assert "nft insert rule inet t i ip6 saddr 2001:db8:1::1 udp dport 3784 accept" in drops.mend[0]


def test_a_filter_that_drops_vrrp_is_opened_for_the_other_gateway_or_the_group() -> None:
    def judged(*inside: Any) -> list[Finding]:
        reading = firewall.FirewallReading(
            ruleset=rules(base(*inside, policy="drop")), legacy=False, families=(), bgp=False, charon_clamps=True,
            vrrp=(("192.0.2.66", "192.0.2.65"), ("2001:db8:1::3", "2001:db8:1::2"), (None, "224.0.0.18")),
        )  # fmt: skip
        return [finding for finding in firewall.judge(reading) if finding.id == "firewall_drops"]

    found = judged()
    assert [finding.severity for finding in found] == [Severity.WRONG] * 3
    assert "VRRP of 2001:db8:1::3" in found[1].seen
    assert [finding.mend[0].partition("  #")[0] for finding in found] == [
        f"nft insert rule inet t i {match} meta l4proto 112 accept"
        for match in ("ip saddr 192.0.2.66", "ip6 saddr 2001:db8:1::3", "ip daddr 224.0.0.18")
    ]
    for name in ("vrrp", 112):  # as nft prints it with and without /etc/protocols
        (fine,) = judged([match({"meta": {"key": "l4proto"}}, name), {"accept": None}])
        assert fine.severity is Severity.OK


# -- clock


def test_the_clock() -> None:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

    def judged(newest: datetime.datetime | None, *, synchronised: bool) -> list[str]:
        reading = clock.ClockReading(now=now, synchronised=synchronised, max_error_s=0.1, newest=newest, newest_file="f")
        return [severity for _, severity in said(clock.judge(reading))]

    assert judged(None, synchronised=True) == ["ok", "ok"]
    assert judged(now + datetime.timedelta(days=2), synchronised=False) == ["risky", "wrong"]


# -- charon


def settled(text: str, *, clients: int = 0, plugins: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    reading = charon.CharonReading(
        settings=parse("f", text), file="f", drop_in="", plugins=plugins, clients=clients, changed_after_start=False
    )
    return [each for each in said(charon.judge(reading)) if each[1] != "ok"]


def test_tables_are_wanted_where_there_is_a_crowd() -> None:
    assert ("ikesa_table", "risky") in settled("", clients=5000) and ("ikesa_table", "risky") not in settled("", clients=50)
    big = "charon { ikesa_table_size = 4096\n ikesa_table_segments = 16 }"
    assert ("ikesa_table", "risky") not in settled(big, clients=20_000)


def test_what_a_mend_of_charons_settings_writes_is_content() -> None:
    reading = charon.CharonReading(
        settings=parse("f", "charon { plugins { ha { local = 192.0.2.1\n remote = 192.0.2.2\n segment_count = 2 } } }"),
        file="f", drop_in="d/zz-site-doctor.conf", plugins=frozenset({"ha"}), clients=20_000, changed_after_start=False,
    )  # fmt: skip
    lines = [line for finding in charon.judge(reading) for line in finding.mend if line.startswith("echo '")]
    assert len(lines) > 6 and all(" >> d/zz-site-doctor.conf  # " in line for line in lines)
    written = "\n".join(line.split("'")[1] for line in lines)
    again = settled("charon { plugins { ha { local = 192.0.2.1\n remote = 192.0.2.2 } } }\n" + written, clients=20_000)
    assert [each for each in again if each[1] != "note"] == []


def test_the_ha_plugin_is_judged_where_it_is_in_use() -> None:
    peer = "charon { plugins { ha { local = 192.0.2.1\n remote = 192.0.2.2\n secret = x } }\n interfaces_ignore = eth9 }"
    assert [each for each in settled("") if each[0] == "ha_plugin"] == []
    assert [severity for name, severity in settled(peer) if name == "ha_plugin"] == ["risky", "risky", "note", "note"]


def test_plugins_that_move_packets_elsewhere() -> None:
    found = settled("", plugins=frozenset({"kernel-libipsec", "bypass-lan"}))
    assert [each for each in found if each[0] == "plugins"] == [("plugins", "risky"), ("plugins", "note")]


def test_plugins_that_give_inner_addresses_past_the_agent_are_named() -> None:
    everybody = frozenset({"eap-radius", "dhcp", "attr-sql", "stroke"})

    def severities(plugins: frozenset[str]) -> list[str]:
        return [severity for name, severity in settled("", plugins=plugins) if name == "address_providers"]

    assert severities(everybody) == ["note"] * 4, "a gateway alone may mean it"
    assert severities(everybody | {"ha"}) == ["risky"] * 4, "one of a pair gives an address twice after a failover"
    assert severities(frozenset({"vici", "ha"})) == []


# -- connections


def test_who_begins_may_mean_it() -> None:
    """From an address of its own; or to another site, whose address is known, where nobody says that this one is anycast."""

    def severity(local: tuple[str, ...], *remote: str, planned: bool = True) -> str:
        child = connections.Child(name="c", dpd_action="start", close_action="none")
        reading = connections.ConnectionsReading(
            connections=(connections.Connection(name="x", local=local, remote=remote, children=(child,)),),
            traps=frozenset(),
            swanctl=None, swanctl_file="s", drop_in="", settings=parse("f", ""), vips=frozenset({"203.0.113.1"}),
            planned=planned,
        )  # fmt: skip
        (finding,) = connections.judge(reading)
        assert bool(finding.mend) is (finding.severity != "note"), "what may be meant so is not taken apart"
        return finding.severity

    vip = ("203.0.113.1",)
    assert severity(vip) == severity(("%any",)) == "wrong" and severity(("192.0.2.7",)) == "note"
    for anyone in ("%any", "198.51.100.0/24", "198.51.100.1-198.51.100.9", "2001:db8::1-2001:db8::9"):
        assert (severity(vip, anyone), severity(vip, anyone, planned=False)) == ("wrong", "risky")
    for peer in ("198.51.100.7", "2001:db8::7", "other-site.example.org"):
        assert (severity(vip, peer), severity(vip, peer, planned=False)) == ("risky", "note")


# -- services


def served(**changed: Any) -> list[str]:
    usual: dict[str, Any] = {
        "charons": (7,), "uncertain": (), "unit": "strongswan.service", "enabled_units": (), "systemd": True, "ours": False,
        "upgrades": "", "not_upgraded": (), "needrestart": False,
    }  # fmt: skip
    return [severity for _, severity in said(services.judge(services.ServicesReading(**usual | changed)))]


def test_units_and_upgrades() -> None:
    assert served() == ["ok", "ok"]
    assert served(enabled_units=("strongswan.service",)) == ["ok", "ok"], "it is the one that runs"
    assert served(enabled_units=("strongswan.service",), ours=True)[0] == "wrong", "and the agent starts another"
    assert served(enabled_units=("strongswan.service",), ours=True, systemd=False)[0] == "ok", "units start nothing here"
    assert served(enabled_units=("strongswan.service", "strongswan-starter.service"))[0] == "wrong"
    assert served(charons=(7, 8))[0] == "wrong"
    assert served(charons=(7,), uncertain=(8,))[0] == served(charons=(), uncertain=(8, 9))[0] == "note"
    assert served(charons=(7, 8), uncertain=(9,))[:2] == ["wrong", "note"]
    assert served(upgrades="1")[1] == "risky" and served(upgrades="0")[1] == "ok"
    assert served(upgrades="1", not_upgraded=("strongswan",))[1] == "ok"
    assert served(upgrades="1", not_upgraded=("libc6", "("))[1] == "risky", "a pattern that is none spares nothing"
    assert served(upgrades="1", ours=True, unit="site-agent.service")[1] == "note"
    assert served(needrestart=True, ours=True, unit="site-agent.service")[1] == "risky"


# -- BGP


def test_hold_times() -> None:
    def judged(document: int | None, configured: int, negotiated: int | None) -> list[tuple[str, str]]:
        reading = bgp.BgpReading(
            source="fleet.yaml", document_s=document, configured={"192.0.2.1": configured}, config_file="exabgp.conf",
            negotiated={} if negotiated is None else {"192.0.2.1": negotiated}, restart=("s",),
        )  # fmt: skip
        return said(bgp.judge(reading))

    assert judged(9, 9, 9) == [("hold_time_long", "ok"), ("hold_time_differs", "ok")]
    assert judged(9, 9, 3) == [("hold_time_long", "ok"), ("hold_time_differs", "note")], "the other end wants less"
    assert judged(9, 9, 90) == [("hold_time_long", "ok"), ("hold_time_differs", "wrong")], "the session is older"
    assert judged(9, 90, None) == [("hold_time_long", "ok"), ("hold_time_differs", "wrong")]
    assert judged(None, 180, None) == [("hold_time_long", "risky"), ("hold_time_differs", "ok")]
    assert judged(0, 0, None)[0] == ("hold_time_long", "wrong"), "never ends a silent session"


def test_bfd_is_asked_for_and_up() -> None:
    def judged(*states: str, unguarded: tuple[str, ...] = ()) -> list[tuple[str, str]]:
        sessions = tuple(
            bgp.Bfd(name=f"r{n}", router=f"192.0.2.{n}", gateway="192.0.2.9", state=s) for n, s in enumerate(states)
        )
        reading = bgp.BgpReading(
            source="fleet.yaml", document_s=9, configured={}, config_file="exabgp.conf", negotiated={}, restart=("s",),
            bfd=sessions, unguarded=unguarded,
        )  # fmt: skip
        return [each for each in said(bgp.judge(reading)) if each[0] == "bfd"]

    assert judged() == [], "nobody could be asked: nothing is inferred"
    assert judged("up", "up") == [("bfd", "ok")]
    assert judged("up", "down", "init") == [("bfd", "risky"), ("bfd", "risky")]
    assert judged("up", unguarded=("r7",)) == [("bfd", "note")]


def test_findings_are_plain_data() -> None:
    finding = KINDS[0].ok("seen")
    assert json.loads(json.dumps(finding.severity)) == "ok"
