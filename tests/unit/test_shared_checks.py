"""What the `shared` checks make of what they saw: servers' answers, echoes, sessions, a program's end."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from anycast.document import Bfd, Canary, ExecCheck, Neighbor, SharedChecks
from anycast.errors import DecodeError
from anycast.fleet.monitoring import TIMED_CHECKS
from anycast.model import EvidenceClass, SessionState, Status
from anycast.reasons import Reason
from site_agent.agent import Agent
from site_agent.bfd.peers import bfd_peers
from site_agent.checks import icmp_echo, reachability
from site_agent.checks.base import Finding
from site_agent.checks.bfd import BfdCheck
from site_agent.checks.dns import read
from site_agent.checks.dns_message import decode_reply, encode_query
from site_agent.checks.exec import first_line
from site_agent.checks.name_answers import Answer, judge
from site_agent.checks.reachability import Echo
from site_agent.checks.shared import shared_checks
from site_agent.checks.upstreams import UpstreamsCheck
from site_agent.paths import Paths
from tests.support.documents import document

V4, V6, OTHER = ip_address("203.0.113.1"), ip_address("2001:db8:a::1"), ip_address("203.0.113.9")
VIPS = frozenset({V4, V6})
BFD = Bfd(interval_ms=100, multiplier=3)


def right(server: str) -> list[Answer]:
    return [Answer(server=server, addresses=frozenset({V4})), Answer(server=server, addresses=frozenset({V6}))]


def silent(server: str) -> list[Answer]:
    return [Answer(server=server, silent=True, problem="no answer within 2 s")] * 2


def named(*answers: Answer) -> Finding:
    return judge("dns", "vpn.example.org", VIPS, answers)


def test_every_server_right_is_healthy() -> None:
    finding = named(*right("a"), *right("b"))
    assert (finding.status, finding.reason, finding.value) == (Status.PASSING, Reason.HEALTHY, 0.0)
    assert finding.detail == "vpn.example.org leads to 203.0.113.1, 2001:db8:a::1 at a, b"


@pytest.mark.parametrize(
    ("answers", "reason", "told"),
    [
        ([Answer(server="a", addresses=frozenset({OTHER})), right("a")[1]], Reason.DNS_WRONG, "gives 203.0.113.9, lacks"),
        ([Answer(server="a", addresses=frozenset({V4, OTHER})), right("a")[1]], Reason.DNS_WRONG, "a: gives 203.0.113.9"),
        ([right("a")[0], Answer(server="a")], Reason.DNS_WRONG, "a: lacks 2001:db8:a::1"),
        ([Answer(server="a", problem="NXDOMAIN")] * 2, Reason.DNS_WRONG, "a: NXDOMAIN"),
        ([Answer(server="a", problem="SERVFAIL", authoritative=False)] * 2, Reason.DNS_WRONG, "a: SERVFAIL"),
        (
            [Answer(server="a", addresses=frozenset({V4}), authoritative=False), right("a")[1]],
            Reason.DNS_WRONG,
            "a: not authoritative",
        ),
        (silent("a"), Reason.DNS_SILENT, "a: no answer within 2 s"),
        # Half silent: what it said is right, and what it did not say is not missing.
        ([right("a")[0], silent("a")[0]], Reason.DNS_SILENT, "a: no answer"),
        ([Answer(server="a", addresses=frozenset({OTHER})), silent("a")[0]], Reason.DNS_WRONG, "a: gives 203.0.113.9"),
        ([*silent("a"), *right("b")], Reason.DNS_SILENT, "a: no answer within 2 s; right at b"),
        ([*silent("a"), Answer(server="b", problem="REFUSED")], Reason.DNS_WRONG, "b: REFUSED; a: no answer"),
    ],
)
def test_what_is_wrong_at_which_server_is_told(answers: list[Answer], reason: Reason, told: str) -> None:
    finding = named(*answers)
    assert (finding.status, finding.reason) == (Status.FAILING, reason)
    assert told in finding.detail


def response(text: str, kind: str = "A", *, flags: int = dns.flags.AA, rcode: int = dns.rcode.NOERROR) -> Answer:
    query = encode_query("vpn.example.org", kind, 4711)
    answer = dns.message.make_response(dns.message.from_wire(query))
    answer.flags |= flags
    answer.set_rcode(rcode)
    for line in filter(None, text.split(";")):
        name, kind, value = line.split()
        answer.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", kind, value))
    return read("a", decode_reply(answer.to_wire(), query))


def test_a_message_is_read_as_what_it_says() -> None:
    assert response("vpn.example.org A 203.0.113.1") == right("a")[0]
    assert response("", "AAAA") == Answer(server="a")
    assert response("", rcode=dns.rcode.SERVFAIL).problem == "SERVFAIL"
    assert not response("vpn.example.org A 203.0.113.1", flags=0).authoritative
    aliased = response("vpn.example.org CNAME other.example.org.;other.example.org A 203.0.113.1")
    assert aliased == right("a")[0]
    assert response("vpn.example.org CNAME other.example.net.").problem == "an alias of other.example.net and no address"
    ring = "vpn.example.org CNAME b.example.org.;b.example.org CNAME vpn.example.org."
    with pytest.raises(DecodeError, match="more than 16 aliases in a row"):
        response(ring)


def test_echoes_together() -> None:
    both = reachability.judge([Echo("192.0.2.10", 0.4), Echo("2001:db8:b::10", 1.5)])
    assert (both.status, both.value) == (Status.PASSING, 1.5)
    one = reachability.judge([Echo("192.0.2.10", 0.4), Echo("2001:db8:b::10", None, "no answer within 3 s")])
    assert (one.status, one.reason, one.value) == (Status.FAILING, Reason.TARGET_UNREACHABLE, 0.4)
    assert one.detail == "1 of 2 unreachable: 2001:db8:b::10 (no answer within 3 s)"
    none = reachability.judge([Echo("192.0.2.10", None, "Network is unreachable")])
    assert none.detail == "all unreachable: 192.0.2.10 (Network is unreachable)"
    assert none.value is None


def test_echo_bytes() -> None:
    request = icmp_echo.encode_request(4, 0x1234, 7, b"token")
    assert icmp_echo.checksum(request) == 0, "RFC 1071: the sum over a right message is zero"
    reply = b"\0" + request[1:]
    assert icmp_echo.decode_reply(4, reply, ip_header=False) == icmp_echo.EchoReply(7, b"token")
    options = bytes([0x46]) + bytes(23)
    assert icmp_echo.decode_reply(4, options + reply, ip_header=True) == icmp_echo.EchoReply(7, b"token")
    assert icmp_echo.decode_reply(4, request, ip_header=False) is None, "our own request, heard on loopback"
    six = icmp_echo.encode_request(6, 1, 2, b"t")
    assert icmp_echo.decode_reply(6, b"\x81" + six[1:], ip_header=False) == icmp_echo.EchoReply(2, b"t")
    for short, ip_header in ((reply[:7], False), (options, True), (b"\x44" + bytes(40), True), (b"", True)):
        with pytest.raises(DecodeError):
            icmp_echo.decode_reply(4, short, ip_header=ip_header)


class Sessions:
    """Two upstreams, seen through the check, with a clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0
        self.states: dict[str, SessionState] = {}
        neighbors = document().bgp.neighbors
        self.check = UpstreamsCheck(neighbors, lambda: self.states, lambda: self.now)
        self.neighbors: tuple[Neighbor, ...] = neighbors

    def look(self) -> Finding:
        (finding,) = asyncio.run(self.check.look())
        return finding


def test_a_session_that_was_up_is_lost_at_once() -> None:
    world = Sessions()
    first, second = (n.address for n in world.neighbors)
    world.states = {first: SessionState.UP, second: SessionState.UP}
    assert (world.look().status, world.look().value) == (Status.PASSING, 0.0)
    world.states = {first: SessionState.UP, second: SessionState.CONNECTED}
    lost = world.look()
    assert (lost.status, lost.reason, lost.value) == (Status.FAILING, Reason.UPSTREAM_LOST, 1.0)
    assert second in lost.detail and first not in lost.detail
    world.states[second] = SessionState.UP
    assert world.look().status is Status.PASSING


def test_a_session_that_never_came_is_lost_when_its_time_is_over() -> None:
    world = Sessions()
    finding = world.look()
    assert (finding.status, finding.reason) == (Status.UNKNOWN, Reason.CHECK_UNAVAILABLE), "a start is no alarm"
    world.now += 29.9
    assert world.look().status is Status.UNKNOWN
    world.now += 0.1
    assert world.look().reason is Reason.UPSTREAM_LOST


class BfdWorld:
    """Two BFD sessions as the vrrp process reports them, and a clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0
        peers = bfd_peers(document(bfd=BFD))
        self.first, self.second = (peer.name for peer in peers)
        self.standings: dict[str, dict[str, int | str]] = {}
        self.check = BfdCheck(peers, lambda: self.standings, lambda: self.now)

    def say(self, name: str, state: str, diagnostic: str = "none", *, granted_s: float = 100.0, remote: int = 7) -> None:
        self.standings[name] = {
            "state": state, "diagnostic": diagnostic, "remote_state": "down", "remote_diagnostic": "none",
            "granted_since_ns": int(granted_s * 1e9), "remote_discriminator": remote,
        }  # fmt: skip

    def look(self) -> Finding:
        (finding,) = asyncio.run(self.check.look())
        return finding


def test_bfd_that_was_up_is_lost_at_once_and_what_the_router_said_is_told() -> None:
    world = BfdWorld()
    world.say(world.first, "up")
    world.say(world.second, "up")
    assert (world.look().status, world.look().value) == (Status.PASSING, 0.0)
    world.say(world.second, "down", "neighbor_signaled_down")
    lost = world.look()
    assert (lost.status, lost.reason, lost.value) == (Status.FAILING, Reason.BFD_DOWN, 1.0)
    assert world.second in lost.detail and world.first not in lost.detail and "neighbor_signaled_down" in lost.detail
    world.say(world.second, "down", "detection_time_expired", remote=0)
    assert "nothing is heard" in world.look().detail


def test_bfd_that_never_came_up_is_lost_when_its_time_is_over() -> None:
    world = BfdWorld()
    assert (world.look().status, world.look().reason) == (Status.UNKNOWN, Reason.CHECK_UNAVAILABLE), "nothing reported yet"
    world.say(world.first, "up")
    world.say(world.second, "down")
    world.now += 29.9
    assert world.look().status is Status.UNKNOWN, "a start is no alarm"
    world.now += 0.1
    assert world.look().reason is Reason.BFD_DOWN


def test_bfd_that_rose_and_fell_between_two_looks_is_lost() -> None:
    world = BfdWorld()
    world.say(world.first, "up")
    world.say(world.second, "down", "detection_time_expired")
    assert world.look().reason is Reason.BFD_DOWN


def test_bfd_that_we_ended_ourselves_is_no_loss_and_has_its_time_anew() -> None:
    world = BfdWorld()
    for name in (world.first, world.second):
        world.say(name, "up")
    world.look()
    for name in (world.first, world.second):
        world.say(name, "down", "path_down", granted_s=0)
    world.now += 100
    assert world.look().status is Status.UNKNOWN
    for name in (world.first, world.second):
        world.say(name, "init", granted_s=world.now)
    assert world.look().status is Status.UNKNOWN
    world.now += 30
    assert world.look().reason is Reason.BFD_DOWN


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (b"", ""),
        (b"\n \n  all 3 up  \nmore\n", "all 3 up"),
        (b"a\x1b[31mred\x07\tb\n", "a?[31mred? b"),
        (b"\xff\xfe broken", "\ufffd\ufffd broken"),
        (b"x" * 300, "x" * 200 + "…"),
    ],
)
def test_the_first_line_of_a_program_is_short_and_printable(output: bytes, line: str) -> None:
    assert first_line(output) == line


def test_only_what_a_document_asks_for_is_looked_at_and_all_of_it_is_shared() -> None:
    bare, upstreams = document(checks=SharedChecks()), Sessions().check
    assert [name for check in shared_checks(bare, upstreams, dict) for name in check.reports] == ["upstreams"]
    asked = SharedChecks(dns_servers=("192.0.2.10",), reachability=("192.0.2.10",))
    full = document(checks=asked, bfd=BFD)
    classes = {name: c for check in shared_checks(full, upstreams, dict) for name, c in check.reports.items()}
    assert classes == dict.fromkeys(["upstreams", "bfd", "dns", "reachability"], EvidenceClass.SHARED)


def test_the_timings_that_a_fleet_may_set_are_those_of_all_checks_that_move_no_route(tmp_path: Path) -> None:
    files = {"certificate": "/c", "private_key": "/k", "gateway_ca": "/r"}
    canary = Canary(identity="canary.example.org", targets=("192.0.2.10",), **files)
    asked = SharedChecks(dns_servers=("192.0.2.10",), reachability=("192.0.2.10",), canary=canary)
    program = ExecCheck(name="disk", command=("/bin/true",))
    full = document(checks=asked, bfd=BFD, exec_checks=(program,))

    folders = {"run_dir": tmp_path / "run", "state_dir": tmp_path / "state", "etc_dir": tmp_path / "etc"}

    async def names() -> set[str]:
        checks = Agent(full, Paths(**folders))._runner._checks
        return {next(iter(c.reports)) for c in checks if EvidenceClass.FACT not in c.reports.values()}

    assert asyncio.run(names()) - {"exec_disk"} == TIMED_CHECKS
