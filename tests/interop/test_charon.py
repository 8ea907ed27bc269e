"""The checks against a real charon and a real kernel, in namespaces of their own. Nothing here needs ESP."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.errors import KernelError
from anycast.events import Event, HolderExited, HolderStarted
from anycast.model import Evidence, Status
from anycast.reasons import Reason
from site_agent.checks.charon import NAME as CHARON
from site_agent.checks.charon import CharonCheck
from site_agent.checks.child_sas import NAME as SA_STATE
from site_agent.checks.child_sas import ChildSaCheck
from site_agent.checks.runner import CheckRunner
from site_agent.checks.vici import NAME as VICI
from site_agent.checks.vici import ViciCheck
from site_agent.checks.vip import NAME as VIP
from site_agent.checks.vip import VipCheck, place_vips
from site_agent.ike.charon_process import Charon, remove_client_state
from site_agent.ike.rekeyer import CharonRekeyer, Rekeyer
from site_agent.ike.vici_client import ViciClient
from site_agent.netlink import xfrm
from site_agent.netlink.messages import NETLINK_XFRM, Message
from site_agent.netlink.transport import dump, request
from tests.support.namespace import in_namespace

pytestmark = pytest.mark.root

VIPS = ("203.0.113.1", "2001:db8:a::1")
BASE = Path("/run/test")
STRONGSWAN_CONF = """
charon {
    load = random nonce openssl pem x509 pubkey kdf kernel-netlink socket-default vici %s
    plugins { vici { socket = unix:///run/test/charon.vici } }
}
swanctl { socket = unix:///run/test/charon.vici\n load = random }
"""
SWANCTL_CONF = """
connections { vpn { local_addrs = 203.0.113.1
    local { auth = psk\n id = vpn.example.org }
    remote { auth = psk }
    children { vpn { } } } }
"""


class Machine:
    """A charon with its checks, and everything they said."""

    def __init__(self) -> None:
        self.seen: list[Evidence] = []
        self.events: list[Event] = []
        self.news = asyncio.Event()
        vici = ViciClient(str(BASE / "charon.vici"))
        self.charon = Charon(
            etc_dir=BASE,
            run_dir=BASE,
            vips=VIPS,
            vici=vici,
            on_exit=lambda pid, status: self.runner.found(self.charon_check.exited(pid, status)),
            on_ready=self._ready,
            happened=self.events.append,
        )
        self.charon_check = CharonCheck(self.charon, stop_limit_s=1.0)
        self.vip_check = VipCheck(VIPS)
        rekeyer = CharonRekeyer(vici, Rekeyer(ViciClient(vici.path), ViciClient(vici.path)), lambda: None)
        self.child_sas = ChildSaCheck(vici, VIPS, rekeyer=rekeyer, happened=self.events.append)
        checks = [self.charon_check, self.vip_check, ViciCheck(vici), self.child_sas]
        self.runner = CheckRunner(checks, self._report, self.events.append)
        self.addresses = self.vip_check.watch(lambda: self.runner.look_now(self.vip_check))
        self.tasks = [asyncio.create_task(self.charon.run()), asyncio.create_task(self.runner.run())]

    def _ready(self) -> None:
        self.runner.look_now()

    def _report(self, evidence: Evidence) -> None:
        self.seen.append(evidence)
        self.news.set()

    async def says(self, check: str, status: Status, reason: Reason, *, within_s: float) -> Evidence:
        """Wait for such evidence from now on."""
        start = len(self.seen)
        async with asyncio.timeout(within_s):
            while True:
                for evidence in self.seen[start:]:
                    if (evidence.check, evidence.status, evidence.reason) == (check, status, reason):
                        return evidence
                self.news.clear()
                await self.news.wait()

    async def healthy(self) -> None:
        for check in (CHARON, VIP, SA_STATE, VICI):
            await self.says(check, Status.PASSING, Reason.HEALTHY, within_s=10)

    async def end(self) -> None:
        self.addresses.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.charon.process.release()


def with_charon(test: Callable[[Machine], Awaitable[None]], plugins: str = "") -> None:
    """Run `test` on a machine that is healthy."""
    BASE.mkdir(exist_ok=True)
    (BASE / "swanctl").mkdir(exist_ok=True)
    (BASE / "strongswan.conf").write_text(STRONGSWAN_CONF % plugins)
    (BASE / "swanctl" / "swanctl.conf").write_text(SWANCTL_CONF)
    place_vips(VIPS)

    async def run() -> None:
        machine = Machine()
        try:
            await machine.healthy()
            await test(machine)
        finally:
            await machine.end()

    asyncio.run(run())


@in_namespace
def test_a_killed_charon_is_seen_in_milliseconds_and_started_again() -> None:
    async def killed(machine: Machine) -> None:
        pid = machine.charon.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        exited = await machine.says(CHARON, Status.FAILING, Reason.CHARON_EXITED, within_s=1)
        assert not any(isinstance(event, HolderExited) for event in machine.events), "known while it is still closing"
        assert exited.detail == f"pid {pid} killed by SIGKILL"
        await machine.healthy()
        assert machine.charon.process.pid != pid

    # These open packet sockets, whose closing keeps a dying process for 30 ms: the pidfd alone would be too late.
    with_charon(killed, plugins="farp dhcp")


@in_namespace
def test_a_stopped_charon_is_a_fact_after_the_stop_limit_and_vici_only_unknown() -> None:
    async def stopped(machine: Machine) -> None:
        pid = machine.charon.process.pid
        assert pid is not None
        began = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        vici = asyncio.create_task(machine.says(VICI, Status.UNKNOWN, Reason.VICI_SILENT, within_s=10))
        sas = asyncio.create_task(machine.says(SA_STATE, Status.UNKNOWN, Reason.VICI_SILENT, within_s=10))
        await machine.says(CHARON, Status.FAILING, Reason.CHARON_STOPPED, within_s=5)
        assert time.monotonic() - began > 1.0, "a shorter stop counts as nothing"
        await vici
        await sas
        failing = {e.check for e in machine.seen if e.status is Status.FAILING and e.at > machine.seen[0].at + 1}
        assert failing <= {CHARON}, "a time-out is UNKNOWN"
        os.kill(pid, signal.SIGCONT)
        await machine.healthy()
        assert machine.charon.process.pid == pid

    with_charon(stopped)


@in_namespace
def test_a_short_stop_counts_as_nothing() -> None:
    async def paused(machine: Machine) -> None:
        pid = machine.charon.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await machine.says(CHARON, Status.UNKNOWN, Reason.CHARON_STOPPED, within_s=1)
        os.kill(pid, signal.SIGCONT)
        await machine.says(CHARON, Status.PASSING, Reason.HEALTHY, within_s=1)

    with_charon(paused)


@in_namespace
def test_the_next_agent_adopts_the_running_charon_and_sees_it_die() -> None:
    pids = []

    async def first(machine: Machine) -> None:
        pids.append(machine.charon.process.pid)

    async def second(machine: Machine) -> None:
        assert machine.charon.process.pid == pids[0]
        assert [e.adopted for e in machine.events if isinstance(e, HolderStarted)] == [True]
        os.kill(pids[0], signal.SIGKILL)  # type: ignore[arg-type]
        exited = await machine.says(CHARON, Status.FAILING, Reason.CHARON_EXITED, within_s=1)
        assert exited.detail.startswith(f"pid {pids[0]} "), "not our child, and seen all the same"
        await machine.healthy()
        pids[0] = machine.charon.process.pid

    with_charon(first)
    with_charon(second)
    # An operator's charon has no record of ours; its own pid file and program file will do.
    (BASE / "charon.pid").unlink()

    async def third(machine: Machine) -> None:
        assert machine.charon.process.pid == pids[0]

    with_charon(third)


@in_namespace
def test_an_operators_charon_without_our_connections_attracts_nobody() -> None:
    BASE.mkdir()
    (BASE / "strongswan.conf").write_text(STRONGSWAN_CONF % "")
    theirs = BASE / "theirs.conf"
    theirs.write_text((STRONGSWAN_CONF % "").replace("charon.vici", "theirs.vici"))
    place_vips(VIPS)
    charon = subprocess.Popen(["/usr/lib/ipsec/charon"], env={"STRONGSWAN_CONF": str(theirs)})

    async def look() -> None:
        while not Path("/run/charon.pid").exists():
            await asyncio.sleep(0.01)
        machine = Machine()
        try:
            await machine.says(CHARON, Status.UNKNOWN, Reason.CONNECTIONS_NOT_LOADED, within_s=5)
            await machine.says(VICI, Status.FAILING, Reason.VICI_REFUSED, within_s=5)
            assert machine.charon.process.pid == charon.pid, "not started beside it either"
            assert not [e for e in machine.seen if e.check == CHARON and e.status is Status.PASSING]
        finally:
            await machine.end()

    try:
        asyncio.run(look())
    finally:
        charon.kill()
        charon.wait()


@in_namespace
def test_a_stale_pid_file_adopts_nobody() -> None:
    BASE.mkdir()
    Path("/run/charon.pid").write_text(f"{os.getpid()}\n")  # its number now belongs to something else

    async def started(machine: Machine) -> None:
        assert machine.charon.process.pid != os.getpid()
        assert [e.adopted for e in machine.events if isinstance(e, HolderStarted)] == [False]

    with_charon(started)


@in_namespace
def test_an_address_that_goes_is_seen_at_once() -> None:
    async def removed(machine: Machine) -> None:
        machine.runner.timings[VIP] = dataclasses.replace(machine.vip_check.timing, interval_s=3600.0)
        await machine.says(VIP, Status.PASSING, Reason.HEALTHY, within_s=10)
        subprocess.run(["ip", "addr", "del", "203.0.113.1/32", "dev", "lo"], check=True)
        # An event of the kernel: the next look is an hour away.
        missing = await machine.says(VIP, Status.FAILING, Reason.VIP_MISSING, within_s=10)
        assert missing.detail == "203.0.113.1"

    with_charon(removed)


def larval_sa(daddr: str, saddr: str) -> bytes:
    """The payload of XFRM_MSG_ALLOCSPI: the kernel makes an SA without keys, which needs no ESP."""
    info = bytearray(xfrm.USERSA_INFO_BYTES)
    for offset, address in ((0, daddr), (16, saddr), (56, daddr), (80, saddr)):
        packed = ip_address(address).packed
        info[offset : offset + len(packed)] = packed
    family = socket.AF_INET if ip_address(daddr).version == 4 else socket.AF_INET6
    info[76] = 50
    info[208:215] = struct.pack("=IHB", 7, family, 1)
    return bytes(info) + struct.pack("=II", 0xC0000001, 0xCFFFFFFF)


async def kernel_sas() -> list[xfrm.SaId]:
    sas: list[xfrm.SaId] = []

    def take(message: Message) -> None:
        sas.append(xfrm.decode_sa(message.payload))

    await dump(NETLINK_XFRM, xfrm.XFRM_MSG_GETSA, take)
    return sas


@in_namespace
def test_the_codec_reads_and_removes_what_the_kernel_has() -> None:
    async def run() -> None:
        assert await kernel_sas() == []
        ends = [("203.0.113.1", "198.51.100.66"), ("2001:db8:a::1", "2001:db8:d::2"), ("192.0.2.9", "198.51.100.66")]
        for daddr, saddr in ends:
            await request(NETLINK_XFRM, 0x16, larval_sa(daddr, saddr))
        sas = await kernel_sas()
        assert sorted((str(sa.daddr), str(sa.saddr)) for sa in sas) == sorted(ends)
        assert all(0xC0000001 <= sa.spi <= 0xCFFFFFFF and sa.proto == 50 and sa.reqid == 7 for sa in sas)
        told = subprocess.run(["ip", "xfrm", "state"], capture_output=True, text=True, check=True).stdout
        assert all(f"spi {sa.spi:#010x}" in told for sa in sas), "iproute2 reads the same numbers"
        removed = next(sa for sa in sas if str(sa.daddr) in VIPS)
        for end in ends:
            _add_policy(*end)
        assert await remove_client_state(frozenset(VIPS)) == (2, 2)
        assert [str(sa.daddr) for sa in await kernel_sas()] == ["192.0.2.9"], "an operator's own tunnel stays"
        assert _policies() == 1
        with pytest.raises(KernelError):
            await request(NETLINK_XFRM, xfrm.XFRM_MSG_DELSA, xfrm.encode_sa_id(removed))

    asyncio.run(run())


def _add_policy(gateway: str, client: str) -> None:
    inner = ("192.0.2.0/28", "203.0.113.65/32") if "." in gateway else ("2001:db8:b::/64", "2001:db8:c:1::1/128")
    if gateway.startswith("192."):
        inner = ("192.0.2.0/28", "203.0.113.66/32")
    words = ["src", inner[0], "dst", inner[1], "dir", "out", "tmpl", "src", gateway, "dst", client]
    command = ["ip", "xfrm", "policy", "add", *words, "proto", "esp", "reqid", "7", "mode", "tunnel"]
    subprocess.run(command, check=True)


def _policies() -> int:
    told = subprocess.run(["ip", "xfrm", "policy"], capture_output=True, text=True, check=True).stdout
    return told.count("tmpl src")


@in_namespace
def test_a_charon_that_never_answers_holds_nobody_up() -> None:
    """A socket that accepts and then says half a packet: the library's own session would wait for ever."""

    async def run() -> None:
        BASE.mkdir()

        async def half_an_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(4)
            writer.write(struct.pack("!I", 100) + b"\x01half")
            await reader.read()
            writer.close()

        server = await asyncio.start_unix_server(half_an_answer, BASE / "charon.vici")
        vici = ViciClient(str(BASE / "charon.vici"))
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await vici.request("version", timeout_s=0.1)
        assert time.monotonic() - began < 5, "not for ever"
        server.close()

    asyncio.run(run())


@in_namespace
def test_an_agent_whose_charon_cannot_start_says_so() -> None:
    BASE.mkdir()
    (BASE / "swanctl").mkdir()
    (BASE / "strongswan.conf").write_text("charon { load = no-such-plugin }\n")
    (BASE / "swanctl" / "swanctl.conf").write_text("")
    place_vips(VIPS)

    async def run() -> None:
        machine = Machine()
        exited = await machine.says(CHARON, Status.FAILING, Reason.CHARON_EXITED, within_s=10)
        assert "exited with" in exited.detail
        assert not any(e.check == CHARON and e.status is Status.PASSING for e in machine.seen)
        await machine.end()

    asyncio.run(run())
