"""Between the verdict and the lease: the operator's hold and flap control, as one part of the running agent.

The hold is read from its file at the start and whenever the command line says that it changed, never at a tick: a disk that
hangs must not stop renewals. A hold that has ended leaves its file where it is, because another may be written at that very
moment; the next one replaces it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable
from typing import Any

from anycast.errors import DecodeError, KernelError
from anycast.events import AlarmCleared, AlarmRaised, Event, FlapCleared, HoldEnded, HoldStarted
from anycast.policy.flap import FlapControl
from anycast.policy.hold import Hold
from anycast.policy.route import RoutePolicy
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent import history, hold_store
from site_agent.paths import Paths

LOG_TAIL_BYTES = 256 * 1024
"""Of the event log, read at the start: some thousand records, more than an hour of flapping."""


class RouteIntent:
    """Use from the event loop's thread only."""

    def __init__(
        self, *, gateway: str, threshold: float, paths: Paths, tell: Callable[[VerdictReached], None],
        happened: Callable[[Event], None],
    ) -> None:  # fmt: skip
        """`tell` takes what the lease is renewed from."""
        self._policy = RoutePolicy(FlapControl(gateway=gateway, threshold=threshold))
        self._paths, self._tell, self._happened = paths, tell, happened
        self._hold: Hold | None = None
        self._unreadable = ""
        self._verdict: VerdictReached | None = None

    def start(self) -> None:
        """Find the hold that an earlier agent, or nobody, has seen, and the penalty that one left in the log."""
        self._restore_penalty()
        self._look()

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

    def _restore_penalty(self) -> None:
        """An agent that is started again and again must not forget what receivers count. Loses it with a rotated log."""
        with contextlib.suppress(OSError), open(self._paths.events, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            flaps = history.last_flaps(history.read_records(log))
            if flaps is not None:
                age_s = hold_store.read_clocks().wall - flaps.at.timestamp()
                self._policy.flap.restore(flaps.penalty, age_s=age_s, waiting=not flaps.announce, now=boottime())

    def _decide_again(self) -> None:
        if self._verdict is not None:
            self.verdict(self._verdict)

    def _look(self) -> None:
        clocks = hold_store.read_clocks()
        try:
            found = hold_store.load(self._paths)
        except DecodeError as exc:  # what is in force stays in force: it ends by itself
            self._unreadable = str(exc)
            self._happened(AlarmRaised(reason=Reason.HOLD_UNREADABLE, detail=str(exc)))
            return
        if self._unreadable:
            self._unreadable = ""
            self._happened(AlarmCleared(reason=Reason.HOLD_UNREADABLE))
        if found is not None and found.left_s(clocks) <= 0:
            found = None
        if found is not None and found.boot_id != clocks.boot_id:
            found = found.carried_over(clocks)
            # Kept, so that a second boot with a wrong clock does not begin from the same remainder.
            with contextlib.suppress(KernelError):
                hold_store.store(self._paths, found)
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
