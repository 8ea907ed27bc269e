"""The shell around ledger and tokens (`policy/tokens.py`): one input at a time, committed before anybody hears of it.

A commit that fails ends this leadership, and with it the process: what would be said next might not be in the store.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from anycast import token_wire
from anycast.content.content import Content
from anycast.coordinator.store import Body, Deed, Entry, Key
from anycast.errors import DecodeError
from anycast.model import Cause
from anycast.policy import ledger
from anycast.policy.floors import Budget, allowed, budget_of
from anycast.policy.ledger import Kind, Ledger, Standing
from anycast.policy.token_words import (
    Commit,
    ContentChanged,
    EndSlot,
    Halted,
    Reported,
    Send,
    SlotEnding,
    SlotRefused,
    SlotReturned,
    SlotTaken,
    TakeSlot,
)
from anycast.policy.tokens import Input, Tokens
from anycast.reasons import Reason
from anycast.runtime import boottime

KIND = "slot"
NOBODY = Budget(min_sites=0, sites=())
"""Of a fleet that has no content yet: it has no sites, so nothing may be dark."""
_log = logging.getLogger(__name__)
Write = Callable[[dict[Key, Body | None], tuple[Deed, ...]], Awaitable[None]]


class Darkness:
    """Use from the event loop's thread: `run` until cancelled; it raises where a commit fails."""

    def __init__(
        self,
        kept: Mapping[str, Entry],
        leader: str,
        *,
        write: Write,
        send: Callable[[str, int, str], None],
        strange: Callable[[str, tuple[str, ...]], None],
    ) -> None:
        """`kept`: the store's, with `leader` in it as who leads. `write` commits, or raises; `send` takes gateway, session
        and text of an answer; `strange` is told a gateway and the slots that it holds and that the ledger did not know when
        it said so first, when these change."""
        entries = [_from_store(key, entry.body) for key, entry in sorted(kept.items()) if entry.body is not None]
        self._core = Tokens(Ledger(NOBODY, entries), {}, leader=leader, now=boottime())
        self._write, self._send, self._strange = write, send, strange
        self._strangers: dict[str, tuple[str, ...]] = {}
        self._inbox: asyncio.Queue[tuple[Input, asyncio.Future[ledger.Entry | Cause] | None]] = asyncio.Queue()

    @property
    def entries(self) -> list[ledger.Entry]:
        """What stands in the ledger, oldest first."""
        return list(self._core.ledger.entries.values())

    @property
    def allowed(self) -> int:
        """Sites that may be dark on purpose."""
        return allowed(self._core.ledger.budget)

    def standings(self) -> dict[str, Standing]:
        return self._core.standings(boottime())

    def summary(self) -> str:
        """``dark 2 of 4 allowed: …``."""
        return self._core.ledger.summary(self.standings())

    def content(self, content: Content | None) -> None:
        """What is in force says who there is and how much may be dark."""
        gateways = {name: site for site, each in content.sites.items() for name in each.gateways} if content else {}
        self.feed(ContentChanged(budget_of(content) if content else NOBODY, gateways))

    def told(self, gateway: str, session: int, text: str) -> None:
        """A gateway's word about darkness. Raises DecodeError."""
        report = token_wire.decode_report(text.encode())
        # An operator's hold is given by nobody; every other slot was in the store before its holder heard of it.
        held = [each.id for each in report.held if each.kind != Kind.HOLD]
        before = self._strangers.get(gateway, ())
        strangers = tuple(each for each in held if each in before or each not in self._core.ledger.entries)
        if strangers != before:
            self._strangers[gateway] = strangers
            self._strange(gateway, strangers)
        self.feed(Reported(gateway, session, report))

    def acquainted(self) -> None:
        """What gateways hold is in the ledger by now, by their own word: nothing of it is strange any more."""
        self._strangers.clear()

    def halt(self, why: str) -> None:
        """Grant nothing, and give no slot, while `why` is not empty."""
        self.feed(Halted(Cause(reason=Reason.STORE_BEHIND, detail=why) if why else None))

    def feed(self, event: Input) -> None:
        self._inbox.put_nowait((event, None))

    async def take(self, wanted: TakeSlot) -> ledger.Entry | Cause:
        """The slot, or why there is none."""
        future: asyncio.Future[ledger.Entry | Cause] = asyncio.get_running_loop().create_future()
        self._inbox.put_nowait((wanted, future))
        return await future

    def end(self, entry_id: str, reason: str) -> None:
        """It is not wanted dark any more; the slot returns when the site says so."""
        self.feed(EndSlot(entry_id, reason))

    async def run(self) -> None:
        while True:
            event, future = await self._inbox.get()
            for action in self._core.handle(event, boottime()):
                await self._perform(action, future)

    async def _perform(self, action: Any, future: asyncio.Future[ledger.Entry | Cause] | None) -> None:
        match action:
            case Commit(put=put, remove=remove):
                writes: dict[Key, Body | None] = {(KIND, entry.id): _to_store(entry) for entry in put}
                await self._write(writes | {(KIND, entry_id): None for entry_id in remove}, ())
            case Send(gateway=gateway, session=session, answer=answer):
                self._send(gateway, session, token_wire.encode(answer).decode())
            case SlotTaken(entry=entry):
                _log.info("slot %s: %s %s by %s", entry.id, entry.site, entry.kind, entry.by)
                if future is not None and not future.done():
                    future.set_result(entry)
                await self._tell("slot.taken", entry)
            case SlotRefused(decision=decision):
                if future is not None and not future.done():
                    future.set_result(decision.cause)
            case SlotEnding(entry=entry):
                await self._tell("slot.ending", entry)
            case SlotReturned(entry=entry):
                await self._tell("slot.returned", entry)
            case _:
                _log.warning("%s", action)

    async def _tell(self, action: str, entry: ledger.Entry) -> None:
        body = {"site": entry.site, "kind": str(entry.kind), "id": entry.id}
        deed = Deed(at=time.time(), who=entry.by or "gateway", action=action, reason=entry.ending or entry.why, body=body)
        await self._write({}, (deed,))


def _to_store(entry: ledger.Entry) -> Body:
    return {"v": 1, **dataclasses.asdict(entry), "kind": str(entry.kind)}


def _from_store(key: str, body: Body) -> ledger.Entry:
    try:
        names = {field.name for field in dataclasses.fields(ledger.Entry)}
        known = {name: value for name, value in body.items() if name in names}
        return ledger.Entry(**{**known, "gateways": tuple(known["gateways"]), "returned": tuple(known["returned"])})
    except (KeyError, TypeError) as exc:
        raise DecodeError(f"slot {key}", 0, "means nothing") from exc
