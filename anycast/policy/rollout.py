"""One signed content on its way over the fleet: staged everywhere, then activated one site after the other. Pure.

    staging ──all staged──▶ waiting ──slot──▶ activating ──active, announcing──▶ baking ──passes──▶ waiting …  ──▶ done
                               │                  │ too late                        │ fails, no evidence in time
                               ▼                  ▼                                 ▼
                            paused             returning ◀──────────────────────────┘
                                                  ▼
                                               stopped

Theory of operation
-------------------
No activation names two sites, and no second one is sent before the first site is active, announces, and has shown for
`bake_s` that its clients fare as before (`gates.py`). Each activation takes a slot of the ledger before it is sent and keeps
it until the site has passed, so a rollout darkens no more than anything else may. Where the slot is refused it waits, and
says so. A site that announced nothing when the rollout began, or for which nothing changes, is asked for nothing but to run
by it.

What fails is stopped, and the sites that this rollout has changed are returned to the content before, once, under a
generation that was set aside when the rollout began; then people are paged. If the return itself fails, people are paged and
nothing more is tried: going back and forth is what a broken machine does. Returning takes darkness away and needs no slot,
but for a site that the content before has dark (an undrain that is taken back): that one waits for a slot like every other,
as its own may have been given to somebody else.

Every action may be repeated: `Stage` and `Activate` are answered by what agents report, and whoever restarts the coordinator
feeds the stored `Rollout` and lets it go on. The shell writes the state that `handle` leaves before it performs what it
returns; slots and pages are sets of that state (`slots`, `pages`), so none is lost or kept by a kill in between. A site that
is not heard is waited for; it is neither good nor bad.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from anycast.policy.gates import Verdict
from anycast.reasons import Reason
from anycast.timer import TimerExpired

STAGE_LIMIT_S = 600.0
"""For all gateways of the fleet to have the content; one that is away longer is told, and the rollout waits on."""
ACTIVATE_LIMIT_S = 60.0
"""From an activation to an active site that announces: an agent's restart, BGP's sessions and a recovery time."""
EVIDENCE_LIMIT_S = 1800.0
"""How long a bake goes on without evidence, before it counts as a failure: no data is not healthy."""


class Step(enum.StrEnum):
    STAGING = "staging"
    WAITING = "waiting"
    """For a slot of the ledger, or a pause to end."""
    ACTIVATING = "activating"
    BAKING = "baking"
    RETURNING = "returning"
    DONE = "done"
    STOPPED = "stopped"


ENDED = frozenset({Step.DONE, Step.STOPPED})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms an operator begins one."""

    bake_s: float
    blind: bool = False
    despite: bool = False
    """Also where the worst case would break another site's capacity (`worst_case.py`)."""
    unannounced: bool = False
    """Also where a drain's clients would be sent to an address without a way (`drain_target.py`)."""
    reason: str = ""
    """For people; `despite` and `unannounced` want one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Version:
    """A content as agents know it."""

    generation: int
    hash: str


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """Somebody must look."""

    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What is stored of one; everything that a coordinator needs to go on with it."""

    id: str
    by: str
    target: Version
    back: Version | None
    """The content before, under the generation that a return would have; None: there was none, so nothing to return to."""
    sites: tuple[str, ...]
    """In the order of activation; the first is the canary."""
    gateways: Mapping[str, tuple[str, ...]]
    """Of every site of the fleet: all of them stage."""
    same: tuple[str, ...] = ()
    """Sites that do by the new content what they did by the one before: nothing of theirs goes dark, so they need neither a
    slot nor a bake."""
    quiet: tuple[str, ...] = ()
    """Sites that announced nothing when it began, or are not to announce by the new content."""
    dark_before: tuple[str, ...] = ()
    """Sites that the content before has dark and this one has not: to return them darkens them."""
    bake_s: float
    blind: bool = False
    """An operator's word: a bake without any evidence is enough, as of a fleet without clients. Evidence against still
    stops."""
    despite: bool = False
    """An operator's word: a step that could be too much for another site is taken all the same."""
    step: Step = Step.STAGING
    since: float = 0.0
    """Of `step`, by the coordinator's own clock."""
    at: int = 0
    """Index of the site that is being changed."""
    changed: tuple[str, ...] = ()
    """Sites that an activation was sent to; what a return goes through."""
    left: int = 0
    """While returning: how many sites had not come back when this was last looked at."""
    paused: bool = False
    pages: tuple[Page, ...] = ()
    """What somebody must look at, all of it, oldest first."""
    reason: str = ""
    """Why it is where it is, for people; a `Reason`'s word first where it stopped."""

    @property
    def site(self) -> str:
        """The one that is being changed, or is next."""
        return self.sites[self.at]

    @property
    def slots(self) -> frozenset[str]:
        """Sites that it needs a slot of the ledger for, or keeps one; every other one of its slots is to be ended."""
        changing = frozenset({self.site} - set(self.same))
        match self.step:
            case Step.WAITING:
                return frozenset() if self.paused else changing
            case Step.ACTIVATING | Step.BAKING:
                return changing
            case Step.RETURNING:
                return frozenset(self.changed) - set(self.same)
            case _:
                return frozenset()


def taken_over(rollout: Rollout, now: float) -> Rollout:
    """As a coordinator goes on with it that has just begun: nobody looked while there was none, for a second or a day, and
    nobody has been heard yet. Else what was late by then would be stopped, and a return given up, before the fleet's first
    word."""
    return dataclasses.replace(rollout, since=now)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GatewayTold:
    """What a gateway last reported of contents, as it was heard."""

    staged: Version | None
    active: Version | None
    announcing: bool
    fresh: bool
    refused: str = ""
    """Why it has not taken what it refused last; for people."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A look at the whole fleet."""

    gateways: Mapping[str, GatewayTold]
    gate: Verdict = Verdict.UNKNOWN
    """Of the site that bakes, over the span since its activation."""
    gate_why: str = ""
    held: frozenset[str] = frozenset()
    """Sites that the ledger holds a slot for."""
    refused: str = ""
    """Why it has none for one that needs it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    word: str
    """``pause``, ``resume``, ``abort``, ``override``."""
    who: str


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """Offer a content to gateways; what has it already answers the same."""

    version: Version
    gateways: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Activate:
    site: str
    version: Version


Input = Looked | Command | TimerExpired
Action = Stage | Activate


class RolloutCore:
    """Driven by looks (at each change and each heartbeat) and commands. `rollout` is to be stored after each call."""

    def __init__(self, rollout: Rollout) -> None:
        self.rollout = rollout
        self._looked: Looked | None = None

    @property
    def deadline(self) -> float | None:
        """When time alone changes something; None: only news does."""
        if self.rollout.step is Step.STAGING and self.rollout.pages:
            return None
        limit = {
            Step.STAGING: STAGE_LIMIT_S, Step.ACTIVATING: ACTIVATE_LIMIT_S, Step.BAKING: self._bake_limit(),
            Step.RETURNING: ACTIVATE_LIMIT_S,
        }.get(self.rollout.step)  # fmt: skip
        return None if limit is None else self.rollout.since + limit

    def handle(self, event: Input, now: float) -> list[Action]:
        """What follows; `rollout` has changed where something did."""
        if self.rollout.step in ENDED:
            return []
        match event:
            case Looked():
                self._looked = event
                return self._go_on(event, now)
            case Command():
                return self._obey(event, now)
            case TimerExpired():
                return self._late(now) if (d := self.deadline) is not None and now >= d else []

    def _bake_limit(self) -> float:
        seen = self._looked
        if not self.rollout.blind and (seen is None or seen.gate is Verdict.UNKNOWN):
            return max(self.rollout.bake_s, EVIDENCE_LIMIT_S)
        return self.rollout.bake_s

    def _go_on(self, seen: Looked, now: float) -> list[Action]:
        rollout = self.rollout
        match rollout.step:
            case Step.STAGING:
                missing = self._without(seen, rollout.target)
                if missing:
                    return [Stage(rollout.target, missing)]
                self._step(Step.WAITING, now)
                return self._wait(seen, now)
            case Step.WAITING:
                return self._wait(seen, now)
            case Step.ACTIVATING:
                if self._runs(seen, rollout.site, rollout.target):
                    self._step(Step.BAKING, now)
                    return []
                return [Activate(rollout.site, rollout.target)]
            case Step.BAKING:
                return self._bake(seen, now)
            case Step.RETURNING:
                return self._return(seen, now)
            case _:
                return []

    def _wait(self, seen: Looked, now: float) -> list[Action]:
        rollout = self.rollout
        if rollout.paused:
            return []
        # By the site's name: a `resume` goes on with a look that was at the site before.
        if rollout.site not in seen.held and rollout.site not in rollout.same:
            if seen.refused != rollout.reason:
                self.rollout = dataclasses.replace(rollout, reason=seen.refused)
            return []
        # The site counts as changed from before the word goes out: a coordinator that dies now will return it.
        self._step(Step.ACTIVATING, now, changed=(*rollout.changed, rollout.site))
        return [Activate(rollout.site, rollout.target)]

    def _bake(self, seen: Looked, now: float) -> list[Action]:
        rollout = self.rollout
        if rollout.site in rollout.quiet or rollout.site in rollout.same:
            return self._passed(now, "")
        if seen.gate is Verdict.FAILS:
            return self._stop(Reason.GATE_FAILED, f"{rollout.site}: {seen.gate_why}", now)
        if not self._runs(seen, rollout.site, rollout.target) and self._heard(seen, rollout.site):
            return self._stop(Reason.GATE_FAILED, f"{rollout.site} does not announce any more", now)
        enough = seen.gate is Verdict.PASSES or (rollout.blind and seen.gate is Verdict.UNKNOWN)
        if now < rollout.since + rollout.bake_s or not enough:
            return []
        return self._passed(now, seen.gate_why)

    def _passed(self, now: float, why: str) -> list[Action]:
        if self.rollout.at + 1 == len(self.rollout.sites):
            self._step(Step.DONE, now, reason=why)
        else:
            self._step(Step.WAITING, now, at=self.rollout.at + 1)
        return []

    def _return(self, seen: Looked, now: float) -> list[Action]:
        rollout = self.rollout
        assert rollout.back is not None
        left = [site for site in rollout.changed if not self._runs_version(seen, site, rollout.back)]
        if not left:
            self._step(Step.STOPPED, now, reason=rollout.reason)
            return []
        if len(left) != rollout.left:
            self.rollout = dataclasses.replace(rollout, left=len(left), since=now)
        may = [site for site in left if site not in rollout.dark_before or site in seen.held]
        if not may:
            return []
        site = may[0]
        missing = self._without(seen, rollout.back, sites=(site,))
        return [Stage(rollout.back, missing)] if missing else [Activate(site, rollout.back)]

    def _late(self, now: float) -> list[Action]:
        rollout, seen = self.rollout, self._looked
        match rollout.step:
            case Step.STAGING:
                missing = self._without(seen, rollout.target) if seen else ()
                detail = f"not staged at {', '.join(missing) or 'anybody'} for {STAGE_LIMIT_S:.0f} s; nothing is activated"
                self._page(Reason.ROLLOUT_WAITS, detail)
                return []
            case Step.ACTIVATING:
                detail = f"{rollout.site} did not come up with it in {ACTIVATE_LIMIT_S:.0f} s"
                return self._stop(Reason.GATE_FAILED, detail, now)
            case Step.BAKING:
                if seen is None or (seen.gate is Verdict.UNKNOWN and not rollout.blind):
                    why = seen.gate_why if seen else "nothing was heard"
                    return self._stop(Reason.GATE_FAILED, f"{rollout.site}: no evidence: {why}", now)
                return self._bake(seen, now)
            case Step.RETURNING:
                self._step(Step.STOPPED, now, reason=f"{rollout.reason}; the return did not end")
                why = f" ({seen.refused})" if seen is not None and seen.refused else ""
                self._page(Reason.RETURN_FAILED, f"{', '.join(rollout.changed)}: look at them; nothing more is tried{why}")
                return []
            case _:
                return []

    def _obey(self, command: Command, now: float) -> list[Action]:
        rollout = self.rollout
        match command.word:
            case "pause" | "resume" if rollout.step is Step.RETURNING:
                return []  # there is no next site; why it returns is what people look for
            case "pause":
                self.rollout = dataclasses.replace(rollout, paused=True, reason=f"paused by {command.who}")
            case "resume":
                self.rollout = dataclasses.replace(rollout, paused=False, reason="")
                if self._looked is not None:
                    return self._go_on(self._looked, now)
            case "override":
                self.rollout = dataclasses.replace(rollout, despite=True)
            case "abort" if rollout.step is not Step.RETURNING:
                return self._stop(Reason.OPERATOR, f"aborted by {command.who}", now, page=False)
        return []

    def _stop(self, reason: Reason, detail: str, now: float, *, page: bool = True) -> list[Action]:
        """Return what this rollout has changed, once."""
        if page:
            self._page(reason, detail)
        rollout, said = self.rollout, f"{reason}: {detail}"
        if not rollout.changed:
            self._step(Step.STOPPED, now, reason=said)
            return []
        if rollout.back is None:
            self._step(Step.STOPPED, now, reason=f"{said}; there is nothing to return to")
            self._page(Reason.RETURN_FAILED, f"{', '.join(rollout.changed)} ran by no content before")
            return []
        self._step(Step.RETURNING, now, reason=said)
        return [] if self._looked is None else self._return(self._looked, now)

    def _page(self, reason: Reason, detail: str) -> None:
        self.rollout = dataclasses.replace(self.rollout, pages=(*self.rollout.pages, Page(reason, detail)))

    def _step(self, step: Step, now: float, **changes: object) -> None:
        known: dict[str, object] = {"step": step, "since": now, "reason": "", **changes}
        self.rollout = dataclasses.replace(self.rollout, **known)  # type: ignore[arg-type]

    def _without(self, seen: Looked, version: Version, *, sites: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Gateways that have `version` neither waiting nor active."""
        names = [gateway for site in sites or self.rollout.gateways for gateway in self.rollout.gateways[site]]
        return tuple(name for name in names if not _has(seen.gateways.get(name), version))

    def _heard(self, seen: Looked, site: str) -> bool:
        told = [seen.gateways.get(name) for name in self.rollout.gateways[site]]
        return all(each is not None and each.fresh for each in told)

    def _runs_version(self, seen: Looked, site: str, version: Version) -> bool:
        told = [seen.gateways.get(name) for name in self.rollout.gateways[site]]
        return all(each is not None and each.fresh and each.active == version for each in told)

    def _runs(self, seen: Looked, site: str, version: Version) -> bool:
        """Every gateway of the site runs by it, and one announces, where one did before."""
        told = [seen.gateways.get(name) for name in self.rollout.gateways[site]]
        announces = site in self.rollout.quiet or any(each is not None and each.announcing for each in told)
        return self._runs_version(seen, site, version) and announces


def _has(told: GatewayTold | None, version: Version) -> bool:
    return told is not None and version in (told.staged, told.active)
