"""The rendered nftables table in the native kernel: what it does to packets, and that it leaves others' tables alone.

Each effect is looked at without the table first, so that a rule that does nothing cannot pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import re
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import pytest

from anycast.errors import PeerError
from anycast.model import Status
from anycast.reasons import Reason
from site_agent import packet_filter
from site_agent.checks.base import Finding
from site_agent.checks.packet_filter import PacketFilterCheck
from site_agent.packet_filter import PacketFilter, load_packet_filter
from site_agent.render.nftables import clamped_mss, render_nftables
from tests.support.documents import document
from tests.support.namespace import CLONE_NEWNET, in_namespace

CONF = Path("/run/nftables.conf")
FOREIGN = """
table inet filter { chain input { type filter hook input priority 0; policy accept; ct state established accept; }; }
table ip nat { chain post { type nat hook postrouting priority srcnat; }; }
"""
"""An operator's own firewall; its `ct state` is also what makes the kernel track connections at all."""
COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
Made = TypeVar("Made")
_libc = ctypes.CDLL(None, use_errno=True)


def nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def foreign_rules() -> list[dict[str, Any]]:
    """Everything in the kernel that is not of our table, with handles: a table made anew would have others."""
    listed = json.loads(subprocess.run(["nft", "-j", "-a", "list", "ruleset"], capture_output=True, check=True).stdout)
    found = []
    for entry in listed["nftables"]:
        ((kind, what),) = entry.items()
        if kind != "metainfo" and "anycast" not in (what.get("table"), what["name"] if kind == "table" else None):
            found.append(entry)
    return found


def load(text: str | None = None) -> PacketFilter:
    CONF.write_text(render_nftables(document()) if text is None else text)
    return load_packet_filter(CONF, document())


def look(check: PacketFilterCheck) -> Finding:
    (finding,) = asyncio.run(check.look())
    return finding


def loading(text: str | None = None) -> PacketFilterCheck:
    CONF.write_text(render_nftables(document()) if text is None else text)
    return PacketFilterCheck(CONF, document())


def chains() -> set[str]:
    """Names of our table's chains; none where it is not there."""
    listed = subprocess.run(["nft", "-j", "list", "table", "inet", "anycast"], capture_output=True, check=False).stdout
    return {each["chain"]["name"] for each in json.loads(listed or '{"nftables": []}')["nftables"] if "chain" in each}


@in_namespace
def test_it_is_replaced_in_one_piece_and_foreign_tables_are_never_touched() -> None:
    nft(FOREIGN)
    before = foreign_rules()
    assert before
    first = loading()
    assert look(first).status is Status.PASSING
    other = loading(render_nftables(document("sin-gw1")))
    assert look(other).status is Status.PASSING
    nft(render_nftables(document()))
    assert look(other).status is Status.FAILING, "what was replaced is no longer there"
    assert foreign_rules() == before


@in_namespace
def test_a_firewall_that_flushes_everything_is_an_alarm_that_says_what_to_do() -> None:
    check = loading()
    assert look(check).status is Status.PASSING
    nft("flush ruleset\n" + FOREIGN)
    finding = look(check)
    assert (finding.status, finding.reason) == (Status.FAILING, Reason.PACKET_FILTER_MISSING)
    assert "site-agent apply" in finding.detail and f'include "{CONF}"' in finding.detail
    nft(f'flush ruleset\n{FOREIGN}\ninclude "{CONF}"\n')
    assert look(check).status is Status.PASSING


@in_namespace
def test_a_refused_file_leaves_the_table_in_force_and_says_so_in_nfts_words() -> None:
    old = load()
    refused = load(render_nftables(document("sin-gw1")).replace("hook forward", "hook sideways"))
    assert "sideways" in refused.refused or "hook" in refused.refused
    assert refused.available
    finding = look(PacketFilterCheck(CONF, document()))
    assert (finding.status, finding.detail) == (Status.FAILING, refused.refused)
    assert old.marker in chains()


@in_namespace
def test_a_file_that_is_gone_is_a_sentence() -> None:
    check = loading()
    assert look(check).status is Status.PASSING
    CONF.unlink()
    nft("table ip any {}")
    assert look(check).status is Status.PASSING, "the table is in force all the same"
    finding = look(PacketFilterCheck(CONF, document()))
    assert (finding.reason, finding.detail) == (Reason.PACKET_FILTER_MISSING, f"{CONF}: No such file or directory")


# Each is an operator's own firewall, and what it says of packets that are not tracked.
NEEDS_TRACKING = {
    "state new before a policy": """
        type filter hook input priority 0; policy drop; ct state established,related accept; iif lo accept
        ct state new udp dport 500 accept; ct state new udp dport 4500 accept; meta l4proto { esp, icmp, icmpv6 } accept
        tcp dport 179 accept; tcp sport 179 accept""",
    "untracked is dropped by name": """
        type filter hook input priority 0; policy accept; ct state invalid,untracked counter drop""",
    "a map of states": """
        type filter hook input priority 0; policy drop
        ct state vmap { established : accept, related : accept, invalid : drop, untracked : drop }
        udp dport { 500, 4500 } accept; meta l4proto { esp, icmp, icmpv6 } accept; tcp sport 179 accept""",
    "BGP's answers by their state": """
        type filter hook input priority 0; policy drop; ct state established,related accept
        udp dport { 500, 4500 } accept; meta l4proto { esp, icmp, icmpv6 } accept; tcp dport 179 accept""",
    "too big only as related": """
        type filter hook input priority 0; policy drop; ct state established,related accept
        udp dport { 500, 4500 } accept; meta l4proto esp accept; tcp sport 179 accept""",
    "what goes out": """
        type filter hook output priority 0; policy drop; ct state established,related accept""",
    "a limit in front": """
        type filter hook input priority 0; policy drop; ct state new,established,related accept
        udp dport { 500, 4500 } limit rate 10/second accept; meta l4proto { esp, icmp, icmpv6 } accept
        tcp sport 179 accept""",
}
BEARS_IT = {
    "by port": """
        type filter hook input priority 0; policy drop; ct state established,related accept; ct state invalid drop
        iif lo accept; udp dport { 500, 4500 } accept; meta l4proto esp accept; tcp sport 179 accept
        icmp type { echo-request, destination-unreachable } accept
        icmpv6 type { packet-too-big, nd-neighbor-solicit, nd-neighbor-advert } accept""",
    "states that name untracked": """
        type filter hook input priority 0; policy drop; ct state new,established,related,untracked accept""",
    "closed anyhow": """
        type filter hook input priority 0; policy accept; udp dport 500 drop""",
}


@in_namespace
def test_rules_that_live_by_tracking_keep_it_until_they_are_mended_by_the_alarms_own_commands() -> None:
    for name, text in NEEDS_TRACKING.items():
        chain = text.replace("\n", "; ").strip("; ")
        nft("flush ruleset\n" + f"table inet filter {{ chain it {{ {chain}; \n}}\n}}\n")
        check = loading()
        finding = look(check)
        assert (finding.status, finding.reason) == (Status.FAILING, Reason.PACKET_FILTER_PARTIAL), name
        assert not {"untracked_in", "untracked_out"} & chains(), name
        assert {"clamp_mss", "no_port_unreachable"} <= chains(), f"{name}: the rest is in force"
        with contextlib.suppress(PeerError):
            asyncio.run(check.reload())
        assert "untracked_in" not in chains(), f"{name}: apply does not do it either"
        mends = finding.detail.partition("from): ")[2].split("; ")
        assert mends and all(mend.startswith("nft insert rule inet filter it ") for mend in mends), finding.detail
        for mend in mends:
            subprocess.run(mend.split(), check=True)
        finding = look(check)
        assert finding.status is Status.PASSING, f"{name}: {finding.detail}"
        assert {"untracked_in", "untracked_out"} <= chains(), name


@in_namespace
def test_rules_that_bear_untracked_packets_get_the_whole_table() -> None:
    for name, text in BEARS_IT.items():
        chain = text.replace("\n", "; ").strip("; ")
        nft("flush ruleset\n" + f"table inet filter {{ chain it {{ {chain}; \n}}\n}}\n")
        finding = look(loading())
        assert finding.status is Status.PASSING, f"{name}: {finding.detail}"
        assert "untracked_in" in chains(), name


@in_namespace
def test_translation_at_the_vip_keeps_it_tracked_and_translation_elsewhere_does_not() -> None:
    def behind(rule: str) -> Finding:
        nft(f"flush ruleset\ntable ip nat {{ chain pre {{ type nat hook prerouting priority dstnat; {rule}; \n}}\n}}\n")
        return look(loading())

    for rule in (
        "ip daddr 203.0.113.1 udp dport 51820 dnat to 192.0.2.9",
        "udp dport 500 redirect to :1500",
        'iifname "wan0" dnat to 192.0.2.9',
    ):
        finding = behind(rule)
        assert finding.reason is Reason.PACKET_FILTER_PARTIAL, rule
        assert "nft -a list chain ip nat pre" in finding.detail
    for rule in ("ip daddr 203.0.113.1 tcp dport 443 dnat to 192.0.2.9", "ip daddr 192.0.2.7 dnat to 192.0.2.9"):
        finding = behind(rule)
        assert finding.status is Status.PASSING, f"{rule}: {finding.detail}"


@in_namespace
def test_a_firewall_that_begins_to_drop_what_is_not_tracked_is_answered_at_the_next_look() -> None:
    check = loading()
    assert look(check).status is Status.PASSING
    nft("table inet filter { chain it { type filter hook input priority 0; ct state untracked drop; \n}\n}\n")
    assert look(check).reason is Reason.PACKET_FILTER_PARTIAL
    assert "untracked_in" not in chains()
    nft(f'include "{CONF}"\n')  # as a firewall's file may do each time that it is loaded
    assert look(check).reason is Reason.PACKET_FILTER_PARTIAL
    assert "untracked_in" not in chains()
    nft("delete table inet filter")
    assert look(check).status is Status.PASSING
    assert "untracked_in" in chains()


@in_namespace
def test_ike_reaches_the_vip_through_a_firewall_that_takes_only_new_packets() -> None:
    ip("link set lo up")
    ip("addr add 203.0.113.1/32 dev lo")
    wire("client", ("198.51.100.1/24",), ("198.51.100.9/24",))
    nft(
        "table inet filter { chain it { type filter hook input priority 0; policy drop\n"
        "ct state new udp dport 500 accept\n}\n}\n"
    )

    def arrives() -> bool:
        with (
            contextlib.closing(socket.socket(type=socket.SOCK_DGRAM)) as charon,
            contextlib.closing(inside("client", lambda: socket.socket(type=socket.SOCK_DGRAM))) as client,
        ):
            charon.bind(("203.0.113.1", 500))
            charon.settimeout(1.0)
            client.sendto(b"IKE_SA_INIT", ("203.0.113.1", 500))
            try:
                return charon.recv(64) == b"IKE_SA_INIT"
            except TimeoutError:
                return False

    assert arrives() or arrives(), "a link that is up since a moment may lose its first packet"
    check = loading()
    assert look(check).reason is Reason.PACKET_FILTER_PARTIAL
    assert arrives(), "as before"
    nft(CONF.read_text())
    assert not arrives(), "what the whole table would have done"


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def wire(name: str, gateway: tuple[str, ...], host: tuple[str, ...]) -> None:
    """A namespace `name` on a link `to-name`, with its default routes through us."""
    ip(f"netns add {name}")
    ip(f"link add to-{name} type veth peer name eth0 netns {name}")
    for address in gateway:
        ip(f"addr add {address} dev to-{name}{' nodad' if ':' in address else ''}")
    ip(f"link set to-{name} up")
    for address in host:
        ip(f"-n {name} addr add {address} dev eth0{' nodad' if ':' in address else ''}")
    for device in ("lo", "eth0"):
        ip(f"-n {name} link set {device} up")
    for address in gateway:
        ip(f"-n {name} route add default via {address.partition('/')[0]}")


def inside(name: str, make: Callable[[], Made]) -> Made:
    """What `make` makes in the namespace `name`; a socket stays in it."""
    with open("/proc/self/ns/net") as home, open(f"/run/netns/{name}") as there:
        assert _libc.setns(there.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            return make()
        finally:
            assert _libc.setns(home.fileno(), CLONE_NEWNET) == 0


def flood(packets: int) -> None:
    """UDP to the VIP from `packets` different source addresses and ports, to IKE's ports and any other."""

    def send() -> None:
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw:
            vip = socket.inet_aton("203.0.113.1")
            for number in range(packets):
                source = socket.inet_aton(f"198.51.100.{number % 200 + 20}")
                udp = struct.pack("!HHHH", 1024 + number % 60000, (500, 4500, 53, 33434)[number % 4], 8 + 16, 0) + bytes(16)
                header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + source + vip
                raw.sendto(header + udp, ("203.0.113.1", 0))

    inside("stranger", send)


@in_namespace
def test_a_flood_at_the_vip_takes_no_entry_of_the_connection_table() -> None:
    ip("link set lo up")
    ip("addr add 203.0.113.1/32 dev lo")
    wire("stranger", ("198.51.100.1/24",), ("198.51.100.9/24",))
    nft(FOREIGN)
    flood(1000)
    assert int(COUNT.read_text()) >= 500, "without the table each packet is an entry"
    load()
    before = int(COUNT.read_text())
    flood(50_000)
    assert int(COUNT.read_text()) <= before, "50,000 packets, not one entry more"
    listed = subprocess.check_output(["nft", "list", "chain", "inet", "anycast", "untracked_in"], text=True)
    counted = re.findall(r"ip daddr 203\.0\.113\.1 .*counter packets (\d+)", listed)
    assert sum(map(int, counted)) >= 45_000, "they did arrive"


@in_namespace
def test_the_vip_never_says_port_unreachable() -> None:
    ip("link set lo up")
    for vip in ("203.0.113.1/32", "2001:db8:a::1/128 nodad"):
        ip(f"addr add {vip} dev lo")
    wire("client", ("198.51.100.1/24", "2001:db8:1::1/64"), ("198.51.100.9/24", "2001:db8:1::9/64"))

    def refused(vip: str) -> bool:
        family = socket.AF_INET6 if ":" in vip else socket.AF_INET
        with contextlib.closing(inside("client", lambda: socket.socket(family, socket.SOCK_DGRAM))) as sock:
            sock.connect((vip, 4500))
            sock.send(b"anybody?")
            sock.settimeout(1.0)
            try:
                sock.recv(1)
            except ConnectionRefusedError:
                return True
            except TimeoutError:
                return False
        raise AssertionError("an answer from nobody")

    assert refused("203.0.113.1") and refused("2001:db8:a::1")
    load()
    assert not refused("203.0.113.1") and not refused("2001:db8:a::1")


CLIENT = {"ipv4": "203.0.113.70", "ipv6": "2001:db8:c:1::70"}
"""Of fra-gw1's pools: what a client has inside its tunnel."""
SERVER = {"ipv4": "192.0.2.9", "ipv6": "2001:db8:b::9"}


@contextlib.contextmanager
def listening(name: str, address: str) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.closing(inside(name, lambda: socket.socket(family))) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, 7))
        sock.listen()
        yield sock


def syn_mss(capture: socket.socket, family: str) -> list[int]:
    """The MSS of each SYN and SYN+ACK that arrived at `capture`."""
    found = []
    while select.select([capture], [], [], 0.0)[0]:
        packet, (_, _, kind, *_) = capture.recvfrom(2048)
        if kind == socket.PACKET_OUTGOING:
            continue
        if (packet[12:14] == b"\x86\xdd") != (family == "ipv6"):
            continue
        tcp = packet[14 + 40 :] if family == "ipv6" else packet[14 + 20 :]
        if packet[14 + (6 if family == "ipv6" else 9)] == socket.IPPROTO_TCP and tcp[13] & 0x02:
            assert tcp[20:22] == b"\x02\x04", "Linux writes the MSS first"
            found.append(int.from_bytes(tcp[22:24]))
    return found


def handshake(family: str) -> set[int]:
    """Connect client and server both ways: every MSS in a SYN or SYN+ACK that arrived at one of them."""
    captures = {}
    for name in ("client", "server"):
        captures[name] = inside(name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        captures[name].bind(("eth0", 0))
    kind = socket.AF_INET6 if family == "ipv6" else socket.AF_INET
    for here, there, address in (("client", "server", SERVER[family]), ("server", "client", CLIENT[family])):
        with (
            listening(there, address) as server,
            contextlib.closing(inside(here, lambda: socket.socket(kind))) as sock,
        ):
            sock.settimeout(5)
            sock.connect((address, 7))
            server.accept()[0].close()
    deadline = time.monotonic() + 5
    found: dict[str, list[int]] = {"client": [], "server": []}
    while min(map(len, found.values())) < 2 and time.monotonic() < deadline:
        for name, capture in captures.items():
            found[name] += syn_mss(capture, family)
    for capture in captures.values():
        capture.close()
    assert min(map(len, found.values())) >= 2, "a SYN and a SYN+ACK at each"
    return {*found["client"], *found["server"]}


@in_namespace
def test_syns_of_clients_carry_the_clamped_mss_both_ways() -> None:
    ip("link set lo up")
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path(f"/proc/sys/net/{setting}").write_text("1")
    wire("client", ("203.0.113.65/27", "2001:db8:c:1::1/64"), (f"{CLIENT['ipv4']}/27", f"{CLIENT['ipv6']}/64"))
    wire("server", ("192.0.2.1/24", "2001:db8:b::1/64"), (f"{SERVER['ipv4']}/24", f"{SERVER['ipv6']}/64"))
    assert handshake("ipv4") == {1460}, "what Ethernet gives"
    assert handshake("ipv6") == {1440}
    load()
    assert handshake("ipv4") == {clamped_mss("ipv4")}
    assert handshake("ipv6") == {clamped_mss("ipv6")}
    # A path that is narrower still says so itself, and is not widened.
    for name in ("client", "server"):
        ip(f"-n {name} link set eth0 mtu 1000")
    assert handshake("ipv4") == {960}


@in_namespace
def test_an_nft_that_hangs_is_not_waited_for_at_the_end() -> None:
    slow = Path("/run/nft")
    slow.write_text("#!/bin/sh\nexec sleep 300\n")
    slow.chmod(0o755)
    check = loading()

    async def stopped_meanwhile() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await check.look()

    with mock.patch.object(packet_filter, "NFT", str(slow)):
        began = time.monotonic()
        asyncio.run(stopped_meanwhile())
        assert time.monotonic() - began < packet_filter.LIMIT_S, "a thread that hangs holds no agent's end up"
