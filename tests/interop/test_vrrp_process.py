"""Two vrrp processes on a real link: what neighbours, kernel and the other gateway see when one ends, however it does.

Bounds are coarse, because the machine is shared: protocol times plus what a busy processor costs. The figures are ./bench's.
"""

from __future__ import annotations

import dataclasses
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time
from typing import Any

import pytest

from site_agent.vrrp import wire
from site_agent.vrrp.packet import PROTOCOL, Advertisement, encode
from site_agent.vrrp.seal import Flag, Seal, seal
from tests.support.namespace import in_namespace
from tests.support.vrrp_pair import (
    KEYS,
    VIRTUAL_4,
    VIRTUAL_6,
    VIRTUAL_LINK_LOCAL,
    VRID,
    Lan,
    Process,
    Stream,
    addresses,
    holds,
    holds_none,
    inside,
    ip,
    mac,
    make_plan,
    neighbours,
    never_active,
    own,
    send_raw,
    wait,
)

pytestmark = [pytest.mark.root, pytest.mark.alone]

ADDRESS_GONE_S = 1.3
"""valid_lft of 1 s, as coarse as the kernel keeps it."""
LOADED_S = 0.3
"""What looking at the kernel's state may cost beside other tests."""


def advert(priority: int, n: int, *, interval: int = 10) -> bytes:
    fields = Advertisement(vrid=VRID, priority=priority, max_advertise_interval=interval, addresses=(VIRTUAL_4,))
    return encode(fields, own(n, 4), own(3 - n, 4))


def forged(active: Process, payload: bytes, *, ttl: int = 255, times: int = 1) -> None:
    """To the Active, as if from its peer."""
    send_raw(payload, own(3 - active.n, 4), own(active.n, 4), ttl, times=times)  # type: ignore[arg-type]


def counted(process: Process, cause: str, least: int = 1) -> wire.Status:
    return process.wait(f"counts {cause}", lambda status: status.discarded.get(f"outside:{cause}", 0) >= least)


@in_namespace
def test_the_backup_takes_over_from_one_that_is_killed() -> None:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        subprocess.run(["ip", "netns", "exec", "lan", "ping", "-qc1", str(VIRTUAL_4)], check=True, capture_output=True)
        subprocess.run(["ip", "netns", "exec", "lan", "ping", "-qc1", str(VIRTUAL_6)], check=True, capture_output=True)
        assert neighbours()[VIRTUAL_4] == neighbours()[VIRTUAL_6] == mac(active.n)
        active.child.kill()
        killed = time.monotonic()
        status = backup.role("active", within=0.361 + LOADED_S)
        assert status.cause == "peer_silent" and status.installed_us > 0
        wait(lambda: neighbours()[VIRTUAL_4] == neighbours()[VIRTUAL_6] == mac(backup.n), "the caches follow", 1.0)
        assert holds(backup.n)
        wait(lambda: holds_none(active.n), "the kernel takes them away", ADDRESS_GONE_S + LOADED_S)
        assert time.monotonic() - killed < ADDRESS_GONE_S + LOADED_S


@in_namespace
def test_the_kernel_is_told_how_long_they_last() -> None:
    with Lan() as lan:
        active, _ = lan.pair(keys=KEYS)
        seen = set()
        for _ in range(20):
            found = addresses(active.n)
            for virtual in (VIRTUAL_4, VIRTUAL_6, VIRTUAL_LINK_LOCAL):
                seen.add(found[virtual]["valid_life_time"])
                assert found[virtual]["prefixlen"] == (32 if virtual.version == 4 else 128)
            assert found[VIRTUAL_6]["preferred_life_time"] == 0, "it would be chosen as source"
        assert seen <= {0, 1}, seen


@in_namespace
def test_one_that_was_stopped_has_lost_its_addresses_and_wakes_as_backup() -> None:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        active.child.send_signal(signal.SIGSTOP)
        backup.role("active", within=0.361 + LOADED_S)
        wait(lambda: holds_none(active.n), "the kernel takes them away", ADDRESS_GONE_S + LOADED_S)
        active.child.send_signal(signal.SIGCONT)
        assert active.role("backup").cause == "clock_gap"
        assert holds_none(active.n) and backup.role("active")
        backup.child.kill()  # and from then on it is as good as any
        assert active.role("active").cause == "peer_silent"


@in_namespace
def test_the_parents_silence_releases_without_a_gap() -> None:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        with Stream() as stream:
            active.granting = False
            assert backup.role("active", within=1.0 + LOADED_S).cause == "peer_released"
            assert active.role("backup").cause == "parent_silent"
        assert stream.lost == 0
        wait(lambda: holds_none(active.n), "it lets go")


@in_namespace
def test_the_parents_silence_releases_where_nobody_takes_over() -> None:
    with Lan() as lan:
        alone = lan.start(1, keys=KEYS)
        alone.role("active")
        alone.granting = False
        assert alone.role("backup", within=1.0 + 0.361 + LOADED_S).cause == "parent_silent"
        assert holds_none(1)


@in_namespace
def test_the_end_of_the_agent_and_sigterm_release() -> None:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        active.granting = False
        active.agent.close()
        assert active.ended() == 0 and holds_none(active.n)
        assert backup.role("active").cause == "peer_released"
        backup.child.send_signal(signal.SIGTERM)
        assert backup.ended() == 0 and holds_none(backup.n)
        assert backup.status is not None and backup.status.cause == "shutdown"


@in_namespace
def test_sigterm_releases_without_an_agent_too() -> None:
    """As systemd sends it at a reboot, when the agent has ended cleanly before."""
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        active.granting = False
        active.tell(wire.Grace(until_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 9 * 10**9))
        active.agent.shutdown(socket.SHUT_RDWR)
        active.child.send_signal(signal.SIGTERM)
        assert active.ended() == 0 and holds_none(active.n)
        assert backup.role("active").cause == "peer_released"


@in_namespace
def test_a_grace_gives_nothing_back_that_has_lapsed() -> None:
    """An agent that was frozen and is told to stop as it wakes."""
    with Lan() as lan:
        alone = lan.start(1, keys=KEYS)
        alone.role("active")
        alone.granting = False
        alone.role("backup", within=1.0 + 0.361 + LOADED_S)
        begun = time.monotonic()
        alone.tell(wire.Grace(until_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 9 * 10**9))
        alone.agent.shutdown(socket.SHUT_RDWR)
        assert alone.ended() == 0 and holds_none(1)
        assert time.monotonic() - begun < 5, "not at the end of the grace"


@in_namespace
def test_a_gateway_whose_clock_is_earlier_after_a_reboot_is_heard() -> None:
    """Nothing in the run directory is left then; the mark is."""
    with Lan() as lan, tempfile.TemporaryDirectory() as kept:
        mark = pathlib.Path(kept) / "vrrp.boot"
        mark.write_text(f"{time.time_ns() + 10**18}\n")  # what it once had: thirty years from now
        plan = make_plan(1, keys=KEYS, boot_mark=str(mark))
        active = lan.start(1, plan)
        active.role("active")
        backup = lan.start(2, keys=KEYS)
        backup.wait("hears it", lambda status: status.peer_active)
        active.child.kill()
        active.ended()
        backup.role("active")
        again = lan.start(1, plan)
        backup.wait("hears it again", lambda status: status.peer == "fit")
        again.wait("is Backup", lambda status: status.peer_active)
        assert not any(cause.endswith("replay") for cause in backup.heard[-1].discarded)


@in_namespace
def test_a_handover_loses_nothing() -> None:
    with Lan() as lan:
        first, second = lan.pair(keys=KEYS)
        with Stream() as stream:
            for active, backup in ((first, second), (second, first)):
                active.tell(wire.HandOver())
                assert backup.role("active").cause == "peer_released"
                assert active.role("backup").cause == "handed_over"
                active.wait("hears it", lambda status: status.peer_active)
                backup.wait("hears it", lambda status: status.peer == "fit")
        assert stream.lost == 0, f"{stream.missing} of {2 * stream.sent}"


def successor(lan: Lan, before: Process, **changed: Any) -> Process:
    """As the agent replaces its process: the old one is granted until the next one has its role, and then killed."""
    status = before.status
    assert status is not None
    resume_until_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 5 * 10**9
    known: dict[str, Any] = {"resume_until_ns": resume_until_ns, "boot_after": status.boot, "taken": status.taken}
    plan = dataclasses.replace(before.plan, **known | changed)
    after = lan.start(before.n, plan, granting=False)
    after.grant()
    after.granting = True
    after.role(status.role)
    before.granting = False
    before.child.kill()
    before.ended()
    return after


@in_namespace
def test_a_successor_leaves_no_gap() -> None:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        with Stream() as stream:
            assert successor(lan, active).role("active").cause == "resumed"
        assert stream.lost == 0 and never_active(backup)


@in_namespace
def test_grace_bridges_the_agents_restart_and_no_longer() -> None:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        until_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 3 * 10**9
        with Stream() as stream:
            status = active.status
            assert status is not None
            active.granting = False
            active.tell(wire.Grace(until_ns=until_ns))
            active.agent.shutdown(socket.SHUT_RDWR)
            plan = dataclasses.replace(active.plan, resume_until_ns=until_ns, boot_after=status.boot, taken=status.taken)
            after = lan.start(active.n, plan, granting=False)
            after.granting = True
            after.grant()
            assert after.role("active").cause == "resumed"
            active.child.kill()
            active.ended()
        assert stream.lost == 0 and never_active(backup)
        after.granting = False
        after.tell(wire.Grace(until_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**9 // 2))
        after.agent.shutdown(socket.SHUT_RDWR)
        assert backup.role("active", within=0.5 + LOADED_S).cause == "peer_released"
        assert after.ended() == 0


@in_namespace
def test_forged_and_repeated_advertisements_are_counted_and_act_on_nothing() -> None:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        said = Seal(flags=Flag.ACTIVE, heard=0, router_id=3 - active.n, boot=2**63, sequence=1)  # type: ignore[arg-type]
        highest = advert(255, 3 - active.n)
        forged(active, highest)
        forged(active, seal(highest, said, own(3 - active.n, 4), own(active.n, 4), 1, b"x" * 32))
        forged(active, seal(highest, said, own(3 - active.n, 4), own(active.n, 4), 2, KEYS[1]))
        counted(active, "seal", 3)
        forged(active, highest, ttl=254)
        counted(active, "ttl")
        forged(active, highest[:6] + b"\0\0" + highest[8:])
        counted(active, "checksum")
        with inside("lan"):
            # Every protocol: a bridge takes a packet before whoever asked for one protocol sees it.
            wires = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        wires.bind((f"p{backup.n}", 0))
        wires.settimeout(2)
        frame = b""
        while frame[14:15] != b"\x45" or frame[23] != PROTOCOL or frame[26:30] != own(backup.n, 4).packed:
            frame = wires.recv(2048)
        backup.child.send_signal(signal.SIGSTOP)  # the real one is silent: only the record speaks
        for _ in range(5):
            forged(active, frame[34:])
        counted(active, "replay", 5)
        assert active.role("active") and holds(active.n)
        again = successor(lan, active)  # a restart has not forgotten
        forged(again, frame[34:])
        counted(again, "replay")
        assert again.status is not None and again.status.role == "active"
        wires.close()


@in_namespace
def test_a_reflection_of_ones_own_is_no_peer() -> None:
    with Lan() as lan:
        alone = lan.start(1, multicast=True, families=(4,))
        alone.role("active")
        fields = Advertisement(vrid=VRID, priority=100, max_advertise_interval=10, addresses=(VIRTUAL_4,))
        ip("netns exec gw1 sysctl -qw net.ipv4.conf.eth1.accept_local=1")
        send_raw(encode(fields, own(1, 4), own(1, 4)), own(1, 4), own(1, 4))  # type: ignore[arg-type]
        status = counted(alone, "own")
        assert status.role == "active" and status.peer == "silent"


@in_namespace
def test_twenty_thousand_packets_of_garbage_a_second_silence_nobody() -> None:
    rate, span_s = 20_000, 2.0
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        code = (
            "import socket,sys,time\n"
            "raw=socket.socket(socket.AF_INET,socket.SOCK_RAW,socket.IPPROTO_RAW)\n"
            "data,to=bytes.fromhex(sys.argv[1]),(sys.argv[2],0)\n"
            "began=time.monotonic(); sent=0\n"
            f"while (at:=time.monotonic()-began)<{span_s}:\n"
            f"    while sent<at*{rate}:\n        raw.sendto(data,to); sent+=1\n"
            "    time.sleep(0.0005)\n"
            "print(sent)\n"
        )
        bad = advert(255, backup.n)
        packet = bytes([0x45, 0xC0, 0, 20 + len(bad), 0, 0, 0, 0, 255, PROTOCOL, 0, 0])
        packet += own(backup.n, 4).packed + own(active.n, 4).packed + bad
        flood = ["ip", "netns", "exec", "lan", "python3", "-c", code, packet.hex(), str(own(active.n, 4))]
        sent = int(subprocess.run(flood, check=True, capture_output=True, text=True).stdout)
        assert sent >= span_s * rate * 0.9, f"only {sent} packets were sent"
        counted(active, "seal", int(sent * 0.05))  # the kernel may drop what does not fit into the socket
        assert active.role("active") and never_active(backup)


@pytest.mark.long
@in_namespace
def test_keys_change_without_a_gap() -> None:
    old, new = KEYS[1], b"n" * 32
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        with Stream() as stream:
            for keys, in_use in (({1: old, 2: new}, 1), ({1: old, 2: new}, 2), ({2: new}, 2)):
                active = successor(lan, active, keys=keys, key_in_use=in_use)
                backup = successor(lan, backup, keys=keys, key_in_use=in_use, resume_until_ns=0)
        assert stream.lost == 0 and active.role("active") and never_active(backup)
        for process in (active, backup):
            assert process.status is not None and not process.status.discarded, "an advertisement was refused"


@in_namespace
def test_only_the_active_answers_arp_and_nobody_for_the_anycast_address() -> None:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        ip("-n lan addr add 203.0.113.14/28 dev br0")
        for n in (1, 2):
            ip(f"-n gw{n} addr add 203.0.113.1/32 dev lo")
        with inside("lan"):
            wires = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        wires.bind(("br0", 0))
        wires.settimeout(0.5)
        own_mac = wires.getsockname()[4]
        for source, target in (("203.0.113.14", "203.0.113.1"), ("198.51.100.14", str(VIRTUAL_4))):
            body = (
                bytes.fromhex("0001080006040001") + own_mac + socket.inet_aton(source) + bytes(6) + socket.inet_aton(target)
            )
            wires.send(b"\xff" * 6 + own_mac + b"\x08\x06" + body)
            answers = []
            try:
                while True:
                    frame = wires.recv(64)
                    if frame[20:22] == b"\0\2" and frame[28:32] == socket.inet_aton(target):
                        answers.append(frame[22:28].hex(":"))
            except TimeoutError:
                pass
            assert answers == ([mac(active.n)] if target == str(VIRTUAL_4) else []), (target, answers)
        wires.close()
        assert never_active(backup)


@in_namespace
def test_a_release_leaves_the_gateways_own_addresses_and_routes() -> None:
    def standing(n: int) -> tuple[set[object], str]:
        return set(addresses(n)), ip(f"-n gw{n} -6 route show") + ip(f"-n gw{n} -4 route show")

    with Lan() as lan:
        before = standing(1)
        alone = lan.start(1, keys=KEYS)
        alone.role("active")
        ip("-n gw1 addr del 198.51.100.1/28 dev eth1")  # as an operator's `ifdown; ifup` does: ours is now the first
        ip("-n gw1 addr add 198.51.100.1/28 dev eth1")
        first = alone.heard[-1].late["count"]
        alone.wait("renews several times", lambda status: status.late["count"] > first + 20)
        alone.child.send_signal(signal.SIGTERM)
        assert alone.ended() == 0
        assert standing(1) == before


@in_namespace
def test_it_waits_for_its_source_address_and_takes_nothing_before() -> None:
    with Lan() as lan:
        ip("-n gw1 addr del fe80::1/64 dev eth1")
        early = lan.start(1, keys=KEYS)
        early.wait("says what is missing", lambda status: any("fe80::1" in fault for fault in status.faults))
        early.wait("has waited", lambda status: len(early.heard) > 2)
        assert never_active(early)
        ip("-n gw1 addr add fe80::1/64 dev eth1 nodad")
        assert early.role("active").faults == []
        wait(lambda: holds(1), "all addresses")


@in_namespace
def test_an_interface_that_goes_and_returns() -> None:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        ip(f"-n lan link del p{active.n}")
        backup.role("active")
        active.role("backup")
        lan.connect(active.n)
        active.wait("hears the other one again", lambda status: status.peer_active and not status.faults)
        backup.tell(wire.HandOver())
        assert active.role("active").cause == "peer_released"
        wait(lambda: holds(active.n), "all addresses")


@in_namespace
def test_addresses_that_the_kernel_refuses_are_not_claimed() -> None:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        ip(f"netns exec gw{backup.n} sysctl -qw net.ipv6.conf.eth1.disable_ipv6=1")
        ip(f"-n gw{backup.n} addr flush dev eth1 scope link")
        active.tell(wire.HandOver())
        assert backup.wait("refuses", lambda status: status.cause == "addresses_refused").role == "backup"
        assert backup.status is not None and backup.status.faults
        active.role("active")
        wait(lambda: holds(active.n), "it still serves")


@in_namespace
def test_a_busy_kernel_lock_delays_no_advertisement() -> None:
    """Somebody makes and removes namespaces all the time, which holds rtnl; at 10 ms the Backup stays one.

    In one of three tries, as the process tests itself: a virtual machine's host may take both processors for 30 ms. (That
    no tick waits for rtnl is seen in test_vrrp_addresses.py; here a kernel without preemption is busy as well.)
    """
    assert any(_stays_while_the_lock_is_busy() for _ in range(3))


def _stays_while_the_lock_is_busy() -> bool:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS, interval=1)
        over = threading.Event()

        def disturb() -> None:
            number = 0
            while not over.is_set():
                number += 1
                ip(f"netns add busy{number % 4}")
                ip(f"netns del busy{number % 4}")

        disturber = threading.Thread(target=disturb)
        disturber.start()
        before = active.status
        assert before is not None
        active.wait("goes on", lambda status: status.late["count"] > before.late["count"] + 300)
        over.set()
        disturber.join()
        assert active.status is not None and backup.status is not None
        print(f"{active.status.role} {active.status.late}, {backup.status.role}")
        stayed = (active.status.role, backup.status.role) == ("active", "backup")
    for name in ("lan", "gw1", "gw2"):
        ip(f"netns del {name}")
    return stayed
