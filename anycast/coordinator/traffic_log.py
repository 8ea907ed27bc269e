"""What clients did at each site over the last minutes, put together from reports: what a rollout's gates compare. Pure.

A gateway counts since its agent began, so a new agent's count is added to what the one before it had said. Of a pair only
the gateway that serves counts; a mirror's copies carry nothing.
"""

from __future__ import annotations

import collections
import dataclasses

from anycast.link_wire import Report
from anycast.policy.gates import Counted

KEPT_S = 900.0
"""Twice the longest span that is compared."""
_CANARY = "canary"
_PARTS = 5
"""Of a baseline's span: of one minute each."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Counts:
    decrypted: int
    encrypted: int
    established: int | None
    """None: of an agent that does not say."""

    def since(self, base: _Counts) -> _Counts:
        return _Counts(
            max(0, self.decrypted - base.decrypted),
            max(0, self.encrypted - base.encrypted),
            None if self.established is None or base.established is None else max(0, self.established - base.established),
        )

    def plus(self, more: _Counts) -> _Counts:
        return _Counts(
            self.decrypted + more.decrypted,
            self.encrypted + more.encrypted,
            None if self.established is None or more.established is None else self.established + more.established,
        )


_NOTHING = _Counts(0, 0, 0)


@dataclasses.dataclass(slots=True)
class _Line:
    """One gateway's counts, as sums that only grow."""

    instance: str
    told: _Counts
    sums: _Counts = _NOTHING
    samples: collections.deque[tuple[float, _Counts]] = dataclasses.field(default_factory=collections.deque)


class TrafficLog:
    """Fed with every report; asked for a site's span."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[str, _Line]] = {}
        self._canary: dict[str, tuple[float, bool | None]] = {}

    def reported(self, site: str, gateway: str, instance: str, report: Report, now: float) -> None:
        if report.decrypted is None or report.encrypted is None:
            return
        told = _Counts(report.decrypted, report.encrypted, report.established)
        line = self._lines.setdefault(site, {}).setdefault(gateway, _Line(instance, told))
        grown = told.since(line.told if line.instance == instance else _NOTHING)
        line.instance, line.told = instance, told
        if report.role == "backup":  # what its copies count is nobody's, also when it is Active later
            return
        line.sums = line.sums.plus(dataclasses.replace(grown, established=grown.established or 0))
        # An older agent's silence makes its own samples unknown, and none of those that come after it.
        known = line.sums if told.established is not None else dataclasses.replace(line.sums, established=None)
        line.samples.append((now, known))
        while line.samples[0][0] < now - KEPT_S:
            line.samples.popleft()
        seen = report.shared.get(_CANARY)
        self._canary[site] = (now, {"passing": True, "failing": False}.get(seen or ""))

    def counted(self, site: str, since: float, until: float) -> Counted:
        """Between two moments, as far as samples reach. What nobody reported is None."""
        span, sums = 0.0, _NOTHING
        for line in self._lines.get(site, {}).values():
            inside = [sample for sample in line.samples if since <= sample[0] <= until]
            if len(inside) >= 2:
                span = max(span, inside[-1][0] - inside[0][0])
                sums = sums.plus(inside[-1][1].since(inside[0][1]))
        at, canary = self._canary.get(site, (0.0, None))
        canary = canary if since <= at <= until else None
        if span <= 0:
            return Counted(span_s=0.0, canary=canary)
        return Counted(
            span_s=span,
            decrypted=sums.decrypted,
            encrypted=sums.encrypted,
            established=sums.established,
            canary=canary,
        )

    def baseline(self, site: str, since: float, until: float) -> Counted:
        """What is usual there. New SAs may come all at once, when a site near by has failed, and a rate with such a wave in
        it would be missed afterwards: theirs is, of the rates of `_PARTS` equal parts, the lower one in the middle."""
        whole, length = self.counted(site, since, until), (until - since) / _PARTS
        parts = [self.counted(site, since + n * length, since + (n + 1) * length) for n in range(_PARTS)]
        rates = sorted(each.established / each.span_s for each in parts if each.established is not None and each.span_s > 0)
        if whole.established is None or not rates:
            return dataclasses.replace(whole, established=None)
        return dataclasses.replace(whole, established=int(rates[(len(rates) - 1) // 2] * whole.span_s))
