"""A charon that hangs, one that is flooded, and one that is merely asked: real charon, in namespaces. Nothing needs ESP.

A hang is made of what charon itself does when its log cannot be written: the log is a FIFO that nobody reads, so every
thread that says something waits in write(2), without processor time, until somebody reads it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from anycast.model import Status
from anycast.reasons import Reason
from site_agent.checks.base import Finding
from site_agent.checks.charon_answers import PRESSURES, CharonAnswersCheck
from site_agent.checks.connections import NAME as CONNECTIONS
from site_agent.checks.half_open import half_open_of
from site_agent.checks.ike_probe import IkeProbeCheck
from site_agent.checks.pressure import LOADAVG
from site_agent.checks.vici import NAME as VICI
from site_agent.checks.vici import ViciCheck
from site_agent.checks.vip import place_vips, present_addresses
from site_agent.ike.charon_process import CHARON
from site_agent.ike.prober import Outcome, Prober
from site_agent.ike.vici_client import ViciClient
from site_agent.procfs import read_file, read_stat
from tests.support.namespace import in_namespace

pytestmark = pytest.mark.root

VIPS = ("203.0.113.1", "2001:db8:a::1")
BASE = Path("/run/test")
SOCKET, LOG = BASE / "charon.vici", BASE / "charon.log"
# `cfg = 2` says each request at the control socket, so that VICI hangs with the log; few threads hang soon.
STRONGSWAN_CONF = f"""
charon {{
    load = random nonce openssl pem x509 pubkey kdf kernel-netlink socket-default vici
    threads = 8
    cookie_threshold = 30
    plugins {{ vici {{ socket = unix://{SOCKET} }} }}
    filelog {{ log {{ path = {LOG}
        flush_line = yes
        default = 1
        cfg = 2 }} }}
}}
swanctl {{ socket = unix://{SOCKET}\n load = random }}
"""
SWANCTL_CONF = """
connections { %s { local_addrs = 203.0.113.1, 2001:db8:a::1
    proposals = aes256gcm16-prfsha256-x25519
    local { auth = psk\n id = vpn.example.org }
    remote { auth = psk }
    children { vpn { } } } }
"""
ENVIRONMENT = {
    "STRONGSWAN_CONF": str(BASE / "strongswan.conf"),
    "SWANCTL_DIR": str(BASE / "swanctl"),
    "PATH": os.environ["PATH"],
}
F_SETPIPE_SZ = 1031
CALM = b"some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"


class Watched:
    """What an agent's own charon looks like to a check."""

    ready = True

    def __init__(self, pid: int) -> None:
        self.pid: int | None = pid


class Gateway:
    """A charon that logs into a FIFO, and who reads it."""

    def __init__(self, process: subprocess.Popen[bytes], log: int) -> None:
        self.process, self._log = process, log
        self.prober = Prober(VIPS, present_addresses)
        self.vici = ViciClient(str(SOCKET))
        self._loop = asyncio.get_running_loop()
        self.answers = CharonAnswersCheck(Watched(process.pid), str(SOCKET), self.prober, calm_machine)
        self.read_log()

    def read_log(self) -> None:
        self._loop.add_reader(self._log, lambda: os.read(self._log, 1 << 16))

    def hang(self) -> None:
        """From its next lines on charon waits for a reader of its log."""
        self._loop.remove_reader(self._log)
        fcntl.fcntl(self._log, F_SETPIPE_SZ, 4096)

    def fill_log(self) -> None:
        """So that the very next line waits."""
        writer = os.open(LOG, os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"\n")
        os.close(writer)

    def cpu_ticks(self) -> int:
        stat = read_stat(self.process.pid)
        assert stat is not None
        return stat.cpu_ticks


def calm_machine(path: str) -> bytes:
    """The kernel's word, but for how busy the other tests keep this machine: that is not what is tested."""
    if path in PRESSURES:
        return CALM
    return b"0.00 0.00 0.00 1/100 1\n" if path == LOADAVG else read_file(path)


def with_charon(
    test: Callable[[Gateway], Awaitable[None]], *, connection: str = "vpn", vips: tuple[str, ...] = VIPS
) -> None:
    (BASE / "swanctl").mkdir(parents=True)
    (BASE / "strongswan.conf").write_text(STRONGSWAN_CONF)
    (BASE / "swanctl" / "swanctl.conf").write_text(SWANCTL_CONF % connection)
    os.mkfifo(LOG)
    log = os.open(LOG, os.O_RDONLY | os.O_NONBLOCK)
    place_vips(vips)

    async def run() -> None:
        process = subprocess.Popen([CHARON], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        gateway = Gateway(process, log)
        try:
            async with asyncio.timeout(10):
                while not SOCKET.exists():
                    await asyncio.sleep(0.01)
                loading = await asyncio.create_subprocess_exec(
                    "swanctl",
                    "--load-all",
                    "--noprompt",
                    env=ENVIRONMENT,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                assert await loading.wait() == 0
            await test(gateway)
        finally:
            gateway.prober.close()
            gateway.vici.close()
            process.kill()
            process.wait()

    asyncio.run(run())


async def until(look: Callable[[], Awaitable[Finding]], status: Status, reason: Reason, *, within_s: float) -> Finding:
    """Look until this is what is found."""
    said: list[Finding] = []
    try:
        async with asyncio.timeout(within_s):
            while True:
                said.append(await look())
                if (said[-1].status, said[-1].reason) == (status, reason):
                    return said[-1]
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"never {status} {reason}, but {said}") from None


@in_namespace
def test_a_hundred_questions_reach_workers_on_every_end_and_leave_no_half_open_sa() -> None:
    async def asked(gateway: Gateway) -> None:
        before, slowest = half_open_of(await gateway.vici.request("stats", timeout_s=5)), 0.0
        for _ in range(25):
            ends = await gateway.prober.ask(5.0)
            assert {(one.address, one.port) for one in ends} == {(vip, port) for vip in VIPS for port in (500, 4500)}
            assert {one.outcome for one in ends} == {Outcome.WORKER}, "no cookie after the fourth either"
            slowest = max(slowest, *(one.latency_s or 9 for one in ends))
        assert half_open_of(await gateway.vici.request("stats", timeout_s=5)) == before == (0, 0)
        (found,) = await IkeProbeCheck(gateway.prober).look()
        assert (found.status, found.reason) == (Status.PASSING, Reason.HEALTHY), found
        assert found.value is not None and 0 < found.value < 500

    with_charon(asked)


@in_namespace
def test_a_backup_asks_its_own_charon_and_nobody_over_the_wire() -> None:
    """The VIP is at another machine, behind a route; its charon must not hear of it."""

    async def asked(gateway: Gateway) -> None:
        ends = await gateway.prober.ask(5.0)
        assert {one.address for one in ends} == {"127.0.0.1", "::1"}
        assert {one.outcome for one in ends} == {Outcome.WORKER}
        await asyncio.to_thread(place_vips, VIPS)
        assert {one.address for one in await gateway.prober.ask(5.0)} == set(VIPS)

    with_charon(asked, vips=())


@in_namespace
def test_only_the_answer_to_the_own_question_counts() -> None:
    place_vips(("127.0.0.1", *VIPS))
    fake = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    fake.bind((VIPS[0], 500))

    async def run() -> None:
        loop = asyncio.get_running_loop()
        prober = Prober(VIPS[:1], present_addresses)
        asking = asyncio.create_task(prober.ask(0.3))
        question, peer = await loop.sock_recvfrom(fake, 4096)
        refusal = bytes.fromhex("00" * 8 + "29 20 22 20 00000000 00000024 00000008 0000000e")
        fake.sendto(b"another!" + refusal, peer)
        fake.sendto(question, peer)
        outcomes = {one.port: one.outcome for one in await asking}
        assert outcomes == {500: Outcome.SILENT, 4500: Outcome.NOBODY}, "no socket on 4500: nobody listens"
        again = asyncio.create_task(prober.ask(5.0))
        await asyncio.sleep(0)
        fake.sendto(question[:8] + refusal, peer)
        assert next(one for one in await again if one.port == 500).outcome is Outcome.WORKER, "the same question still waits"
        with pytest.raises(BlockingIOError):
            fake.recv(4096)
        prober.close()

    asyncio.run(run())


@in_namespace
def test_a_hung_charon_is_a_fact_and_a_mended_one_is_healthy() -> None:
    async def hangs(gateway: Gateway) -> None:
        async def look() -> Finding:
            return (await gateway.answers.look())[0]

        await until(look, Status.PASSING, Reason.HEALTHY, within_s=5)
        assert (await IkeProbeCheck(gateway.prober).look())[0].status is Status.PASSING
        before = gateway.cpu_ticks()
        gateway.hang()
        found = await until(look, Status.FAILING, Reason.CHARON_SILENT, within_s=60)
        assert gateway.process.poll() is None and (stat := read_stat(gateway.process.pid)) is not None
        assert stat.state == "S", "it exists, is not stopped, and sleeps"
        assert gateway.cpu_ticks() - before < 20
        (probe,) = await IkeProbeCheck(gateway.prober).look()
        assert probe.reason in (Reason.IKE_UNANSWERED, Reason.IKE_COOKIE), (probe, found)
        vici = await ViciCheck(gateway.vici).look()
        assert vici[0].reason is Reason.VICI_SILENT, "a full backlog is silence as well"
        gateway.read_log()
        await until(look, Status.PASSING, Reason.HEALTHY, within_s=20)

        async def probe_again() -> Finding:
            return (await IkeProbeCheck(gateway.prober).look())[0]

        # charon's receiver wants cookies for 10 s after it last did.
        await until(probe_again, Status.PASSING, Reason.HEALTHY, within_s=60)

    with_charon(hangs)


@in_namespace
def test_a_charon_that_answers_late_is_slow_and_a_quick_one_is_not() -> None:
    async def late(gateway: Gateway) -> None:
        async def probe() -> Finding:
            return (await IkeProbeCheck(gateway.prober).look())[0]

        async def held_up() -> Finding:
            gateway.hang()
            gateway.fill_log()
            asyncio.get_running_loop().call_later(0.6, gateway.read_log)
            return await probe()

        found = await until(held_up, Status.FAILING, Reason.IKE_SLOW, within_s=60)
        assert found.value is not None and 500 <= found.value < 1000
        await until(probe, Status.PASSING, Reason.HEALTHY, within_s=30)

    with_charon(late)


@pytest.mark.long
@in_namespace
def test_an_agent_that_starts_over_a_hung_charon_knows_who_was_heard_before() -> None:
    async def hangs(gateway: Gateway) -> None:
        record = BASE / "charon.heard"

        def another(record: Path | None) -> tuple[CharonAnswersCheck, Prober]:
            prober = Prober(VIPS, present_addresses)
            check = CharonAnswersCheck(Watched(gateway.process.pid), str(SOCKET), prober, calm_machine, record=record)
            return check, prober

        first, prober = another(record)
        assert (await prober.ask(5.0))[0].outcome is Outcome.WORKER
        assert (await first.look())[0].status is Status.PASSING
        prober.close()
        gateway.hang()
        await until(lambda: one_look(gateway.answers), Status.UNKNOWN, Reason.VICI_SILENT, within_s=60)
        with_record, prober = another(record)
        try:
            (found,) = await with_record.look()
            assert (found.status, found.reason) == (Status.FAILING, Reason.CHARON_SILENT), found
        finally:
            prober.close()
        of_another = json.loads(record.read_text())
        record.write_text(json.dumps(of_another | {"start_ticks": of_another["start_ticks"] - 1}))
        without, prober = another(record)
        try:
            (found,) = await without.look()
            assert (found.status, found.reason) == (Status.UNKNOWN, Reason.VICI_SILENT), "another process was heard"
        finally:
            prober.close()

    async def one_look(check: CharonAnswersCheck) -> Finding:
        return (await check.look())[0]

    with_charon(hangs)


@in_namespace
def test_a_charon_that_hangs_on_a_busy_machine_is_no_fact() -> None:
    async def hangs(gateway: Gateway) -> None:
        started = time.monotonic()

        def busy_machine(path: str) -> bytes:
            waited_us = int(0.8e6 * (time.monotonic() - started))
            return CALM.replace(b"total=5", b"total=%d" % waited_us) if path == PRESSURES[0] else calm_machine(path)

        check = CharonAnswersCheck(Watched(gateway.process.pid), str(SOCKET), gateway.prober, busy_machine)

        async def look() -> Finding:
            return (await check.look())[0]

        await until(look, Status.PASSING, Reason.HEALTHY, within_s=5)
        assert (await IkeProbeCheck(gateway.prober).look())[0].status is Status.PASSING
        gateway.hang()
        found = await until(look, Status.UNKNOWN, Reason.VICI_SILENT, within_s=60)
        assert "tasks waited for" in found.detail or "a round of" in found.detail

    with_charon(hangs)


@contextlib.asynccontextmanager
async def silent_socket(path: Path) -> AsyncIterator[None]:
    """A control socket that accepts and says nothing."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(1)  # two connections wait in it; the third is told to try again
        yield


@in_namespace
def test_a_silent_control_socket_alone_is_no_fact() -> None:
    async def half_deaf(gateway: Gateway) -> None:
        path = BASE / "deaf.vici"
        check = CharonAnswersCheck(Watched(gateway.process.pid), str(path), gateway.prober, calm_machine)
        async with silent_socket(path):
            for _ in range(4):
                (found,) = await check.look()
                assert (found.status, found.reason) == (Status.PASSING, Reason.HEALTHY), found
                assert "IKE" in found.detail
            (vici, *_) = await ViciCheck(ViciClient(str(path))).look()
            assert (vici.status, vici.reason) == (Status.UNKNOWN, Reason.VICI_SILENT), "also with a full backlog"

    with_charon(half_deaf)


DROP = """
table inet theirs {
    chain in {
        type filter hook input priority 0
        iif lo udp dport { 500, 4500 } drop
    }
}
"""


@pytest.mark.long
@in_namespace
def test_ike_that_was_never_heard_does_not_make_a_silent_control_socket_a_fact() -> None:
    """An operator's firewall drops what comes by loopback; charon itself is in good health."""

    async def unheard(gateway: Gateway) -> None:
        subprocess.run(["nft", "-f", "-"], input=DROP, text=True, check=True)
        path = BASE / "gone.vici"
        path.symlink_to(SOCKET)
        check = CharonAnswersCheck(Watched(gateway.process.pid), str(path), gateway.prober, calm_machine)
        (found,) = await check.look()
        assert found.status is Status.PASSING, "its plugins are known from now on"
        (probe,) = await IkeProbeCheck(gateway.prober).look()
        assert probe.reason is Reason.IKE_UNANSWERED, "nothing comes through"
        path.unlink()
        check._vici.close()  # its next connection finds the other socket
        async with silent_socket(path):
            for _ in range(3):
                (found,) = await check.look()
                assert (found.status, found.reason) == (Status.UNKNOWN, Reason.VICI_SILENT), found
            assert "IKE never answered" in found.detail
            subprocess.run(["nft", "delete", "table", "inet", "theirs"], check=True)
            (found,) = await until_heard(check)
            assert found.status is Status.PASSING

    async def until_heard(check: CharonAnswersCheck) -> list[Finding]:
        async with asyncio.timeout(30):  # the question that was dropped is asked again after 10 s
            while True:
                if "IKE" in (found := list(await check.look()))[0].detail and found[0].status is Status.PASSING:
                    return found

    with_charon(unheard)


@in_namespace
def test_a_flood_of_handshakes_is_a_cookie_and_evidence_of_nothing() -> None:
    """Half-open SAs of documentation addresses: past its threshold charon's receiver answers, and no worker."""

    async def flooded(gateway: Gateway) -> None:
        path = BASE / "deaf.vici"
        check = CharonAnswersCheck(Watched(gateway.process.pid), str(path), gateway.prober, calm_machine)
        subprocess.run(["ip", "addr", "add", "198.51.100.1/24", "dev", "lo"], check=True)
        for host in range(1, 60):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.bind((f"198.51.100.{host}", 0))
                stranger.sendto(real_question(), (VIPS[0], 500))

        async def probe() -> Finding:
            return (await IkeProbeCheck(gateway.prober).look())[0]

        await until(probe, Status.UNKNOWN, Reason.IKE_COOKIE, within_s=10)
        _, half_open = half_open_of(await gateway.vici.request("stats", timeout_s=5))
        assert half_open > 10, "those that nobody finishes are what it defends itself against"
        async with silent_socket(path):
            (found,) = await check.look()
            assert found.status is Status.PASSING, "a worker answers who brings the cookie back"
            assert "IKE" in found.detail
        ends = await gateway.prober.ask(5.0)
        assert {(one.outcome, one.cookie) for one in ends} == {(Outcome.WORKER, True)}

    with_charon(flooded)


def real_question() -> bytes:
    """An IKE_SA_INIT that the connection accepts: AES-GCM-256, SHA-256, Curve25519."""
    transforms = (
        struct.pack("!BxHBxHHH", 3, 12, 1, 20, 0x800E, 256)
        + struct.pack("!BxHBxH", 3, 8, 2, 5)
        + struct.pack("!BxHBxH", 0, 8, 4, 31)
    )
    proposal = struct.pack("!BxHBBBB", 0, 8 + len(transforms), 1, 1, 0, 3) + transforms
    parts = ((34, proposal), (40, struct.pack("!Hxx", 31) + bytes([9]) + os.urandom(30) + b"\x01"), (0, os.urandom(32)))
    body = b"".join(struct.pack("!BBH", following, 0, 4 + len(data)) + data for following, data in parts)
    return struct.pack("!8s8xBBBBII", os.urandom(8), 33, 0x20, 34, 8, 0, 28 + len(body)) + body


@in_namespace
def test_rendered_connections_that_charon_has_not_are_named() -> None:
    async def other(gateway: Gateway) -> None:
        vici, _, connections = await ViciCheck(gateway.vici, ("vpn", "other")).look()
        assert (vici.name, vici.status) == (VICI, Status.PASSING)
        assert (connections.name, connections.reason) == (CONNECTIONS, Reason.CONNECTIONS_NOT_LOADED)
        assert connections.detail == "charon has not loaded vpn"
        await gateway.vici.request("unload-conn", {"name": "other"}, timeout_s=5)
        assert (await ViciCheck(gateway.vici).look())[2].reason is Reason.CONNECTIONS_NOT_LOADED

    with_charon(other, connection="other")
