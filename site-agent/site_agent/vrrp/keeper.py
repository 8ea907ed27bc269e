"""The agent's end of the VRRP lease, as a pure core: when to grant, and when to end a process that does not answer.

Theory of operation
-------------------
The gateway verdict comes at every tick (a sixth of a lease) and at once when it changes. Every third of a lease, and at a
change at once, it becomes a grant:

    serves                                    Grant(the configured priority, until the verdict's age + a lease)
    a fact stands against serving             Grant(0): give way
    nothing seen yet, or since a clock gap    no grant: the last one ends by itself, and a predecessor's mastership goes on

Nothing else moves the priority, and nothing of class `load` or `shared` moves the verdict. The process answers each grant.
One that does not within `PATIENCE` of a lease is stopped or hangs: it is killed, and where it was Active, its addresses
are removed and priority 0 is sent in its place (`LetGo`), all within a lease of its last sign of life. So is it where it
ended by itself. What follows it begins as Backup.

A process that is being replaced (the forerunner) is granted the same until its successor has acted on a grant of its own:
however long that one needs to begin, the lease has not ended, and what becomes unfit meanwhile still gives way.

A stop of the agent ends the grants: `Grace` prolongs the last one, as long as it has not ended. A priority of 0 too: it is
given up all the same, and BFD goes on. The grace is the process's that serves: the forerunner's until its successor has been
granted anything. If more than a lease passes between two of our
own inputs, we were stopped ourselves: the answers wait in our socket, and the patience begins anew.

Times are CLOCK_BOOTTIME in seconds.
"""

from __future__ import annotations

import dataclasses

from anycast.events import AlarmCleared, AlarmRaised, Event, HolderExited, HolderKilled, HolderStarted, VrrpStateChanged
from anycast.policy.hold import NOT_SEEN
from anycast.policy.site import ACTIVE, VrrpHeard
from anycast.policy.verdict import TICKS_PER_LEASE, VerdictReached
from anycast.reasons import Reason
from anycast.timer import TimerExpired
from site_agent.vrrp import wire

NO_ROLE = "none"
"""Of a process that has no virtual router, and only speaks BFD."""
NAME = "vrrp"
"""Name of the process in events."""
PATIENCE = 0.55
"""Of a lease, for an answer. With the third until the first grant without one, and what follows: within a lease."""
SECOND_LOOK = 0.05
"""Of a lease, once an answer is overdue: if this loop was late itself, the answer waits in its socket, behind the timer."""
START_LIMIT_S = 10.0
"""From the start to the first status: 0.2 s natively, seconds in User Mode Linux. It holds nothing meanwhile."""
GRANTS_PER_LEASE = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A process was started. What the one before it said is of no more interest."""

    pid: int
    replaces: bool = False
    """The one before it runs, and is the forerunner until this one has answered a grant."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    pid: int
    status: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UplinkSeen:
    """Whether the upstream router answers; None where nobody asks."""

    proven: bool | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """The agent ends, and wants the process to go on until then."""

    until: float


Input = VerdictReached | wire.Status | wire.Answer | Started | Exited | UplinkSeen | Stopping | TimerExpired


@dataclasses.dataclass(frozen=True, slots=True)
class Tell:
    message: wire.Message


@dataclasses.dataclass(frozen=True, slots=True)
class TellForerunner:
    """Of what the process that runs replaces."""

    message: wire.Message


@dataclasses.dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL the process. Its end is reported as `Exited`."""


@dataclasses.dataclass(frozen=True, slots=True)
class LetGo:
    """In place of a process that has ended: remove the addresses and send priority 0."""


@dataclasses.dataclass(frozen=True, slots=True)
class Happened:
    event: Event


Action = Tell | TellForerunner | Kill | LetGo | VrrpHeard | Happened


class Keeper:
    """Driven by the gateway verdict, the process's messages, its life, and its own timer."""

    def __init__(self, *, priority: int, lease_s: float, now: float) -> None:
        self._priority, self._lease_s = priority, lease_s
        self._last = now
        self._verdict: VerdictReached | None = None
        self._uplink: bool | None = None
        self._pid: int | None = None
        self._start_limit: float | None = None
        self._granted: tuple[int, bool | None] | None = None
        """What this process was granted last."""
        self._granted_at = now
        self._granted_until = now
        """End of the last grant, whoever got it."""
        self._forerunner = False
        """There is one."""
        self._waiting: dict[int, float] = {}
        """When each grant was sent that has no answer, by its `until_ns`."""
        self._killed = self._stopping = self._looked_again = False
        self._role, self._told = "", (0, "")
        self.role: str | None = None
        """As last told in an event; None before the first."""
        self._impaired: list[str] = []
        self.status: wire.Status | None = None
        """The last one of the process that runs; None where none does or it has not spoken yet."""

    @property
    def deadline(self) -> float | None:
        """When the process has been silent for too long."""
        limits = [sent + PATIENCE * self._lease_s for sent in self._waiting.values()]
        if self._start_limit is not None:
            limits.append(self._start_limit)
        return min(limits, default=None)

    @property
    def priority(self) -> int:
        """As granted last; 0 where nothing is."""
        return 0 if self._granted is None else self._granted[0]

    @property
    def pid(self) -> int | None:
        """Of the process that `Tell` and `Kill` are for."""
        return self._pid

    @property
    def granted(self) -> bool:
        """The process that runs has been granted something, and may have acted on it."""
        return self._granted is not None and not self._killed

    @property
    def answered(self) -> bool:
        """The process that runs has acted on a grant."""
        return self._granted is not None and not self._waiting

    def handle(self, event: Input, now: float) -> list[Action]:
        """Take one input."""
        if now - self._last > self._lease_s:
            self._waiting = dict.fromkeys(self._waiting, now)
            self._start_limit = None if self._start_limit is None else max(self._start_limit, now + self._lease_s)
        self._last = now
        actions = self._take(event, now)
        if (limit := self.deadline) is not None and now >= limit:
            actions += self._kill() if self._looked_again else self._look_again(now)
        return actions

    def _look_again(self, now: float) -> list[Action]:
        self._looked_again = True
        least = now + (SECOND_LOOK - PATIENCE) * self._lease_s
        self._waiting = {until: max(sent, least) for until, sent in self._waiting.items()}
        if self._start_limit is not None:
            self._start_limit = max(self._start_limit, now + SECOND_LOOK * self._lease_s)
        return []

    def _take(self, event: Input, now: float) -> list[Action]:
        match event:
            case VerdictReached():
                self._verdict = event
                return self._grant(now)
            case UplinkSeen(proven=proven):
                self._uplink = proven
                return self._grant(now)
            case wire.Answer():
                waiting = {until: sent for until, sent in self._waiting.items() if until > event.until_ns}
                if len(waiting) < len(self._waiting):  # what it says unasked does not show that it takes grants
                    self._waiting, self._looked_again = waiting, False
                self._role, self._forerunner = event.role, False
                return [heard_in(event)]
            case wire.Status():
                return self._on_status(event, now)
            case Started(pid=pid, replaces=replaces):
                self._forerunner = replaces
                self._begin(pid, now)
                self._start_limit = now + START_LIMIT_S
                return [Happened(HolderStarted(name=NAME, pid=pid, adopted=False))]
            case Exited():
                return self._on_exit(event, now)
            case Stopping(until=until):
                return self._on_stop(until, now)
            case TimerExpired():
                return []

    def _begin(self, pid: int | None, now: float) -> None:
        if not self._forerunner:
            self._granted_until = now
        self._pid, self._start_limit, self._granted, self._killed = pid, None, None, False
        self._waiting, self._looked_again = {}, False
        self._role, self.status = "", None

    def _grant(self, now: float) -> list[Action]:
        verdict = self._verdict
        begun = self.status is not None and not self._killed
        if verdict is None or self._stopping or not (begun or self._forerunner):
            return []
        if any(cause.reason in NOT_SEEN for cause in verdict.causes):
            return []
        what = self._priority if verdict.serving else 0, self._uplink
        # A tick comes every sixth of a lease, and may be a little early.
        due = self._granted_at + self._lease_s / GRANTS_PER_LEASE - self._lease_s / TICKS_PER_LEASE / 2
        until = verdict.at + self._lease_s
        if (begun and what == self._granted and now < due) or until <= now:
            return []
        until_ns, self._granted_until = round(until * 1e9), until
        # BFD attracts while this agent decides: what it decides, the route itself says.
        grant = wire.Grant(priority=what[0], until_ns=until_ns, uplink=what[1], attract_until_ns=until_ns)
        actions: list[Action] = [TellForerunner(grant)] if self._forerunner else []
        if begun:
            self._granted, self._granted_at = what, now
            self._waiting[until_ns] = now
            actions.append(Tell(grant))
        return actions

    def _on_status(self, status: wire.Status, now: float) -> list[Action]:
        first, self.status, self._role = self.status is None, status, status.role
        self._start_limit = None
        actions: list[Action] = []
        # Before its first grant it is nothing yet.
        if self._granted is not None and status.role != NO_ROLE and (status.since_ns, status.role) != self._told:
            self._told, self.role = (status.since_ns, status.role), status.role
            actions.append(
                Happened(
                    VrrpStateChanged(
                        role=status.role,
                        cause=status.cause,
                        peer=status.peer,
                        priority=self.priority,
                        installed_us=status.installed_us if status.role == ACTIVE else 0,
                        silent_us=status.silent_us if status.role == ACTIVE else 0,
                    )
                )
            )
        return actions + self._impairment(status.faults) + (self._grant(now) if first else [])

    def _impairment(self, faults: list[str]) -> list[Action]:
        before, self._impaired = self._impaired, faults
        if faults and faults != before:
            return [Happened(AlarmRaised(reason=Reason.VRRP_IMPAIRED, detail="; ".join(faults)))]
        return [Happened(AlarmCleared(reason=Reason.VRRP_IMPAIRED))] if before and not faults else []

    def _on_exit(self, event: Exited, now: float) -> list[Action]:
        if event.pid != self._pid:
            return []  # a forerunner's
        let_go = self._role == ACTIVE and not self._stopping
        actions: list[Action] = [LetGo()] if let_go else []
        actions.append(Happened(HolderExited(name=NAME, pid=event.pid, status=event.status)))
        if let_go:
            cause = Reason.VRRP_SILENT if self._killed else Reason.VRRP_EXITED
            self.role = "backup"
            gone = VrrpStateChanged(role=self.role, cause=cause.value, peer="silent", priority=0, installed_us=0)
            actions.append(Happened(gone))
        self._begin(None, now)
        return actions

    def _on_stop(self, until: float, now: float) -> list[Action]:
        """A grace prolongs a grant. One that has ended is over, and so is what nobody was granted."""
        self._stopping = True
        self._waiting.clear()
        lasts = now < self._granted_until
        word = wire.Grace(until_ns=round(until * 1e9)) if lasts else wire.Stop()
        if self._forerunner and not self.granted:
            return [TellForerunner(word), Tell(wire.Stop(keep_bfd=True))]
        return [Tell(word if self.granted else wire.Stop())]

    def _kill(self) -> list[Action]:
        self._waiting.clear()
        self._start_limit = None
        if self._pid is None or self._killed:
            return []
        self._killed = True
        return [Kill(), Happened(HolderKilled(name=NAME, pid=self._pid, reason=Reason.VRRP_SILENT))]


def heard_in(answer: wire.Answer) -> VrrpHeard:
    """What an answer says of the pair, dated by its process."""
    return VrrpHeard(
        at=answer.at_ns / 1e9,
        role=answer.role,
        peer=answer.peer,
        peer_active=answer.peer_active,
        listening=answer.listening,
    )
