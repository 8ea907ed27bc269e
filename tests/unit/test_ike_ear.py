"""The ear on a cable: what passes there while it is open, and nothing that passed elsewhere before it was bound."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

import pytest

from anycast_lab.capture.frames import Ike
from anycast_lab.drills import ike_ear

IKE = bytes(4) + struct.pack("!QQBBBBII", 1, 2, 46, 0x20, 37, 0x08, 7, 28)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a raw socket needs root")


class Here:
    """A lab whose every node is this process."""

    def pid(self, _node: str) -> int:
        return os.getpid()


def send() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(IKE, ("127.0.0.1", 4500))


def test_a_message_is_heard_and_told_apart_by_its_way() -> None:
    async def listen() -> None:
        with ike_ear.open_ear(Here(), "node", "lo") as ear:  # type: ignore[arg-type]
            send()
            heard = await ike_ear.hear(ear, lambda one: one.message == 7, 5)
            assert (heard.exchange, heard.response, heard.spis) == (37, False, (1, 2))
            send()
            assert len(await ike_ear.all_ike(ear, 0.3)) >= 2, "loopback shows both ways"
            send()
            came = await ike_ear.coming_in(ear, 0.3)
            assert [one.spis for one in came if isinstance(one, Ike)] == [(1, 2)], "others use this loopback, too"
            with pytest.raises(TimeoutError):
                await ike_ear.hear(ear, lambda one: one.message == 8, 0.1)

    asyncio.run(listen())


def test_what_passes_before_it_is_bound_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(socket.socket):
        def bind(self, address: object) -> None:
            send()
            super().bind(address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", Slow)

    async def listen() -> list[object]:
        with ike_ear.open_ear(Here(), "node", "lo") as ear:  # type: ignore[arg-type]
            return [*await ike_ear.all_ike(ear, 0.2)]

    assert asyncio.run(listen()) == []
