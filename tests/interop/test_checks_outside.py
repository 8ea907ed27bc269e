"""Each `shared` check against the real thing, broken and mended: Knot DNS, the kernel's ICMP, BIRD."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.model import Evidence, Status
from anycast.policy.verdict import ALARM_KEPT_S
from anycast.reasons import Reason
from site_agent.checks.base import Finding
from site_agent.checks.dns import DnsCheck
from site_agent.checks.reachability import ReachabilityCheck
from site_agent.checks.runner import CheckRunner
from tests.support.gateway import ENVIRONMENT, Gateway
from tests.support.name_server import IDENTITY, NameServer
from tests.support.namespace import in_namespace
from tests.support.upstream import until

V4, V6, OTHER = "203.0.113.1", "2001:db8:a::1", "203.0.113.9"
RIGHT = (f"A {V4}", f"AAAA {V6}")
FIRST, SECOND = "192.0.2.10", "192.0.2.11"
pytestmark = pytest.mark.skipif(shutil.which("knotd") is None, reason="needs knotd (Debian package knot)")


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def own_addresses(*addresses: str) -> None:
    ip("link set lo up")
    for address in addresses:
        ip(f"addr add {address} dev lo")


def look(check: DnsCheck | ReachabilityCheck) -> Finding:
    (finding,) = asyncio.run(check.look())
    return finding


def asks(*servers: str, vips: tuple[str, ...] = (V4, V6), timeout_s: float = 4.0) -> Finding:
    return look(DnsCheck(IDENTITY, vips, servers, timeout_s=timeout_s))


@in_namespace
def test_a_zone_that_is_wrong_in_each_way_and_mended() -> None:
    own_addresses(FIRST)
    server = NameServer(FIRST, "NONSENSE")
    assert asks(FIRST).detail == f"{IDENTITY}: {FIRST}: SERVFAIL"
    server.serve(*RIGHT)
    assert (asks(FIRST).status, asks(FIRST).reason) == (Status.PASSING, Reason.HEALTHY)
    for records, told in (
        ((f"A {OTHER}", RIGHT[1]), f"gives {OTHER}, lacks {V4}"),
        ((*RIGHT, f"A {OTHER}"), f"gives {OTHER}"),
        ((RIGHT[0],), f"lacks {V6}"),
        (("TXT hello",), f"lacks {V4}, {V6}"),
        ((), "NXDOMAIN"),
        (("CNAME elsewhere.example.net.",), "an alias of elsewhere.example.net and no address"),
        (("NS ns.elsewhere.example.net.",), "not authoritative"),
    ):
        server.serve(*records)
        finding = asks(FIRST)
        assert (finding.status, finding.reason, finding.value) == (Status.FAILING, Reason.DNS_WRONG, 1.0), records
        assert finding.detail == f"{IDENTITY}: {FIRST}: {told}"
    server.serve("CNAME other.example.org.", f"other.example.org.: {RIGHT[0]}", f"other.example.org.: {RIGHT[1]}")
    assert asks(FIRST).status is Status.PASSING, "an alias that leads to the VIPs leads clients there"
    server.serve(*RIGHT)
    assert asks(FIRST).status is Status.PASSING
    strange = look(DnsCheck("vpn.example.net", (V4, V6), (FIRST,)))
    assert (strange.reason, "REFUSED" in strange.detail) == (Reason.DNS_WRONG, True)


@in_namespace
def test_one_of_two_servers_is_wrong_or_silent() -> None:
    own_addresses(FIRST, SECOND)
    first, second = NameServer(FIRST, *RIGHT), NameServer(SECOND, *RIGHT)
    assert asks(FIRST, SECOND).detail.endswith(f"at {FIRST}, {SECOND}")
    second.serve(f"A {OTHER}", RIGHT[1])
    wrong = asks(FIRST, SECOND)
    assert (wrong.reason, wrong.value) == (Reason.DNS_WRONG, 1.0)
    assert wrong.detail == f"{IDENTITY}: {SECOND}: gives {OTHER}, lacks {V4}; right at {FIRST}"
    first.signal(signal.SIGSTOP)
    both = asks(FIRST, SECOND, timeout_s=1.0)
    assert (both.reason, both.value) == (Reason.DNS_WRONG, 2.0)
    assert both.detail == f"{IDENTITY}: {SECOND}: gives {OTHER}, lacks {V4}; {FIRST}: no answer within 0.9 s"
    second.serve(*RIGHT)
    silent = asks(FIRST, SECOND, timeout_s=1.0)
    assert (silent.status, silent.reason, silent.value) == (Status.FAILING, Reason.DNS_SILENT, 1.0)
    first.signal(signal.SIGCONT)
    assert asks(FIRST, SECOND).status is Status.PASSING


@in_namespace
def test_a_server_that_cannot_be_reached_at_all() -> None:
    own_addresses()
    finding = asks(FIRST, timeout_s=0.5)
    assert (finding.reason, finding.detail) == (
        Reason.DNS_SILENT,
        f"{IDENTITY}: {FIRST}: not reached: Network is unreachable",
    )


@in_namespace
def test_an_answer_that_does_not_fit_into_a_datagram_is_asked_for_over_tcp() -> None:
    own_addresses(FIRST)
    many = tuple(f"203.0.113.{host}" for host in range(1, 151))
    NameServer(FIRST, *(f"A {address}" for address in many))
    assert asks(FIRST, vips=many).status is Status.PASSING


class Stranger(threading.Thread):
    """Answers at a server's address and port what a stranger could send who has seen no question; then perhaps the truth."""

    def __init__(self, *, truth: bool) -> None:
        super().__init__(daemon=True)
        self._truth = truth
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((FIRST, 53))
        self.ports: list[int] = []
        self.ids: list[bytes] = []

    def run(self) -> None:
        while True:
            query, asker = self._sock.recvfrom(512)
            self.ports.append(asker[1])
            self.ids.append(query[:2])
            wrong_id = bytes([query[0] ^ 1]) + query[1:]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
                elsewhere.sendto(self._answer(query, OTHER), asker)
            for spoofed in (
                self._answer(wrong_id, OTHER), query, b"", query[:12], bytes([*query[:2], 0x84, 0, 0, 1]) + bytes(500),
                self._answer(query, OTHER).replace(b"example", b"exampel"), self._answer(query, OTHER).ljust(513, b"\0"),
            ):  # fmt: skip
                self._sock.sendto(spoofed, asker)
            if self._truth:
                self._sock.sendto(self._answer(query, V4), asker)

    @staticmethod
    def _answer(query: bytes, address: str) -> bytes:
        four, asked_four = ip_address(address).packed, query[-3] == 1
        record = b"\xc0\x0c" + (b"\0\1\0\1" + bytes(4) + b"\0\4" + four)
        return query[:2] + b"\x84\0\0\1" + bytes([0, asked_four]) + bytes(4) + query[12:] + record * asked_four


@in_namespace
def test_answers_of_strangers_who_guess_are_passed_over() -> None:
    own_addresses(FIRST)
    stranger = Stranger(truth=True)
    stranger.start()
    assert asks(FIRST, vips=(V4,)).status is Status.PASSING
    assert len(set(stranger.ports)) == 2 and min(stranger.ports) >= 16384, "a port of its own for each question"
    stranger._truth = False
    silent = asks(FIRST, vips=(V4,), timeout_s=0.5)
    assert silent.reason is Reason.DNS_SILENT, silent.detail
    assert len(set(stranger.ids)) >= 4, "and an id of its own"


TARGETS = ("192.0.2.10", "2001:db8:b::10")


def lay_cable() -> None:
    """A machine behind a cable, which is what the targets are."""
    ip("netns add far")
    ip("link add near type veth peer name far netns far")
    ip("addr add 192.0.2.2/28 dev near")
    ip("addr add 2001:db8:b::2/64 dev near nodad")
    ip("-n far addr add 192.0.2.10/28 dev far")
    ip("-n far addr add 2001:db8:b::10/64 dev far nodad")
    ip("-n far link set far up")
    ip("link set near up")
    until(lambda: look(ReachabilityCheck(TARGETS)).status is Status.PASSING, "the cable carries both families", within_s=10)


@in_namespace
def test_targets_behind_a_cable_that_goes_and_comes() -> None:
    lay_cable()
    found = look(ReachabilityCheck(TARGETS))
    assert found.value is not None and 0 < found.value < 1000
    ip("-n far addr del 2001:db8:b::10/64 dev far")
    one = look(ReachabilityCheck(TARGETS, timeout_s=0.6))
    assert (one.status, one.reason) == (Status.FAILING, Reason.TARGET_UNREACHABLE)
    assert one.detail.startswith("1 of 2 unreachable: 2001:db8:b::10 (")
    ip("-n far link set far down")
    none = look(ReachabilityCheck(TARGETS, timeout_s=0.6))
    assert none.detail.startswith("all unreachable: 192.0.2.10 (") and none.value is None
    ip("-n far link set far up")
    ip("-n far addr add 2001:db8:b::10/64 dev far nodad")
    until(lambda: look(ReachabilityCheck(TARGETS)).status is Status.PASSING, "mended", within_s=10)


LOOK_ONCE = f"""
import asyncio
from site_agent.checks.reachability import ReachabilityCheck
from site_agent.checks.runner import CheckRunner
runner = CheckRunner([check := ReachabilityCheck({TARGETS!r})], print, print)
(finding,) = asyncio.run(runner._look(check))
print(finding.status, finding.reason, finding.detail)
"""


@in_namespace
def test_an_echo_needs_a_raw_socket_or_a_ping_socket_and_says_so() -> None:
    lay_cable()
    command = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", sys.executable, "-c", LOOK_ONCE]

    def without_net_raw() -> str:
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=30).stdout

    Path("/proc/sys/net/ipv4/ping_group_range").write_text("1 0\n")
    assert without_net_raw().startswith("unknown check_refused a socket for ICMP echoes (net.ipv4.ping_group_range or")
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0\n")
    assert without_net_raw().startswith("passing healthy 192.0.2.10 ")


@in_namespace
def test_a_dropped_upstream_is_an_alarm_at_once_and_nothing_else() -> None:
    gateway = Gateway(recovery_ms=0)
    gateway.start()
    gateway.announced()
    lost, kept = gateway.upstream.sessions
    until(lambda: alarms(gateway) == [], "both sessions are up", within_s=10)
    gateway.upstream.ask(f"disable {lost}")
    until(lambda: alarms(gateway) == ["upstream_lost"], "the alarm stands", within_s=2)
    name = gateway.upstream.sessions[lost].name
    (raised,) = (e for e in gateway.events("AlarmRaised") if e["reason"] == "upstream_lost")
    assert name in raised["detail"] and gateway.upstream.sessions[kept].name not in raised["detail"]
    assert all(event["serving"] for event in gateway.events("SiteVerdictChanged")[-1:])
    assert len(gateway.upstream.prefixes()) == 1, "the other family's session carries its route as before"
    gateway.upstream.ask(f"enable {lost}")
    gateway.announced()
    until(lambda: alarms(gateway) == [], "the alarm is cleared", within_s=ALARM_KEPT_S + 5)


def alarms(gateway: Gateway) -> list[str]:
    """Those of `upstreams`; a busy machine has others."""
    answer = gateway.ask("status", "--json")
    assert answer.returncode == 0, answer.stderr
    return [a["reason"] for a in json.loads(answer.stdout)["alarms"] if a["reason"] == "upstream_lost"]


@in_namespace
def test_through_the_runner_one_bad_look_is_no_alarm_and_a_second_is() -> None:
    own_addresses(FIRST)
    server = NameServer(FIRST, *RIGHT)
    seen: list[Evidence] = []

    async def run() -> None:
        check = DnsCheck(IDENTITY, (V4, V6), (FIRST,))
        runner = CheckRunner([check], seen.append, lambda event: None)
        for records in (RIGHT, (f"A {OTHER}", RIGHT[1]), None, RIGHT, None):
            if records is not None:
                await asyncio.to_thread(server.serve, *records)
            for finding in await runner._look(check):
                runner.found(finding)

    asyncio.run(run())
    told = [(evidence.status.value, evidence.reason.value) for evidence in seen]
    good, bad = ("passing", "healthy"), ("failing", "dns_wrong")
    assert told == [good, good, bad, bad, good]
