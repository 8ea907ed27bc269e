"""The agent's side of VRRP put together: core, process, and what is done when it ends. What the agent composes.

    gateway verdict ──▶ Supervisor.verdict() ──▶ Keeper ──▶ Child ──▶ python -m site_agent.vrrp
                                                   │
    SiteCore ◀── VrrpHeard ────────────────────────┤
                                                   └──▶ killed, its addresses removed, started anew as Backup

A clean restart keeps mastership: a process that was told `Grace` goes on without its agent, the next agent finds it by its
record (`orphan`), starts a successor with `resume_until`, and ends it once the successor has acted on its first grant. Where
that one is Active then, the addresses are its own, and who went before is killed: it must not remove them, now or when it
wakes. Else it is told to leave. `restart` does the same with a process that has its agent still, and is granted until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Collection
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from anycast.document import Document
from anycast.errors import AnycastError
from anycast.events import AlarmCleared, AlarmRaised, Event
from anycast.policy.site import ACTIVE, VrrpHeard
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime, boottime_ns, drive
from site_agent.daemon_process import Backoff, open_log
from site_agent.paths import Paths
from site_agent.vrrp import orphan, wire
from site_agent.vrrp import plan as plans
from site_agent.vrrp.child import Child
from site_agent.vrrp.keeper import (
    START_LIMIT_S,
    Action,
    Exited,
    Happened,
    Input,
    Keeper,
    Kill,
    LetGo,
    Started,
    Stopping,
    Tell,
    TellForerunner,
    UplinkSeen,
    heard_in,
)
from site_agent.vrrp.key_file import load_keys
from site_agent.vrrp.let_go import let_go
from site_agent.vrrp.plan_of import Resume, has_router, plan_of

LONGEST_GRACE_S = 15.0
"""As the process has it."""
RESTART_S = START_LIMIT_S
"""For a successor to be up, while its forerunner still serves."""
_NOT_COMPARED = ("keys", "key_in_use", "resume_until_ns", "resume_backup", "boot_after", "taken", "bfd_before")
"""What of a plan differs from start to start, or is told without one."""
_IF_INET6 = Path("/proc/net/if_inet6")


class Supervisor:
    """Use from the event loop's thread only; `run` once."""

    def __init__(
        self, document: Document, paths: Paths, *, happened: Callable[[Event], None], heard: Callable[[VrrpHeard], None]
    ) -> None:
        self._document, self._vrrp = document, document.vrrp
        self._priority = 0 if document.vrrp is None else document.vrrp.priority
        self._record, self._log = paths.run_dir / "vrrp.json", paths.run_dir / "vrrp.log"
        self._boot_mark = str(paths.boot_mark.absolute())
        self._happened, self._heard = happened, heard
        self._lease_s = document.lease.duration_ms / 1000
        self._keeper = Keeper(priority=self._priority, lease_s=self._lease_s, now=boottime())
        self._inbox: asyncio.Queue[Input] = asyncio.Queue()
        self._child: Child | None = None
        self._forerunner: Child | orphan.Orphan | None = None
        self._forerunner_was_active = False
        self._leaving: Child | orphan.Orphan | None = None
        """The last one that was told to leave, and is killed a lease later."""
        self._resume = Resume()
        self._over = asyncio.Event()
        """The process has ended, and what it left has been seen to."""
        self._letting_go: asyncio.Task[None] | None = None
        self._stopped = False
        self._find_forerunner()

    @property
    def status(self) -> wire.Status | None:
        """The process's last report; None where none runs."""
        return self._keeper.status

    @property
    def being_replaced(self) -> bool:
        """Another process goes on until the present one has acted on a grant."""
        return self._forerunner is not None

    @property
    def active(self) -> bool:
        """The gateway holds the addresses: by the process's report, or before its first one the last agent's."""
        return self._forerunner_was_active if self._keeper.role is None else self._keeper.role == ACTIVE

    def verdict(self, verdict: VerdictReached) -> None:
        """Take the gateway verdict: at each tick, and at once when it changes."""
        self._inbox.put_nowait(verdict)

    def uplink(self, proven: bool | None) -> None:
        """Whether the upstream router answers; None where nobody asks it."""
        self._inbox.put_nowait(UplinkSeen(proven=proven))

    def hand_over(self) -> None:
        """Let the other gateway serve, if it says that it could."""
        if self._child is not None:
            self._child.tell(wire.HandOver())

    def describe(self) -> dict[str, Any]:
        """For `status` and metrics."""
        status = self._keeper.status
        return {
            "router": has_router(self._document),
            "peer_gateway": None if self._vrrp is None else self._vrrp.peer,
            "configured_priority": self._priority,
            "priority": self._keeper.priority,
            "pid": self._child.pid if self._child is not None else None,
            "role": status.role if status is not None else "none",
            "cause": status.cause if status is not None else "",
            "since_s": boottime() - status.since_ns / 1e9 if status is not None and status.since_ns else None,
            "peer": status.peer if status is not None else "silent",
            "peer_active": status is not None and status.peer_active,
            "heard": status.heard if status is not None else 0,
            "discarded": status.discarded if status is not None else {},
            "late": status.late if status is not None else {},
            "faults": status.faults if status is not None else [],
            "installed_us": status.installed_us if status is not None else 0,
            "silent_us": status.silent_us if status is not None else 0,
            "bfd": status.bfd if status is not None else {},
            "keys": status.keys if status is not None else [],
            "key_in_use": status.key_in_use if status is not None else 0,
            "peer_keys": status.peer_keys if status is not None else [],
            "peer_newest": status.peer_newest if status is not None else [],
        }

    async def run(self) -> None:
        """Keep a process running until cancelled. Say `stop` before for a restart that keeps mastership."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(drive(self._keeper, self._inbox, self._perform))
                group.create_task(self._keep())
        finally:
            self._close()

    def stop(self, grace_s: float) -> None:
        """The agent ends: have the process go on for `grace_s`, or end it where it could not serve."""
        self._stopped = True
        granted = self._keeper.granted
        if isinstance(self._forerunner, orphan.Orphan) and not granted:  # not succeeded yet: it goes on for the next agent
            if self._child is not None:
                self._child.tell(wire.Stop(keep_bfd=True))
            orphan.write(self._record, self._forerunner.record)
            return
        until = boottime() + min(grace_s, LONGEST_GRACE_S)
        for action in self._keeper.handle(Stopping(until=until), boottime()):
            match action:
                case Tell(wire.Grace(until_ns=until_ns)):
                    self._write_record(self._addressee, grace_until_ns=until_ns)
                case TellForerunner(wire.Grace(until_ns=until_ns)) if isinstance(self._forerunner, Child):
                    role = ACTIVE if self._forerunner_was_active else "backup"
                    self._write_record(self._forerunner, role=role, grace_until_ns=until_ns)
            self._perform(action)
        if self._forerunner is not None and granted:  # what was granted may have been acted on by now
            self._end_forerunner(ACTIVE if self._forerunner_was_active and self._keeper.priority else "")

    async def reload(self) -> str:
        """Have the process take what the machine's files and interfaces have become. Returns what was done.

        Raises AnycastError where a file cannot be used: the process goes on as it is.
        """
        if (child := self._child) is None:
            return "does not run; the next start reads everything anew"
        plan = self._plan()
        if dataclasses.replace(plan, **{name: getattr(child.plan, name) for name in _NOT_COMPARED}) != child.plan:
            self.restart()
            return "has been replaced by one with the new plan, and has kept its role"
        if (plan.keys, plan.key_in_use) == (child.plan.keys, child.plan.key_in_use):
            return "runs by the installed keys"
        child.plan = dataclasses.replace(child.plan, keys=plan.keys, key_in_use=plan.key_in_use)
        child.tell(wire.Keys(keys=plan.keys, in_use=plan.key_in_use))
        return "has taken the installed keys"

    def restart(self) -> None:
        """Replace the process by one with a new plan; an Active stays Active. Raises AnycastError."""
        if (child := self._child) is None or self._forerunner is not None:
            return  # the next start reads everything anew
        self._forerunner_was_active = self._keeper.status is not None and self._keeper.status.role == ACTIVE
        until_ns = boottime_ns() + round(RESTART_S * 1e9)
        self._resume = dataclasses.replace(self._resume, until_ns=until_ns, active=self._forerunner_was_active)
        self._start(replaces=True)
        self._forerunner = child

    async def _keep(self) -> None:
        backoff, failed = Backoff(cap_s=5.0), False
        while True:
            began = boottime()
            try:
                self._over.clear()
                self._start(replaces=isinstance(self._forerunner, Child))
            except AnycastError as exc:
                if not failed:
                    self._happened(AlarmRaised(reason=Reason.DAEMON_NOT_STARTED, detail=str(exc)))
                failed = True
                await asyncio.sleep(backoff.after(0.0))
                continue
            if failed:
                self._happened(AlarmCleared(reason=Reason.DAEMON_NOT_STARTED))
                failed = False
            await self._over.wait()
            await asyncio.sleep(backoff.after(boottime() - began))

    def _start(self, *, replaces: bool) -> None:
        plan = self._plan()
        with open_log(self._log) as log:
            self._child = Child(plan, log=log, heard=self._on_message, ended=self._on_exit)
        self._inbox.put_nowait(Started(pid=self._child.pid, replaces=replaces))
        self._write_record(self._child)

    def _plan(self) -> plans.Plan:
        vrrp = self._vrrp
        keys = load_keys(Path(vrrp.keys_file)) if vrrp is not None and vrrp.keys_file is not None else ({}, 0)
        link_locals = _link_locals(() if vrrp is None else vrrp.virtual_addresses)
        return plan_of(self._document, link_locals=link_locals, keys=keys, resume=self._resume, boot_mark=self._boot_mark)

    @property
    def _addressee(self) -> Child | None:
        """Whom the keeper speaks to: it learns by its inbox, thus a moment later, that there is another one."""
        if isinstance(self._forerunner, Child) and self._forerunner.pid == self._keeper.pid:
            return self._forerunner
        return self._child

    def _perform(self, action: Action) -> None:
        match action:
            case Tell(message):
                if (child := self._addressee) is not None:
                    child.tell(message)
            case TellForerunner(message):
                if isinstance(self._forerunner, Child):
                    self._forerunner.tell(message)
            case Kill():
                if (child := self._addressee) is not None:
                    child.kill()
            case LetGo():
                assert self._child is not None
                self._letting_go = asyncio.create_task(self._let_go(self._child))
            case VrrpHeard():
                self._heard(action)
            case Happened(event):
                self._happened(event)

    def _on_message(self, child: Child, message: wire.Message) -> None:
        if not isinstance(message, wire.Status | wire.Answer):
            return
        if child is self._forerunner:
            self._forerunner_was_active = message.role == ACTIVE
            if isinstance(message, wire.Answer):  # its successor hears nothing yet that the route could depend on
                self._heard(heard_in(message))
        if child is not self._child:
            return
        self._inbox.put_nowait(message)
        if isinstance(message, wire.Status):
            known = self._resume if self.being_replaced else Resume()
            self._resume = dataclasses.replace(known, boot=message.boot, taken=message.taken, bfd=message.bfd)
            if not self._stopped:
                self._write_record(child, role=message.role)
        elif self._forerunner is not None:
            self._end_forerunner(message.role)

    def _on_exit(self, child: Child, status: int) -> None:
        if child is not self._child or self._stopped:
            return
        for action in self._keeper.handle(Exited(pid=child.pid, status=status), boottime()):
            self._perform(action)
        self._child = None
        if self._letting_go is None:
            self._over.set()

    async def _let_go(self, child: Child) -> None:
        try:
            refused, boot = await asyncio.to_thread(let_go, child.plan, boot=self._resume.boot)
            self._resume = dataclasses.replace(self._resume, boot=boot)
            if refused:
                self._happened(AlarmRaised(reason=Reason.VRRP_IMPAIRED, detail="; ".join(refused)))
        finally:
            self._letting_go = None
            self._over.set()

    # -- who was there before

    def _find_forerunner(self) -> None:
        if (found := orphan.take(self._record)) is None:
            return
        record = found.record
        if not found.lives or record.grace_until_ns <= boottime_ns():
            found.kill()  # its agent crashed; if it lives still, it is stopped
            self._resume = Resume(boot=record.boot, taken=record.taken)
            return
        self._forerunner, self._forerunner_was_active = found, record.role == ACTIVE
        self._resume = Resume(
            until_ns=record.grace_until_ns,
            active=self._forerunner_was_active,
            boot=record.boot,
            taken=record.taken,
            bfd=record.bfd,
        )

    def _end_forerunner(self, role: str) -> None:
        """Its successor has acted on a grant: the addresses are there, or it is Backup."""
        forerunner, self._forerunner = self._forerunner, None
        self._forerunner_was_active = False
        self._resume = dataclasses.replace(self._resume, until_ns=0, active=False)
        if forerunner is None:
            return
        if role == ACTIVE:
            forerunner.kill()
            return
        if isinstance(forerunner, Child):
            forerunner.tell(wire.Stop(keep_bfd=True))
        else:
            forerunner.leave()
        # Where it hangs, the kernel has taken its addresses by then, and it shall not remove a successor's when it wakes.
        self._leaving = forerunner
        asyncio.get_running_loop().call_later(self._lease_s, forerunner.kill)

    def _write_record(self, child: Child | None, *, role: str = "", grace_until_ns: int = 0) -> None:
        if child is None:
            return
        status = self._keeper.status
        orphan.write(
            self._record,
            orphan.Record(
                pid=child.pid,
                start_ticks=child.start_ticks,
                role=role or (status.role if status is not None else ""),
                boot=self._resume.boot,
                taken=dict(self._resume.taken),
                bfd=dict(self._resume.bfd),
                grace_until_ns=grace_until_ns,
            ),
        )

    def _close(self) -> None:
        """The end of its socket ends a process that was left no grace."""
        if self._leaving is not None:
            self._leaving.kill()
        if self._child is not None:
            self._child.release()
        if isinstance(self._forerunner, Child):
            self._forerunner.release()


def _link_locals(virtual: Collection[str]) -> dict[str, str]:
    """An IPv6 link-local address of each interface, none of the virtual ones (``/proc/net/if_inet6``: address, index, prefix
    length, scope, flags, name)."""
    found: dict[str, str] = {}
    others = {ip_address(address) for address in virtual}
    with contextlib.suppress(OSError):
        for line in _IF_INET6.read_text().splitlines():
            address, _, _, scope, _, name = line.split()
            whole = IPv6Address(bytes.fromhex(address))
            if scope == "20" and whole not in others:
                found.setdefault(name, str(whole))
    return found
