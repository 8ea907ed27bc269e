"""The shell of the rekey queue: asks charon, hears what became of it, and knows the time.

    wishes ──▶ Rekeyer ──▶ RekeyQueue ──Ask──▶ VICI `rekey`
                  ▲                   ──End──▶ VICI `terminate`
                  └── charon's events `child-rekey` and `ike-rekey`

Each gateway has one queue at a time. Where there is a mirror it is in the sync process: all reasons but one arise there, and
20,000 wishes must not pass through the loop that holds the lease. Where there is none, or the sync process does not speak
(then it asks for nothing, either), the agent has it, for the one reason that it knows of itself.

Everything goes by the names of connection and child, one request for all, where all tunnels have lost their kernel state:
charon walks over all its IKE_SAs for each request (strongSwan 5.9.8, vici_control.c), and then has its own threads do the
rekeys side by side. That is outside of the budget: the gateway serves nobody, and has 2 s (`tunnel_repair`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Protocol

from anycast.errors import PeerError
from anycast.reasons import Reason
from anycast.runtime import boottime
from anycast.timer import TimerExpired
from site_agent.ike.rekey_queue import Action, Ask, End, Gone, Input, Refused, Rekeyed, RekeyQueue, SaId, Swept, Wish, Wished
from site_agent.ike.tunnel_repair import Judgement
from site_agent.ike.vici_client import Section, ViciClient

REGISTER_LIMIT_S, REKEY_LIMIT_S = 2.0, 2.0
EVERYTHING_LIMIT_S = 1.0
"""For one request: charon only queues the rekeys, over 20,000 IKE_SAs in some 20 ms."""
AGAIN_S = 1.0
"""After a connection for events that could not be had or that ended."""


class Rekeyer:
    """Use from one event loop; `run` as a task, `close` when done. `events` and `requests` are this object's alone."""

    def __init__(
        self,
        events: ViciClient,
        requests: ViciClient,
        *,
        asked: Callable[[Ask], None] = lambda ask: None,
        refused: Callable[[Refused], None] = lambda refused: None,
        listeners: Mapping[str, Callable[[Section], None]] | None = None,
    ) -> None:
        """`listeners`: more events of charon's, and who hears them."""
        self._events, self._requests = events, requests
        self._asked, self._refused = asked, refused
        self._listeners = {"child-rekey": self._child_rekeyed, "ike-rekey": self._ike_rekeyed, **(listeners or {})}
        self.queue = RekeyQueue()
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Hear charon, until cancelled."""
        try:
            while True:
                with contextlib.suppress(PeerError, TimeoutError):
                    await self._events.listen(self._listeners, register_s=REGISTER_LIMIT_S)
                await asyncio.sleep(AGAIN_S)
        finally:
            self.close()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._running:
            task.cancel()
        self._events.close()
        self._requests.close()

    def feed(self, event: Input) -> None:
        now = boottime()
        for action in self.queue.handle(event, now):
            self._perform(action)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (deadline := self.queue.deadline) is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(deadline - boottime(), 0), self.feed, TimerExpired())

    def end(self, sa: SaId, name: str) -> None:
        """With a DELETE to the client, whom charon asks until it answers."""
        self._perform(End(sa=sa, name=name))

    def _perform(self, action: Action) -> None:
        match action:
            case Ask():
                self._asked(action)
                self._begin(action, "rekey")
            case End():
                self._begin(action, "terminate")
            case Refused():
                self._refused(action)

    def _begin(self, action: Ask | End, command: str) -> None:
        task = asyncio.get_running_loop().create_task(self._order(action.sa, command))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _order(self, sa: SaId, command: str) -> None:
        message = {f"{sa.kind}-id": sa.unique}
        if command == "terminate":
            message["timeout"] = "-1"  # charon waits for the client, and we do not
        try:
            await self._requests.request(command, message, timeout_s=REKEY_LIMIT_S)
        except PeerError:
            self.feed(Gone(sa))
        except TimeoutError:
            pass  # charon is busy: it is asked for again as if the client had not answered

    # charon's events (src/libcharon/plugins/vici/README.md); what cannot be understood the next list makes good

    def _child_rekeyed(self, event: Section) -> None:
        for ike_sa in event.values():
            for child in ike_sa.get("child-sas", {}).values() if isinstance(ike_sa, dict) else ():
                self._rekeyed("child", child)

    def _ike_rekeyed(self, event: Section) -> None:
        for ike_sa in event.values():
            self._rekeyed("ike", ike_sa)

    def _rekeyed(self, kind: str, section: object) -> None:
        old = section.get("old") if isinstance(section, dict) else None
        if isinstance(old, dict) and isinstance(unique := old.get("uniqueid"), bytes):
            self.feed(Rekeyed(SaId(kind, unique.decode())))


class Elsewhere(Protocol):
    """The queue of another process."""

    def wish(self, wishes: tuple[Wish, ...]) -> bool:
        """Whether it takes them. False: it does not speak."""
        ...

    def swept(self) -> None: ...


class CharonRekeyer:
    """Of tunnels whose kernel state is gone, for `checks.child_sas`. The answer to `rekey` only says that the wishes are
    queued; whether a client answered, the next look tells."""

    def __init__(self, vici: ViciClient, own: Rekeyer, elsewhere: Callable[[], Elsewhere | None]) -> None:
        self._vici, self._own, self._elsewhere = vici, own, elsewhere

    async def rekey(self, judged: Judgement) -> None:
        """Raises PeerError where charon refuses to rekey everything, TimeoutError where it says nothing."""
        elsewhere = self._elsewhere()
        if judged.everything:
            self._own.feed(Swept())
            if elsewhere is not None:
                elsewhere.swept()
            for ike, child in sorted({(lost.connection, lost.child) for lost in judged.rekey}):
                await self._vici.request("rekey", {"ike": ike, "child": child}, timeout_s=EVERYTHING_LIMIT_S)
            return
        wishes = tuple(
            Wish(
                sa=SaId("child", lost.unique_id),
                ike=lost.ike_id,
                name=f"{lost.name} of {lost.identity or 'an unnamed client'}",
                client=lost.identity,
            )
            for lost in judged.rekey
        )
        if elsewhere is None or not elsewhere.wish(wishes):
            self._own.feed(Wished(reason=Reason.SA_STATE_PARTIAL, wishes=wishes, more=True))
