"""The alarm hook against real programs and servers: what works, hangs, refuses, lies about its name, or is flooded."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anycast.errors import PeerError
from anycast.events import AlarmCleared, AlarmRaised, Event
from anycast.reasons import Reason
from anycast.runtime import boottime
from anycast_lab.machines.pki import Root
from site_agent import priority
from site_agent.alarms import delivery
from site_agent.alarms.hook import AlarmHook, alarm_hook
from site_agent.alarms.targets import Command, Target, Webhook
from site_agent.procfs import read_stat
from tests.support.documents import document

pytestmark = pytest.mark.daemons

LIMIT_S = 0.5
ALARM = AlarmRaised(reason=Reason.MEMORY_LOW, detail="7 MiB")


def program(folder: Path, text: str) -> str:
    path = folder / "hook"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def until(condition: Callable[[], Any], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s"
        time.sleep(0.01)


# One attempt.


def test_a_command_gets_the_notice_and_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the agent")
    path = program(
        tmp_path, f"cat > {tmp_path}/got; env > {tmp_path}/env; ls /proc/self/fd > {tmp_path}/fds; pwd > {tmp_path}/cwd"
    )
    Command((path, "page me")).send(b'{"v": 1}\n')
    assert (tmp_path / "got").read_bytes() == b'{"v": 1}\n'
    assert "SECRET" not in (tmp_path / "env").read_text()
    assert (tmp_path / "cwd").read_text() == "/\n"
    assert set((tmp_path / "fds").read_text().split()) <= {"0", "1", "2", "3"}, "3 is ls's own"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a negative nice value")
def test_a_command_is_an_ordinary_process_whatever_the_agent_is(tmp_path: Path) -> None:
    path, own = program(tmp_path, f"cat > /dev/null; nice > {tmp_path}/nice"), os.getpriority(os.PRIO_PROCESS, 0)

    def as_the_agent() -> None:  # a thread's value is its own
        os.setpriority(os.PRIO_PROCESS, 0, priority.HOLDS_THE_LEASE)
        Command((path,)).send(b"{}")

    thread = threading.Thread(target=as_the_agent)
    thread.start()
    thread.join()
    assert (tmp_path / "nice").read_text() == "0\n"
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_a_command_that_hangs_is_killed_with_all_its_children(tmp_path: Path) -> None:
    path = program(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/leader; wait")
    began = time.monotonic()
    with pytest.raises(PeerError, match=r"did not end within 0.5 s and was killed"):
        Command((path,), limit_s=LIMIT_S).send(b"{}")
    assert time.monotonic() - began < 5
    for name in ("child", "leader"):
        pid = int((tmp_path / name).read_text())
        until(lambda pid=pid: (stat := read_stat(pid)) is None or stat.state == "Z")


@pytest.mark.parametrize(
    ("text", "said"),
    [("exit 3", "exit status 3"), ("kill -SEGV $$", "ended by signal 11"), ("exec 0<&-; exit 0", None)],
)
def test_a_command_says_by_its_exit_whether_it_took_it(tmp_path: Path, text: str, said: str | None) -> None:
    command = Command((program(tmp_path, text),))
    if said is None:
        command.send(b"x" * 1_000_000)  # it closes its end without reading: its exit status counts
        return
    with pytest.raises(PeerError, match=said):
        command.send(b"{}")


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(PeerError, match="No such file"):
        Command(("/nowhere/hook",)).send(b"{}")


class Server:
    """A real HTTP server; `answer` decides on each POST, all it got is in `got`."""

    def __init__(
        self, answer: Callable[[http.server.BaseHTTPRequestHandler], None], tls: ssl.SSLContext | None = None
    ) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((dict(self.headers), body))
                answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def status(code: int) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.send_header("Location", "http://127.0.0.1:1/elsewhere")
        handler.end_headers()

    return answer


@contextlib.contextmanager
def serving(
    answer: Callable[[http.server.BaseHTTPRequestHandler], None], tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    server = Server(answer, tls)
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()


def token(folder: Path, mode: int = 0o600, text: str = "s3cret\n") -> str:
    path = folder / "token"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_a_webhook_gets_a_post_with_its_token(tmp_path: Path) -> None:
    with serving(status(204)) as server:
        Webhook(f"http://127.0.0.1:{server.port}/hook?x=1", token(tmp_path)).send(b'{"v": 1}\n')
    ((headers, body),) = server.got
    assert body == b'{"v": 1}\n'
    assert headers["Authorization"] == "Bearer s3cret"
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("code", [500, 404, 302])
def test_a_webhook_that_refuses(code: int) -> None:
    with serving(status(code)) as server, pytest.raises(PeerError, match=f"HTTP status {code}"):
        Webhook(f"http://127.0.0.1:{server.port}/", None).send(b"{}")
    assert len(server.got) == 1, "a redirect is not followed"


@pytest.mark.parametrize(("mode", "text"), [(0o640, "s3cret\n"), (0o600, "two words\n"), (0o600, ""), (0o600, "s3cret\x00")])
def test_a_token_file_is_roots_alone_and_its_content_is_never_told(tmp_path: Path, mode: int, text: str) -> None:
    with serving(status(204)) as server, pytest.raises(PeerError) as refused:
        Webhook(f"http://127.0.0.1:{server.port}/", token(tmp_path, mode, text)).send(b"{}")
    assert "s3cret" not in str(refused.value)
    assert "words" not in str(refused.value)
    assert not server.got


def test_without_tls_only_to_oneself() -> None:
    with pytest.raises(PeerError, match="loopback"):
        Webhook("http://192.0.2.1/hook", None).send(b"{}")


def silent(connection: socket.socket) -> None:
    """Says nothing, and holds the line."""


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 ")
    with contextlib.suppress(OSError):
        for _ in range(1000):
            connection.sendall(b"2")
            time.sleep(0.05)


@pytest.mark.parametrize("behave", [silent, drip])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_says_nothing_or_a_byte_at_a_time(scheme: str, behave: Callable[[socket.socket], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:

        def accept() -> None:
            connection, _ = listener.accept()
            stack.callback(connection.close)
            behave(connection)

        threading.Thread(target=accept, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(PeerError):
            Webhook(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/", None, limit_s=LIMIT_S).send(b"{}")
        assert time.monotonic() - began < 5


def tls_pair(folder: Path, name: str) -> tuple[ssl.SSLContext, Root]:
    root = Root("alarms")
    issued = root.issue(name)
    (folder / "crt").write_bytes(issued.certificate)
    (folder / "key").write_bytes(issued.private_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    return context, root


def test_a_certificate_is_verified(tmp_path: Path) -> None:
    context, root = tls_pair(tmp_path, "localhost")
    trusting = ssl.create_default_context(cadata=root.certificate.decode())
    with serving(status(204), context) as server:
        Webhook(f"https://localhost:{server.port}/", None, context=trusting).send(b"{}")
        assert len(server.got) == 1, "the certificate of a root that is trusted, for this name"
        with pytest.raises(PeerError, match=r"certificate refused: (self-signed|unable)"):
            Webhook(f"https://localhost:{server.port}/", None).send(b"{}")
        with pytest.raises(PeerError, match="certificate refused: IP address mismatch"):
            Webhook(f"https://127.0.0.1:{server.port}/", None, context=trusting).send(b"{}")
        assert len(server.got) == 1, "nothing was sent to a stranger"


# The whole hook, in a loop.


class Bench:
    """A hook as the agent has it: what it says of itself comes back to it as an event."""

    def __init__(self, targets: list[Target]) -> None:
        self.events: list[Event] = []
        self.hook = AlarmHook(
            targets, lambda event, wall, boot_ns, lost: {"event": repr(event), "lost": lost}, self.happened
        )

    def happened(self, event: Event) -> None:
        self.events.append(event)
        self.hook.take(event)

    @property
    def about_itself(self) -> list[Event]:
        return [e for e in self.events if getattr(e, "reason", None) is Reason.ALARM_HOOK_FAILED]


async def seen(condition: Callable[[], Any], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


def in_loop(targets: list[Target], play: Callable[[Bench], Any]) -> Bench:
    async def main() -> Bench:
        bench = Bench(targets)
        running = asyncio.create_task(bench.hook.run())
        try:
            await play(bench)
        finally:
            running.cancel()
        return bench

    return asyncio.run(main())


def test_a_hook_that_fails_is_one_alarm_and_its_end_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(delivery, "LONGEST_WAIT_S", 0.05)
    path = program(tmp_path, f"cat >> {tmp_path}/got; test -e {tmp_path}/well")

    async def play(bench: Bench) -> None:
        for reason in (Reason.MEMORY_LOW, Reason.CPU_PRESSURE):
            bench.happened(AlarmRaised(reason=reason, detail=""))
        await seen(lambda: bench.hook.describe()[0]["lost"] == 1)
        assert len(bench.about_itself) == 1, "said once, however often it failed"
        (tmp_path / "well").touch()
        await seen(lambda: bench.hook.describe()[0]["delivered"] == 1)
        await seen(lambda: len(bench.about_itself) == 2)

    bench = in_loop([Command((path,))], play)
    assert [type(event) for event in bench.about_itself] == [AlarmRaised, AlarmCleared]
    assert "alarm_hook_failed" not in (tmp_path / "got").read_text().lower(), "not through the hook that fails"
    assert '"lost": 1' in (tmp_path / "got").read_text().splitlines()[-1]


def test_one_target_tells_of_the_other_and_neither_waits_for_it(tmp_path: Path) -> None:
    path = program(tmp_path, "exit 1")
    with serving(status(200)) as server:

        async def play(bench: Bench) -> None:
            bench.happened(ALARM)
            await seen(lambda: len(server.got) == 2)

        in_loop([Command((path,)), Webhook(f"http://127.0.0.1:{server.port}/", None)], play)
    assert "MEMORY_LOW" in server.got[0][1].decode()
    assert "ALARM_HOOK_FAILED" in server.got[1][1].decode()
    assert "exit status 1" in server.got[1][1].decode()


@pytest.mark.alone
def test_ten_thousand_alarms_at_once_delay_no_timer_and_take_no_memory(tmp_path: Path) -> None:
    """Behind a hook that hangs. A third of a lease is what a verdict may be late."""
    path = program(tmp_path, "exec sleep 1000")
    lateness = []

    async def ticks() -> None:
        while True:
            due = boottime() + 0.01
            await asyncio.sleep(0.01)
            lateness.append(boottime() - due)

    async def play(bench: Bench) -> None:
        ticking = asyncio.create_task(ticks())
        for _ in range(100):
            for _ in range(50):  # a hundred at a time, as a loop would see them
                bench.happened(AlarmRaised(reason=Reason.CONNTRACK_FILLING, detail="91 %"))
                bench.happened(AlarmCleared(reason=Reason.CONNTRACK_FILLING))
            await asyncio.sleep(0.005)
        (row,) = bench.hook.describe()
        assert row["queued"] <= 1 + delivery.MOST_OF_ONE, "the one on its way, and the last beginning and end"
        assert row["lost"] == 0, "an alarm that comes and goes pushes nothing out"
        assert threading.active_count() < 10
        ticking.cancel()
        await bench.hook.leave()

    in_loop([Command((path,))], play)
    assert max(lateness) < 1 / 3


def test_a_document_without_a_hook_has_none() -> None:
    async def main() -> list[dict[str, Any]]:
        return alarm_hook(document(), "abc", lambda event: None).describe()

    assert asyncio.run(main()) == []


def test_the_token_is_in_no_argument_and_no_environment(tmp_path: Path) -> None:
    path = token(tmp_path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with serving(status(204)) as server:
        Webhook(f"http://127.0.0.1:{server.port}/", path).send(b"{}")
        (headers, body) = server.got[0]
    assert b"s3cret" not in body
    assert json.dumps(headers).count("s3cret") == 1
