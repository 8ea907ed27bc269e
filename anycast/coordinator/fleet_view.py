"""What the coordinator knows of the fleet at one moment: the newest report of every gateway, and how old it is. Pure.

Silence is no news: a gateway that is not heard stays as it was last seen, marked `unknown`, because it goes on without the
coordinator (rule 3). A site is announcing where one of its gateways says so, unknown where the newest word of all of them
is stale, and dark otherwise.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from anycast.link_wire import FRESH_S, Hello, Report


class SiteState(enum.StrEnum):
    ANNOUNCING = "announcing"
    DARK = "dark"
    UNKNOWN = "unknown"
    """Nobody of it was heard lately, or has said anything yet."""


@dataclasses.dataclass(slots=True)
class _Gateway:
    hello: Hello
    connected: bool
    heard_at: float
    report: Report | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GatewayView:
    """One gateway, as rows and JSON show it."""

    gateway: str
    site: str
    connected: bool
    fresh: bool
    age_s: float
    """Since it was heard last."""
    agent: str
    report: Report | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SiteView:
    site: str
    state: SiteState
    why: str
    """The first cause that it is dark for, or what is not known; empty while it announces."""
    tunnels: int | None
    """Of the gateway that serves them; None where no fresh report tells."""
    gateways: tuple[GatewayView, ...]


class FleetView:
    """Fed by the agents' connections; `sites` is asked by everybody who decides or shows."""

    def __init__(self) -> None:
        self._gateways: dict[str, _Gateway] = {}

    def connected(self, hello: Hello, now: float) -> None:
        """A gateway has introduced itself, over whichever connection; its former one counts no more."""
        before = self._gateways.get(hello.gateway)
        if before is not None and before.report is not None and before.hello.instance == hello.instance:
            # What it said is as old as it is: who only introduces himself says nothing of its route.
            self._gateways[hello.gateway] = _Gateway(hello, True, before.heard_at, before.report)
        else:
            self._gateways[hello.gateway] = _Gateway(hello, True, now)

    def site_of(self, gateway: str) -> str:
        """Of one that was connected."""
        return self._gateways[gateway].hello.site

    def disconnected(self, gateway: str) -> None:
        self._gateways[gateway].connected = False

    def reported(self, gateway: str, report: Report, now: float) -> bool:
        """Take a report; whether it says anything that the one before did not."""
        known = self._gateways[gateway]
        before, known.report, known.heard_at = known.report, report, now
        return before is None or _worth_telling(before) != _worth_telling(report)

    def sites(self, now: float, names: Mapping[str, Any] | None = None) -> list[SiteView]:
        """All that are known, by name; `names` adds sites that nobody was heard of."""
        found: dict[str, list[GatewayView]] = {name: [] for name in names or ()}
        for gateway, known in sorted(self._gateways.items()):
            view = GatewayView(
                gateway=gateway,
                site=known.hello.site,
                connected=known.connected,
                fresh=known.report is not None and now - known.heard_at <= FRESH_S,
                age_s=max(0.0, now - known.heard_at),
                agent=known.hello.agent,
                report=known.report,
            )
            found.setdefault(known.hello.site, []).append(view)
        return [_site(name, gateways) for name, gateways in sorted(found.items())]


def _site(name: str, gateways: list[GatewayView]) -> SiteView:
    fresh = [(each, each.report) for each in gateways if each.fresh and each.report is not None]
    tunnels = None
    state, why = SiteState.UNKNOWN, "nobody of it was heard yet" if not gateways else "nobody of it was heard lately"
    if fresh:
        serves = [report for _, report in fresh if report.role != "backup"]
        counts = [report.tunnels for report in serves if report.tunnels is not None]
        tunnels = sum(counts) if counts else None
        announcing = any(report.announced for _, report in fresh)
        state, why = (SiteState.ANNOUNCING, "") if announcing else (SiteState.DARK, _why([report for _, report in fresh]))
        silent = [each.gateway for each in gateways if not each.fresh]
        if not announcing and silent:
            state, why = SiteState.UNKNOWN, f"{why}; {', '.join(silent)} was not heard lately"
    return SiteView(site=name, state=state, why=why, tunnels=tunnels, gateways=tuple(gateways))


def _why(reports: list[Report]) -> str:
    for report in reports:
        if report.hold is not None and report.hold.kind == "withdraw":
            return f"hold withdraw: {report.hold.reason}"
    for report in reports:
        if report.causes:
            first = report.causes[0]
            return f"{first.reason}: {first.detail}" if first.detail else first.reason
    if all(report.routes == 0 for report in reports):
        return "it speaks no BGP"
    return "it serves, and no upstream has its routes"


def _worth_telling(report: Report) -> Report:
    """Without what moves at each heartbeat."""
    return report.model_copy(update={"number": 0, "decrypted": 0, "encrypted": 0, "established": 0, "leased": None})
