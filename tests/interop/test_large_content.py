"""What an agent takes of a large fleet: judged by a process of its own, with the same word, and no renewal waits for it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import os
import signal
import socket
import stat
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from anycast import link_wire
from anycast.document import Document
from anycast.errors import DecodeError, PeerError
from anycast.events import Event
from anycast.link_offer import PACKED, OfferFrames
from anycast.link_stream import read_sent
from anycast.link_wire import Ack, ActivationSent, OfferPacked, OfferSent, OfferUnread
from benchmarks.bench_offer import Messages, longest_stop_s
from site_agent import content_judge
from site_agent.content_judge import Judge, Kind, Work, judge
from site_agent.contents import Contents
from site_agent.paths import Paths
from tests.support.contents import TRUSTED, activation, envelope, made, me, offered

pytestmark = pytest.mark.daemons

FIRST = made()
SECOND = made(after=[FIRST.content], sin="drained")
STEPS = (
    (Kind.OFFER, offered(FIRST, 1)),
    (Kind.OFFER, offered(FIRST, 1)),
    (Kind.ACTIVATION, activation(FIRST.content, 1)),
    (Kind.OFFER, offered(SECOND, 1)),
    (Kind.OFFER, offered(made(sin="drained"), 2)),
    (Kind.OFFER, b"{"),
    (Kind.FRAME, b"{"),
    (Kind.ACTIVATION, activation(SECOND.content, 3)),
    (Kind.OFFER, offered(SECOND, 3)),
    (Kind.ACTIVATION, activation(SECOND.content, 3, "sin")),
)


def work(base: Path, kind: Kind, data: bytes) -> Work:
    base.mkdir(mode=0o700, exist_ok=True)
    operators = base / "operators.json"
    operators.write_bytes(TRUSTED.data)
    return Work(me=me(), record=base / "contents.json", operators=operators, kind=kind, data=data)


@pytest.mark.alone
def test_a_content_of_500_sites_does_not_stop_the_loop_for_half_a_renewal(tmp_path: Path) -> None:
    """In a thread it does so for 120 ms and more; verdict and renewal come every 167 ms."""
    tmp_path.chmod(0o700)
    assert asyncio.run(longest_stop_s(Messages(), tmp_path)) < 0.083


BRACKETS = b"[]," * (5 << 20) + b"[]"


@pytest.mark.alone
@pytest.mark.parametrize(
    ("frame", "found"),
    [
        (b'{"kind":"offer","data":"","x":[%b]}' % BRACKETS, OfferUnread),
        (b'{"kind":"something_newer","x":[%b]}' % BRACKETS, type(None)),
        (b'{"kind":"report","x":[%b]}' % BRACKETS, DecodeError),
        (b'{"x":[%b],"kind":"offer"}' % BRACKETS, DecodeError),
    ],
    ids=["offer", "unknown", "short by nature", "kind last"],
)
def test_16_MiB_of_brackets_do_not_stop_the_loop_for_half_a_renewal(tmp_path: Path, frame: bytes, found: type) -> None:
    """Decoded in the loop they stopped it for 3.5 s."""
    gateway, longest = Gateway(tmp_path), 0.0
    data = link_wire.framed(frame) + link_wire.encode(Ack(number=7))

    def send(there: socket.socket) -> None:
        with contextlib.suppress(OSError):  # refused in the middle
            there.sendall(data)

    async def look() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.002)
            longest = max(longest, time.perf_counter() - before - 0.002)

    async def test() -> None:
        here, there = socket.socketpair()
        with here, there:
            reader, writer = await asyncio.open_connection(sock=here)
            sending = threading.Thread(target=send, args=(there,), daemon=True)
            tasks = [asyncio.create_task(each) for each in (look(), gateway.contents.run())]
            await asyncio.sleep(0.1)
            sending.start()
            try:
                message = await read_sent(reader, 5.0)
            except DecodeError as exc:
                assert found is DecodeError and "256 KiB" in str(exc)
            else:
                assert type(message) is found
                if isinstance(message, OfferUnread):
                    await gateway.hears(message, refused="malformed: ", within_s=60)
                assert await read_sent(reader, 5.0) == Ack(number=7), "what follows is where it begins"
            await asyncio.sleep(0.05)  # it looks once more
            for task in tasks:
                task.cancel()
            writer.transport.abort()
            await asyncio.to_thread(sending.join)

    asyncio.run(test())
    assert longest < 0.083


@pytest.mark.parametrize("takes", [(), (PACKED,)], ids=["whole", "packed"])
def test_an_offer_that_came_unread_is_judged_as_any(tmp_path: Path, takes: tuple[str, ...]) -> None:
    frame = OfferFrames(envelope(FIRST.content, 1)).frame(FIRST.documents["fra-gw1"], takes)[4:]
    unread = judge(work(tmp_path / "unread", Kind.FRAME, frame))
    assert unread == judge(work(tmp_path / "read", Kind.OFFER, offered(FIRST, 1)))
    assert unread.known.staged is not None
    twice, half = b'{"kind":"offer","kind":"ack","number":1}', b'{"kind":"offer","data":"\\ud800"}'
    bad = (b"{", twice, half, b'{"kind":"offer"}', b"[" * 9**6)
    for each in bad:
        assert judge(work(tmp_path / "unread", Kind.FRAME, each)).refused.startswith("malformed: "), each[:50]


def test_a_child_says_what_the_agent_itself_would_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_judge, "SMALL", -1)
    for number, (kind, data) in enumerate(STEPS):
        here = judge(work(tmp_path / "here", kind, data))
        there = asyncio.run(Judge().judged(work(tmp_path / "there", kind, data)))
        assert there == here, number
        records = [(tmp_path / name / "contents.json") for name in ("here", "there")]
        assert records[0].exists() == records[1].exists()
        assert not records[0].exists() or records[0].read_bytes() == records[1].read_bytes(), number
    assert here.known.active is not None and here.known.staged is not None, "the steps led somewhere"


def test_what_cannot_be_judged_is_said_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_judge, "SMALL", -1)
    good = work(tmp_path / "a", Kind.OFFER, offered(FIRST, 1))
    asyncio.run(Judge().judged(good))
    kept = good.record.read_bytes()

    monkeypatch.setattr(content_judge, "SETPRIV", "/nowhere/setpriv")
    with pytest.raises(PeerError, match="cannot be started: No such file"):
        asyncio.run(Judge().judged(good))
    killer = tmp_path / "killer"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(killer.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(content_judge, "SETPRIV", str(killer))
    with pytest.raises(PeerError, match="ended with -9"):
        asyncio.run(Judge().judged(good))
    monkeypatch.undo()
    monkeypatch.setattr(content_judge, "SMALL", -1)
    monkeypatch.setattr(content_judge, "LIMIT_S", 0.01)
    with pytest.raises(PeerError, match="took longer than"):
        asyncio.run(Judge().judged(good))
    monkeypatch.setattr(content_judge, "LIMIT_S", 60.0)
    good.record.write_bytes(kept[:-1])
    with pytest.raises(PeerError, match="is not JSON"):
        asyncio.run(Judge().judged(good))
    good.record.write_bytes(kept)
    assert asyncio.run(Judge().judged(dataclasses.replace(good, data=b"{"))).refused.startswith("malformed: ")
    assert good.record.read_bytes() == kept


class Gateway:
    """The product's own `Contents`, and what it said."""

    def __init__(self, base: Path) -> None:
        base.chmod(0o700)
        self.paths = Paths(state_dir=base, run_dir=base, etc_dir=base, pki_dir=base / "pki")
        self.paths.operators.write_bytes(TRUSTED.data)
        self.events: list[Event] = []
        document = Document.model_validate_json(FIRST.documents["fra-gw1"])
        self.contents = Contents(
            document, self.paths, staged=lambda _: None, activated=lambda _: None, happened=self.events.append
        )
        self.contents.start()

    async def hears(self, message: OfferSent | OfferPacked | ActivationSent, *, refused: str, within_s: float = 30) -> None:
        """And says so."""
        self.contents.sent(message)
        async with asyncio.timeout(within_s):
            while not self.contents.told().refused.startswith(refused):
                await asyncio.sleep(0.01)

    async def takes(self, message: OfferSent) -> None:
        self.contents.sent(message)
        async with asyncio.timeout(30):
            while self.contents.told().staged is None:
                await asyncio.sleep(0.01)
        assert self.contents.told().refused == ""


def test_an_agent_goes_on_after_a_judge_that_died_and_after_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 MiB of zeros, packed a thousand times tighter; a judge whose machine has no memory left."""
    gateway = Gateway(tmp_path)
    bomb = zlib.compress(b"0" * (200 << 20))
    assert len(bomb) < link_wire.LONGEST_OFFER

    async def test() -> None:
        working = asyncio.create_task(gateway.contents.run())
        offer = OfferSent(data=offered(FIRST, 1).decode())
        await gateway.hears(OfferPacked(envelope=base64.b64encode(bomb).decode(), document="{}"), refused="malformed: ")
        monkeypatch.setattr(content_judge, "SMALL", -1)
        monkeypatch.setattr(content_judge, "SETPRIV", "/bin/false")
        await gateway.hears(offer, refused="not judged: the judge of contents: ended with 1")
        assert gateway.contents.told().staged is None
        monkeypatch.undo()
        await gateway.takes(offer)
        assert type(gateway.events[-1]).__name__ == "AlarmCleared"
        working.cancel()

    asyncio.run(test())


@pytest.mark.parametrize("small", [content_judge.SMALL, -1], ids=["in a thread", "in a child"])
def test_half_a_character_is_malformed_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    """JSON names a lone surrogate, which no UTF-8 has: it ended the part that takes contents, with a traceback."""
    monkeypatch.setattr(content_judge, "SMALL", small)
    gateway = Gateway(tmp_path)
    envelope = base64.b64encode(zlib.compress(b"{}")).decode()
    sent = [
        {"kind": "offer", "data": "\ud800"},
        {"kind": "activation", "data": "\udfff"},
        {"kind": "offer_packed", "document": "\ud800", "envelope": envelope},
        {"kind": "offer_packed", "document": "{}", "envelope": base64.b64encode(zlib.compress(b'"\xed\xa0\x80"')).decode()},
    ]

    async def test() -> None:
        working = asyncio.create_task(gateway.contents.run())
        for each in sent:
            message = link_wire.decode(json.dumps(each).encode())
            assert isinstance(message, OfferSent | OfferPacked | ActivationSent)
            gateway.contents._refused = ""
            await gateway.hears(message, refused="malformed: ", within_s=5)
        await gateway.takes(OfferSent(data=offered(FIRST, 1).decode()))
        working.cancel()

    asyncio.run(test())


def test_beside_a_judge_that_does_not_die_none_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dead disk holds outlives SIGKILL: here it is not sent."""
    monkeypatch.setattr(content_judge, "SMALL", -1)
    good, started, let_go = work(tmp_path / "a", Kind.OFFER, offered(FIRST, 1)), tmp_path / "started", tmp_path / "let-go"
    stuck = tmp_path / "stuck"
    stuck.write_text(f"#!/bin/sh\necho x >> {started}\nwhile ! [ -e {let_go} ]; do sleep 0.05; done\n")
    stuck.chmod(0o700)

    async def test() -> None:
        judge_ = Judge()
        with monkeypatch.context() as held:
            held.setattr(content_judge, "SETPRIV", str(stuck))
            held.setattr(content_judge, "LIMIT_S", 0.3)
            held.setattr(content_judge, "FAREWELL_S", 0.1)
            held.setattr(asyncio.subprocess.Process, "kill", lambda _: None)
            with pytest.raises(PeerError, match="took longer than"):
                await judge_.judged(good)
            for _ in range(3):
                with pytest.raises(PeerError, match="was killed and has not ended"):
                    await judge_.judged(good)
            held.setattr(content_judge, "SMALL", 1 << 20)
            with pytest.raises(PeerError, match="was killed and has not ended"):
                await judge_.judged(good)
            assert started.read_text() == "x\n"
            let_go.touch()
        async with asyncio.timeout(10):
            while True:
                try:
                    assert (await judge_.judged(good)).known.staged is not None
                    return
                except PeerError:
                    await asyncio.sleep(0.05)

    try:
        asyncio.run(test())
    finally:
        let_go.touch()


def test_a_judge_ends_with_its_agent(tmp_path: Path) -> None:
    """It would write behind the back of the next one. The agent ends once the judge is there and has its whole order."""
    waiting = work(tmp_path / "a", Kind.OFFER, offered(FIRST, 1))
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        content_judge.SMALL = -1
        made, create = [], asyncio.create_subprocess_exec

        async def creating(*args: Any, **how: Any) -> asyncio.subprocess.Process:
            made.append(await create(*args, **how))
            return made[0]

        async def started() -> None:
            content_judge.asyncio.create_subprocess_exec = creating  # type: ignore[attr-defined]
            judging = asyncio.create_task(Judge().judged(waiting))
            while not (made and made[0].stdin.is_closing() and is_judge(made[0].pid)):
                assert not judging.done()
                await asyncio.sleep(0.001)
            os.write(tell, str(made[0].pid).encode())
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(started())
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    child = int(os.read(told, 20))
    for each in (told, tell):
        os.close(each)
    asyncio.run(asyncio.sleep(1.5))
    assert not is_judge(child)
    assert not waiting.record.exists(), "it had not even read its order when the agent ended"


def is_judge(pid: int) -> bool:
    """It is there, and has come past setpriv and nice."""
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return argv[0] == sys.executable.encode() and b"site_agent.content_judge" in argv
