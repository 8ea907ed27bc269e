"""Real certificates in real folders, two real channels over TLS on loopback, and strangers with whatever certificate."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from anycast.pki import certificates
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity, Role
from anycast.pki.root_folder import RootFolder
from site_agent.sync import identity
from site_agent.sync.channel import Channel, Plan
from site_agent.sync.identity import PinFile
from site_agent.sync.kinds import Kind
from site_agent.sync.versions import Versions
from site_agent.sync.words import Action, Deliver, Down, Submit, Up, WorkedOff
from tests.support.sync_world import VERSIONS

ONE, OTHER = "fra-gw1", "fra-gw2"
ADDRESS = {ONE: "127.0.0.1", OTHER: "127.0.0.2"}
FLEET = "example"
DAY = datetime.timedelta(days=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Root:
    """A root, and what it gives to machines, at any moment of the past."""

    def __init__(self, path: Path, *, at: datetime.datetime | None = None) -> None:
        self.folder = RootFolder(path)
        self.folder.init(FLEET, at or now(), certificates.ROOT_DAYS, None)

    def equip(
        self, folder: Path, name: str, *, role: Role = Role.GATEWAY, at: datetime.datetime | None = None, days: int = 365,
        renew: bool = False,
    ) -> MachineFolder:  # fmt: skip
        machine = MachineFolder(folder)
        request = certificates.pem(machine.request(name, role))
        leaf = self.folder.issue(name, role, request, at or now(), days, None, renew=renew)
        machine.install(certificates.pem(leaf, self.folder.root, self.folder.revocations))
        return machine

    def revoke(self, name: str, *, tell: MachineFolder, serial: int | None = None) -> None:
        _, revocations = self.folder.revoke(name, serial, now(), None)
        tell.install(certificates.pem(revocations))


class Gateway:
    """One channel, and what its owner saw."""

    def __init__(
        self, name: str, machine: MachineFolder, state: Path, port: int, *, versions: Versions = VERSIONS,
        wall: Callable[[], datetime.datetime] = now, address: str = "",
    ) -> None:  # fmt: skip
        other = OTHER if name == ONE else ONE
        plan = Plan(
            me=Identity(FLEET, Role.GATEWAY, name), peer=Identity(FLEET, Role.GATEWAY, other), port=port,
            own_address=address or ADDRESS[name], peer_address=ADDRESS[other],
        )  # fmt: skip
        state.mkdir(mode=0o700, exist_ok=True)
        self.pin_file = state / "peer.pin"
        self.got: list[tuple[Kind, bytes]] = []
        self.ups: list[Up] = []
        self.downs: list[Down] = []
        self.changed = asyncio.Event()
        self.works_off = True
        self.channel = Channel(
            plan, machine, PinFile(self.pin_file, plan.peer), versions, self._owner, look_every_s=0.05, wall=wall
        )

    def say(self, payload: bytes, kind: Kind = Kind.HA) -> None:
        self.channel.feed(Submit(kind, payload))

    def _owner(self, action: Action) -> None:
        match action:
            case Deliver(kind, payload, epoch):
                self.got.append((kind, payload))
                if self.works_off:
                    self.channel.feed(WorkedOff(kind.lane, epoch))
            case Up():
                self.ups.append(action)
            case Down():
                self.downs.append(action)
            case _:
                pass
        self.changed.set()


@contextlib.asynccontextmanager
async def running(*gateways: Gateway) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(gateway.channel.run()) for gateway in gateways]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended


async def until(what: str, holds: Callable[[], bool], limit_s: float = 20.0) -> None:
    """Patient with a busy machine; a test that waits for nothing to happen does not use it."""
    try:
        async with asyncio.timeout(limit_s):
            while not holds():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {limit_s} s: {what}") from None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def stranger(machine: MachineFolder | None, *, server: bool = False, alpn: str = identity.ALPN) -> ssl.SSLContext:
    """A context with a machine's certificate, or none, that believes everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols([alpn])
    if machine is not None:
        context.load_cert_chain(machine.identity_file)
    return context


class Stranger:
    """Speaks to a listening channel from the peer's own address."""

    def __init__(self, port: int, context: ssl.SSLContext, *, address: str = ADDRESS[ONE]) -> None:
        self._port, self._context, self._address = port, context, address
        self.heard = b""

    async def say(self, data: bytes, *, wait_s: float = 5.0) -> str:
        """Shake hands, say something, read until the end. How it ended."""
        try:
            async with asyncio.timeout(wait_s):
                reader, writer = await asyncio.open_connection(
                    ADDRESS[OTHER], self._port, ssl=self._context, local_addr=(self._address, 0)
                )
                try:
                    writer.write(data)
                    while piece := await reader.read(65_536):
                        self.heard += piece
                finally:
                    writer.transport.abort()
        except TimeoutError:
            return "still open"
        except (ssl.SSLError, OSError) as exc:
            return type(exc).__name__
        return "ended"


def refusals(gateway: Gateway) -> collections.Counter[str]:
    return gateway.channel.refused
