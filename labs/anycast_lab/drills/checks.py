"""What a drill asserts, judged on what the witnesses saw. Pure: an `Observation` in, `Checked` out.

The observers are BIRD at the upstream and at the transit, and the clients' packets; our own event stream only answers
*why* and *in which order*, never *whether*.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from anycast_lab.drills import drill
from anycast_lab.drills.drill import Limit
from anycast_lab.drills.report import Checked
from anycast_lab.drills.timeline import Moment, Packets


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One route at one router whose coming and going a drill watches."""

    node: str
    """The router that saw it."""
    protocol: str
    """The BIRD protocol it came from."""
    prefix: str

    def __str__(self) -> str:
        return f"{self.prefix} at {self.node}"

    def moments(self, moments: Iterable[Moment]) -> Iterator[Moment]:
        for moment in moments:
            if moment.source == self.node and moment.detail == self.protocol and moment.subject == self.prefix:
                yield moment

    def present(self, moments: Iterable[Moment]) -> bool:
        """As of the last thing said about it."""
        state = False
        for moment in self.moments(moments):
            state = moment.event != "route_removed"
        return state


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientSeen:
    packets: Packets
    site_before: str
    site_after: str
    """The site whose pool its inner address is from; empty without a tunnel."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything that was seen in one drill."""

    victim: str
    site: str
    kernel: str
    esp: bool
    fault_ns: int
    heal_ns: int
    """When the drill undid its fault or the service manager would have; 0 where nothing was undone."""
    end_ns: int
    moments: tuple[Moment, ...]
    routes: tuple[Watched, ...]
    """The victim's."""
    withdraws: int
    """WITHDRAWs that the victim's upstream counted during the drill."""
    first_reason: str
    """What `site-agent why` at the victim names as the first cause after the fault."""
    clients: dict[str, ClientSeen]
    child_sas_at_announcement: int | None
    """CHILD_SAs at the victim while its route was up at the end."""


def judge(check: drill.Check, seen: Observation, limits: dict[str, Limit]) -> Checked:
    """Judge one check of a drill file."""
    match check:
        case drill.RouteGone(limit=name):
            return _route_gone(seen, limits[name].on(seen.kernel))
        case drill.RouteStays():
            return _route_stays(seen)
        case drill.RouteBack(limit=name):
            return _route_back(seen, limits[name].on(seen.kernel))
        case drill.RouteUp():
            absent = [str(route) for route in seen.routes if not route.present(seen.moments)]
            text = f"{seen.victim}'s routes are up at the end"
            return Checked(text, f"no {', '.join(absent)}" if absent else "up", "up", bool(seen.routes) and not absent)
        case drill.Because(reason=reason):
            return Checked(
                "`site-agent why` names the cause", seen.first_reason or "nothing", reason, seen.first_reason == reason
            )
        case drill.ClientsMove(limit=name):
            return _clients_move(seen, limits[name].on(seen.kernel))
        case drill.ClientsStay(limit=name):
            return _clients_stay(seen, limits[name].on(seen.kernel))
        case drill.QuietUntilVerdict():
            return _quiet(seen)
        case drill.NoClients():
            up = all(route.present(seen.moments) for route in seen.routes)
            count = seen.child_sas_at_announcement
            return Checked(
                "the route stands while the gateway has no CHILD_SA",
                f"route {'up' if up else 'missing'}, {'unknown' if count is None else count} CHILD_SAs",
                "route up, 0 CHILD_SAs",
                up and count == 0,
            )


def _ms(from_ns: int, to_ns: int) -> float:
    return (to_ns - from_ns) / 1e6


def _route_gone(seen: Observation, limit: float) -> Checked:
    text = f"upstream and transit lose {seen.victim}'s routes after the fault"
    worst = 0.0
    for route in seen.routes:
        gone = [m for m in route.moments(seen.moments) if m.event == "route_removed" and m.at_ns >= seen.fault_ns]
        if not gone:
            return Checked(text, f"{route} never went", f"{limit:g} ms", False)
        worst = max(worst, _ms(seen.fault_ns, gone[0].at_ns))
    return Checked(text, f"{worst:.1f} ms", f"{limit:g} ms", bool(seen.routes) and worst <= limit)


def _route_stays(seen: Observation) -> Checked:
    lost = [
        f"{route} went after {_ms(seen.fault_ns, m.at_ns):.0f} ms"
        for route in seen.routes
        for m in route.moments(seen.moments)
        if m.event == "route_removed" and seen.fault_ns <= m.at_ns <= seen.end_ns
    ]
    up = all(route.present(seen.moments) for route in seen.routes)
    passed = not lost and up and seen.withdraws == 0 and bool(seen.routes)
    return Checked(
        f"{seen.victim}'s routes stay at upstream and transit",
        "; ".join(lost) or f"{seen.withdraws} WITHDRAW, routes {'up' if up else 'missing'}",
        "0 WITHDRAW, routes up",
        passed,
    )


def _route_back(seen: Observation, limit: float) -> Checked:
    text, start = f"{seen.victim}'s routes are back at upstream and transit after the heal", seen.heal_ns or seen.fault_ns
    worst = 0.0
    for route in seen.routes:
        history = list(route.moments(seen.moments))
        added = [m for m in history if m.event == "route_added" and m.at_ns >= seen.fault_ns]
        if not added or not route.present(history):
            return Checked(text, f"{route} is not back", f"{limit:g} ms", False)
        worst = max(worst, _ms(start, added[-1].at_ns))
    return Checked(text, f"{worst:.0f} ms", f"{limit:g} ms", bool(seen.routes) and worst <= limit)


def _clients_move(seen: Observation, limit: float) -> Checked:
    text = "each client's packets are good again, through another site"
    parts, passed = [], bool(seen.clients)
    for name, client in seen.clients.items():
        gap, moved = client.packets.longest_gap_ms, client.site_after not in ("", client.site_before)
        ended = client.packets.gap_to_ns != 0
        parts.append(
            f"{name} {client.site_before}→{client.site_after or 'nowhere'} gap {gap:.0f} ms{'' if ended else ' (not over)'}"
        )
        passed = passed and moved and ended and gap <= limit
    return Checked(text, ", ".join(parts) or "no client", f"{limit:g} ms", passed)


def _clients_stay(seen: Observation, limit: float) -> Checked:
    parts = [f"{name} gap {c.packets.longest_gap_ms:.0f} ms, {c.packets.lost} lost" for name, c in seen.clients.items()]
    passed = bool(seen.clients) and all(
        c.packets.longest_gap_ms <= limit and c.packets.sent > c.packets.lost and c.site_after == c.site_before
        for c in seen.clients.values()
    )
    return Checked("no client notices", ", ".join(parts) or "no client", f"{limit:g} ms", passed)


def _quiet(seen: Observation) -> Checked:
    text = "no announcement before the first verdict taken after the thaw"
    verdicts = [
        m.at_ns
        for m in seen.moments
        if m.source == f"{seen.victim}/site-agent"
        and m.event == "SiteVerdictChanged"
        and m.data.get("serving")
        and m.at_ns >= seen.heal_ns
    ]
    added = [
        m.at_ns
        for route in seen.routes
        for m in route.moments(seen.moments)
        if m.event in ("route_added", "route_updated") and m.at_ns >= seen.heal_ns
    ]
    if not verdicts or not added:
        return Checked(text, "no verdict" if not verdicts else "no announcement", "verdict, then announcement", False)
    margin = _ms(min(verdicts), min(added))
    return Checked(text, f"announced {margin:.1f} ms after the verdict", "≥ 0 ms", margin >= 0)
