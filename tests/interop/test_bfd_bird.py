"""BFD with BIRD 2 as the router, which runs it beside BGP (`bfd on`): what BIRD sees is what counts.

The BGP sessions are a second BIRD's, which lives on whatever happens to the vrrp process: only BFD can end them in less than
their hold time of 90 s. Bounds are protocol times plus what a busy machine costs.
"""

from __future__ import annotations

import dataclasses
import datetime
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from site_agent.bfd import packet
from site_agent.bfd.packet import ControlPacket, Diagnostic, State
from site_agent.vrrp import wire
from site_agent.vrrp.socket_filter import MOST_ROUTED
from tests.support.bfd_rig import (
    GATEWAY,
    PREFIX,
    ROUTER,
    Router,
    Tap,
    both_up,
    come_up,
    only_bfd,
    peers,
    speaker,
    states,
)
from tests.support.namespace import in_namespace
from tests.support.vrrp_pair import KEYS, Lan, Process, inside, ip, make_plan, wait

pytestmark = [pytest.mark.root, pytest.mark.alone]

DETECTION_S = 0.3
LOADED_S = 0.5
"""What a busy machine may add to what a router sees."""


def counted(process: Process, cause: str, least: int = 1) -> None:
    process.wait(f"counts {cause}", lambda status: status.discarded.get(f"bfd:{cause}", 0) >= least)


def since(router: Router) -> list[float]:
    """When BIRD's sessions came up, in Unix time."""
    return [datetime.datetime.fromisoformat(session["since"]).timestamp() for session in router.sessions().values()]


def has_stayed_up(router: Router, begun: list[float]) -> bool:
    """Since `begun`. BIRD counts back from now and is wrong by microseconds."""
    return router.all_up() and [round(now - then, 2) for now, then in zip(since(router), begun, strict=True)] == [0, 0]


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def timed(cause: Callable[[], object], effect: Callable[[], object], why: str, within: float) -> float:
    """Seconds from `cause` to `effect`."""
    began = time.monotonic()
    cause()
    wait(effect, why, within)
    return time.monotonic() - began


@in_namespace
def test_a_killed_gateway_leaves_bgp_in_less_than_a_second() -> None:
    with Lan() as lan:
        router, _, tap = Router(), speaker(), Tap(lan)
        gateway = lan.start(1, only_bfd())
        come_up(router, gateway)
        assert gateway.status is not None and gateway.status.role == "none" and not gateway.status.faults
        wait(lambda: router.routes() == set(PREFIX.values()), "BGP's routes")
        sent = tap.read()
        assert {ttl for ttl, _, _ in sent} == {255} and all(port >= 49152 for _, port, _ in sent)
        of_session = {(port, said.my_discriminator) for _, port, said in sent}
        assert len(of_session) == 2 == len({number for _, number in of_session}), "one port and one discriminator a session"
        assert [session["interval"] for session in router.sessions().values()] == ["0.100", "0.100"]
        assert [session["timeout"] for session in router.sessions().values()] == ["0.300", "0.300"]
        took = timed(gateway.child.kill, lambda: not router.routes(), "BGP's routes are gone", within=1.0)
        print(f"killed to no route: {took:.3f} s", router.ask("show protocols"))
        tap.close()


@in_namespace
def test_a_frozen_gateway_leaves_too_and_says_down_when_it_wakes_after_its_grant() -> None:
    with Lan() as lan:
        router, _, tap = Router(), speaker(), Tap(lan)
        gateway = lan.start(1, only_bfd())
        come_up(router, gateway)
        wait(lambda: router.routes() == set(PREFIX.values()), "BGP's routes")
        gateway.child.send_signal(signal.SIGSTOP)
        gateway.granting = False
        wait(lambda: not router.routes(), "BGP's routes are gone", 1.0)
        asleep_until = time.monotonic() + 1.0  # longer than the grant
        wait(lambda: time.monotonic() > asleep_until, "its grant is over", 3.0)
        tap.read()
        gateway.child.send_signal(signal.SIGCONT)
        gateway.wait("knows", lambda status: {one["state"] for one in status.bfd.values()} == {"down"})
        assert all(said.state is State.DOWN for _, _, said in tap.read())
        tap.close()


ENDS = ("withdrawn", "agent frozen", "agent killed", "stopped", "grace over")


def _end(end: str) -> Callable[[], None]:
    def test() -> None:
        _the_end_of_the_grant(end)

    return in_namespace(test)


@pytest.mark.root
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.replace(" ", "-"))
def test_the_end_of_the_grant_says_down_at_once(end: str) -> None:
    _end(end)()


def _the_end_of_the_grant(end: str) -> None:
    with Lan() as lan:
        router, tap = Router(), Tap(lan)
        speaker()
        gateway = lan.start(1, only_bfd())
        come_up(router, gateway)
        wait(lambda: router.routes() == set(PREFIX.values()), "BGP's routes")
        tap.read()
        lapse_s = 0.0
        gateway.granting = False
        if end == "withdrawn":
            gateway.attracting = False
            gateway.grant()
        elif end == "agent frozen":
            gateway.grant()
            lapse_s = 1.0
        elif end == "agent killed":
            gateway.agent.close()
        elif end == "stopped":
            gateway.tell(wire.Stop())
        else:
            gateway.tell(wire.Grace(until_ns=boottime_ns() + 10**9))
            gateway.agent.shutdown(socket.SHUT_RDWR)
            lapse_s = 1.0
        began = time.monotonic()
        if lapse_s:
            up_until = began + lapse_s * 0.8
            wait(lambda: time.monotonic() > up_until or not router.all_up(), "most of the lease")
            assert router.all_up(), "it ended before its grant did"
        wait(lambda: not router.routes(), "BGP's routes are gone", 3.0)
        took = time.monotonic() - began - lapse_s
        print(f"{end}: {took:.3f} s after the end")
        assert took < LOADED_S
        last = {said.my_discriminator: said for _, _, said in tap.read()}
        assert {(said.state, said.diagnostic) for said in last.values()} == {(State.DOWN, Diagnostic.PATH_DOWN)}
        tap.close()
        if end == "withdrawn":
            gateway.attracting = gateway.granting = True
            come_up(router, gateway)


def forge(data: bytes, *, family: int = 4, hops: int = 255, source: str = "") -> None:
    """As anybody on the link can: a UDP packet to gateway 1 with a TTL and, of the link's addresses, a source of choice."""
    kind, level, option = (
        (socket.AF_INET, socket.IPPROTO_IP, socket.IP_TTL)
        if family == 4
        else (socket.AF_INET6, socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
    )
    with inside("lan"):
        sock = socket.socket(kind, socket.SOCK_DGRAM)
    sock.setsockopt(level, option, hops)
    sock.bind((source or ROUTER[family], 0))
    sock.sendto(data, (GATEWAY[family], packet.PORT))
    sock.close()


@in_namespace
def test_what_a_stranger_sends_is_counted_and_ends_nothing() -> None:
    with Lan() as lan:
        ip("-n lan addr add 198.51.100.13/28 dev br0")
        router = Router()
        speaker()
        gateway = lan.start(1, only_bfd())
        come_up(router, gateway)
        assert gateway.status is not None
        begun, numbers = since(router), {int(one["discriminator"]) for one in gateway.status.bfd.values()}
        down = ControlPacket(
            state=State.DOWN,
            detect_mult=1,
            my_discriminator=77,
            your_discriminator=0,
            desired_min_tx=10**6,
            required_min_rx=0,
        )
        guessed = packet.encode(dataclasses.replace(down, your_discriminator=max(numbers) ^ 1))
        at = {4: int(gateway.status.bfd["v4"]["discriminator"]), 6: int(gateway.status.bfd["v6"]["discriminator"])}
        for family in (4, 6):
            right = packet.encode(dataclasses.replace(down, your_discriminator=at[family]))
            forge(right, family=family, hops=254)
            forge(right, family=family, hops=64)
            forge(b"garbage", family=family)
            forge(right[:23], family=family)
            forge(guessed, family=family)
            forge(packet.encode(down), family=family)  # "I have forgotten you": believed by RFC 5880 section 6.8.6
        forge(packet.encode(dataclasses.replace(down, your_discriminator=at[4])), source="198.51.100.13")
        for cause, count in {"ttl": 4, "packet": 4, "discriminator": 4}.items():
            counted(gateway, cause, count)
        assert gateway.status is not None and "bfd:source" not in gateway.status.discarded, "the kernel drops strangers'"
        assert has_stayed_up(router, begun) and set(states(gateway)) == {"up"}
        for _ in range(500):  # and of what was routed no more is read than counts it
            forge(right, family=6, hops=64)
        counted(gateway, "ttl", 4 + MOST_ROUTED // 2)
        assert has_stayed_up(router, begun)
        assert gateway.status is not None and gateway.status.discarded["bfd:ttl"] < 4 + 500 // 2


@in_namespace
def test_a_router_that_is_restarted_comes_back() -> None:
    with Lan() as lan:
        router = Router()
        speaker()
        gateway = lan.start(1, only_bfd())
        come_up(router, gateway)
        router.kill()
        status = gateway.wait("notices", lambda status: set(one["state"] for one in status.bfd.values()) == {"down"}, 2.0)
        assert {one["diagnostic"] for one in status.bfd.values()} == {"detection_time_expired"}
        router.start()
        come_up(router, gateway)
        router.kill()
        router.start()  # at once: it has forgotten us before we miss it
        wait(lambda: router.states() == {"Up"} and router.all_up(), "the new one is up")
        come_up(router, gateway)


@in_namespace
def test_intervals_change_by_poll_sequences_and_the_session_stays() -> None:
    with Lan() as lan:
        router, tap = Router(), Tap(lan)
        speaker()
        gateway = lan.start(1, only_bfd())
        come_up(router, gateway)
        begun = since(router)
        for interval_ms in (400, 150):
            tap.read()
            router.configure(interval_ms=interval_ms)
            wait(
                lambda ms=interval_ms: {s["interval"] for s in router.sessions().values()} == {f"{ms / 1000:.3f}"},
                "BIRD's own",
            )
            gateway.wait(
                "knows", lambda status, us=interval_ms * 1000: {one["remote_min_rx"] for one in status.bfd.values()} == {us}
            )
            assert sum(said.final for _, _, said in tap.read()) >= 2, "a Poll is answered with a Final"
        for interval_us in (50_000, 300_000):
            gateway = successor(lan, gateway, bfd=peers(interval_us=interval_us))
            timeout = f"{3 * max(interval_us, 150_000) / 1e6:.3f}"
            wait(
                lambda said=timeout: {s["timeout"] for s in router.sessions().values()} == {said},
                f"BIRD's timeout of {timeout}",
            )
            gateway.wait(
                "the poll has ended",
                lambda status, us=interval_us: {one["desired_min_tx"] for one in status.bfd.values()} == {us},
            )
        assert has_stayed_up(router, begun)
        tap.close()


def successor(lan: Lan, before: Process, *, grace: bool = False, **changed: Any) -> Process:
    """As the agent replaces its process (`grace`: as its own successor does it); the plan knows what was reported last."""
    status = before.status
    assert status is not None
    until_ns = boottime_ns() + 5 * 10**9
    known = {"resume_until_ns": until_ns, "boot_after": status.boot, "taken": status.taken, "bfd_before": status.bfd}
    if grace:
        before.granting = False
        before.tell(wire.Grace(until_ns=until_ns))
        before.agent.shutdown(socket.SHUT_RDWR)
    after = lan.start(before.n, dataclasses.replace(before.plan, **known | changed), granting=False)
    before.granting = False
    if grace:
        before.child.send_signal(wire.LEAVE)
    else:
        before.tell(wire.Stop(keep_bfd=True))
    assert before.ended() == 0
    after.grant()
    after.granting = True
    return after


@in_namespace
def test_a_clean_restart_is_not_seen_by_the_router() -> None:
    with Lan() as lan:
        router, tap = Router(), Tap(lan)
        speaker()
        gateway = lan.start(1, only_bfd())
        come_up(router, gateway)
        wait(lambda: router.routes() == set(PREFIX.values()), "BGP's routes")
        before = tap.read()
        begun, ports, numbers = (
            since(router),
            {port for _, port, _ in before},
            {said.my_discriminator for _, _, said in before},
        )
        for grace in (False, True, False):
            gateway = successor(lan, gateway, grace=grace)
            gateway.wait("goes on", lambda s: both_up(s) and {one["remote_state"] for one in s.bfd.values()} == {"up"})
            assert has_stayed_up(router, begun), grace
        sent = tap.read()
        assert {said.my_discriminator for _, _, said in sent} == numbers
        assert {port for _, port, _ in sent} == ports and all(said.state is State.UP for _, _, said in sent)
        silent_until = time.monotonic() + 2 * DETECTION_S
        wait(lambda: time.monotonic() > silent_until, "as long as BIRD would wait", 2.0)
        assert has_stayed_up(router, begun) and router.routes() == set(PREFIX.values())
        tap.close()


@in_namespace
def test_a_process_that_comes_too_late_begins_anew() -> None:
    with Lan() as lan:
        router = Router()
        speaker()
        gateway = lan.start(1, only_bfd())
        come_up(router, gateway)
        status = gateway.status
        assert status is not None
        gateway.granting = False
        gateway.child.kill()
        gateway.ended()
        late = {"resume_until_ns": boottime_ns() - 1, "bfd_before": status.bfd}
        again = lan.start(1, dataclasses.replace(gateway.plan, **late))
        come_up(router, again)
        assert again.status is not None
        old, new = ({one["discriminator"] for one in s.bfd.values()} for s in (status, again.status))
        assert not old & new


@in_namespace
def test_another_daemon_at_the_port_is_said_and_waited_for() -> None:
    with Lan() as lan:
        router = Router()
        speaker()
        with inside("gw1"):
            other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.bind(("0.0.0.0", packet.PORT))
        gateway = lan.start(1, only_bfd())
        status = gateway.wait("v6 is up", lambda status: status.bfd["v6"]["state"] == "up")
        assert status.bfd["v4"]["state"] == "down"
        assert [f for f in status.faults if GATEWAY[4] in f and "3784" in f and "in use" in f], status.faults
        other.close()
        come_up(router, gateway)
        assert gateway.wait("is content", lambda status: not status.faults)


@in_namespace
def test_a_virtual_router_and_bfd_share_one_process() -> None:
    with Lan() as lan:
        router = Router()
        speaker()
        one = lan.start(1, dataclasses.replace(make_plan(1, keys=KEYS), bfd=peers()))
        two = lan.start(2, keys=KEYS)
        come_up(router, one)
        begun = since(router)
        wait(lambda: {p.status.role for p in (one, two) if p.status} == {"active", "backup"}, "an Active and a Backup")
        for _ in range(2):
            active, backup = (one, two) if one.status and one.status.role == "active" else (two, one)
            backup.wait("hears the Active", lambda status: status.peer_active)
            active.wait("hears the Backup", lambda status: status.peer == "fit")
            active.tell(wire.HandOver())
            backup.role("active")
            active.role("backup")
        assert has_stayed_up(router, begun), "mastership is another matter than the route"
        one = successor(lan, one)  # where it comes later than its peer waits, that one is Active, and BFD up all the same
        one.wait("goes on", both_up)
        wait(lambda: {p.status.role for p in (one, two) if p.status} == {"active", "backup"}, "an Active and a Backup")
        assert has_stayed_up(router, begun)
        before = one.status
        one.priority, one.attracting = 100, False
        wait(lambda: router.states() == {"Down"}, "the route's end alone", 2.0)
        assert one.status is not None and before is not None and one.status.role == before.role


@in_namespace
def test_an_interface_that_goes_and_returns() -> None:
    with Lan() as lan:
        router = Router()
        speaker()
        gateway = lan.start(1, only_bfd())
        come_up(router, gateway)
        ip("-n lan link del p1")
        gateway.wait(
            "notices", lambda status: {one["state"] for one in status.bfd.values()} == {"down"} and bool(status.faults)
        )
        lan.connect(1)
        come_up(router, gateway)
        assert gateway.wait("is content", lambda status: not status.faults)
