"""Between the verdict and the lease: the operator's hold and flap control, as one part of the running agent.

The hold is read from its file at the start and whenever the command line says that it changed, never at a tick: a disk that
hangs must not stop renewals. A hold that has ended leaves its file where it is, because another may be written at that very
moment; the next one replaces it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anycast.errors import DecodeError, KernelError
from anycast.events import AlarmCleared, AlarmRaised, Event, FlapCleared, HoldEnded, HoldStarted
from anycast.policy.flap import FlapControl
from anycast.policy.hold import Hold
from anycast.policy.route import RoutePolicy
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent import hold_store


class RouteIntent:
    """Use from the event loop's thread only."""

    def __init__(
        self, *, gateway: str, threshold: float, hold_file: Path, tell: Callable[[VerdictReached], None],
        happened: Callable[[Event], None],
    ) -> None:  # fmt: skip
        """`tell` takes what the lease is renewed from."""
        self._policy = RoutePolicy(FlapControl(gateway=gateway, threshold=threshold))
        self._hold_file, self._tell, self._happened = hold_file, tell, happened
        self._hold: Hold | None = None
        self._unreadable = ""
        self._verdict: VerdictReached | None = None

    def start(self) -> None:
        """Find the hold that an earlier agent, or nobody, has seen."""
        self._look()
        if self._hold is not None:
            # Carried over once: a second boot with a wrong clock must not begin from the same remainder.
            with contextlib.suppress(KernelError):
                hold_store.store(self._hold_file, self._hold)

    def verdict(self, verdict: VerdictReached) -> None:
        """Take the verdict core's word and pass on what becomes of it, in this call."""
        self._verdict = verdict
        if self._hold is not None and self._hold.left_s(hold_store.read_clocks()) <= 0:
            self._end("expired")
        for action in self._policy.decide(verdict, self._hold, boottime()):
            if isinstance(action, VerdictReached):
                self._tell(action)
            else:
                self._happened(action)

    def hold_changed(self) -> dict[str, Any]:
        """The command line has written or removed the file: act on it now."""
        self._look()
        self._decide_again()
        return {"hold": self.describe()["hold"]}

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
            "flap": {"penalty": flap.penalty(now), "threshold": flap.threshold, "left_s": flap.left_s(now)},
        }

    def alarms(self) -> list[dict[str, str]]:
        """What stands about the file itself."""
        return [{"reason": Reason.HOLD_UNREADABLE, "detail": self._unreadable}] if self._unreadable else []

    def _decide_again(self) -> None:
        if self._verdict is not None:
            self.verdict(self._verdict)

    def _look(self) -> None:
        clocks = hold_store.read_clocks()
        try:
            found = hold_store.load(self._hold_file)
        except DecodeError as exc:  # what is in force stays in force: it ends by itself
            self._unreadable = str(exc)
            self._happened(AlarmRaised(reason=Reason.HOLD_UNREADABLE, detail=str(exc)))
            return
        if self._unreadable:
            self._unreadable = ""
            self._happened(AlarmCleared(reason=Reason.HOLD_UNREADABLE))
        if found is not None:
            found = found.carried_over(clocks) if found.left_s(clocks) > 0 else None
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


def describe_hold(hold: Hold) -> dict[str, Any]:
    """A hold as `status --json` gives it."""
    return {
        "kind": hold.kind.value,
        "reason": hold.reason,
        "despite": [reason.value for reason in hold.despite],
        "left_s": hold.left_s(hold_store.read_clocks()),
    }
