"""What an agent knows of itself at one moment, as plain data: the answer to `status`, and what metrics are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from anycast.document import Document
from anycast.model import Evidence, Route
from anycast.policy.protection import COOKIES, Protection
from anycast.policy.verdict import VerdictCore
from anycast.reasons import Reason
from site_agent.alarms.hook import AlarmHook
from site_agent.announce.holder import RouteLease
from site_agent.announce.no_route import NoLease
from site_agent.checks.runner import CheckRunner
from site_agent.coordination import Coordination
from site_agent.daemon_process import DetachedProcess
from site_agent.drainer import Drainer
from site_agent.route_intent import RouteIntent
from site_agent.site_verdict import SiteVerdict
from site_agent.sync.supervisor import Supervisor as SyncSupervisor


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a snapshot is taken of."""

    document: Document
    instance: str
    verdicts: VerdictCore
    alarms: Mapping[Reason, str]
    """All that stand, those of the verdict core among them."""
    runner: CheckRunner
    lease: RouteLease | NoLease
    intent: RouteIntent
    drainer: Drainer
    site: SiteVerdict
    sync: SyncSupervisor | None
    fleet: Coordination | None
    hook: AlarmHook
    protection: Protection
    routes: tuple[Route, ...]
    """The service's."""
    own_routes: tuple[Route, ...]
    holders: tuple[DetachedProcess, ...]


def take(parts: Parts, *, now: float, records_dropped: int) -> dict[str, Any]:
    """Call it from the event loop's thread. `now` is CLOCK_BOOTTIME; ages and spans are in seconds."""
    document, verdict, gateway = parts.document, parts.site.reached, parts.verdicts.verdict
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
        "gateway_verdict": {
            "serving": gateway is not None and gateway.serving,
            "causes": [dataclasses.asdict(cause) for cause in gateway.causes] if gateway is not None else [],
        },
        "vrrp": parts.site.describe(),
        "sync": None if parts.sync is None else parts.sync.describe(),
        "coordinator": None if parts.fleet is None else parts.fleet.describe(),
        **intent,
        "drain": parts.drainer.describe(),
        "checks": [check_row(name, parts.runner, parts.verdicts.looks.get(name), now) for name in parts.runner.classes],
        "alarms": [{"reason": reason, "detail": detail} for reason, detail in parts.alarms.items()] + parts.intent.alarms(),
        "lease": {
            "duration_s": lease_s,
            "left_s": max(0.0, verdict.at + lease_s - now) if verdict is not None and intent["route"]["announce"] else 0.0,
            "grace_s": document.lease.grace_ms / 1000,
            "hold_time_s": document.bgp.hold_time_s,
        },
        "routes": _route_rows(parts.routes, parts.lease.announced),
        "own_routes": _route_rows(parts.own_routes, parts.lease.own_announced),
        "sessions": [
            {
                "neighbor": neighbor.address,
                "name": neighbor.name,
                "asn": neighbor.asn,
                "state": parts.lease.sessions.get(neighbor.address, "down"),
                "bfd": None if neighbor.bfd is None else parts.site.bfd.get(neighbor.name, {}).get("state", "not reported"),
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
        "protection": [
            {"kind": COOKIES, "reason": reason.value, "check": name, "detail": parts.verdicts.looks[name].detail}
            for name, reason in parts.protection.signs.items()
        ],
        "alarm_hooks": parts.hook.describe(),
        "records_dropped": records_dropped,
    }


def _route_rows(routes: Iterable[Route], announced: Iterable[Route]) -> list[dict[str, Any]]:
    out = {route.key for route in announced}
    return [
        {"neighbor": each.neighbor, "prefix": each.prefix, "next_hop": each.next_hop, "announced": each.key in out}
        for each in routes
    ]


def check_row(name: str, runner: CheckRunner, look: Evidence | None, now: float) -> dict[str, Any]:
    """One check's last look, as `status` and `observe` show it."""
    return {
        "check": name,
        "class": runner.classes[name].value,
        "status": look.status.value if look is not None else "unknown",
        "reason": look.reason.value if look is not None else "no_evidence_yet",
        "detail": look.detail if look is not None else "",
        "value": look.value if look is not None else None,
        "age_s": now - look.at if look is not None else None,
        **dataclasses.asdict(runner.timings[name]),
    }
