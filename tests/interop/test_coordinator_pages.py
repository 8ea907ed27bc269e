"""What a coordinator tells whoever does not look at it: somebody is called, and a history that lost its end is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast.coordinator import pager, process
from anycast.link_wire import ContentsTold, VersionTold
from tests.interop.test_coordinator import SERVING, Agent, running, until
from tests.support import upstream
from tests.support.coordinator import Coordinator, kill
from tests.support.gateway import ENVIRONMENT
from tests.support.sync_pair import FLEET

pytestmark = pytest.mark.daemons


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path)
    made.start()
    yield made
    kill(made.process)


def test_somebody_is_called_once_for_what_somebody_must_look_at(tmp_path: Path) -> None:
    program, told = tmp_path / "page", tmp_path / "told"
    program.write_text(f"#!/bin/sh\nexec cat >> {told}\n")
    program.chmod(0o755)
    made = Coordinator(tmp_path / "c", "--page", str(program))
    made.start()

    async def test() -> None:
        agent = Agent(made, "fra-gw1")
        later = ContentsTold(active=VersionTold(generation=9, hash="0" * 64))
        agent.says = SERVING.model_copy(update={"contents": later})
        async with running(agent):
            await until(lambda: told.exists() and told.read_text().endswith("\n"), "somebody is called")
            await asyncio.sleep(2.5 * pager.LOOK_S)  # not a second time

    try:
        asyncio.run(test())
        [line] = told.read_text().splitlines()
        found = json.loads(line)
        assert (found["v"], found["fleet"], found["reason"]) == (1, FLEET, "store_behind")
        assert "fra-gw1 runs by generation 9" in found["text"]
        program.write_text("#!/bin/sh\nexit 7\n")
        made.stop()
        made.start()  # what stands is told again
        said = "ended with 7"
        upstream.until(lambda: any(said in each for each in made.status()["alarms"]), "nobody was called", within_s=15)
        made.stop()
        wrong = made.run("serve", "--pki", "pki", "--state", "state", "--run", "run", "--page", "page")
        assert (wrong.returncode, "no absolute path of a program" in wrong.stderr) == (2, True), wrong.stderr
    finally:
        kill(made.process)


def test_history_that_lost_its_end_is_told_by_who_kept_what_the_last_line_was(coordinator: Coordinator) -> None:
    for name in ("alice", "bob", "carol"):
        coordinator.run("access", "add", name)
    said = coordinator.run("history", "verify").stdout.strip()
    kept = said.rpartition(" ")[2]
    assert kept.startswith("3:") and len(kept) == 66, said
    coordinator.run("access", "add", "dan")
    assert coordinator.run("history", "verify", "--kept", kept).returncode == 0, "it goes on behind that line"
    coordinator.stop()
    with contextlib.closing(sqlite3.connect(coordinator.store)) as db, db:
        db.execute("DELETE FROM history WHERE seq > 2")
    coordinator.start()
    assert coordinator.run("history", "verify").returncode == 0, "no chain tells that by itself"
    lost = coordinator.run("history", "verify", "--kept", kept)
    assert (lost.returncode, "line 3 is not there" in lost.stderr) == (1, True)
    told = json.loads(coordinator.run("history", "verify", "--kept", kept, "--json").stdout)
    assert (told["whole"], told["first_broken"], told["kept_is_gone"], told["last"]) == (False, None, True, 2)
    coordinator.run("access", "add", "erin")
    other = coordinator.run("history", "verify", "--kept", kept)
    assert (other.returncode, "line 3 is not there, or is another one" in other.stderr) == (1, True)
    for wrong in ("3", "x:" + "0" * 64, "0:" + "0" * 64, "3:\x1b[2J"):
        assert coordinator.run("history", "verify", "--kept", wrong).returncode == 2, wrong


def test_who_watches_neither_keeps_a_coordinator_nor_ends_with_it(coordinator: Coordinator) -> None:
    told = {**ENVIRONMENT, "ANYCAST_COORDINATOR": f"unix:{coordinator.base}/run/coordinator.sock"}
    command = [sys.executable, "-m", "anycast.cli.main", "watch", "--json"]
    with subprocess.Popen(command, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None and watching.stderr is not None
        try:
            first = json.loads(watching.stdout.readline())
            began = time.monotonic()
            assert coordinator.stop() == 0
            assert time.monotonic() - began < process.STOP_LIMIT_S
            assert "the coordinator has gone; waiting for it" in watching.stderr.readline()
            coordinator.start()
            assert json.loads(watching.stdout.readline())["coordinator"] != first["coordinator"]
        finally:
            watching.kill()
