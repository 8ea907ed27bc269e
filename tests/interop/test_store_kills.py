"""`anycast recover` of a real coordinator process that is killed in front of each write of it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from anycast.content.record import NOTHING, Taken
from anycast.content.signature import sign
from anycast.fleet.compile import compile_fleet
from anycast.fleet.compile_content import compile_content
from anycast.fleet.loading import loads
from site_agent import content_store, coordinator_link
from tests.interop.test_fleet_decisions import COORDINATED
from tests.support.contents import ALICE, SITES, TRUSTED
from tests.support.coordinator import Coordinator, kill
from tests.support.managed import Managed, running
from tests.support.sync_pair import FLEET
from tests.support.upstream import until

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


EVERY = ("BEGIN", "1", "4", "12", "20", "COMMIT", "COMMIT done")


@pytest.mark.long  # twenty processes a kill
def test_a_kill_at_a_write_of_a_recovery_leaves_it_undone_or_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One recovery after the other, each killed a step later; only the last has committed."""
    monkeypatch.setattr(coordinator_link, "LONGEST_WAIT_S", 0.5)  # who is away so often is called ever more rarely
    files = Coordinator(tmp_path, program=("-c", SERVE))
    tmp_path.chmod(0o700)
    (tmp_path / "operators.json").write_bytes(TRUSTED.data)

    async def starts(step: str) -> None:
        files.environment["KILLED_AT"] = step
        await asyncio.to_thread(files.start)

    async def heard(*, behind: bool) -> None:
        """All six, and the store knows less than they do, or as much."""

        def is_so() -> bool:
            status = files.status()
            fresh = [gateway["fresh"] for site in status["sites"] for gateway in site["gateways"]]
            return bool(status["read_only"]) is behind and fresh == [True] * len(SITES)

        await asyncio.to_thread(until, is_so, "all are heard", within_s=20)

    async def test() -> None:
        await starts(EVERY[0])
        async with running(*agents(files, tmp_path)):
            await heard(behind=True)
            for step, following in zip(EVERY, (*EVERY[1:], "never"), strict=True):
                done = await asyncio.to_thread(files.run, "recover", "--reason", step)
                assert done.returncode == 3 and "Traceback" not in done.stderr, done
                assert files.process is not None and files.process.wait(10) == -signal.SIGKILL
                await starts(following)
                await heard(behind=step != "COMMIT done")
            whole = await asyncio.to_thread(files.run, "history", "verify")
            assert whole.stdout.startswith("history is whole;")
            deeds = [line["reason"] for line in files.ask("history")["lines"] if line["action"] == "store.recover"]
            assert deeds == ["COMMIT done"]

    try:
        asyncio.run(test())
    finally:
        kill(files.process)
