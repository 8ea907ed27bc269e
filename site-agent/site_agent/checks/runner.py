"""Runs the checks, each in a task of its own, so that one that hangs delays nobody.

Every look is stamped with the time at which it *began*: what it saw may be as old as that. A time-out or a refusal is
UNKNOWN ("could not see"). A check that raises anything else is our bug: it is reported as `CheckFaulted` once for each
different error, counts as UNKNOWN, and is asked again.

A look that took long is followed by a rest that is longer: a table of 20,000 SAs is looked at less often, and the agent's
share of the machine stays small by design.
"""

from __future__ import annotations

import asyncio
import errno
import traceback
from collections.abc import Callable, Iterable, Sequence

from anycast.errors import DecodeError, KernelError, PeerError
from anycast.events import CheckFaulted, Event
from anycast.model import Evidence, EvidenceClass
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.checks.base import Check, Finding, unknown

REST_PER_LOOK = 20.0
"""So the looks of one check together take at most 5 % of the time, most of it spent in waiting."""
LONGEST_REST_S = 5.0
"""A look that ran into its time limit only waited: what it could not see is looked for again soon."""


class CheckRunner:
    """Turns checks into a stream of `Evidence`. Use from the event loop's thread."""

    def __init__(
        self, checks: Iterable[Check], report: Callable[[Evidence], None], happened: Callable[[Event], None]
    ) -> None:
        self._checks = {check: asyncio.Event() for check in checks}
        self._report, self._happened = report, happened
        self._faults: dict[Check, str] = {}
        self.classes: dict[str, EvidenceClass] = {}
        """Every name that will ever be reported, with its class."""
        for check in self._checks:
            self.classes.update(check.reports)

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
                at=boottime() if at is None else at,
            )
        )

    async def _keep_looking(self, check: Check, wake: asyncio.Event) -> None:
        while True:
            began = boottime()
            wake.clear()
            for finding in await self._look(check):
                self.found(finding, began)
            rest = max(check.interval_s, min(REST_PER_LOOK * (boottime() - began), LONGEST_REST_S))
            try:
                async with asyncio.timeout(rest):
                    await wake.wait()
            except TimeoutError:
                continue

    async def _look(self, check: Check) -> Sequence[Finding]:
        try:
            async with asyncio.timeout(check.timeout_s):
                return await check.look()
        except TimeoutError:
            reason, detail = Reason.CHECK_TIMED_OUT, f"no answer within {check.timeout_s:g} s"
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
