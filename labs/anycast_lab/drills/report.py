"""What a drill says afterwards: one JSON object for programs, one table for eyes. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from anycast_lab.drills.strangers import Flooded
from anycast_lab.drills.timeline import Moment, Packets


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """One assertion: what should hold, what was seen, the bound, and whether it held."""

    text: str
    seen: str
    limit: str
    passed: bool

    def to_json(self) -> dict[str, Any]:
        return {"assert": self.text, "seen": self.seen, "limit": self.limit, "passed": self.passed}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    drill: str
    message: str
    runner: str
    kernel: str
    esp: bool
    passed: bool
    must_fail: bool
    """The drill was written to be red; `passed` says how it came out, `as_expected` whether that was right."""
    zero_ns: int
    """The fault, CLOCK_REALTIME: the timeline's zero."""
    ended_ns: int
    """When nobody watched any more; what comes later makes the lab whole for the next drill."""
    timeline: tuple[Moment, ...]
    clients: dict[str, Packets]
    checks: tuple[Checked, ...]
    notes: tuple[str, ...] = ()
    floods: tuple[Flooded, ...] = ()
    probes: dict[str, Packets] = dataclasses.field(default_factory=dict)
    """Of the service's own address, every millisecond, by family."""
    figures: dict[str, float | None] = dataclasses.field(default_factory=dict)
    """What `measured` says, for tables; empty where no check asks for it."""

    @property
    def as_expected(self) -> bool:
        """Every check held; or, where the drill must fail, none did: one that held there proves nothing."""
        if self.must_fail:
            return bool(self.checks) and not any(check.passed for check in self.checks)
        return self.passed

    def to_json(self) -> dict[str, Any]:
        """The fields of `anycast lab drill --json` (docs/drills.md)."""
        return {
            "v": 1,
            "drill": self.drill,
            "message": self.message,
            "runner": self.runner,
            "kernel": self.kernel,
            "esp": self.esp,
            "passed": self.passed,
            "must_fail": self.must_fail,
            "as_expected": self.as_expected,
            "fault_ns": self.zero_ns,
            "ended_ms": round((self.ended_ns - self.zero_ns) / 1e6, 1),
            "timeline": [
                {
                    "t_ms": round((moment.at_ns - self.zero_ns) / 1e6, 1),
                    "source": moment.source,
                    "event": moment.event,
                    "subject": moment.subject,
                    "detail": moment.detail,
                    "took_us": moment.data.get("took_us", moment.data.get("installed_us")),
                }
                for moment in self.timeline
            ],
            "clients": {name: _counted(packets) for name, packets in self.clients.items()},
            "probes": {family: _counted(packets) for family, packets in self.probes.items()},
            "checks": [check.to_json() for check in self.checks],
            "notes": list(self.notes),
            "figures": self.figures,
            "floods": [dataclasses.asdict(flood) for flood in self.floods],
        }


def _counted(packets: Packets) -> dict[str, Any]:
    return {"sent": packets.sent, "lost": packets.lost, "late": packets.late, "longest_gap_ms": packets.longest_gap_ms}


_STORY = {
    "route_added",
    "route_removed",
    "EvidenceChanged",
    "AlarmRaised",
    "AlarmCleared",
    "SiteVerdictChanged",
    "VrrpStateChanged",
    "PromotionStepTaken",
    "PromotionSettled",
    "PrefixAnnounced",
    "PrefixWithdrawn",
    "OwnRouteAnnounced",
    "OwnRouteWithdrawn",
    "HolderKilled",
    "HolderStarted",
    "HolderExited",
    "ClockGapSeen",
    "AgentStarted",
    "AgentStopping",
    "protocol_down",
    "protocol_up",
    "first_packet_of_takeover",
    "download_stalls",
    "download_goes_on",
    "last_good_packet",
    "first_good_packet",
    "crowd_good_again",
    "crowd_answered",
    "RouteIntentChanged",
    "HoldStarted",
    "HoldEnded",
    "FlapCleared",
    "ProtectionStarted",
    "ProtectionEnded",
    "site_state",
    "coordinator_silent",
    "ledger",
    "rollout",
}


def story(moments: Iterable[Moment], zero_ns: int, around_ns: int = 50_000_000) -> tuple[Moment, ...]:
    """The moments that people read: from just before the fault, what moved something, in order."""
    return tuple(sorted(m for m in moments if m.at_ns >= zero_ns - around_ns and (m.event in _STORY or m.source == "drill")))
