"""The canary's charon in its cage: started, furnished, loaded, and started again when it ends. It ends with the agent.

Unlike charon and ExaBGP it serves nobody, so it need not outlive the agent and nobody adopts it: a new agent makes a new
one, which is a client that connects again. What its charon says is read from a pipe and only the last line about a failure
is kept: it tells why a handshake failed, and no log grows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from anycast.document import Document
from anycast.errors import AnycastError, BugError, KernelError, PeerError
from anycast.runtime import boottime
from site_agent import priority
from site_agent.canary import cable, plan
from site_agent.canary.cage import PACKET
from site_agent.canary.tunnels import connection
from site_agent.daemon_process import Backoff
from site_agent.ike.charon_process import CHARON
from site_agent.ike.vici_client import ViciClient
from site_agent.patience import OneAtATime, read_file
from site_agent.render.strongswan import CANARY_CONF

_T = TypeVar("_T")
PROGRAM, DOOR = (Path(__file__).with_name(name) for name in ("cage.py", "door.py"))
ACCOUNTS = ("site-agent-canary", "nobody")
"""Whose files and processes the caged charon may touch: the account that our sysusers.d makes, else one without any."""
FIRST_START_S = 2.0
"""An agent's own start is its busiest moment, and somebody's route waits for it: the canary comes after that."""
MAKING_LIMIT_S = 30.0
"""A Python that starts, an `ip` and a charon: 0.2 s, 5 s in a busy User Mode Linux."""
LOAD_LIMIT_S = 5.0
READ_LIMIT_S = 5.0
FAREWELL_S = 1.0
"""For charon to tell the gateway that this client leaves."""
TROUBLE = re.compile(r"fail|error|no proposal|refus|giving up|unable|not (?:valid|found|trusted)|expired", re.IGNORECASE)
PACKETS = re.compile(r"(?:parsed|generating|received|sending) [A-Z_0-9]+ (?:request|response)|(?:received|sending) packet")
"""What is in a message; what it means stands in the next line."""
LOG_PREFIX = re.compile(r"^\d+\[\w+\] (?:<[^>]*> )?")


class Cage:
    """One life of the caged charon."""

    def __init__(self, pid: int, *, gid: int, run: str, esp: bool, sockets: list[socket.socket]) -> None:
        """`gid` is the group that its control socket belongs to."""
        self.pid, self._gid = pid, gid
        self.vici = ViciClient(f"/proc/{pid}/root{run}/charon.vici", self._through_the_door)
        self._patience_s = LOAD_LIMIT_S
        self.esp = esp
        """Its kernel can encrypt."""
        self.icmp = {4: sockets[0], 6: sockets[1]}
        """Raw sockets in its network namespace, by IP version."""

    async def _through_the_door(self) -> socket.socket:
        """A connection to its charon (`door.py`), the first time waited for. Raises PeerError, OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours, theirs:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(DOOR), str(theirs.fileno()), self.vici.path, str(self._patience_s),
                pass_fds=[theirs.fileno()], extra_groups=sorted({*os.getgroups(), self._gid}), cwd="/",
                stdin=asyncio.subprocess.DEVNULL, env={},
            )  # fmt: skip
            theirs.close()
            try:
                _, (sock,) = await _answer(ours, "connected")
            finally:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()  # its only word has been said, or nobody waits for it any more
                await child.wait()
        self._patience_s = 0.0
        return sock

    def close(self) -> None:
        self.vici.close()
        for sock in self.icmp.values():
            sock.close()


class Canary:
    """Owner of the cage. `run` it as a task of the agent's main thread: the kernel ends the cage with that thread."""

    def __init__(self, document: Document, *, etc_dir: Path) -> None:
        """The rendered settings of the caged charon lie below `etc_dir`. Raises BugError where no canary is configured."""
        config = document.service.checks.canary
        if config is None:
            raise BugError("no canary is configured")
        self._document, self._config = document, config
        self._strongswan_conf = etc_dir / CANARY_CONF
        self._outer = plan.outer_addresses(document)
        self._reader = OneAtATime("canary files")
        self.last_words = ""
        """What its charon last said about a failure."""
        self._news = asyncio.Event()
        self._made: Cage | None = None
        self.cage: Cage | None = None
        """None while there is none, or not yet."""
        self.problem = ""
        """Why there is none; empty while one is being made."""

    @property
    def identity(self) -> str:
        """Its IKE identity."""
        return self._config.identity

    @property
    def targets(self) -> tuple[str, ...]:
        return self._config.targets

    async def run(self) -> None:
        """Keep a canary in its cage until cancelled; then let it go."""
        await asyncio.sleep(FIRST_START_S)
        backoff = Backoff(first_s=1.0, cap_s=60.0)
        while True:
            began = boottime()
            try:
                await self._live_once()
                # One that had been at home is started anew, and that is all; one that keeps dying is a problem.
                short = boottime() - began < backoff.stable_s
                self.problem = self._with_last_words("its charon ended") if short else ""
            except (AnycastError, OSError, ValueError, TimeoutError) as exc:
                self.problem = self._with_last_words(str(exc) or "its charon did not come up in time")
            except Exception as exc:
                self.problem = repr(exc)  # a mistake of ours: the check says so, the bulkhead begins again
                self._tell()
                raise
            self._tell()
            await asyncio.sleep(backoff.after(boottime() - began))

    async def known(self) -> None:
        """Wait until there is a cage, or a problem that keeps it from being."""
        while self.cage is None and not self.problem:
            await self._news.wait()

    def forget_words(self) -> None:
        """After a success: what was said before is no longer the cause."""
        self.last_words = ""

    def _with_last_words(self, what: str) -> str:
        return f"{what}: {self.last_words}" if self.last_words else what

    def _tell(self) -> None:
        self._news.set()
        self._news.clear()

    async def _live_once(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours, theirs:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(PROGRAM), str(theirs.fileno()), pass_fds=[theirs.fileno()],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, cwd="/", start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            theirs.close()
            priority.make_ordinary(child.pid)  # before its order: it has started nothing yet
            listening = asyncio.ensure_future(self._listen(child))
            try:
                async with asyncio.timeout(MAKING_LIMIT_S):
                    self._made = await self._furnish(child, ours)
                    await self.load(self._made)
                self.cage, self.problem = self._made, ""
                self._tell()
                await child.wait()
            finally:
                if self._made is not None:
                    self._made.close()
                    self._made = self.cage = None
                await _end(child)
                listening.cancel()
                await asyncio.wait([listening])

    async def _furnish(self, child: asyncio.subprocess.Process, ours: socket.socket) -> Cage:
        uid, gid = await self._patiently(_account)
        order = {
            "charon": str(CHARON),
            "strongswan_conf": (await self._patiently(lambda: read_file(self._strongswan_conf))).decode(),
            "interface_batch": plan.interface_batch(self._outer),
        }
        ours.send(json.dumps(order).encode())
        made, _ = await _answer(ours, "made")
        if made["user_namespace"]:
            # Written from outside, where the rights to do so are; inside, nobody is anybody before.
            Path(f"/proc/{child.pid}/uid_map").write_text(f"0 {uid} 1\n")
            Path(f"/proc/{child.pid}/gid_map").write_text(f"0 {gid} 1\n")
        await asyncio.to_thread(cable.lay, self._outer, child.pid)
        ours.send(json.dumps({"wired": True}).encode())
        ready, sockets = await _answer(ours, "ready")
        owner = gid if made["user_namespace"] else os.getegid()
        return Cage(child.pid, gid=owner, run=ready["run"], esp=ready["esp"], sockets=sockets)

    def credentials_version(self) -> tuple[int, ...]:
        """Differs whenever certificate, key or root were written anew."""
        versions = []
        for path in (self._config.certificate, self._config.private_key, self._config.gateway_ca):
            with contextlib.suppress(OSError):  # `load` says what is wrong with it
                found = os.stat(path)
                versions += [found.st_ino, found.st_mtime_ns]
        return tuple(versions)

    async def load(self, cage: Cage) -> None:
        """Certificate, key and connections as their files are now, by VICI: no secret lies in a file of ours.

        Raises PeerError (its charon refuses them, or a file cannot be read) or TimeoutError.
        """
        paths = self._config.certificate, self._config.private_key, self._config.gateway_ca
        try:
            certificate, key, gateway_ca = await self._patiently(lambda: [read_file(Path(path)) for path in paths])
        except OSError as exc:
            raise PeerError("canary", f"{exc.filename}: {exc.strerror}") from exc
        messages: list[tuple[str, dict[str, Any]]] = [
            ("load-cert", {"type": "X509", "flag": "CA", "data": gateway_ca}),
            ("load-key", {"type": "any", "data": key}),
        ]
        for way in self._outer:
            settings = connection(
                self._document.service, self._config, way.vip, certificate=certificate, gateway_ca=gateway_ca
            )
            messages.append(("load-conn", settings))
        for command, message in messages:
            await cage.vici.request(command, message, timeout_s=LOAD_LIMIT_S)

    async def _patiently(self, work: Callable[[], _T]) -> _T:
        """What `work` reads from disks, or asks of whoever knows accounts. Raises PeerError where that takes too long."""
        try:
            return await self._reader.run(work, limit_s=READ_LIMIT_S)
        except TimeoutError:
            raise PeerError("canary", f"its files cannot be read within {READ_LIMIT_S:g} s: a disk hangs") from None

    async def _listen(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdout is not None
        while True:
            try:
                line = await child.stdout.readline()
            except ValueError:  # longer than the reader's limit
                continue
            if not line:
                return
            said = LOG_PREFIX.sub("", line.decode(errors="replace").strip())
            if TROUBLE.search(said) and not PACKETS.match(said):
                self.last_words = said


async def _answer(ours: socket.socket, word: str) -> tuple[dict[str, Any], list[socket.socket]]:
    """The cage's next packet, which must be about `word`. Raises PeerError."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(ours, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(ours)
    data, fds, _, _ = socket.recv_fds(ours, PACKET, 2)
    sockets = [socket.socket(fileno=fd) for fd in fds]
    packet = json.loads(data or b"{}")
    if word not in packet:
        for sock in sockets:
            sock.close()
        raise PeerError("canary", str(packet.get("failed", "its cage ended")))
    for sock in sockets:
        sock.setblocking(False)
    return packet[word], sockets


async def _end(child: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await child.wait()


def _account() -> tuple[int, int]:
    for name in ACCOUNTS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise KernelError(2, f"find one of the accounts {', '.join(ACCOUNTS)}")
