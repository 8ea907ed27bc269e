"""What an agent tells the ledger. Of an activation that waits for a disk: what may darken a gateway yet has not ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from anycast import token_wire
from anycast.document import Document
from anycast.link_wire import ActivationSent, DarknessTold, OfferSent
from anycast.model import Cause
from anycast.policy import token_holder
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime
from anycast.token_wire import Answer, Recall, Report
from site_agent import content_judge
from site_agent.contents import Contents
from site_agent.darkness import Darkness
from site_agent.paths import Paths
from tests.support.contents import TRUSTED, activation, made, offered

FIRST = made()
DRAINED = made(after=[FIRST.content], fra="drained")


class Agent:
    """The link's end of a gateway at fra whose disk `holds` what it is asked for."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        document = Document.model_validate_json(FIRST.documents["fra-gw1"])
        paths = Paths(run_dir=base, state_dir=base, etc_dir=base, pki_dir=base / "pki")
        paths.operators.write_bytes(TRUSTED.data)
        self.disk = threading.Event()
        self.disk.set()
        self.asked = threading.Event()
        judge = content_judge.judge

        def slow(work: content_judge.Work) -> content_judge.Outcome:
            self.asked.set()
            self.disk.wait(20)
            return judge(work)

        monkeypatch.setattr(content_judge, "judge", slow)
        self.reports: list[Report] = []
        self.contents = Contents(
            document, paths, staged=lambda _: None, activated=self._activated, happened=lambda _: None
        )
        self.darkness = Darkness(
            document, {}, say=self._say, announced=lambda: not self.dark, hold=lambda: None, happened=lambda _: None,
            withdrawn_by=lambda: self.withdrawn_by, ordered=lambda: self.contents.ordered,
            ordered_before=lambda: self.contents.ordered_before,
        )  # fmt: skip
        self.dark = False
        self.withdrawn_by: Reason | None = None
        self._n = 0

    def _activated(self, taken: object) -> None:
        self.darkness.content(taken)  # type: ignore[arg-type]

    def _say(self, told: DarknessTold) -> None:
        self.reports.append(token_wire.decode_report(told.data.encode()))

    def connect(self, session: int) -> None:
        self._n = 0
        self.contents.connected()
        self.darkness.connected(session)

    def answer(self, *recalls: Recall) -> None:
        self._n += 1
        text = token_wire.encode(Answer(n=self._n, to=0, recalls=recalls)).decode()
        self.darkness.told(DarknessTold(data=text))

    def stand(self) -> None:
        verdict = VerdictReached(serving=True, causes=(Cause(reason=Reason.HEALTHY),), at=boottime())
        self.dark = not self.darkness.passed(verdict).serving

    def offer(self, what: object, generation: int) -> None:
        self.contents.sent(OfferSent(data=offered(what, generation).decode()))  # type: ignore[arg-type]

    def activate(self, what: object, generation: int) -> None:
        self.contents.sent(ActivationSent(data=activation(what.content, generation).decode()))  # type: ignore[attr-defined]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.stand()
                await asyncio.sleep(0.01)

    def hangs(self) -> None:
        """The next thing that is judged is."""
        self.asked.clear()
        self.disk.clear()

    async def begin(self) -> None:
        self.contents.start()
        self.connect(1)
        self.offer(FIRST, 1)
        self.activate(FIRST, 1)
        self.offer(DRAINED, 2)
        await self.until(lambda: self.contents.told().staged is not None and self.contents.told().active is not None)
        self.stand()


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    monkeypatch.setattr(token_holder, "HEARTBEAT_S", 0.02)
    return Agent(tmp_path, monkeypatch)


def run(agent: Agent, test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each()) for each in (agent.contents.run, agent.darkness.run)]
            try:
                await agent.begin()
                await test()
            finally:
                agent.disk.set()
                for task in tasks:
                    task.cancel()

    asyncio.run(whole())


def test_a_slot_is_not_given_back_while_its_activation_waits_for_the_disk(agent: Agent) -> None:
    """A drain was aborted and its slot recalled; the disk comes back afterwards, and darkens the site by it."""

    async def test() -> None:
        recall = Recall(id="k-1", reason="cause_gone")
        agent.hangs()
        agent.activate(DRAINED, 2)
        await agent.until(agent.asked.is_set)
        agent.reports.clear()
        agent.answer(recall)
        await agent.until(lambda: len(agent.reports) > 3)
        assert all(each.ended == () and each.announcing for each in agent.reports)
        agent.disk.set()
        await agent.until(lambda: agent.dark)
        agent.answer(recall)
        agent.reports.clear()
        await agent.until(lambda: len(agent.reports) > 3)
        assert agent.reports[-1].ended == ("k-1",) and not agent.reports[-1].announcing, "it keeps the slot while dark"

    run(agent, test)


def test_another_connection_forgets_what_waits_and_hears_of_what_is_judged(agent: Agent) -> None:
    async def test() -> None:
        agent.hangs()
        agent.offer(DRAINED, 2)  # again: the disk is asked
        await agent.until(agent.asked.is_set)
        agent.activate(DRAINED, 2)
        agent.connect(2)
        agent.disk.set()
        await asyncio.sleep(0.2)
        agent.stand()
        assert not agent.dark, "what waited came over a connection that is over"

        agent.hangs()
        agent.activate(DRAINED, 2)
        await agent.until(agent.asked.is_set)
        agent.reports.clear()
        agent.connect(3)
        agent.answer()
        await agent.until(lambda: len(agent.reports) > 3)
        assert not agent.reports[-1].announcing, "it may be dark any moment, by a word that this leader does not know"
        agent.disk.set()
        await agent.until(lambda: agent.dark)

    run(agent, test)


def test_a_route_that_is_not_out_though_the_site_serves_is_told_with_what_keeps_it_in(agent: Agent) -> None:
    async def test() -> None:
        agent.withdrawn_by = Reason.FLAP_DELAYED
        agent.reports.clear()
        agent.answer()
        await agent.until(lambda: any(each.reason == Reason.FLAP_DELAYED for each in agent.reports))
        agent.withdrawn_by = None
        agent.reports.clear()
        await agent.until(lambda: any(each.reason == Reason.HEALTHY for each in agent.reports))

    run(agent, test)
