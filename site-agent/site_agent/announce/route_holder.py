"""The route lease of one agent, put together: core, bridge socket and ExaBGP's process. What the agent composes.

    verdict core ──▶ RouteHolder.verdict() ──▶ RouteLease ──▶ BridgeSocket ──▶ exabgp_bridge
                                                   │
                                                   └──▶ ExaBGP ended and started anew

Killing takes milliseconds but is awaited, so it runs as a task of its own; its result is the process's exit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from anycast.errors import PeerError
from anycast.events import AlarmCleared, AlarmRaised, Event, HolderExited, HolderKilled, HolderStarted
from anycast.model import Route
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime, drive
from site_agent.announce.bridge_socket import BridgeSocket
from site_agent.announce.exabgp_process import end_with_children
from site_agent.announce.exabgp_reload import reload
from site_agent.announce.holder import (
    EXABGP,
    Action,
    ExabgpExited,
    ExabgpStarted,
    Happened,
    Input,
    KillHolder,
    RouteLease,
    RoutesChanged,
    StopReady,
    StopRequested,
    TellBridge,
    Verdicts,
)
from site_agent.daemon_process import Backoff, DetachedProcess, ProcessSpec, credentials, keep_running

STOP_LIMIT_S = 2.0
"""How long a clean stop waits for the bridge; it answers in milliseconds."""


class RouteHolder:
    """Announces while verdicts say so. Use from the event loop's thread only."""

    def __init__(
        self,
        *,
        instance: str,
        routes: tuple[Route, ...],
        own: tuple[Route, ...] = (),
        lease_s: float,
        grace_s: float,
        exabgp: ProcessSpec,
        socket_path: Path,
        happened: Callable[[Event], None],
    ) -> None:
        """`instance` is unique to this run of the agent; `exabgp.run_as` owns the bridge's side of the socket."""
        self.lease = RouteLease(
            instance=instance, routes=routes, own=own, lease_s=lease_s, grace_s=grace_s, now=boottime()
        )
        """The core, for `status`. Only this class feeds it."""
        self.process = DetachedProcess(exabgp, self._on_exit)
        self._happened = happened
        self._inbox: asyncio.Queue[Input] = asyncio.Queue()
        self._ready_to_stop: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._ending: asyncio.Task[None] | None = None
        self._outdated = False
        _, group = credentials(exabgp.run_as or "0")
        self._socket = BridgeSocket(
            socket_path, group=group, exabgp_pid=lambda: self.process.pid, heard=self._inbox.put_nowait
        )

    def verdict(self, verdict: VerdictReached, own: VerdictReached | None = None) -> None:
        """Take the verdict core's word: at each tick, and at once when it changes. `own`: for the site's own routes, where
        it has some."""
        self._inbox.put_nowait(verdict if own is None else Verdicts(service=verdict, own=own))

    def announce(self, routes: tuple[Route, ...], own: tuple[Route, ...] = ()) -> None:
        """Replace what is announced while serving."""
        self._inbox.put_nowait(RoutesChanged(routes, own))

    async def run(self) -> None:
        """Hold the route until cancelled. ExaBGP and its bridge go on; call `stop` before for a restart grace."""
        self._socket.listen()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(drive(self.lease, self._inbox, self._perform))
                group.create_task(keep_running(self.process, happened=self._on_life, backoff=Backoff(cap_s=5.0)))
        finally:
            self._socket.close()
            self.process.release()

    async def stop(self) -> float:
        """Leave a restart grace if something is announced. Returns its length in seconds, 0 where none was left.

        A bridge that says nothing is ended with its ExaBGP: a stopped one would keep the route, with nobody left to see it.
        """
        self._inbox.put_nowait(StopRequested())
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                return await self._ready_to_stop
        except TimeoutError:
            if self.process.pid is not None:
                self._happened(HolderKilled(name=EXABGP, pid=self.process.pid, reason=Reason.BRIDGE_SILENT))
            await self._end()
            return 0.0

    async def reload(self) -> str:
        """Have ExaBGP read the installed file, if it runs by another. Returns what was done. Raises PeerError."""
        if not self.process.outdated:
            return "runs by the installed file"
        await reload(self.process)
        self._compare_settings()
        return "has read the installed file; sessions that changed went down and come back"

    def _perform(self, action: Action) -> None:
        match action:
            case TellBridge(message):
                self._socket.send(message)
            case KillHolder():
                self._ending = asyncio.create_task(self._end())
            case Happened(event):
                self._happened(event)
            case StopReady(grace_s):
                if not self._ready_to_stop.done():
                    self._ready_to_stop.set_result(grace_s)

    async def _end(self) -> None:
        try:
            await end_with_children(self.process)
        except (PeerError, TimeoutError) as exc:
            self._happened(AlarmRaised(reason=Reason.EXABGP_SILENT, detail=f"cannot be ended: {exc}"))

    def _on_life(self, event: Event) -> None:
        if isinstance(event, HolderStarted):
            self._inbox.put_nowait(ExabgpStarted(pid=event.pid, adopted=event.adopted))
        self._happened(event)
        if isinstance(event, HolderStarted):
            self._compare_settings()

    def _compare_settings(self) -> None:
        if self.process.outdated:
            detail = f"pid {self.process.pid} runs by other sessions than the installed file; `site-agent apply` tells it"
            self._happened(AlarmRaised(reason=Reason.EXABGP_OUTDATED, detail=detail))
            self._outdated = True
        elif self._outdated:
            self._happened(AlarmCleared(reason=Reason.EXABGP_OUTDATED))
            self._outdated = False

    def _on_exit(self, pid: int, status: int | None) -> None:
        self._socket.disconnect()
        self._inbox.put_nowait(ExabgpExited(pid=pid))
        self._happened(HolderExited(name=EXABGP, pid=pid, status=status))
