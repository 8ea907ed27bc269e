"""An agent that is started over a charon that hangs already: its restart makes nothing healthy. Real charon, ExaBGP, BIRD.

charon hangs as in test_charon_answers.py: its log is a FIFO that nobody reads, so each worker that has something to say
waits in write(2), without processor time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.interop.test_charon_answers import F_SETPIPE_SZ, real_question
from tests.support.gateway import Gateway
from tests.support.namespace import in_namespace
from tests.support.upstream import until

pytestmark = pytest.mark.root

# Few workers, and each request at the control socket is said, so VICI hangs with the log.
FEW_AND_TALKATIVE = "charon { threads = 8\n filelog { agent { cfg = 2 } } }\n"
HANDSHAKES = 12
"""More than charon has workers, fewer than make it want cookies; from one address each."""


class Log(threading.Thread):
    """Reads charon's log until it is told to stop, and keeps the FIFO open after that."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)
        self._fifo, self._ended = os.open(path, os.O_RDWR), threading.Event()
        fcntl.fcntl(self._fifo, F_SETPIPE_SZ, 4096)
        os.set_blocking(self._fifo, False)

    def fill(self) -> None:
        """From its first line on charon waits."""
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self._fifo, b"\n")

    def run(self) -> None:
        while not self._ended.wait(0.01):
            self._read()

    def _read(self) -> None:
        try:
            os.read(self._fifo, 1 << 16)
        except BlockingIOError:
            return

    def hang(self) -> None:
        self._ended.set()
        self.join()


class Calm(Gateway):
    """Its agent believes that nobody but itself has work on this machine: what the other tests do is not what is tested."""

    def __init__(self) -> None:
        super().__init__(recovery_ms=0)
        self.log = Log(self.run_dir / "charon.log")
        (settings := self.base / "etc" / "strongswan.d").mkdir(parents=True, exist_ok=True)
        (settings / "test.conf").write_text(FEW_AND_TALKATIVE)

    def command(self, *words: str) -> list[str]:
        calm = "from site_agent.checks import silence; silence.sign_of_load = lambda seen: None"
        return [sys.executable, "-c", f"{calm}; from site_agent.cli import main; main()", *words]

    def crash(self) -> None:
        self.signal_agent(signal.SIGKILL)
        assert self.agent is not None
        self.agent.wait()

    def checks(self) -> dict[str, Any]:
        answer = self.ask("status", "--json")
        rows = json.loads(answer.stdout).get("checks", []) if answer.returncode == 0 else []
        return {row["check"]: row for row in rows}


@pytest.mark.long
@in_namespace
def test_a_charon_that_hung_before_the_agent_started_is_a_fact_again() -> None:
    gateway = Calm()
    gateway.log.start()
    gateway.start()
    gateway.announced()
    record = gateway.run_dir / "charon.heard"
    until(lambda: record.exists() and json.loads(record.read_text())["ends"], "who was heard is kept", within_s=20)
    charon = gateway.pid("charon")
    gateway.log.hang()
    gateway.crash()
    keep_the_workers_busy(gateway.document.service.vips[0])
    gateway.start()
    found = []

    def silent() -> bool:
        found.append(gateway.checks().get("charon_answers", {}))
        return found[-1].get("reason") == "charon_silent"

    try:
        until(silent, "the fact", within_s=60)
    except AssertionError as exc:
        raise AssertionError(f"{exc}; last {found[-1]}") from None
    gateway.withdrawn(within_s=5)
    assert gateway.pid("charon") == charon, "the same process, and alive"
    gateway.crash()
    gateway.start()
    until(silent, "once more", within_s=60)
    gateway.withdrawn(within_s=5)


def keep_the_workers_busy(vip: str) -> None:
    subprocess.run(["ip", "addr", "add", "198.51.100.1/24", "dev", "lo"], check=True)
    for host in range(1, 1 + HANDSHAKES):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind((f"198.51.100.{host}", 0))
            stranger.sendto(real_question(), (vip, 500))


@in_namespace
def test_a_charon_that_hangs_since_its_start_is_not_made_ready_by_another_agent() -> None:
    gateway = Calm()
    gateway.log.fill()
    gateway.start()
    until(lambda: bool(gateway.events("HolderStarted")), "charon started", within_s=20)
    charon = gateway.pid("charon")
    gateway.crash()
    gateway.start()

    def second_looks() -> bool:
        adopted = [event for event in gateway.events("HolderStarted") if event["name"] == "charon" and event["adopted"]]
        return bool(adopted) and "charon_process" in gateway.checks()

    until(second_looks, "the second agent looks at it", within_s=20)
    until(lambda: bool(gateway.events("AlarmRaised")), "what cannot be loaded is an alarm", within_s=30)
    assert gateway.checks()["charon_process"]["reason"] == "connections_not_loaded"
    assert gateway.pid("charon") == charon
    assert not gateway.upstream.prefixes(), "never announced"
    assert not gateway.events("PrefixAnnounced")
