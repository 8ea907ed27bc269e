"""A store that was put back from an older backup, behind six agents' ends that know more: read-only, recovered, deciding.

The coordinator runs in this process, so that its spans can be seconds; backup, restore, recover and drain are the command
line, as an operator's is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from anycast.content.content import Intent
from anycast.content.record import Record
from anycast.content.signature import sign
from anycast.coordinator import behind, rollouts
from anycast.coordinator.service import Service
from anycast.link_wire import DarknessTold
from anycast.runtime import boottime
from site_agent import content_store, coordinator_link
from site_agent.content_brief import known
from tests.support.contents import MALLORY, SITES
from tests.support.deciding_fleet import Fleet, quicken
from tests.support.managed import Managed, running

pytestmark = pytest.mark.daemons


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)
    monkeypatch.setattr(rollouts, "IDLE_LOOK_S", 0.3)
    monkeypatch.setattr(behind, "HAND_OVER_S", 1.0)
    monkeypatch.setattr(behind, "AGAIN_S", 1.0)
    monkeypatch.setattr(behind, "LOOK_S", 0.2)
    monkeypatch.setattr(coordinator_link, "LONGEST_WAIT_S", 1.0)


class World:
    """The fleet, and the coordinator that runs now."""

    def __init__(self, base: Path) -> None:
        self.fleet = Fleet(base)
        self.service: Service
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        self.service = await self.fleet.serve(self._stack, self.fleet.files.port)

    async def stop(self) -> None:
        await self._stack.aclose()

    @property
    def read_only(self) -> str:
        return self.service.status().read_only

    async def until(self, condition: Any, what: str, *, within_s: float = 20) -> None:
        end = boottime() + within_s
        while not condition():
            assert boottime() < end, (what, self.read_only, self.service.status().alarms)
            await asyncio.sleep(0.05)

    async def heard(self) -> None:
        def everybody() -> bool:
            return sum(gateway.fresh for site in self.service.status().sites for gateway in site.gateways) == len(SITES)

        await self.until(everybody, "all are heard")

    async def ended(self, step: str = "done") -> None:
        def is_so() -> bool:
            rollout = self.service.status().rollout
            return rollout is not None and rollout.step == step

        await self.until(is_so, f"the rollout is {step}", within_s=40)

    async def drain(self, site: str) -> None:
        await self.fleet.run("drain", site, "--yes", "--bake", "1")
        await self.ended()
        assert not self.fleet.agents[site].announced

    async def backup(self, name: str) -> Path:
        await self.fleet.run("backup", name, "--state", "state")
        return self.fleet.base / name

    async def restore(self, name: str, status: int = 0) -> str:
        words = ("restore", name, "--state", "state", "--pki", "pki", "--reason", "the disk has died")
        done = await self.fleet.run(*words, status=status)
        return done.stdout + done.stderr

    @property
    def dark(self) -> set[str]:
        return {site for site, agent in self.fleet.agents.items() if not agent.announced}


@contextlib.asynccontextmanager
async def world(base: Path) -> AsyncIterator[World]:
    """Six sites that run by a first content."""
    base.chmod(0o700)
    made = World(base)
    await made.start()
    made.fleet.make_agents()
    try:
        async with running(*made.fleet.agents.values()):
            await made.heard()
            await made.fleet.first_content()
            yield made
    finally:
        await made.stop()


@contextlib.asynccontextmanager
async def behind_by_a_drain(base: Path) -> AsyncIterator[World]:
    """The backup is from before the drain of fra, and the store that was restored from it runs."""
    async with world(base) as made:
        await made.backup("old.backup")
        await made.drain("fra")
        await made.stop()
        await made.restore("old.backup")
        await made.start()
        yield made


def test_an_old_backup_is_read_only_until_it_is_recovered_and_then_decides(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as made:
            await made.backup("old.backup")
            assert (tmp_path / "old.backup").stat().st_mode & 0o777 == 0o600
            assert "a coordinator runs on it" in await made.restore("old.backup", status=1)
            await made.drain("fra")
            nothing = await made.fleet.run("recover", "--reason", "x", status=1)
            assert "there is nothing to recover" in nothing.stderr
            await made.stop()
            assert "coordinator.db.replaced-" in await made.restore("old.backup")

            await made.start()
            assert "restored from a backup" in made.read_only, "before anybody has called"
            await made.until(lambda: "behind" in made.read_only, "agents speak against it")
            assert "generation 3" in made.read_only and "this store has given out 2" in made.read_only
            shown = await made.fleet.run("status", status=4)
            assert "read-only" in shown.stdout
            assert json.loads((await made.fleet.run("status", "--json", status=4)).stdout)["read_only"]
            for words in (("drain", "sin", "--yes"), ("plan", str(made.fleet.file)), ("rollout", "abort")):
                refused = await made.fleet.run(*words, status=1)
                assert "read-only, this store is behind" in refused.stderr, words
                assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr

            await made.stop()
            await made.start()
            assert "this store is behind what gateways have" in made.read_only, "sticky, before anybody has called"
            await made.heard()
            await asyncio.sleep(1)
            assert "behind" in made.read_only
            assert made.dark == {"fra"}, "nothing has moved"

            done = await made.fleet.run("recover", "--reason", "restored after the disk died")
            assert "signed by alice" in done.stdout and "6 gateways" in done.stdout, done.stdout
            assert made.read_only == ""
            lines = (await made.fleet.ask("history"))["lines"]
            [line] = [each for each in lines if each["action"] == "store.recover"]
            assert (line["who"], line["reason"]) == ("root", "restored after the disk died")
            assert list(line["body"]["contents"].values()) == ["alice"] and len(line["body"]["from"]) == 6
            [restored] = [each for each in lines if each["action"] == "store.restore"]
            assert restored["reason"] == "the disk has died"
            told = (await made.fleet.run("diff", "1", "3")).stdout
            assert "(generation 3)" in told and "fra intent: announced -> drained" in told, told
            await made.until(lambda: "fra drain" in made.service.status().ledger, "the drain has its slot again")

            await made.drain("lon")
            assert made.dark == {"fra", "lon"}
            assert min(agent.generation or 0 for agent in made.fleet.agents.values()) > 1000, "above what may be given out"
            await made.fleet.run("undrain", "fra", "--yes", "--bake", "1")
            await made.ended()
            await made.until(lambda: made.dark == {"lon"}, "fra is back")
            assert (await made.fleet.run("history", "verify")).stdout.startswith("history is whole;")

            await made.stop()
            await made.start()
            await made.heard()
            await asyncio.sleep(1)
            assert made.read_only == "", "and after a restart"

    asyncio.run(test())


@pytest.mark.long
def test_a_store_that_was_restored_and_is_not_behind_is_confirmed_by_its_gateways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behind, "CONFIRM_S", 4.0)

    async def test() -> None:
        async with world(tmp_path) as made:
            await made.backup("b")
            await made.stop()
            await made.restore("b")
            await made.start()
            await made.heard()
            assert "restored from a backup" in made.read_only
            refused = await made.fleet.run("drain", "sin", "--yes", status=1)
            assert "more to say that they know something later" in refused.stderr
            await made.until(lambda: not made.read_only, "confirmed")
            await made.drain("sin")

    asyncio.run(test())


@pytest.mark.long
def test_a_fresh_store_before_gateways_that_run_by_contents_takes_them(tmp_path: Path) -> None:
    """The machine is lost and there is no backup at all."""

    async def test() -> None:
        async with world(tmp_path) as made:
            words = ("--for", "2h", "--reason", "optics", "--yes", "--bake", "1")
            await made.fleet.run("maintenance", "fra", *words)
            await made.ended()
            await made.stop()
            for path in (tmp_path / "state").iterdir():
                path.unlink()
            await made.start()
            await made.until(lambda: made.read_only.count("generation 3") == 3, "behind")
            await made.heard()
            await made.fleet.run("recover", "--reason", "a new machine")
            said = "fra maintenance by recover until"
            await made.until(lambda: said in made.service.status().ledger, "it is dark by what was signed")
            await made.fleet.run("undrain", "fra", "--yes", "--bake", "1")
            await made.ended()
            await made.until(lambda: not made.dark, "fra is back")

    asyncio.run(test())


def test_a_fresh_store_that_is_recovered_from_one_gateway_counts_the_sites_that_it_has_not_heard(tmp_path: Path) -> None:
    """It knows of nobody whom it could wait for. The budget is that of six sites all the same, also over a restart."""

    async def test() -> None:
        async with world(tmp_path) as made:
            await made.stop()
        for path in (tmp_path / "state").iterdir():
            path.unlink()
        await made.start()
        fra = made.fleet.agents["fra"]
        fra._make()
        try:
            async with running(fra):
                await made.until(lambda: "generation 1" in made.read_only, "behind")
                await made.fleet.run("recover", "--reason", "a new machine")
                await made.until(lambda: "dark 5 of 2 allowed" in made.service.status().ledger, "five are not heard")
            await made.stop()
            await made.start()
            await made.until(lambda: "dark 6 of 2 allowed" in made.service.status().ledger, "nobody is heard")
        finally:
            await made.stop()

    asyncio.run(test())


@pytest.mark.long
def test_an_agent_of_before_that_message_is_named_and_may_be_left_out(tmp_path: Path) -> None:
    async def test() -> None:
        async with behind_by_a_drain(tmp_path) as made:
            made.fleet.agents["fra"].hands_over = False
            await made.heard()
            await made.until(lambda: made.read_only.count("generation 3") == 3, "behind")
            refused = await made.fleet.run("recover", "--reason", "x", status=1)
            assert "fra-gw1 does not hand over content" in refused.stderr
            strange = await made.fleet.run("recover", "--reason", "x", "--without", "nobody", status=1)
            assert "there is no gateway nobody to leave out" in strange.stderr
            await made.fleet.run("recover", "--reason", "x", "--without", "fra-gw1")
            # The same content is known by the others' hands, so that fra-gw1's word is nothing new; its document is missing.
            await made.until(lambda: made.read_only == "", "read-only no more")
            refused = await made.fleet.run("drain", "lon", "--yes", status=1)
            assert "fra-gw1" in refused.stderr, refused.stderr
            made.fleet.agents["fra"].hands_over = True
            await made.until(lambda: "fra-gw1" in made.service.documents().documents, "its document came by itself")
            await made.drain("lon")

    asyncio.run(test())


@pytest.mark.long
def test_a_silent_gateway_is_waited_for_or_left_out(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as made:
            await made.backup("b")
            await made.drain("fra")
            await made.stop()
            await made.restore("b")
        agents = [agent for site, agent in made.fleet.agents.items() if site != "tyo"]
        await made.start()
        for agent in agents:
            agent._make()
        try:
            async with running(*agents):
                await made.until(lambda: made.read_only.count("generation 3") == 3, "behind")
                await asyncio.sleep(1)
                refused = await made.fleet.run("recover", "--reason", "x", status=1)
                assert "tyo-gw1 has not been heard: wait for it, or leave it out" in refused.stderr
                await made.fleet.run("recover", "--reason", "x", "--without", "tyo-gw1")
                assert made.read_only == ""
                gateways = made.service.state().gateways
                assert gateways["tyo-gw1"].active == gateways["fra-gw1"].active, "taken to run by what the others run by"
                made.fleet.agents["tyo"]._make()
                async with running(made.fleet.agents["tyo"]):
                    await made.heard()
                    await asyncio.sleep(1)
                    assert made.read_only == "", "what it has is known by now"
        finally:
            await made.stop()

    asyncio.run(test())


def says(agent: Managed, record: Record) -> None:
    """As if that agent had taken it."""
    content_store.store(agent.paths.contents, record)
    agent.contents._known = known(record, agent.document.site)
    agent.link.changed()


@pytest.mark.long
def test_two_contents_under_one_generation_are_named_and_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with behind_by_a_drain(tmp_path) as made:
            agent = made.fleet.agents["sin"]
            record = content_store.load(agent.paths.contents)
            assert record.active is not None
            other = record.active.decoded.with_intent("lon", Intent.DEGRADED)
            forged = record.active.model_copy(update={"content": other.text})
            says(agent, record.model_copy(update={"active": forged}))
            await made.heard()
            await made.until(lambda: made.read_only.count("generation 3") == 3, "behind")
            await asyncio.sleep(1)
            refused = await made.fleet.run("recover", "--reason", "x", status=1)
            assert "generation 3 is" in refused.stderr and "at sin-gw1" in refused.stderr, refused.stderr
            assert f"content {forged.hash[:12]} of sin-gw1: bad_signature" in refused.stderr
            assert "behind" in made.read_only
            await made.fleet.run("recover", "--reason", "sin lies", "--without", "sin-gw1")
            await asyncio.sleep(1)
            assert made.read_only == "", "its word as it was does not count"
            forged = forged.model_copy(update={"generation": 5000, "signature": sign(other.text, MALLORY)})
            says(agent, record.model_copy(update={"active": forged}))
            await made.until(lambda: "sin-gw1 runs by generation 5000" in made.read_only, "but another word of it does")
            refused = await made.fleet.run("recover", "--reason", "x", status=1)
            assert "untrusted" in refused.stderr

    asyncio.run(test())


@pytest.mark.long
def test_a_slot_that_the_store_never_gave_is_behind_until_it_is_let_go(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as made:
            darkness = made.fleet.agents["sin"].darkness
            say = darkness._say

            def holding(kind: str) -> Any:
                def say_so(message: DarknessTold) -> None:
                    report = json.loads(message.data)
                    report["held"] = [{"id": "lost-7", "kind": kind, "by": "dns"}]
                    say(DarknessTold(data=json.dumps(report)))

                return say_so

            darkness._say = holding("hold")
            await made.until(lambda: "sin hold" in made.service.status().ledger, "an operator's hold is entered")
            assert made.read_only == ""
            darkness._say = holding("token")
            await asyncio.sleep(1)
            assert made.read_only == "", "it is in the ledger by now"
            darkness._say = say
            await made.until(lambda: "sin hold" not in made.service.status().ledger, "let go")
            darkness._say = holding("token")
            await made.until(lambda: "is dark by lost-7, a slot that this store" in made.read_only, "behind")
            refused = await made.fleet.run("drain", "lon", "--yes", status=1)
            assert "lost-7" in refused.stderr
            darkness._say = say
            await made.until(lambda: not made.read_only, "it says so no more")

    asyncio.run(test())
