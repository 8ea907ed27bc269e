"""Between the verdict and the lease: the operator's hold and flap control, as one part of the running agent.

The hold is read from its file at the start and whenever the command line says that it changed, never at a tick, and then by
a thread: a disk that hangs must not stop renewals. A hold that has ended leaves its file where it is, because another may be
written at that very moment; the next one replaces it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from anycast.errors import DecodeError, KernelError
from anycast.events import AlarmCleared, AlarmRaised, Event, FlapCleared, HoldEnded, HoldStarted
from anycast.policy.flap import FlapControl
from anycast.policy.hold import Hold, HoldKind, apply
from anycast.policy.route import RoutePolicy
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent import hold_store, standing
from site_agent.paths import Paths
from site_agent.patience import OneAtATime

READ_LIMIT_S = 2.0
"""How long the command line waits for the file to be read; what it wrote last lies on tmpfs."""


class RouteIntent:
    """Use from the event loop's thread only."""

    def __init__(
        self, *, gateway: str, threshold: float, paths: Paths, tell: Callable[[VerdictReached], None],
        happened: Callable[[Event], None], drained: Callable[[], str] = lambda: "",
    ) -> None:  # fmt: skip
        """`tell` takes what the lease is renewed from; `drained` names the drain that wants the route withdrawn."""
        self._drained = drained
        self._policy = RoutePolicy(FlapControl(gateway=gateway, threshold=threshold))
        self._paths, self._tell, self._happened = paths, tell, happened
        self._reader = OneAtATime("hold")
        self._hold: Hold | None = None
        self._gives_way = False
        """The hold moves the priority already, and not the route yet."""
        self._hold_before: Hold | None = None
        """Until then the route goes by this one."""
        self._unreadable = ""
        self._verdict: VerdictReached | None = None
        self._site: VerdictReached | None = None

    def start(self) -> None:
        """Find the hold that an earlier agent, or nobody, has seen, and the penalty that one left in the log."""
        self._restore_penalty()
        # Here the disk is waited for: before it is known that there is no hold, nothing may be announced.
        self._take(_load(self._paths))

    @property
    def own(self) -> VerdictReached | None:
        """What the site's own routes are renewed from; None where it has none, or nothing was reached yet."""
        own, site = self._policy.own, self._site
        return None if own is None or site is None else dataclasses.replace(site, serving=own.announce, causes=own.causes)

    @property
    def withdrawn_by(self) -> Reason | None:
        """Why the service's route is not to be announced; None: it is, or nothing was reached yet."""
        intent = self._policy.intent
        return None if intent is None or intent.announce else intent.causes[0].reason

    def verdict(self, verdict: VerdictReached, site: VerdictReached | None = None) -> None:
        """Take the site verdict, as tokens and the content in force leave it, and pass on what becomes of it, in this call.
        `site`: without them, for the site's own routes."""
        self._verdict, self._site = verdict, site
        if self._hold is not None and self._hold.left_s(hold_store.read_clocks()) <= 0:
            self._end("expired")
        hold = self._hold_before if self._gives_way else self._hold
        for action in self._policy.decide(verdict, hold, boottime(), drained=self._drained(), site=site):
            if isinstance(action, VerdictReached):
                self._tell(action)
            else:
                self._happened(action)

    def held(self, verdict: VerdictReached) -> VerdictReached:
        """`verdict` as the hold in force leaves it, without flap control: what this gateway may do inside its site."""
        intent = apply(self._hold, serving=verdict.serving, causes=verdict.causes)
        return dataclasses.replace(verdict, serving=intent.announce, causes=intent.causes)

    async def hold_changed(self, give_way: Callable[[], Awaitable[object]] | None = None) -> dict[str, Any]:
        """The command line has written or removed the file: act on it now.

        A hold that withdraws moves the priority first: `give_way` has the gateway's part in its site follow `held`, and ends
        soon, when the route may go, too.
        """
        try:
            found = await self._reader.run(lambda: _load(self._paths), limit_s=READ_LIMIT_S)
        except TimeoutError:
            return {"error": "the hold's file cannot be read: its disk hangs; what was in force stays in force"}
        before = self._hold
        self._take(found)
        self._gives_way = False
        if give_way is not None and self._hold not in (None, before) and self._hold.kind is HoldKind.WITHDRAW:
            self._gives_way, self._hold_before = True, before
            try:
                await give_way()
            finally:
                self._gives_way = False
        self._decide_again()
        return {"hold": self.describe()["hold"]}

    @property
    def announce_held(self) -> bool:
        """An operator's `hold announce` is in force, which goes before a drain."""
        return self._hold is not None and self._hold.kind is HoldKind.ANNOUNCE

    def drain_changed(self) -> None:
        """A drain wants something else of the route."""
        self._decide_again()

    def clear_flap(self) -> dict[str, Any]:
        """Forget the penalty, and announce what waited for it."""
        penalty = round(self._policy.flap.penalty(boottime()))
        self._policy.flap.clear()
        self._happened(FlapCleared(reason=Reason.OPERATOR, penalty=penalty))
        self._decide_again()
        return {"penalty": penalty}

    def describe(self) -> dict[str, Any]:
        """For `status`, `why` and metrics."""
        intent, flap, now = self._policy.intent, self._policy.flap, boottime()
        return {
            "route": {
                "announce": intent is not None and intent.announce,
                "causes": [dataclasses.asdict(cause) for cause in intent.causes] if intent is not None else [],
            },
            "hold": None if self._hold is None else describe_hold(self._hold),
            "flap": describe_flap(flap, now),
        }

    def alarms(self) -> list[dict[str, str]]:
        """What stands about the file itself."""
        return [{"reason": Reason.HOLD_UNREADABLE, "detail": self._unreadable}] if self._unreadable else []

    def _restore_penalty(self) -> None:
        """An agent that is started again and again must not forget what receivers count. Loses it with a rotated log."""
        if (flaps := standing.last_flaps(self._paths)) is not None:
            standing.restore(self._policy.flap, flaps)

    def _decide_again(self) -> None:
        if self._verdict is not None:
            self.verdict(self._verdict, self._site)

    def _take(self, read: Hold | DecodeError | None) -> None:
        if isinstance(read, DecodeError):  # what is in force stays in force: it ends by itself
            self._unreadable = str(read)
            self._happened(AlarmRaised(reason=Reason.HOLD_UNREADABLE, detail=str(read)))
            return
        clocks, found = hold_store.read_clocks(), read
        if self._unreadable:
            self._unreadable = ""
            self._happened(AlarmCleared(reason=Reason.HOLD_UNREADABLE))
        if found is not None and found.left_s(clocks) <= 0:
            found = None
        if found == self._hold:
            return
        if self._hold is not None:
            self._end("ended" if found is None else "replaced")
        if found is not None:
            self._hold = found
            self._happened(
                HoldStarted(
                    kind=found.kind,
                    reason=Reason.OPERATOR,
                    detail=found.reason,
                    despite=found.despite,
                    left_s=found.left_s(clocks),
                )
            )

    def _end(self, how: str) -> None:
        assert self._hold is not None
        self._happened(HoldEnded(kind=self._hold.kind, reason=Reason.OPERATOR, detail=how))
        self._hold = None


def _load(paths: Paths) -> Hold | DecodeError | None:
    """What the file says, an earlier boot's hold carried over. May wait for a disk."""
    try:
        found = hold_store.load(paths)
    except DecodeError as exc:
        return exc
    clocks = hold_store.read_clocks()
    if found is not None and found.left_s(clocks) > 0 and found.boot_id != clocks.boot_id:
        found = found.carried_over(clocks)
        # Kept, so that a second boot with a wrong clock does not begin from the same remainder.
        with contextlib.suppress(KernelError):
            hold_store.store(paths, found)
    return found


def describe_hold(hold: Hold) -> dict[str, Any]:
    """A hold as `status --json` gives it."""
    return {
        "kind": hold.kind.value,
        "reason": hold.reason,
        "despite": [reason.value for reason in hold.despite],
        "left_s": hold.left_s(hold_store.read_clocks()),
    }


def describe_flap(flap: FlapControl, now: float) -> dict[str, float]:
    """Flap control as `status --json` gives it."""
    return {"penalty": flap.penalty(now), "threshold": flap.threshold, "left_s": flap.left_s(now)}
