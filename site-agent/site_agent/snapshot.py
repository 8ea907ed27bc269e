"""What an agent knows of itself at one moment, as plain data: the answer to `status`, and what metrics are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from anycast.document import Document
from anycast.model import Evidence, EvidenceClass, Route
from anycast.policy.verdict import VerdictCore
from anycast.reasons import Reason
from site_agent.announce.holder import RouteLease
from site_agent.daemon_process import DetachedProcess
from site_agent.route_intent import RouteIntent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a snapshot is taken of."""

    document: Document
    instance: str
    verdicts: VerdictCore
    alarms: Mapping[Reason, str]
    """All that stand, those of the verdict core among them."""
    classes: Mapping[str, EvidenceClass]
    lease: RouteLease
    intent: RouteIntent
    routes: tuple[Route, ...]
    holders: tuple[DetachedProcess, ...]


def take(parts: Parts, *, now: float, records_dropped: int) -> dict[str, Any]:
    """Call it from the event loop's thread. `now` is CLOCK_BOOTTIME; ages and spans are in seconds."""
    document, verdict = parts.document, parts.verdicts.verdict
    announced = {(route.neighbor, route.prefix) for route in parts.lease.announced}
    lease_s = document.lease.duration_ms / 1000
    serving = verdict is not None and verdict.serving
    intent = parts.intent.describe()
    return {
        "fleet": document.fleet,
        "site": document.site,
        "gateway": document.gateway,
        "environment": document.environment,
        "document": {"hash": document.hash, "generation": document.generation},
        "instance": parts.instance,
        "verdict": {
            "serving": serving,
            "causes": [dataclasses.asdict(cause) for cause in verdict.causes] if verdict is not None else [],
            "age_s": now - verdict.at if verdict is not None else None,
        },
        **intent,
        "checks": [
            check_row(name, evidence_class, parts.verdicts.looks.get(name), now)
            for name, evidence_class in parts.classes.items()
        ],
        "alarms": [{"reason": reason, "detail": detail} for reason, detail in parts.alarms.items()] + parts.intent.alarms(),
        "lease": {
            "duration_s": lease_s,
            "left_s": max(0.0, verdict.at + lease_s - now) if verdict is not None and intent["route"]["announce"] else 0.0,
            "grace_s": document.lease.grace_ms / 1000,
            "hold_time_s": document.bgp.hold_time_s,
        },
        "routes": [
            {
                "neighbor": route.neighbor,
                "prefix": route.prefix,
                "next_hop": route.next_hop,
                "announced": (route.neighbor, route.prefix) in announced,
            }
            for route in parts.routes
        ],
        "sessions": [
            {
                "neighbor": neighbor.address,
                "name": neighbor.name,
                "asn": neighbor.asn,
                "state": parts.lease.sessions.get(neighbor.address, "down"),
            }
            for neighbor in document.bgp.neighbors
        ],
        "holders": [
            {
                "name": process.spec.name,
                "pid": process.pid,
                "adopted": process.adopted,
                "since_s": now - process.since if process.running else None,
            }
            for process in parts.holders
        ],
        "records_dropped": records_dropped,
    }


def check_row(name: str, evidence_class: EvidenceClass, look: Evidence | None, now: float) -> dict[str, Any]:
    """One check's last look, as `status` and `observe` show it."""
    return {
        "check": name,
        "class": evidence_class.value,
        "status": look.status.value if look is not None else "unknown",
        "reason": look.reason.value if look is not None else "no_evidence_yet",
        "detail": look.detail if look is not None else "",
        "age_s": now - look.at if look is not None else None,
    }
