"""A client that moved is rekeyed, IKE_SA first, by the Active and nobody else. charon is a script here, on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from vici.protocol import Message, Packet

from site_agent.ike import rekey_queue, rekeyer
from site_agent.ike.vici_client import Section
from site_agent.sync import moved
from site_agent.sync.rekeys import Rekeys


def client(ike: str) -> Section:
    """CHILD_SAs 7 and 8 of IKE_SA 3 are 37 and 38."""
    return {"child-sas": {
        "vpn-7": {"uniqueid": f"{ike}7", "state": "INSTALLED"}, "vpn-8": {"uniqueid": f"{ike}8", "state": "REKEYED"},
    }}  # fmt: skip


class Charon:
    """Speaks VICI (src/libcharon/plugins/vici/README.md). Every tunnel looks like `client`."""

    def __init__(self) -> None:
        self.rekeyed: list[tuple[str, str]] = []
        self.listeners: list[asyncio.StreamWriter] = []
        self.registered = asyncio.Event()
        self.done = asyncio.Event()
        self.rekeys: Rekeys | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                (length,) = struct.unpack("!I", await reader.readexactly(4))
                packet = await reader.readexactly(length)
                kind, name = packet[0], packet[2 : 2 + packet[1]].decode()
                if kind == Packet.EVENT_REGISTER and name == "ike-update":
                    self.listeners.append(writer)
                    self.registered.set()
                if kind != Packet.CMD_REQUEST:
                    self._send(writer, bytes([Packet.EVENT_CONFIRM]))
                    continue
                which = Message.deserialize(_reader(packet[2 + packet[1] :]))
                if name == "list-sas":
                    self._send(writer, _event("list-sa", {"vpn": client(which["ike-id"].decode())}))
                else:
                    self.rekeyed += [(key, value.decode()) for key, value in which.items()]
                    if "child-id" in which:
                        self.done.set()
                self._send(writer, bytes([Packet.CMD_RESPONSE]))

    def tell(self, section: Section) -> None:
        for writer in self.listeners:
            self._send(writer, _event("ike-update", section))

    @staticmethod
    def _send(writer: asyncio.StreamWriter, packet: bytes) -> None:
        writer.write(struct.pack("!I", len(packet)) + packet)


def _reader(data: bytes) -> object:
    return Packet.parse(bytes([Packet.CMD_RESPONSE]) + data).payload


def _event(name: str, section: Section) -> bytes:
    return bytes([Packet.EVENT, len(name)]) + name.encode() + Message.serialize(section)


@contextlib.asynccontextmanager
async def running(folder: Path, *, active: bool = True) -> AsyncIterator[Charon]:
    charon, path = Charon(), str(folder / "vici")
    server = await asyncio.start_unix_server(charon.serve, path)
    rekeys = Rekeys(
        path, ["vpn"], taken_over=list, spent=list, refused=lambda refused: None, tell_ages=lambda body: None,
        ike_rekey_s=14_400, ike_over_s=1_440, ended=lambda name: None,
    )  # fmt: skip
    if active:
        rekeys.begin()
    charon.rekeys = rekeys
    task = asyncio.create_task(rekeys.run())
    try:
        async with asyncio.timeout(5):
            await charon.registered.wait()
            yield charon
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        server.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moved, "SETTLE_S", 0.05)
    monkeypatch.setattr(rekey_queue, "IKE_FIRST_S", 0.0)


def told(name: str = "vpn", unique: str = "3") -> Section:
    return {"remote-host": "198.51.100.67", "remote-port": "4500", name: {"uniqueid": unique, "state": "ESTABLISHED"}}


def test_ike_sa_then_child_sas(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as charon:
            charon.tell(told())
            await charon.done.wait()
            assert charon.rekeyed == [("ike-id", "3"), ("child-id", "37")], (
                "the IKE_SA first; nothing that is replaced already"
            )

    asyncio.run(run())


def test_many_paths_are_one_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moved, "SETTLE_S", 0.3)

    async def run() -> None:
        async with running(tmp_path) as charon:
            for _ in range(5):
                charon.tell(told())
                await asyncio.sleep(0.02)
            charon.tell(told(unique="4"))
            await charon.done.wait()
            charon.done.clear()
            await charon.done.wait()
            assert [value for key, value in charon.rekeyed if key == "ike-id"] == ["3", "4"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("roles", "name"),
    [([False, True], "vpn"), ([True, False], "vpn"), ([True, True], "somebody-elses")],
    ids=["heard as Backup", "Backup meanwhile", "not the service's"],
)
def test_not_a_backup_and_not_a_foreign_connection(tmp_path: Path, roles: list[bool], name: str) -> None:
    """`roles`: when the client moves, and a moment later."""

    async def run() -> None:
        async with running(tmp_path, active=roles[0]) as charon:
            charon.tell(told(name))
            await asyncio.sleep(0.01)
            assert charon.rekeys is not None
            charon.rekeys.begin() if roles[1] else charon.rekeys.stopped()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(charon.done.wait(), 0.3)
            assert charon.rekeyed == []

    asyncio.run(run())


def test_another_charon_is_listened_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rekeyer, "AGAIN_S", 0.02)

    async def run() -> None:
        async with running(tmp_path) as charon:
            charon.registered.clear()
            charon.listeners.pop().close()
            await charon.registered.wait()
            charon.tell(told())
            await charon.done.wait()

    asyncio.run(run())
