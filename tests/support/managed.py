"""Agents' ends as a coordinator meets them: the real link, contents and darkness, around a route that is a flag."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from anycast.content.operators import Operators
from anycast.document import Document
from anycast.events import Event
from anycast.link_wire import ContentWanted, DarknessTold, EventsKept, Report
from anycast.model import Cause, Evidence, EvidenceClass, Status
from anycast.pki.machine_folder import MachineFolder
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.content_brief import Brief
from site_agent.contents import Contents
from site_agent.coordinator_link import CoordinatorLink, Sent
from site_agent.darkness import Darkness
from site_agent.paths import Paths

TICK_S = 0.1


class Managed:
    """One gateway. `serves`, `canary` and `decrypts` are what a test turns."""

    def __init__(self, document: Document, folder: MachineFolder, base: Path, operators: Operators) -> None:
        self.document, self.folder = document, folder
        self.paths = Paths(run_dir=base / "run", state_dir=base / "state", etc_dir=base / "etc", pki_dir=folder.path)
        for each in (self.paths.state_dir, self.paths.run_dir):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.paths.operators.write_bytes(operators.data)
        self.events: list[Event] = []
        self.serves = True
        self.canary: bool | None = True
        self.packets_s = 100.0
        self.tunnels = 3
        self.own: tuple[str, ...] | None = ()
        """Its site's own prefixes that stand; None: an agent that does not tell."""
        self.broken_by: str | None = None
        """The hash of a content by which clients are lost, while everything else stays green."""
        self.hands_over = True
        """Whether it knows the message by which a coordinator asks for a content; an older agent does not."""
        self._packets = 0.0
        self._make()

    def _make(self) -> None:
        self.announced = False
        self.contents = Contents(
            self.document, self.paths, staged=self._staged, activated=self._activated, happened=self.events.append
        )
        self.darkness = Darkness(
            self.document, {"dns": 5.0, "canary": 5.0}, say=self._say, announced=lambda: self.announced and not self.worse,
            hold=lambda: None, withdrawn_by=lambda: None, happened=self.events.append,
            ordered=lambda: self.contents.ordered,
            ordered_before=lambda: self.contents.ordered_before,
        )  # fmt: skip
        self.link = CoordinatorLink(
            self.document, instance=f"i{id(self.contents)}", report=self._report, sent=self._sent,
            session=self._connected, happened=self.events.append, folder=self.folder,
        )  # fmt: skip

    async def run(self) -> None:
        self.contents.start()
        self.darkness.content(self.contents.active)
        self.darkness.staged(self.contents.waiting)
        async with asyncio.TaskGroup() as group:
            for each in (self.link.run, self.contents.run, self.darkness.run, self._tick):
                group.create_task(each())

    @property
    def worse(self) -> bool:
        """The route looks worse than it could."""
        return self.darkness.worse is not None

    @property
    def generation(self) -> int | None:
        return None if self.contents.active is None else self.contents.active.generation

    def looks(self, check: str, *, passes: bool) -> None:
        """A look of a check of class `shared`."""
        status, reason = (Status.PASSING, Reason.HEALTHY) if passes else (Status.FAILING, Reason.DNS_WRONG)
        self.darkness.evidence(
            Evidence(check=check, evidence_class=EvidenceClass.SHARED, status=status, reason=reason, at=boottime())
        )

    def _lets(self, serving: bool) -> bool:
        """Whether the route is out, where the verdict is `serving` or not."""
        return serving

    async def _tick(self) -> None:
        while True:
            reason = Reason.HEALTHY if self.serves else Reason.CHARON_EXITED
            verdict = VerdictReached(serving=self.serves, causes=(Cause(reason=reason),), at=boottime())
            after = self.darkness.passed(verdict)
            if (announced := self._lets(after.serving)) != self.announced:
                self.announced = announced
                self.link.changed()
            active = self.contents.active
            lost = active is not None and active.hash == self.broken_by
            self._packets += 0.0 if lost or not self.announced else self.packets_s * TICK_S
            await asyncio.sleep(TICK_S)

    def _report(self, number: int) -> Report:
        count = int(self._packets)
        shared = {} if self.canary is None else {"canary": "passing" if self.canary else "failing"}
        return Report(
            number=number, own=self.own, document=self.document.hash, generation=self.generation or 0, serving=self.serves,
            announced=1 if self.announced else 0, routes=1, role="none", tunnels=self.tunnels,
            decrypted=count, encrypted=count, shared=shared, contents=self.contents.told(),
        )  # fmt: skip

    def _connected(self, session: int | None) -> None:
        if session is not None:
            self.contents.connected()
        self.darkness.connected(session)

    def _say(self, message: DarknessTold) -> None:
        self.link.say(message)

    def _sent(self, message: Sent) -> None:
        if isinstance(message, DarknessTold):
            self.darkness.told(message)
        elif isinstance(message, ContentWanted):
            if self.hands_over:
                self._handing = asyncio.create_task(self._hand_over(message))
        elif not isinstance(message, EventsKept):
            self.contents.sent(message)

    async def _hand_over(self, message: ContentWanted) -> None:
        self.link.say(await self.contents.had(message))

    def _staged(self, taken: Brief) -> None:
        self.darkness.staged(taken)
        self.link.changed()

    def _activated(self, taken: Brief) -> None:
        self.darkness.content(taken)
        self.link.changed()


@contextlib.asynccontextmanager
async def running(*agents: Managed) -> AsyncIterator[dict[str, asyncio.Task[Any]]]:
    tasks = {agent.document.gateway: asyncio.create_task(agent.run()) for agent in agents}
    try:
        yield tasks
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
