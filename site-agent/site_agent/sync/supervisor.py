"""The agent's side of the mirror: the sync process started, told the role, watched, and started again.

    vrrp process ──role──▶ agent ──▶ Supervisor ──▶ python -m site_agent.sync
                                        │
                 events, alarms ◀───────┘

It holds no lease, so its end moves nothing by itself: the kernel's SAs, the gate and charon's role stay as they were. It is
started again at once, told whether it had settled as Active before, and begins with a look at everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

from anycast.document import Document
from anycast.errors import DecodeError, PeerError
from anycast.events import (
    AlarmCleared,
    AlarmRaised,
    Event,
    HolderExited,
    HolderKilled,
    HolderStarted,
    PromotionSettled,
    PromotionStepTaken,
    RekeyRefused,
    RekeysProgressed,
    TunnelEnded,
    TunnelNotMirrored,
)
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent import priority
from site_agent.daemon_process import Backoff, open_log
from site_agent.ike.ha_segment import FIFO
from site_agent.ike.rekey_queue import Wish
from site_agent.paths import Paths
from site_agent.socket_child import SocketChild
from site_agent.sync import agent_wire
from site_agent.sync import plan as plans
from site_agent.sync.versions import Versions, shared_content

NAME = "sync"
SILENT_LIMIT_S = 10.0
"""It reports every second. A listing of 20,000 SAs keeps it for 0.3 s natively, 3 s in User Mode Linux."""
START_LIMIT_S = 60.0
"""Until its first report: 0.3 s natively, 20 s in User Mode Linux beside everything else that starts. One that is killed for
being slow would be slow again."""
REPEAT_S = 1.0
FINISH_LIMIT_S = 1.6
"""More than `open_exchanges.ENDED_WITHIN_S` and `ACKNOWLEDGED_WITHIN_S`; a process that hangs keeps no handover waiting."""
SPEAKS_S = 2.5
"""It reports every second. One that does not takes no wishes, either."""
WISHES_AT_ONCE = 20
"""In one message: names are at most a few hundred bytes."""
KNOWN = {reason.value: reason for reason in Reason}
PROGRESS_EVERY_S = 60.0
"""Between two lines in the log about rekeys that wait."""


class Supervisor:
    """Use from the event loop's thread only; `run` once."""

    def __init__(self, document: Document, paths: Paths, *, happened: Callable[[Event], None]) -> None:
        """`document.sync` is there."""
        assert document.sync is not None
        self._document, self._sync, self._paths, self._happened = document, document.sync, paths, happened
        self._child: SocketChild | None = None
        self._active: bool | None = None
        self._charon = ""
        self._status: agent_wire.Status | None = None
        self._heard_at = 0.0
        self._settled_active = False
        self._alarms: dict[Reason, str] = {}
        self._progress_at: float | None = None
        """When the log was last told of rekeys that wait; None where none waited."""
        self._ended = asyncio.Event()
        self._finished: asyncio.Future[agent_wire.Finished] | None = None

    def role(self, active: bool) -> None:
        """This gateway holds the site's addresses, or does not."""
        if active != self._active:
            self._active = active
            self._tell_role()

    def charon(self, identity: str) -> None:
        """Which charon runs; empty while none does."""
        if identity != self._charon:
            self._charon, self._settled_active = identity, False  # another one is Backup, whatever this gateway is
            self._tell_role()

    @property
    def spent(self) -> int:
        """SAs that have changed gateways so often that sequence numbers run out; they are being rekeyed."""
        return 0 if self._status is None else self._status.spent

    @property
    def mismatches(self) -> list[str]:
        """Why a planned handover would lose tunnels, in words; empty where it would not."""
        status = self._status
        if status is None:
            return ["the sync process has not spoken yet"]
        found = list(status.mismatches)
        if not status.connected:
            found.append(f"no session with {self._sync.peer}")
        elif not status.settled:
            found.append("charon does not follow this gateway's role yet")
        elif status.at_their_end:
            found.append(
                f"{status.at_their_end} tunnels have changed gateways as often as their sequence numbers allow, and are "
                "being rekeyed; ask again in a moment (`site-agent clients` names who refuses a rekey)"
            )
        return found

    @property
    def agrees(self) -> bool:
        """The peer is connected, and says that it runs by the same generation of the same document."""
        status = self._status
        differ = Reason.DOCUMENTS_DIFFER.value
        return status is not None and status.connected and not any(word.startswith(differ) for word in status.mismatches)

    @property
    def pools(self) -> dict[str, int] | None:
        """Inner addresses in use, by prefix; None: nobody knows."""
        return None if self._status is None else self._status.pools or None

    async def finish(self) -> agent_wire.Finished | None:
        """Before a planned handover: what is open with clients ends. None: the process did not say so in time."""
        if self._child is None:
            return None
        self._finished = asyncio.get_running_loop().create_future()
        self._child.send(agent_wire.encode(agent_wire.Finish()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_LIMIT_S):
                return await self._finished
        return None

    def handover_over(self) -> None:
        """After `finish`: whatever came of it."""
        if self._child is not None:
            self._child.send(agent_wire.encode(agent_wire.HandoverOver()))

    def describe(self) -> dict[str, Any]:
        """For `status` and metrics."""
        status = None if self._status is None else dataclasses.asdict(self._status)
        return {"peer_gateway": self._sync.peer, "pid": None if self._child is None else self._child.pid, "status": status}

    def wish(self, wishes: tuple[Wish, ...]) -> bool:
        """Have these tunnels rekeyed by the process's queue. False: it does not speak, and the agent has the queue."""
        if self._child is None or self._status is None or boottime() > self._heard_at + SPEAKS_S:
            return False
        for start in range(0, len(wishes), WISHES_AT_ONCE):
            self._child.send(agent_wire.encode(agent_wire.LostTunnels.of(wishes[start : start + WISHES_AT_ONCE])))
        return True

    def swept(self) -> None:
        """charon was asked to rekey everything."""
        if self._child is not None:
            self._child.send(agent_wire.encode(agent_wire.Swept()))

    async def run(self) -> None:
        """Keep a process running until cancelled."""
        backoff, failed = Backoff(cap_s=5.0), False
        try:
            while True:
                began = boottime()
                self._ended.clear()
                try:
                    self._start()
                except (PeerError, OSError) as exc:
                    if not failed:
                        self._happened(AlarmRaised(reason=Reason.DAEMON_NOT_STARTED, detail=str(exc)))
                    failed = True
                    await asyncio.sleep(backoff.after(0.0))
                    continue
                if failed:
                    self._happened(AlarmCleared(reason=Reason.DAEMON_NOT_STARTED))
                    failed = False
                await self._watch()
                await asyncio.sleep(backoff.after(boottime() - began))
        finally:
            if self._child is not None:
                self._child.release()

    def _start(self) -> None:
        with open_log(self._paths.run_dir / "sync.log") as log:
            self._child = SocketChild(
                "sync", plans.encode(self._plan()), nice=priority.ORDINARY, log=log, said=self._said, ended=self._on_exit
            )
        self._status, self._heard_at = None, boottime() + START_LIMIT_S - SILENT_LIMIT_S
        self._happened(HolderStarted(name=NAME, pid=self._child.pid, adopted=False))
        self._tell_role()

    async def _watch(self) -> None:
        """Until it has ended; one that says nothing any more is killed."""
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPEAT_S):
                    await self._ended.wait()
            self._tell_role()
            child, silent_s = self._child, boottime() - self._heard_at
            if child is not None and silent_s > SILENT_LIMIT_S:
                self._happened(HolderKilled(name=NAME, pid=child.pid, reason=Reason.SYNC_EXITED))
                child.kill()
                self._heard_at = boottime()

    def _tell_role(self) -> None:
        if self._child is not None and self._active is not None:
            self._child.send(agent_wire.encode(agent_wire.RoleIs(active=self._active, charon=self._charon)))

    def _plan(self) -> plans.Plan:
        document, paths = self._document, self._paths
        return plans.Plan(
            fleet=document.fleet,
            gateway=document.gateway,
            peer=self._sync.peer,
            rank=self._sync.rank,
            own_address=self._sync.own_address,
            peer_address=self._sync.peer_address,
            port=self._sync.port,
            vips=document.service.ends,
            pools=tuple(pool.prefix for pool in document.service.pools),
            own=tuple(_own_addresses(document)),
            connections=(document.service.name,),
            vici=str(paths.vici_socket),
            fifo=str(FIFO),
            pki=str(paths.pki_dir),
            pin=str(paths.peer_pin),
            versions=Versions(
                agent=metadata.version("anycast-vpn"),
                charon="",
                ha=0,
                generation=document.generation,
                content=shared_content(document),
            ),
            swanctl=str(paths.etc_dir / "swanctl"),
            offers=str(paths.offers),
            clients=str(paths.clients),
            clients_max_bytes=document.agent.log_max_bytes,
            active=self._settled_active and self._active is True,
        )

    def _said(self, data: bytes) -> None:
        with contextlib.suppress(DecodeError):
            match agent_wire.decode(data):
                case agent_wire.Status() as status:
                    self._status, self._heard_at = status, boottime()
                    self._compare_alarms(status)
                    self._tell_progress(status)
                case agent_wire.StepTaken(step=step, took_us=took_us, detail=detail):
                    self._happened(PromotionStepTaken(step=step, took_us=took_us, detail=detail))
                case agent_wire.GivenUp(name=name, cause=cause, refused=refused):
                    self._happened(TunnelNotMirrored(tunnel=name, cause=cause, client_refuses=refused))
                case agent_wire.Finished() as finished:
                    if self._finished is not None and not self._finished.done():
                        self._finished.set_result(finished)
                case agent_wire.Ended(name=name, reason=word) if word in KNOWN:
                    self._happened(TunnelEnded(tunnel=name, reason=KNOWN[word]))
                case agent_wire.RekeyRefused(name=name, reason=word) if word in KNOWN:
                    self._happened(RekeyRefused(tunnel=name, reason=KNOWN[word]))
                case agent_wire.Settled(active=active, took_us=took_us):
                    self._settled_active = active
                    self._happened(PromotionSettled(role="active" if active else "backup", took_us=took_us))

    def _compare_alarms(self, status: agent_wire.Status) -> None:
        now = {KNOWN[word]: detail for word, detail in status.alarms.items() if word in KNOWN}
        for reason, detail in now.items():
            if reason not in self._alarms:
                self._happened(AlarmRaised(reason=reason, detail=detail))
        for reason in self._alarms.keys() - now.keys():
            self._happened(AlarmCleared(reason=reason))
        self._alarms = now

    def _tell_progress(self, status: agent_wire.Status) -> None:
        now, waiting = boottime(), status.rekeys_waiting
        if waiting and (self._progress_at is None or now >= self._progress_at + PROGRESS_EVERY_S):
            self._progress_at = now
        elif waiting or self._progress_at is None:
            return
        else:
            self._progress_at = None
        self._happened(RekeysProgressed(waiting=waiting, done=status.rekeys_done, left_s=status.rekeys_left_s))

    def _on_exit(self, status: int) -> None:
        assert self._child is not None
        self._happened(HolderExited(name=NAME, pid=self._child.pid, status=status))
        self._child, self._status, self._progress_at = None, None, None
        self._ended.set()


def _own_addresses(document: Document) -> Iterator[str]:
    interfaces = (document.uplink, document.inside, document.management)
    yield from (address.partition("/")[0] for each in interfaces if each is not None for address in each.addresses)
    yield from () if document.vrrp is None else document.vrrp.virtual_addresses
