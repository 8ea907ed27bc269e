"""Runs the checks, each in a task of its own, so that one that hangs delays nobody.

Every look is stamped with the time at which it *began*: what it saw may be as old as that. A time-out or a refusal is
UNKNOWN ("could not see"). A check that raises anything else is our bug: it is reported as `CheckFaulted` once for each
different error, counts as UNKNOWN, and is asked again.

A status changes when `rise` or `fall` looks in a row say so (`Timing`); a kernel event that reports through `found` waits
for none of that. A fleet may set another timing for a check that moves no route, by the first name that the check reports.

A look that took long is followed by a rest that is longer: a table of 20,000 SAs is looked at less often, and the agent's
share of the machine stays small by design.
"""

from __future__ import annotations

import asyncio
import errno
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence

from anycast import document
from anycast.errors import DecodeError, KernelError, PeerError
from anycast.events import CheckFaulted, Event
from anycast.model import Evidence, EvidenceClass
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.checks.base import REST_PER_LOOK, Check, Finding, Timing, unknown
from site_agent.checks.steady import Steady

LONGEST_REST_S = 5.0
"""A look that ran into its time limit only waited: what it could not see is looked for again soon."""


class CheckRunner:
    """Turns checks into a stream of `Evidence`. Use from the event loop's thread."""

    def __init__(
        self,
        checks: Iterable[Check],
        report: Callable[[Evidence], None],
        happened: Callable[[Event], None],
        timings: Mapping[str, document.Timing] | None = None,
    ) -> None:
        """`timings` is what the document sets; what it says of a fact is not heeded."""
        self._checks = {check: asyncio.Event() for check in checks}
        self._report, self._happened = report, happened
        self._faults: dict[Check, str] = {}
        self.classes: dict[str, EvidenceClass] = {}
        """Every name that will ever be reported, with its class."""
        self.timings: dict[str, Timing] = {}
        """By the same names."""
        self._steady: dict[str, Steady] = {}
        for check in self._checks:
            self.classes.update(check.reports)
            timing = _timing_of(check, timings or {})
            for name in check.reports:
                self.timings[name] = timing
                self._steady[name] = Steady(rise=timing.rise, fall=timing.fall)

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as group:
            for check, wake in self._checks.items():
                group.create_task(self._keep_looking(check, wake))

    def look_now(self, *checks: Check) -> None:
        """Have these checks (all of them where none is named) look without waiting for their interval."""
        for check in checks or self._checks:
            self._checks[check].set()

    def found(self, finding: Finding, at: float | None = None) -> None:
        """Report what a kernel event said, outside any look."""
        self._report(
            Evidence(
                check=finding.name,
                evidence_class=self.classes[finding.name],
                status=finding.status,
                reason=finding.reason,
                detail=finding.detail,
                value=finding.value,
                at=boottime() if at is None else at,
            )
        )

    async def _keep_looking(self, check: Check, wake: asyncio.Event) -> None:
        while True:
            began = boottime()
            wake.clear()
            for finding in await self._look(check):
                self.found(finding, began)
            rest = max(
                self.timings[_first_name(check)].interval_s, min(REST_PER_LOOK * (boottime() - began), LONGEST_REST_S)
            )
            try:
                async with asyncio.timeout(rest):
                    await wake.wait()
            except TimeoutError:
                continue

    async def _look(self, check: Check) -> Sequence[Finding]:
        timeout_s = self.timings[_first_name(check)].timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return [self._steady[finding.name].settle(finding) for finding in await check.look()]
        except TimeoutError:
            reason, detail = Reason.CHECK_TIMED_OUT, f"no answer within {timeout_s:g} s"
        except (PeerError, KernelError, DecodeError) as exc:
            absent = isinstance(exc, KernelError) and exc.errno == errno.ENOENT
            reason, detail = Reason.CHECK_UNAVAILABLE if absent else Reason.CHECK_REFUSED, str(exc)
        except Exception as exc:  # a bug in one check must neither end the agent nor count against the gateway
            reason, detail = Reason.CHECK_FAULTED, repr(exc)
            error = traceback.format_exc(limit=-3)
            if self._faults.get(check) != error:  # ten times a second, it would push everything else out of the log
                self._faults[check] = error
                self._happened(CheckFaulted(check="+".join(check.reports), error=error))
        return [unknown(name, reason, detail) for name in check.reports]


def _first_name(check: Check) -> str:
    return next(iter(check.reports))


def _timing_of(check: Check, timings: Mapping[str, document.Timing]) -> Timing:
    """What the fleet set for `check`, and its own timing where the fleet is silent or may not speak."""
    own = check.timing
    wanted = timings.get(_first_name(check))
    if wanted is None or EvidenceClass.FACT in check.reports.values():
        return own
    return Timing(
        interval_s=own.interval_s if wanted.interval_ms is None else wanted.interval_ms / 1000,
        timeout_s=own.timeout_s if wanted.timeout_ms is None else wanted.timeout_ms / 1000,
        rise=own.rise if wanted.rise is None else wanted.rise,
        fall=own.fall if wanted.fall is None else wanted.fall,
    )
