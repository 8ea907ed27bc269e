"""A real coordinator process that is killed in front of writes of `anycast recover`, of a rollout, and of slots."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anycast.content import signature
from anycast.content.record import NOTHING, Taken
from anycast.content.signature import sign
from anycast.fleet.compile import compile_fleet
from anycast.fleet.compile_content import compile_content
from anycast.fleet.loading import loads
from anycast.pki import files
from site_agent import content_store, coordinator_link
from tests.support.contents import ALICE, SITES, TRUSTED
from tests.support.coordinator import Coordinator, kill
from tests.support.deciding_fleet import COORDINATED
from tests.support.managed import Managed, running
from tests.support.sync_pair import FLEET
from tests.support.upstream import until

pytestmark = pytest.mark.daemons

SERVE = """
import os, signal, sys, threading
begun = False
steps = iter(())

def wanted():
    try:
        with open("killed_at") as file:
            return file.read().split(" ", 1)
    except FileNotFoundError:
        return "", ""

def hook(frame, event, called):
    global begun, steps
    name = frame.f_code.co_name
    if name == "transact" and event == "call":
        what = {deed.action for deed in frame.f_locals["deeds"]} | {kind for kind, _ in frame.f_locals["writes"]}
        begun, steps = wanted()[0] in what, iter(range(1, 1000))
    elif name == "transact" and event == "return":
        begun = False
    if not begun or getattr(called, "__name__", "") != "execute":
        return
    if name == "transaction":  # its two are BEGIN and COMMIT
        step = "BEGIN" if frame.f_lineno < LAST else "COMMIT"
        step = step if event == "c_call" else step + " done"
    else:
        step = str(next(steps)) if event == "c_call" else ""
    if step == wanted()[1]:
        os.kill(os.getpid(), signal.SIGKILL)

threading.setprofile(hook)  # of the store's thread, which begins later
import inspect
from anycast.cli.main import main
from anycast.coordinator import sqlite_file
lines, first = inspect.getsourcelines(sqlite_file.transaction)
LAST = first + next(number for number, line in enumerate(lines) if '"COMMIT"' in line)
main()
"""
"""It is killed in front of a step (`COMMIT done`: behind it) of a transaction that writes what `killed_at` says."""


def agents(coordinator: Coordinator, base: Path) -> list[Managed]:
    """Six that run by generation 7 of what Alice signed."""
    loaded = loads(COORDINATED)
    documents = {name: coordinator.known_to(each) for name, each in compile_fleet(loaded).items()}
    content = compile_content(loaded, documents).model_copy(update={"fleet": FLEET})
    made = []
    for name, document in documents.items():
        agent = Managed(document, coordinator.root.equip(base / name / "pki", name), base / name, TRUSTED)
        taken = Taken(
            generation=7, content=content.text, signature=sign(content.text, ALICE), document=document.canonical().decode()
        )
        content_store.store(agent.paths.contents, NOTHING.model_copy(update={"active": taken}))
        made.append(agent)
    return made


EVERY = ("BEGIN", "1", "4", "12", "20", "COMMIT", "COMMIT done")


class Fleet:
    """The coordinator, its six agents' ends, and where it is to be killed next."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.files = Coordinator(base, program=("-c", SERVE))
        base.chmod(0o700)
        (base / "operators.json").write_bytes(TRUSTED.data)
        (base / "keys").mkdir(mode=0o700)
        files.write(base / "keys" / "alice.key", signature.key_pem(ALICE, None), files.SECRET)
        self.agents: list[Managed] = []

    def arm(self, what: str, step: str) -> None:
        """`what`: a deed of history, or a kind of decision."""
        (self.base / "killed_at").write_text(f"{what} {step}")

    async def start(self) -> None:
        await asyncio.to_thread(self.files.start)
        self.agents = self.agents or agents(self.files, self.base)  # they know its port

    async def killed(self) -> None:
        assert self.files.process is not None
        assert await asyncio.to_thread(self.files.process.wait, 40) == -signal.SIGKILL

    async def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        keys = {"ANYCAST_OPERATOR": str(self.base / "keys"), "ANYCAST_OPERATOR_NAME": "alice"}
        done = await asyncio.to_thread(self.files.run, *words, **keys)
        assert "Traceback" not in done.stderr, done
        return done

    async def becomes(self, what: str, condition: Callable[[dict[str, Any]], bool], *, within_s: float = 60) -> None:
        seen: dict[str, Any] = {}

        def is_so() -> bool:
            seen.update(self.files.status())
            return condition(seen)

        try:
            await asyncio.to_thread(until, is_so, what, within_s=within_s)
        except AssertionError as exc:
            raise AssertionError(f"{exc}: {seen['rollout']}, {seen['ledger']}, {seen['alarms']}") from exc

    async def heard(self, *, behind: bool) -> None:
        """All six, and the store knows less than they do, or as much."""

        def is_so(status: dict[str, Any]) -> bool:
            fresh = [gateway["fresh"] for site in status["sites"] for gateway in site["gateways"]]
            return bool(status["read_only"]) is behind and fresh == [True] * len(SITES)

        await self.becomes("all are heard", is_so, within_s=20)

    async def history_is_whole(self) -> list[dict[str, Any]]:
        assert (await self.run("history", "verify")).stdout.startswith("history is whole;")
        lines: list[dict[str, Any]] = (await asyncio.to_thread(self.files.ask, "history"))["lines"]
        return lines

    @property
    def dark(self) -> set[str]:
        return {agent.document.site for agent in self.agents if not agent.announced}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_link, "LONGEST_WAIT_S", 0.5)  # who is away so often is called ever more rarely


@pytest.mark.long  # twenty processes a kill
@pytest.mark.usefixtures("quick")
def test_a_kill_at_a_write_of_a_recovery_leaves_it_undone_or_done(tmp_path: Path) -> None:
    """One recovery after the other, each killed a step later; only the last has committed."""

    async def test() -> None:
        fleet.arm("store.recover", EVERY[0])
        await fleet.start()
        async with running(*fleet.agents):
            await fleet.heard(behind=True)
            for step, following in zip(EVERY, (*EVERY[1:], "never"), strict=True):
                assert (await fleet.run("recover", "--reason", step)).returncode == 3
                await fleet.killed()
                fleet.arm("store.recover", following)
                await fleet.start()
                await fleet.heard(behind=step != "COMMIT done")
            lines = await fleet.history_is_whole()
            assert [line["reason"] for line in lines if line["action"] == "store.recover"] == ["COMMIT done"]

    fleet = Fleet(tmp_path)
    try:
        asyncio.run(test())
    finally:
        kill(fleet.files.process)


@pytest.mark.long  # as above
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("what", "steps"),
    [
        ("rollout.begin", ("BEGIN", "3", "COMMIT", "COMMIT done")),
        ("slot", ("BEGIN", "3", "COMMIT", "COMMIT done")),
        ("slot.taken", ("COMMIT", "COMMIT done")),
        ("rollout.step", ("BEGIN", "3", "COMMIT", "COMMIT done")),
        ("gateway", ("BEGIN", "COMMIT", "COMMIT done")),
        ("slot.returned", ("COMMIT", "COMMIT done")),
    ],
)
def test_a_kill_at_a_write_of_a_rollout_or_of_a_slot_leaves_a_store_that_goes_on(
    tmp_path: Path, what: str, steps: tuple[str, ...]
) -> None:
    """Drains and their ends, one after the other, each killed a step later. Whoever begins next ends what was begun; what
    was not, is asked for again. Nobody but fra is ever dark, and it has one slot or none."""

    async def test() -> None:
        await fleet.start()
        async with running(*fleet.agents):
            await fleet.heard(behind=True)
            assert (await fleet.run("recover", "--reason", "a new store")).returncode == 0
            await fleet.becomes("it decides", lambda s: not s["read_only"] and s["ledger"] == "dark 0 of 2 allowed")
            watched = asyncio.create_task(only_fra_is_dark(fleet))
            drained = False
            for step in steps:
                if (first := DRAINED_BEFORE.get(what, drained)) != drained:
                    await ended(fleet, await begun(fleet, "drain" if first else "undrain"), drained=first)
                    drained = first
                fleet.arm(what, step)
                said = await fleet.run(*COMMANDS["undrain" if drained else "drain"])
                assert said.returncode in (0, 3), said
                await fleet.killed()
                fleet.arm("nothing", "")
                await fleet.start()
                await fleet.heard(behind=False)
                drained = not drained
                last = (await asyncio.to_thread(fleet.files.status))["rollout"]
                if last is None or (what == "rollout.begin" and step != "COMMIT done"):
                    last = {"id": await begun(fleet, "drain" if drained else "undrain")}
                await ended(fleet, last["id"], drained=drained)
                assert not watched.done(), watched.exception()
            watched.cancel()
            await fleet.history_is_whole()

    fleet = Fleet(tmp_path)
    try:
        asyncio.run(test())
    finally:
        kill(fleet.files.process)


DRAINED_BEFORE = {"slot.taken": False, "slot.returned": True}
"""A site that is dark has its slot: only a drain takes one, only an undrain gives one back."""
COMMANDS = {
    "drain": ("drain", "fra", "--yes", "--bake", "1"),
    "undrain": ("undrain", "fra", "--yes", "--bake", "1", "--without-evidence"),
}


async def begun(fleet: Fleet, word: str) -> str:
    done = await fleet.run(*COMMANDS[word])
    assert done.returncode == 0, done
    return str((await asyncio.to_thread(fleet.files.status))["rollout"]["id"])


async def ended(fleet: Fleet, rollout: str, *, drained: bool) -> None:
    ledger = "dark 1 of 2 allowed: fra drain by alice" if drained else "dark 0 of 2 allowed"

    def is_so(status: dict[str, Any]) -> bool:
        last = status["rollout"]
        return last["id"] == rollout and last["step"] == "done" and status["ledger"] == ledger

    await fleet.becomes(f"{rollout} is done, and the ledger says {ledger!r}", is_so)
    assert fleet.dark == ({"fra"} if drained else set())


async def only_fra_is_dark(fleet: Fleet) -> None:
    while True:
        assert fleet.dark <= {"fra"}, fleet.dark
        await asyncio.sleep(0.05)
