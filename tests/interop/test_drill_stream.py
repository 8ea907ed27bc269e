"""The drills' download over real TCP: what was sent is what is counted, and one connection is one connection."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anycast_lab.drills.mirror_checks import judge_download
from anycast_lab.drills.stream import content
from tests.support.tree import TREE

pytestmark = pytest.mark.daemons

RATE = 2_000_000
PATIENCE_S = 20.0


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "did not become true"
        time.sleep(0.01)


class Fetch:
    """`stream fetch` as a client of the lab runs it."""

    def __init__(self, folder: Path, port: int, *more: str) -> None:
        self._out, self._live = folder / "stream.json", folder / "stream.live"
        words = ("fetch", "--from", "127.0.0.1", "--port", str(port), "--out", str(self._out), "--live", str(self._live))
        self.process = started(*words, *more)

    def bytes(self) -> int:
        return int(json.loads(self._live.read_text())["bytes"]) if self._live.exists() else 0

    def looks(self) -> bool:
        """It runs, and may be told to end."""
        return self._live.exists()

    def record(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0
        return dict(json.loads(self._out.read_text()))


def started(*words: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(str(TREE / part) for part in (".", "labs"))
    command = [sys.executable, "-m", "anycast_lab.drills.stream", *words]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def connectable(port: int) -> str:
    """Empty, or why not."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError as error:
        return str(error)
    return ""


@pytest.fixture
def port() -> Iterator[int]:
    number = free_port()
    server = started("serve", "--port", str(number), "--bits-per-second", str(RATE))
    yield number
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE_S) == -signal.SIGTERM


def test_the_download_is_paced_and_every_byte_is_right(port: int, tmp_path: Path) -> None:
    fetch = Fetch(tmp_path, port)
    until(lambda: fetch.bytes() > 100_000)
    record = fetch.record()
    assert (record["ended"], record["wrong_at"]) == ("", None)
    arrivals = record["arrivals"]
    seconds = (arrivals[-1][0] - arrivals[0][0]) / 1e9
    assert record["bytes"] == arrivals[-1][1] and arrivals[-1][1] * 8 / seconds < 1.3 * RATE, "paced"
    assert judge_download(record, arrivals[0][0], arrivals[-1][0]).connection.endswith(f" from 127.0.0.1 {port}")


def test_who_connects_before_the_server_is_there_waits(tmp_path: Path) -> None:
    number = free_port()
    fetch = Fetch(tmp_path, number)
    server = started("serve", "--port", str(number), "--bits-per-second", str(RATE))
    until(lambda: fetch.bytes() > 0)
    server.kill()
    server.wait()
    assert fetch.process.wait(PATIENCE_S) == 0, "the connection has ended, and no second one is made"
    assert fetch.record()["ended"] in ("closed by the server", "Connection reset by peer")


def test_a_connection_that_is_reset_leaves_nothing_to_send_again() -> None:
    """The client takes nothing, so that the server has much that is not acknowledged when it is killed."""
    number = free_port()
    server = started("serve", "--reset", "--port", str(number), "--bits-per-second", "200000000")
    until(lambda: not connectable(number))
    with socket.create_connection(("127.0.0.1", number)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE_S)
        time.sleep(0.5)
        server.kill()
        server.wait()
        with pytest.raises(ConnectionResetError):
            while client.recv(1 << 16):
                pass


def test_a_clamped_client_says_a_smaller_mss(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        fetch = Fetch(tmp_path, port, "--mss", "1158")
        client, _ = listener.accept()
        with client:
            client.sendall(content(0, 5000))
            until(lambda: fetch.bytes() == 5000)
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 1158
            assert fetch.record()["wrong_at"] is None


def test_another_connections_bytes_are_wrong_bytes(tmp_path: Path) -> None:
    """A server that begins anew on the same connection, as one would that was restored from a copy."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fetch = Fetch(tmp_path, listener.getsockname()[1])
        client, _ = listener.accept()
        with client:
            client.sendall(content(0, 5000) + content(0, 5000))
            until(lambda: fetch.bytes() == 10_000)
            record = fetch.record()
    assert record["ended"] == "" and record["wrong_at"] == 5006, "625 is 0x0271, and 0 should not be there"


def test_without_a_server_there_is_no_connection(tmp_path: Path) -> None:
    fetch = Fetch(tmp_path, free_port())
    until(fetch.looks)
    record = fetch.record()
    assert judge_download(record, 0, 1).connection == "" and record["bytes"] == 0


WAITS = """
import os, time
from anycast_lab.drills.stream import Ending
ending, until = Ending(), time.monotonic() + 2
print("waits", flush=True)
while time.monotonic() < until:
    ending.wait(0.001)
os._exit(0 if ending.told else 3)  # an orderly exit gives the signal back to the kernel first
"""


def test_a_signal_at_any_moment_of_a_wait_ends_it() -> None:
    """With a lock in the handler it came to a standstill."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(TREE / part) for part in (".", "labs"))}
    with subprocess.Popen([sys.executable, "-c", WAITS], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waits\n"
        end = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < end:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.001)
        try:
            assert process.returncode == 0
        finally:
            process.kill()
