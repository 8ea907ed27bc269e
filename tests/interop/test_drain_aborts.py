"""`anycast drain --to`, ended by an operator at each of its steps: command line, coordinator, and the agent's own drain.

Six agents' ends over TLS; fra's has the real drain, around a charon, a bridge and a door that keep it at the step that the
test wants. What happens to tunnels is `test_drain_gateway.py`'s.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from anycast.events import DrainStepTaken
from anycast.link_wire import ActivationSent
from anycast.policy.drain import Plan, RouteWord, Tunnel
from anycast.runtime import boottime
from site_agent import drainer
from site_agent.content_brief import Brief
from site_agent.coordination import drain_plan
from site_agent.coordinator_link import Sent
from site_agent.drainer import Around, Drainer
from tests.support import deciding_fleet as decisions
from tests.support.contents import fleet_text
from tests.support.deciding_fleet import Fleet, fleet, quick
from tests.support.managed import Managed

pytestmark = pytest.mark.daemons

__all__ = ["quick"]

OWN, ADDRESS = "2001:db8:f::/56", "2001:db8:f::1"
WORDS = ("undrain", "abort", "undrain", "abort", "undrain")
"""By step, in ./test; with --long each step has the other one as well."""
UNDONE = {
    "moving": ["ended"], "degrading": ["reannouncing", "ended"], "withdrawing": ["reannouncing", "ended"],
    "refusing": ["reopening", "reannouncing", "ended"], "done": ["reopening", "reannouncing", "ended"],
}  # fmt: skip


class Draining(Managed):
    """A gateway whose tunnels move first. It stays at the step that `stays_at` names."""

    stays_at = ""
    deaf = False
    """Activations do not reach it."""

    def _make(self) -> None:
        super()._make()
        self.order: list[str] = []
        self._plans: asyncio.Queue[Plan | None] = asyncio.Queue()
        self.charon = Charon(self)
        around = Around(
            redirector=self.charon, door=self.charon, route=self._route, serving=lambda: True, active=lambda: True,  # type: ignore[arg-type]
            kept_closed=lambda: False, changed=self.link.changed,
        )  # fmt: skip
        self.drainer = Drainer(self.paths, around, self.events.append)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for each in (super().run, self.drainer.run, self._follow):
                group.create_task(each())

    async def _follow(self) -> None:
        while True:
            await self.drainer.follow(await self._plans.get())

    def _activated(self, taken: Brief) -> None:
        super()._activated(taken)
        plan = drain_plan(taken)
        self._plans.put_nowait(None if plan is None else dataclasses.replace(plan, settle_s=0.0))

    def _sent(self, message: Sent) -> None:
        if not (self.deaf and isinstance(message, ActivationSent)):
            super()._sent(message)

    @property
    def worse(self) -> bool:
        return super().worse or self.drainer.worse is not None

    def _lets(self, serving: bool) -> bool:
        out = serving and (not self.drainer.wants.withdrawn or (self.stays_at == "withdrawing" and self.announced))
        if out and not self.announced:
            self.order.append("announced")
        return out

    def _route(self, plan: Plan) -> RouteWord:
        if not self.announced:
            return RouteWord.NONE
        return RouteWord.WORSE if self.drainer.wants.worse and self.stays_at != "degrading" else RouteWord.NORMAL

    @property
    def steps(self) -> list[str]:
        return [event.step for event in self.events if isinstance(event, DrainStepTaken)]


class Charon:
    """Its tunnels and its door. It stays at the step that `gateway` says."""

    def __init__(self, gateway: Draining) -> None:
        self._gateway = gateway
        self.closed = False

    async def tunnels(self, to: Iterable[str]) -> tuple[Tunnel, ...]:
        return (Tunnel("1"),) if self._gateway.stays_at == "moving" else ()

    async def redirect(self, ids: Iterable[str], to: Iterable[str], *, stop: Any) -> int:
        return 0

    def close(self) -> int:
        self.closed = self._gateway.stays_at != "refusing"
        return int(self.closed)

    def open(self) -> int:
        self.closed = False
        self._gateway.order.append("opened")
        return 1


@pytest.mark.parametrize("other", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_drain_is_ended_at_each_of_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, other: bool) -> None:
    async def answered(address: str, timeout_s: float) -> bool:
        return True

    more = {"sin": f'unicast_prefix: {{ipv6: "{OWN}"}}\n    service_address: {{ipv6: "{ADDRESS}"}}'}
    coordinated = fleet_text(more=more) + decisions.COORDINATED.removeprefix(fleet_text())
    monkeypatch.setattr(decisions, "COORDINATED", coordinated)
    monkeypatch.setattr(decisions, "Managed", Draining)
    monkeypatch.setattr(drainer, "LOOK_S", 0.1)
    monkeypatch.setattr(drainer, "answers", answered)

    async def test() -> None:
        async with fleet(tmp_path) as made:
            made.agents["sin"].own = (OWN,)
            made.agents["sin"].link.changed()
            others = asyncio.create_task(nobody_else_goes_dark(made))
            for step, word in zip(UNDONE, WORDS, strict=True):
                await ended_at(made, step, {"undrain": "abort", "abort": "undrain"}[word] if other else word)
                assert not others.done(), others.exception()
            others.cancel()

    asyncio.run(test())


async def nobody_else_goes_dark(made: Fleet) -> None:
    while True:
        dark = [site for site, agent in made.agents.items() if site != "fra" and (not agent.announced or agent.worse)]
        assert not dark, dark
        await asyncio.sleep(0.02)


async def ended_at(made: Fleet, step: str, word: str) -> None:
    fra, ams = made.agents["fra"], made.agents["ams"]
    assert isinstance(fra, Draining) and isinstance(ams, Draining)
    fra.events.clear()
    fra.order.clear()
    fra.stays_at, ams.deaf = step, word == "abort"  # a rollout that waits for ams can be aborted
    await made.run("drain", "fra", "--to", "sin", "--yes", "--reason", f"{step}, {word}")
    until = boottime() + 40
    while fra.steps[-1:] != [step]:
        assert boottime() < until, (step, fra.steps, fra.drainer.describe(), made.service.status().rollout)
        await asyncio.sleep(0.05)
    at = "activating" if word == "abort" else "done"
    await made.becomes(f"{step}: the rollout", lambda s: s["rollout"]["step"] == at and s["rollout"]["done"] > 0)
    await made.becomes("a slot", lambda s: "dark 1 of 2 allowed: fra drain by alice" in s["ledger"])
    assert fra.steps[-1] == step and fra.announced is (step not in ("refusing", "done")), "it stays there"
    if word == "abort":
        ams.deaf = False
        await made.run("rollout", "abort")
    else:
        await made.run("undrain", "fra", "--yes", "--bake", "1", "--without-evidence")
    until = boottime() + 40
    while fra.steps[-1:] != ["ended"]:
        assert boottime() < until, (step, word, fra.steps, fra.drainer.describe(), made.service.status().rollout)
        await asyncio.sleep(0.05)
    assert fra.steps[fra.steps.index(step) + 1 :] == UNDONE[step], fra.steps
    await made.becomes("over", lambda s: s["rollout"]["step"] == ("stopped" if word == "abort" else "done"))
    await made.becomes("its slot is back", lambda s: s["ledger"] == "dark 0 of 2 allowed" and not s["alarms"])
    assert fra.announced and not fra.worse and not fra.charon.closed and fra.drainer.drain is None
    if step == "done":
        assert fra.order == ["opened", "announced"], "the door first"
