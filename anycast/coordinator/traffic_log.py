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


@dataclasses.dataclass(slots=True)
class _Line:
    """One gateway's counts, as sums that only grow."""

    instance: str = ""
    told: tuple[int, int] = (0, 0)
    sums: tuple[int, int] = (0, 0)
    samples: collections.deque[tuple[float, int, int]] = dataclasses.field(default_factory=collections.deque)


class TrafficLog:
    """Fed with every report; asked for a site's span."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[str, _Line]] = {}
        self._canary: dict[str, tuple[float, bool | None]] = {}

    def reported(self, site: str, gateway: str, instance: str, report: Report, now: float) -> None:
        if report.role == "backup" or report.decrypted is None or report.encrypted is None:
            return
        line = self._lines.setdefault(site, {}).setdefault(gateway, _Line(instance, (report.decrypted, report.encrypted)))
        told = (report.decrypted, report.encrypted)
        base = line.told if line.instance == instance else (0, 0)
        grown = [max(0, new - old) for new, old in zip(told, base, strict=True)]
        line.instance, line.told = instance, told
        line.sums = (line.sums[0] + grown[0], line.sums[1] + grown[1])
        line.samples.append((now, *line.sums))
        while line.samples[0][0] < now - KEPT_S:
            line.samples.popleft()
        seen = report.shared.get(_CANARY)
        self._canary[site] = (now, {"passing": True, "failing": False}.get(seen or ""))

    def counted(self, site: str, since: float, until: float) -> Counted:
        """Between two moments, as far as samples reach. What nobody reported is None."""
        span, decrypted, encrypted = 0.0, 0, 0
        for line in self._lines.get(site, {}).values():
            inside = [sample for sample in line.samples if since <= sample[0] <= until]
            if len(inside) >= 2:
                span = max(span, inside[-1][0] - inside[0][0])
                decrypted += inside[-1][1] - inside[0][1]
                encrypted += inside[-1][2] - inside[0][2]
        at, canary = self._canary.get(site, (0.0, None))
        canary = canary if since <= at <= until else None
        if span <= 0:
            return Counted(span_s=0.0, canary=canary)
        return Counted(span_s=span, decrypted=decrypted, encrypted=encrypted, canary=canary)
