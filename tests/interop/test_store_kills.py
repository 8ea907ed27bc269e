"""`anycast recover` of a real coordinator process that is killed in front of each write of it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anycast.content.record import NOTHING, Taken
from anycast.content.signature import sign
from anycast.fleet.compile import compile_fleet
from anycast.fleet.compile_content import compile_content
from anycast.fleet.loading import loads
from site_agent import content_store
from tests.interop.test_fleet_decisions import COORDINATED
from tests.support.contents import ALICE, SITES, TRUSTED
from tests.support.coordinator import Coordinator, kill
from tests.support.gateway import ENVIRONMENT
from tests.support.managed import Managed, running
from tests.support.sync_pair import FLEET

SERVE = """
import os, signal, sys, threading
wanted = os.environ["KILLED_AT"]
begun = False
steps = iter(())

def hook(frame, event, called):
    global begun, steps
    name = frame.f_code.co_name
    if event == "call" and name == "transact" and any(deed.action == "store.recover" for deed in frame.f_locals["deeds"]):
        begun, steps = True, iter(range(1, 1000))
    if not begun or getattr(called, "__name__", "") != "execute":
        return
    if name == "_transaction":  # its two are BEGIN and COMMIT
        step = "BEGIN" if frame.f_lineno < LAST else "COMMIT"
        step = step if event == "c_call" else step + " done"
    else:
        step = str(next(steps)) if event == "c_call" else ""
    if step == wanted:
        os.kill(os.getpid(), signal.SIGKILL)

threading.setprofile(hook)  # of the store's thread, which begins later
import inspect
from anycast.cli.main import main
from anycast.coordinator.store import Store
lines, first = inspect.getsourcelines(Store._transaction)
LAST = first + next(number for number, line in enumerate(lines) if '"COMMIT"' in line)
main()
"""


class Killed(Coordinator):
    """A coordinator that a signal ends in front of a step of its recovery's transaction, a statement by its number."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.at = "never"

    def start(self) -> None:
        words = ["serve", "--pki", "pki", "--state", "state", "--run", "run", "--agents", self._agents]
        environment = {**ENVIRONMENT, "KILLED_AT": self.at}
        command = [sys.executable, "-c", SERVE, *words]
        self.process = subprocess.Popen(command, env=environment, cwd=self.base, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert "answers agents on port" in line, line + self.process.stderr.read()
        self.port = int(line.split("port ")[1].split(",")[0])
        self._agents = f"127.0.0.1:{self.port}"


def agents(files: Coordinator, base: Path) -> list[Managed]:
    """Six that run by generation 7 of what Alice signed."""
    loaded = loads(COORDINATED)
    documents = {name: files.known_to(each) for name, each in compile_fleet(loaded).items()}
    content = compile_content(loaded, documents).model_copy(update={"fleet": FLEET})
    made = []
    for name, document in documents.items():
        agent = Managed(document, files.root.equip(base / name / "pki", name), base / name, TRUSTED)
        taken = Taken(
            generation=7, content=content.text, signature=sign(content.text, ALICE), document=document.canonical().decode()
        )
        content_store.store(agent.paths.contents, NOTHING.model_copy(update={"active": taken}))
        made.append(agent)
    return made


@pytest.mark.long  # each waits for a new leader's 38 s
@pytest.mark.parametrize("at", ["BEGIN", "1", "4", "12", "20", "COMMIT", "COMMIT done"])
def test_a_kill_at_a_write_of_a_recovery_leaves_it_undone_or_done(at: str, tmp_path: Path) -> None:
    files = Killed(tmp_path)
    tmp_path.chmod(0o700)
    (tmp_path / "operators.json").write_bytes(TRUSTED.data)

    async def behind(*, is_so: bool = True) -> None:
        async with asyncio.timeout(20):
            while True:
                done = await asyncio.to_thread(files.run, "status", "--json")
                if done.returncode == (4 if is_so else 0) and done.stdout.count('"fresh": true') == len(SITES):
                    return
                await asyncio.sleep(0.1)

    async def test() -> None:
        files.at = at
        await asyncio.to_thread(files.start)
        async with running(*agents(files, tmp_path)):
            await behind()
            done = await asyncio.to_thread(files.run, "recover", "--reason", "x")
            assert done.returncode == 3 and "Traceback" not in done.stderr, done
            assert files.process is not None and files.process.wait(10) == -signal.SIGKILL
            files.at = "never"
            await asyncio.to_thread(files.start)
            committed = at == "COMMIT done"
            await behind(is_so=not committed)
            if not committed:
                done = await asyncio.to_thread(files.run, "recover", "--reason", "again")
                assert done.returncode == 0, done
                await behind(is_so=False)
            whole = await asyncio.to_thread(files.run, "history", "verify")
            assert whole.stdout == "history is whole\n"
            deeds = [line["reason"] for line in files.ask("history")["lines"] if line["action"] == "store.recover"]
            assert deeds == (["x"] if committed else ["again"])

    try:
        asyncio.run(test())
    finally:
        kill(files.process)
