"""How charon follows the gateway's role: the ordered steps of a promotion and of a demotion. Pure.

    vrrp process ──role──▶ Promotion ──Do(step)──▶ shell ──StepDone / StepFailed──▶ Promotion

Theory of operation
-------------------
VRRP decides and moves the addresses; what is here begins after that, and needs a moment: until it is ready the gate, which
stands in the kernel of every Backup, keeps what comes for clients. The role is all that counts, so a role that changes
again in the middle leaves what is to be done and begins the other way as soon as the step in flight has ended.

    promotion   CLOSE     the peer's `ha` messages reach charon no more: a stale Active's DELETE would end a live tunnel
                READY     every outbound SA stands at a mark that the peer never sends in (`numbers`)
                SERVE     the gate before the client pools is lifted (`gate`): from here on packets flow
                ADDRESSES charon hands out inner addresses that nobody has (`ike.inner_addresses`)
                ACTIVATE  `+1` to charon's `ha` FIFO; after the addresses, or every client gets a MOBIKE message
                CONFIRM   read back through VICI: no IKE_SA is PASSIVE
                REKEY     what was taken over is rekeyed, paced; packets flow already
    adoption    CEASE, PASSIVATE, CONFIRM   as below
                ADOPT     charon is handed what another Active has said (`reunion`); then a promotion
    found later CONFIRM   again, where an IKE_SA is PASSIVE all the same
    after quiet RESUME    `+1`, where an Active was quiet for a handover that nobody took; CONFIRM
    demotion    CEASE     the gate is closed
                PASSIVATE `-1`; its DROP would activate the peer, and is not carried
                CONFIRM   no IKE_SA is ESTABLISHED
                OPEN      a Backup takes the peer's messages again

Every step can be done twice, so who was killed between two of them begins with the first one. A step that fails is tried
again, sooner or later, and the ones after it wait: a Backup that takes messages while charon believes that it serves would
have its tunnels ended by the peer. charon's own end begins everything anew, because it starts PASSIVE.

Times are CLOCK_BOOTTIME in seconds.
"""

from __future__ import annotations

import dataclasses
import enum

from anycast.timer import TimerExpired

FIRST_RETRY_S, LONGEST_RETRY_S = 0.02, 1.0
"""charon opens its FIFO a moment after its start, and reads it in a thread of its own."""
ALARM_AFTER_S = 3.0
"""A step that has been tried for so long is told once, and goes on being tried. charon takes 1.3 s to start in User Mode
Linux."""


class Step(enum.StrEnum):
    """The words stand in events, metrics and drills."""

    CLOSE = "close"
    READY = "ready"
    SERVE = "serve"
    ADDRESSES = "addresses"
    ACTIVATE = "activate"
    CONFIRM_ACTIVE = "confirm_active"
    REKEY = "rekey"
    CEASE = "cease"
    PASSIVATE = "passivate"
    CONFIRM_PASSIVE = "confirm_passive"
    ADOPT = "adopt"
    OPEN = "open"
    RESUME = "resume"


PROMOTION = (Step.CLOSE, Step.READY, Step.SERVE, Step.ADDRESSES, Step.ACTIVATE, Step.CONFIRM_ACTIVE, Step.REKEY)
ADOPTION = (Step.CEASE, Step.PASSIVATE, Step.CONFIRM_PASSIVE, Step.ADOPT, *PROMOTION)
DEMOTION = (Step.CEASE, Step.PASSIVATE, Step.CONFIRM_PASSIVE, Step.OPEN)


@dataclasses.dataclass(frozen=True, slots=True)
class RoleIs:
    """The vrrp process's word, repeated or new. A gateway that holds no addresses is not Active."""

    active: bool


@dataclasses.dataclass(frozen=True, slots=True)
class CharonStarted:
    """It knows of no SA and is PASSIVE, whatever was done before."""


@dataclasses.dataclass(frozen=True, slots=True)
class AdoptionAsked:
    """An Active's charon is to be handed what another Active has said. Means nothing to a Backup."""


@dataclasses.dataclass(frozen=True, slots=True)
class PassiveFound:
    """An IKE_SA was PASSIVE long after an Active's charon was confirmed: it was handed over before, and made after. A list
    that waits for no IKE_SA lacks one that is being made. What was asked before everything was done says nothing."""

    asked_at: float


@dataclasses.dataclass(frozen=True, slots=True)
class Quiet:
    """charon was told `-1` for a planned handover (`open_exchanges`); or that is over, and an Active that is left serves."""

    quiet: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    attempt: int
    detail: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    attempt: int
    why: str


Input = RoleIs | CharonStarted | AdoptionAsked | PassiveFound | Quiet | StepDone | StepFailed | TimerExpired


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Do:
    """Answered by one `StepDone` or `StepFailed` with the same attempt."""

    step: Step
    attempt: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepTook:
    """For the event log: what a step cost, its retries included."""

    step: Step
    took_s: float
    detail: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepStuck:
    """It has been tried for `ALARM_AFTER_S`. Told once, until something is done."""

    step: Step
    why: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Everything that the role asks for is done."""

    active: bool
    took_s: float
    """Since the role changed, or charon started."""


Action = Do | StepTook | StepStuck | Settled


class Promotion:
    """Driven by the role, by charon's life and by what came of each step."""

    def __init__(self) -> None:
        self._active: bool | None = None
        self._left: tuple[Step, ...] = ()
        self._began = self._step_began = 0.0
        """`_step_began`: of the step under way; where nothing is left to do, when that was."""
        self._attempt = 0
        self._in_flight = self._void = False
        """`_void`: what is in flight belongs to what was given up; its end is waited for, and means nothing."""
        self._retry_at: float | None = None
        self._retry_s = FIRST_RETRY_S
        self._told_stuck = False
        self._quiet = False
        self._adopt = False
        """It was asked for; begins when the steps under way have ended, so that each promotion is a whole one."""

    @property
    def deadline(self) -> float | None:
        """When the step that failed is tried again."""
        return self._retry_at

    @property
    def adopts(self) -> bool:
        """An adoption is under way, and charon has not been handed anything yet: this gateway stays Active."""
        return Step.ADOPT in self._left

    @property
    def settled(self) -> bool:
        """Nothing is left to do for the role, which is known."""
        return self._active is not None and not self._left

    @property
    def takes_messages(self) -> bool:
        """The peer's `ha` messages may reach charon: only while it is settled as Backup."""
        return self._active is False and self.settled

    def handle(self, event: Input, now: float) -> list[Action]:
        """Take one input."""
        match event:
            case RoleIs(active=active):
                if active == self._active:
                    return []
                self._active = active
                return self._begin(now)
            case AdoptionAsked():
                if not self._active:
                    return []
                self._adopt = True
                return self._begin_adoption(now) if self.settled else []
            case PassiveFound(asked_at=asked_at):
                if not self._active or self._quiet or not self.settled or asked_at <= self._step_began:
                    return []
                self._left = (Step.CONFIRM_ACTIVE,)
                return self._start(now)
            case Quiet(quiet=quiet):
                before, self._quiet = self._quiet, quiet
                if quiet or not before or not self._active or not self.settled:
                    return []
                self._left = (Step.RESUME, Step.CONFIRM_ACTIVE)
                return self._start(now)
            case CharonStarted():
                return [] if self._active is None else self._begin(now)
            case StepDone(attempt=attempt, detail=detail):
                return self._done(detail, now) if self._answers(attempt) else self._next(now)
            case StepFailed(attempt=attempt, why=why):
                return self._failed(why, now) if self._answers(attempt) else self._next(now)
            case TimerExpired():
                if self._retry_at is None or now < self._retry_at:
                    return []
                self._retry_at = None
                return self._next(now)

    def _begin(self, now: float) -> list[Action]:
        self._left = PROMOTION if self._active else DEMOTION
        self._adopt = self._quiet = False  # what was said is for another charon, or another time
        return self._start(now)

    def _begin_adoption(self, now: float) -> list[Action]:
        self._left, self._adopt = ADOPTION, False
        return self._start(now)

    def _start(self, now: float) -> list[Action]:
        self._began, self._void, self._retry_at = now, self._in_flight, None
        self._start_step(now)
        return self._next(now)

    def _start_step(self, now: float) -> None:
        self._step_began, self._retry_s, self._told_stuck = now, FIRST_RETRY_S, False

    def _next(self, now: float) -> list[Action]:
        if self._in_flight or self._retry_at is not None or not self._left:
            return []
        self._attempt += 1
        self._in_flight = True
        return [Do(step=self._left[0], attempt=self._attempt)]

    def _answers(self, attempt: int) -> bool:
        """Whether this is the end of what is in flight, and still means something."""
        if not self._in_flight or attempt != self._attempt:
            return False
        void, self._in_flight, self._void = self._void, False, False
        return not void

    def _done(self, detail: str, now: float) -> list[Action]:
        step, self._left = self._left[0], self._left[1:]
        actions: list[Action] = [StepTook(step=step, took_s=now - self._step_began, detail=detail)]
        self._start_step(now)
        if not self._left:
            assert self._active is not None
            actions.append(Settled(active=self._active, took_s=now - self._began))
            return actions + (self._begin_adoption(now) if self._adopt else [])
        return actions + self._next(now)

    def _failed(self, why: str, now: float) -> list[Action]:
        self._retry_at, self._retry_s = now + self._retry_s, min(2 * self._retry_s, LONGEST_RETRY_S)
        if self._told_stuck or now - self._step_began < ALARM_AFTER_S:
            return []
        self._told_stuck = True
        return [StepStuck(step=self._left[0], why=why)]
