"""A fleet of agents' ends in one process: real TLS 1.3 with a certificate each, around a gateway that is a few numbers.

Certificates are all of one key, which saves the making of a thousand; the coordinator does the same work for each.
Documents are compiled by the product, one site's, with other names. The first agent that is sent a content judges it by the
product's own code, as its machine would; the others compare the bytes with those that it judged, and hash their own
document: a thousand judgements are a thousand machines' work, and there are not so many here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from anycast import link_wire, token_wire
from anycast.content.canonical import hash_of
from anycast.content.content import Budget, Content, Gateway, Site
from anycast.content.record import NOTHING, Record
from anycast.document import Document
from anycast.link_offer import PACKED, unpacked
from anycast.link_stream import read_message
from anycast.link_wire import ContentsTold, DarknessTold, Hello, Message, OfferPacked, Report, VersionTold, Welcome
from anycast.pki import certificates, tls
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity, Role
from anycast.policy import acceptance
from tests.support.contents import TRUSTED, made
from tests.support.coordinator import Coordinator
from tests.support.sync_pair import FLEET, now

PAIR = ("gw1", "gw2")
AT_ONCE = 32
"""Handshakes; the kernel's backlog and the coordinator's limit of 5 s are for strangers."""


@dataclasses.dataclass(frozen=True)
class Named:
    """A content of so many sites, and every gateway's document."""

    content: Content
    documents: dict[str, str]


def contents_of(sites: int, *, capacity: int) -> Named:
    """Of two gateways a site. `capacity` tells one content from another."""
    one = made()
    announces = one.content.sites["fra"].gateways["fra-gw1"].announces
    template = Document.model_validate_json(one.documents["fra-gw1"])
    documents, found = {}, {}
    for number in range(sites):
        name, gateways = f"s{number:04}", {}
        for gateway in (f"{name}-{each}" for each in PAIR):
            text = template.model_copy(update={"site": name, "gateway": gateway}).canonical().decode()
            documents[gateway] = text
            gateways[gateway] = Gateway(document=hash_of(text), announces=announces)
        found[name] = Site(intent=one.content.sites["fra"].intent, capacity=capacity, gateways=gateways)
    budget = Budget(min_sites=max(1, sites * 9 // 10))
    return Named(one.content.model_copy(update={"budget": budget, "sites": found}), documents)


class Judged:
    """What the first agent of a content found, for those that are sent the same bytes."""

    def __init__(self) -> None:
        self._record: Record = NOTHING
        self._envelope = ""
        self._content: Content
        self._version: VersionTold
        self.seconds: list[float] = []
        """What each judgement took."""

    def judge(self, agent: Agent, sent: OfferPacked) -> VersionTold:
        """Raises AssertionError where it is not to be taken."""
        if self._envelope != sent.envelope:
            begun = time.perf_counter()
            me = acceptance.Identity(fleet=FLEET, site=agent.site, gateway=agent.name)
            answer = acceptance.offer(self._record, me, TRUSTED, unpacked(sent))
            self.seconds.append(time.perf_counter() - begun)
            assert answer.refusal is None and answer.record.staged is not None, answer.detail
            self._record, self._envelope, taken = answer.record, sent.envelope, answer.record.staged
            self._content = taken.decoded
            self._version = VersionTold(generation=taken.generation, hash=taken.hash)
        assert hash_of(sent.document) == self._content.sites[agent.site].gateways[agent.name].document
        return self._version


class Agent:
    """One gateway's end: introduces itself, reports at each heartbeat and when it has staged something."""

    def __init__(self, name: str, context: ssl.SSLContext, judged: Judged) -> None:
        self.name, self.site = name, name.rpartition("-")[0]
        self.staged: VersionTold | None = None
        self._context, self._judged = context, judged
        self._number = self._quotes = 0
        self._writer: asyncio.StreamWriter | None = None

    @property
    def connected(self) -> bool:
        return self._writer is not None

    async def connect(self, port: int) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=self._context, server_hostname="coord")
        writer.write(link_wire.encode(self._hello()))
        assert isinstance(await read_message(reader, link_wire.LONGEST_OFFER), Welcome)
        self._writer = writer
        return reader

    def _hello(self) -> Hello:
        return Hello(
            protocols=(1,), fleet=FLEET, site=self.site, gateway=self.name, agent="0.1.0", instance=f"i{self.name}",
            boot="b", takes=(PACKED,),
        )  # fmt: skip

    def report(self) -> None:
        """As an agent's heartbeat: what it is, and what the ledger wants to know."""
        assert self._writer is not None
        self._number += 1
        told = token_wire.Report(seq=self._number, quotes=self._quotes, announcing=True, reason="healthy")
        report = Report(
            number=self._number, document="0" * 64, generation=0, serving=True, announced=1, routes=1, role="none",
            tunnels=1000, decrypted=self._number, encrypted=self._number, shared={"dns": "passing"},
            contents=ContentsTold(staged=self.staged),
        )  # fmt: skip
        self._writer.write(
            link_wire.encode(report) + link_wire.encode(DarknessTold(data=token_wire.encode(told).decode()))
        )

    async def listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            self._heard(await read_message(reader, link_wire.LONGEST_OFFER))

    def _heard(self, message: Message | None) -> None:
        if isinstance(message, OfferPacked):
            self.staged = self._judged.judge(self, message)
            self.report()
        elif isinstance(message, DarknessTold):
            self._quotes = token_wire.decode_answer(message.data.encode()).n

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


class Fleet:
    """All of them. Use from one event loop."""

    def __init__(self, coordinator: Coordinator, names: list[str], folder: Path) -> None:
        self.judged, self._port = Judged(), coordinator.port
        contexts = _contexts(coordinator, names, folder)
        self.agents = [Agent(name, context, self.judged) for name, context in zip(names, contexts, strict=True)]
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        """Everybody is connected, and has said so once, when this returns."""
        gate = asyncio.Semaphore(AT_ONCE)
        self._tasks.append(asyncio.create_task(self._heartbeats()))

        async def one(agent: Agent) -> None:
            async with gate:
                reader = await agent.connect(self._port)
            agent.report()
            self._tasks.append(asyncio.create_task(agent.listen(reader)))

        await asyncio.gather(*map(one, self.agents))

    async def _heartbeats(self) -> None:
        """Spread over the heartbeat, as a fleet's are."""
        pause = link_wire.HEARTBEAT_S / 20
        while True:
            for part in range(20):
                await asyncio.sleep(pause)
                for agent in self.agents[part::20]:
                    if agent.connected:
                        agent.report()

    def look(self) -> None:
        """Raises what ended an agent's end."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for agent in self.agents:
            agent.close()


def _contexts(coordinator: Coordinator, names: list[str], folder: Path) -> list[ssl.SSLContext]:
    root = coordinator.root.folder
    root_key = certificates.read_key((root.path / "root.key").read_bytes())
    root_certificate, key = root.root, certificates.new_key()
    machine = MachineFolder(folder)
    folder.mkdir(mode=0o700)
    machine.roots_file.write_bytes(certificates.pem(root_certificate))
    machine.list_file.write_bytes(certificates.pem(root.revocations))
    return [_context(machine, name, key, certificates.issue(
        root_certificate, root_key, key.public_key(), Identity(FLEET, Role.GATEWAY, name), now()
    )) for name in names]  # fmt: skip


def _context(
    machine: MachineFolder, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> ssl.SSLContext:
    machine.identity_file.write_bytes(certificates.pem(certificate) + certificates.key_pem(key))
    machine.identity_file.chmod(0o600)
    return tls.load(machine, Identity(FLEET, Role.GATEWAY, name), link_wire.ALPN).calling
