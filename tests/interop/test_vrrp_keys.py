"""Keys change under two running vrrp processes: nothing is refused in between, and what is not of ours still is."""

from __future__ import annotations

import datetime
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from site_agent.vrrp import key_file, pair_keys, wire
from site_agent.vrrp.packet import PROTOCOL
from tests.support.namespace import in_namespace
from tests.support.vrrp_pair import KEYS, Lan, Process, Stream, inside, own, send_raw

pytestmark = [pytest.mark.root, pytest.mark.alone]

NOW = datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC)


def gives(process: Process, keys: dict[int, bytes], in_use: int) -> None:
    """And has been told that it is so."""
    process.tell(wire.Keys(keys=keys, in_use=in_use))
    process.wait("has the keys", lambda status: (status.keys, status.key_in_use) == (sorted(keys), in_use))


def hears_sealed_with(process: Process, key_id: int) -> None:
    process.wait(f"hears key {key_id}", lambda status: status.peer_keys == [key_id])


def from_then_on(process: Process) -> wire.Status:
    """The next report: a second of advertisements later, where nothing happens."""
    began = len(process.heard)
    return process.wait("goes on", lambda status: len(process.heard) > began)


@in_namespace
def test_a_rotation_refuses_no_advertisement() -> None:
    with Lan() as lan, TemporaryDirectory() as folder:
        path = Path(folder) / "keys.json"
        key_file.make(path, pair_keys.first(b"k" * 32, NOW))
        keys, in_use = key_file.load_keys(path)
        active, backup = lan.pair(keys=keys, key_in_use=in_use)
        said = [len(active.heard), len(backup.heard)]
        with Stream() as stream:
            order = active, backup
            for step in (1, 2, 3):
                key_file.replace(path, pair_keys.rotated(key_file.load(path), b"n" * 32, NOW))
                for process in order:
                    gives(process, *key_file.load_keys(path))
                    from_then_on(process)
                for process in order:
                    hears_sealed_with(process, 1 if step == 1 else 2)
                order = order[1], order[0]
        assert key_file.load_keys(path) == ({2: b"n" * 32}, 2) and stream.lost == 0
        for process, role, before in zip((active, backup), ("active", "backup"), said, strict=True):
            status = from_then_on(process)
            assert status.discarded == {}, "an advertisement was refused"
            assert {status.role for status in process.heard[before:]} == {role}, "a transition"
            assert status.peer == "fit" or role == "backup"
            hears_sealed_with(process, 2)


@in_namespace
def test_a_key_that_is_not_had_is_refused_until_it_is() -> None:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        gives(backup, {1: KEYS[1], 2: b"n" * 32}, 2)  # switched before the other one has it
        status = active.wait("refuses", lambda status: status.discarded.get("outside:seal", 0) > 2)
        assert status.role == "active"
        active.wait("hears nobody", lambda status: status.peer == "silent" and status.peer_keys == [])
        gives(active, {1: KEYS[1], 2: b"other" + bytes(27)}, 1)  # the id alone is not enough
        refused = active.status.discarded["outside:seal"] if active.status else 0
        active.wait("still refuses", lambda status: status.discarded["outside:seal"] > refused + 2)
        active.wait("says so", lambda status: bool(status.faults))
        gives(active, {1: KEYS[1], 2: b"n" * 32}, 1)
        active.wait("hears it", lambda status: status.peer == "fit" and status.peer_keys == [2])
        assert all(status.role == "active" for status in active.heard[-5:])
        assert any("(seal): the keys differ" in fault for status in active.heard for fault in status.faults), (
            "nobody is told"
        )
        active.wait("has nothing to tell", lambda status: not status.faults)
        assert backup.status is not None and backup.status.role == "backup" and not backup.status.discarded


@in_namespace
def test_keys_that_cannot_be_used_change_nothing() -> None:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        good = wire.encode(wire.Keys(keys={2: b"n" * 32}, in_use=2))
        for bad in (good.replace(b'"in_use": 2', b'"in_use": 3'), good.replace(b"6e6e", b"6e", 1), good[:-9]):
            assert bad != good
            active.agent.send(bad)
        status = from_then_on(active)
        assert (status.keys, status.key_in_use, status.role) == ([1], 1, "active")
        assert backup.status is not None and not backup.status.discarded


@in_namespace
def test_a_pair_without_a_seal_is_not_sealed_by_a_message() -> None:
    with Lan() as lan:
        active, backup = lan.pair()
        active.tell(wire.Keys(keys=KEYS, in_use=1))
        status = from_then_on(active)
        assert (status.keys, status.role, status.discarded) == ([], "active", {})
        assert backup.status is not None and backup.status.role == "backup" and not backup.status.discarded


@in_namespace
def test_a_record_convinces_nobody_whatever_becomes_of_its_key() -> None:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        with inside("lan"):
            wires = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        wires.bind((f"p{backup.n}", 0))
        wires.settimeout(2)
        frame = b""
        while frame[14:15] != b"\x45" or frame[23] != PROTOCOL or frame[26:30] != own(backup.n, 4).packed:
            frame = wires.recv(2048)
        wires.close()
        both = {1: KEYS[1], 2: b"n" * 32}
        for keys, in_use, cause in ((both, 1, "replay"), (both, 2, "replay"), ({2: both[2]}, 2, "seal")):
            for process in (active, backup):
                gives(process, keys, in_use)
            hears_sealed_with(active, in_use)
            before = active.status.discarded.get(f"outside:{cause}", 0) if active.status else 0
            send_raw(frame[34:], own(backup.n, 4), own(active.n, 4), times=5)  # type: ignore[arg-type]
            active.wait(cause, lambda status: status.discarded.get(f"outside:{cause}", 0) == before + 5)  # noqa: B023
        assert active.status is not None and active.status.role == "active"
        assert sum(active.status.discarded.values()) == 15
