"""What a drill asserts, judged on what the witnesses saw. Pure: an `Observation` in, `Checked` out.

The observers are BIRD at the upstream and at the transit, and the clients' packets; our own event stream only answers
*why* and *in which order*, never *whether*.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from anycast_lab.drills import (
    alarms,
    client_checks,
    client_steps,
    coordinator_checks,
    coordinator_steps,
    crowd_checks,
    crowd_steps,
    drill,
    flow_checks,
    in_flight_checks,
    measured,
    mirror_checks,
    mirror_steps,
    pair_checks,
    pair_steps,
    path_checks,
    path_steps,
    route_checks,
    screens,
)
from anycast_lab.drills.drill import Limit
from anycast_lab.drills.report import Checked
from anycast_lab.drills.strangers import Flooded, Stranger
from anycast_lab.drills.timeline import ROUTE_MOVES, Moment, Packets, first_good_ns, judge_packets


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
    first_good_ns: int | None = None
    """The first answer to what it sent after the fault."""


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
    screens: tuple[screens.ScreensSeen, ...] = ()
    """What the victim's screens showed when the drill looked."""
    child_sas_at_announcement: int | None
    """CHILD_SAs at the victim while its route was up at the end."""
    by_site: dict[str, tuple[Watched, ...]] = dataclasses.field(default_factory=dict)
    """The routes of all gateways."""
    own_by_site: dict[str, tuple[Watched, ...]] = dataclasses.field(default_factory=dict)
    """Those of each site's unicast prefixes."""
    withdraws_everywhere: int = 0
    """WITHDRAWs that all upstreams counted during the drill."""
    floods: tuple[Flooded, ...] = ()
    strangers: tuple[Stranger, ...] = ()
    """What each who asked got, in order."""
    at_site: pair_checks.SiteSeen | None = None
    """What captures and probes saw at the victim's site; None where the drill made none."""
    mirror: mirror_checks.MirrorSeen | None = None
    """What was seen of tunnels that are to outlive a gateway; None where the drill did not look."""
    sites: tuple[str, ...] = ()
    """All of the fleet."""
    answers: dict[str, coordinator_checks.Answer] = dataclasses.field(default_factory=dict)
    """What the `run` steps said, by name."""
    paths: path_checks.PathSeen | None = None
    """What was seen on clients' ways; None where the drill did not look."""
    told: mirror_checks.Told | None = None
    """Secrets that were found where none must be; None where the drill did not look."""

    records: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Of each client's probe, as it wrote it."""

    @property
    def everywhere(self) -> tuple[Watched, ...]:
        return tuple(route for routes in self.by_site.values() for route in routes)


def with_packets(
    seen: Observation, records: Mapping[str, dict[str, Any]], before: Mapping[str, str], after: Mapping[str, str]
) -> Observation:
    """`records`: of each client's probe. `before`, `after`: the site whose pool its inner address was from."""
    clients = {
        client: ClientSeen(
            packets=judge_packets(record, seen.fault_ns - 1_000_000_000, seen.end_ns),
            first_good_ns=first_good_ns(record, seen.fault_ns),
            site_before=before[machine_of(client)],
            site_after=after[machine_of(client)],
        )
        for client, record in records.items()
    }
    return dataclasses.replace(seen, clients=clients, records=dict(records))


def machine_of(probe: str) -> str:
    """The client that a probe runs at: ``six`` of ``six ipv6``, too."""
    return probe.partition(" ")[0]


def judge(check: drill.Check, seen: Observation, limits: dict[str, Limit]) -> Checked:
    """Judge one check of a drill file."""
    some = drill.ClientsStay | drill.ClientsMove | mirror_steps.SameIkeSa | mirror_steps.BuiltOnce
    if isinstance(check, some) and check.clients:
        seen = _of(seen, check.clients)
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
        case drill.SameWord(reason=word, says=says):
            return screens.judge(seen.screens, word, says)
        case drill.AwayFor(seconds=seconds):
            return route_checks.away_for(seen, seconds)
        case drill.EveryKill(limit=name):
            return route_checks.every_kill(seen, limits[name].on(seen.kernel))
        case drill.Alarm(reason=reason, at=gateways, limit=name):
            return alarms.judge(
                seen.moments,
                reason,
                gateways or (seen.victim,),
                fault_ns=seen.fault_ns,
                heal_ns=seen.heal_ns,
                limit_ms=limits[name].on(seen.kernel),
            )
        case drill.NothingMoves():
            return _nothing_moves(seen)
        case drill.ClientsMove(limit=name):
            return _clients_move(seen, limits[name].on(seen.kernel))
        case drill.ClientsStay(limit=name):
            return _clients_stay(seen, limits[name].on(seen.kernel))
        case drill.TunnelsRekeyed(reason=reason, at_least=wanted, limit=name):
            return _tunnels_rekeyed(seen, reason, wanted, limits[name].on(seen.kernel))
        case drill.QuietUntilVerdict():
            return _quiet(seen)
        case drill.NothingWithdrawn():
            return _stay("no gateway's routes go anywhere", seen, seen.everywhere, seen.withdraws_everywhere)
        case coordinator_steps.MovesOnly(sites=sites):
            return route_checks.moves_only(seen, sites)
        case coordinator_steps.OwnStays(sites=sites):
            return route_checks.own_stays(seen, sites)
        case coordinator_steps.DarkAtMost(sites=most):
            return route_checks.dark_at_most(seen, most)
        case drill.FloodRate(rate=name):
            return _flood_rate(seen, limits[name].on(seen.kernel))
        case drill.StrangerRefused():
            return _stranger_refused(seen)
        case drill.Verdict(reason=reason, limit=name):
            return _verdict(seen, reason, limits[name].on(seen.kernel))
        case drill.StrangerAskedForCookie():
            answer = seen.strangers[-1].ike if seen.strangers else "not asked"
            return Checked("an IKE_SA_INIT is answered with a cookie", answer, "cookie", answer == "cookie")
        case drill.NoClients():
            up = all(route.present(seen.moments) for route in seen.routes)
            count = seen.child_sas_at_announcement
            return Checked(
                "the route stands while the gateway has no CHILD_SA",
                f"route {'up' if up else 'missing'}, {'unknown' if count is None else count} CHILD_SAs",
                "route up, 0 CHILD_SAs",
                up and count == 0,
            )
        case _ if isinstance(check, coordinator_steps.CoordinatorCheck):
            return coordinator_checks.judge(
                check,
                seen.moments,
                seen.answers,
                sites=seen.sites,
                fault_ns=seen.fault_ns,
                kernel=seen.kernel,
                limits=limits,
            )
        case _ if isinstance(check, client_steps.ClientCheck):
            return client_checks.judge(check, seen, limits)
        case _ if isinstance(check, path_steps.PathCheck):
            return path_checks.judge(check, seen, limits)
        case mirror_steps.NoSecretTold(at=at) if seen.told is not None:
            return mirror_checks.no_secret_told(seen.told, at)
        case mirror_steps.NoCore() if seen.told is not None:
            return mirror_checks.no_core(seen.told)
        case _ if isinstance(check, mirror_steps.MirrorCheck):
            return _judge_mirror(check, seen, limits)
        case _:
            return _judge_pair(check, seen, limits)


def _of(seen: Observation, clients: tuple[str, ...]) -> Observation:
    """What was seen of these. One of whom nothing was seen is missing, and its check red."""
    mirror, ours = seen.mirror, set(clients)
    if mirror is not None:
        mirror = dataclasses.replace(mirror, ike={name: one for name, one in mirror.ike.items() if name in ours})
    return dataclasses.replace(seen, mirror=mirror, clients={name: c for name, c in seen.clients.items() if name in ours})


def _judge_pair(check: pair_steps.PairCheck, seen: Observation, limits: dict[str, Limit]) -> Checked:
    site, fault_ns = seen.at_site, seen.fault_ns
    if site is None:
        return Checked(f"{check.check} is watched", "no capture was made", "kernel: native", False)
    match check:
        case pair_steps.GapBelow(limit=name):
            return pair_checks.gap_below(site, limits[name].on(seen.kernel))
        case pair_steps.NothingMovesAtTransit():
            return pair_checks.nothing_moves_at_transit(site, tuple(_moved(seen, {site.transit_node})))
        case pair_steps.OneActive(limit=name):
            return pair_checks.one_active(site, seen.heal_ns, None if name is None else limits[name].on(seen.kernel))
        case pair_steps.RoleMoved(limit=name):
            return pair_checks.role_moved(site, fault_ns, limits[name].on(seen.kernel))
        case pair_steps.RoleStays():
            return pair_checks.role_stays(site)
        case pair_steps.NeighboursTold():
            return pair_checks.neighbours_told(site, fault_ns)
        case pair_steps.Measured():
            return measured.check(seen)
        case pair_steps.Why(reason=reason, at=where):
            return pair_checks.why(site, site.victim if where == "victim" else site.peer, reason)


def _judge_mirror(check: mirror_steps.MirrorCheck, seen: Observation, limits: dict[str, Limit]) -> Checked:
    if seen.mirror is None:
        return Checked(f"{check.check} is watched", "no tunnel was watched", "kernel: esp", False)
    match check:
        case mirror_steps.TcpContinues(limit=name):
            return mirror_checks.tcp_continues(seen.mirror, limits[name].on(seen.kernel))
        case mirror_steps.NoNumberTwice():
            return mirror_checks.no_number_twice(seen.mirror)
        case mirror_steps.SentToClient():
            return mirror_checks.sent_to_client(seen.mirror)
        case mirror_steps.SameIkeSa():
            return mirror_checks.same_ike_sa(seen.mirror)
        case mirror_steps.FlowKept(limit=name):
            return flow_checks.flow_kept(seen.mirror.flows, seen.fault_ns, limits[name].on(seen.kernel))
        case mirror_steps.BuiltOnce(limit=name):
            firsts = {name: client.first_good_ns for name, client in seen.clients.items()}
            took = {name: (first - seen.fault_ns) / 1e6 for name, first in firsts.items() if first is not None}
            return mirror_checks.built_once(seen.mirror, took, limits[name].on(seen.kernel))
        case mirror_steps.NoSecretTold() | mirror_steps.NoCore():
            return Checked(f"{check.check} is watched", "nobody looked", "kernel: esp", False)
        case _:
            return _judge_crowd(check, seen, limits)


def _judge_crowd(check: crowd_steps.CrowdCheck, seen: Observation, limits: dict[str, Limit]) -> Checked:
    crowd = seen.mirror.crowd if seen.mirror is not None else None
    if crowd is None:
        return Checked(f"{check.check} is watched", "no crowd has connected", "a crowd_up", False)
    match check:
        case crowd_steps.CrowdStays(clients=clients):
            return crowd_checks.crowd_stays(crowd, clients)
        case crowd_steps.AddressesOnce(ipv4=ipv4, ipv6=ipv6):
            return crowd_checks.addresses_once(crowd, ipv4, ipv6)
        case crowd_steps.CrowdAnswered(limit=name):
            return crowd_checks.crowd_answered(crowd, limits[name].on(seen.kernel))
        case crowd_steps.CrowdPackets(limit=name):
            return crowd_checks.crowd_packets(crowd, limits[name].on(seen.kernel))
        case crowd_steps.FedWithProgress(limit=name):
            return crowd_checks.fed_with_progress(crowd, limits[name].on(seen.kernel))
        case crowd_steps.RekeysPaced(rate=name):
            return crowd_checks.rekeys_paced(crowd, limits[name].on(seen.kernel))
        case crowd_steps.InFlightRecover(each=each, limit=name):
            return in_flight_checks.in_flight_recover(crowd.cuts, each, limits[name].on(seen.kernel))


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
    return _stay(f"{seen.victim}'s routes stay at upstream and transit", seen, seen.routes, seen.withdraws)


def _stay(text: str, seen: Observation, routes: tuple[Watched, ...], withdraws: int) -> Checked:
    lost = [
        f"{route} went after {_ms(seen.fault_ns, m.at_ns):.0f} ms"
        for route in routes
        for m in route.moments(seen.moments)
        if m.event == "route_removed" and seen.fault_ns <= m.at_ns <= seen.end_ns
    ]
    up = all(route.present(seen.moments) for route in routes)
    passed = not lost and up and withdraws == 0 and bool(routes)
    said = "; ".join(lost) or f"{withdraws} WITHDRAW, routes {'up' if up else 'missing'}"
    return Checked(text, said, "0 WITHDRAW, routes up", passed)


def _flood_rate(seen: Observation, least: float) -> Checked:
    parts = [f"{f.gateway} received {f.received_per_s:,.0f}/s of {f.sent_per_s:,.0f}/s sent" for f in seen.floods]
    reached = bool(seen.floods) and all(min(f.received_per_s, f.sent_per_s) >= least for f in seen.floods)
    return Checked(
        "the flood was as strong as it must be", ", ".join(parts) or "no flood", f"{least:,.0f}/s at each", reached
    )


def _stranger_refused(seen: Observation) -> Checked:
    """Silence proves a refusal only between two answers: before the fault and after the heal."""
    *before, after = seen.strangers or (None,)
    passed = (
        after is not None
        and len(before) > 1
        and before[0].served
        and after.served
        and all(stranger.refused for stranger in before[1:])
    )
    said = " → ".join(map(str, seen.strangers)) or "not asked"
    return Checked(
        "a new flow is refused while the fault lasts, and only then", said, "answered → silent → answered", passed
    )


def _verdict(seen: Observation, reason: str, limit: float) -> Checked:
    """By the agent's own word, where a withdrawal cannot be seen."""
    text = f"{seen.victim}'s verdict is that it cannot serve, because of {reason}"
    for moment in seen.moments:
        if (
            moment.source == f"{seen.victim}/site-agent"
            and moment.event == "SiteVerdictChanged"
            and moment.at_ns >= seen.fault_ns
            and moment.data.get("serving") is False
        ):
            reasons = [str(cause["reason"]) for cause in moment.data["causes"]]
            took = _ms(seen.fault_ns, moment.at_ns)
            said = f"{', '.join(reasons)} after {took:.1f} ms"
            return Checked(text, said, f"{reason} within {limit:g} ms", reason in reasons and took <= limit)
    return Checked(text, "no such verdict", f"{reason} within {limit:g} ms", False)


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


def _moved(seen: Observation, nodes: set[str] | None = None) -> list[str]:
    """What moved after the fault in the logs of these routers, or of all."""
    return [
        f"{m.subject} {m.event.removeprefix('route_')} at {m.source} after {_ms(seen.fault_ns, m.at_ns):.0f} ms"
        for m in seen.moments
        if m.event in ROUTE_MOVES and seen.fault_ns <= m.at_ns <= seen.end_ns and (nodes is None or m.source in nodes)
    ]


def _nothing_moves(seen: Observation) -> Checked:
    moved = _moved(seen)
    up = bool(seen.routes) and all(route.present(seen.moments) for route in seen.routes)
    text = "no route comes, goes or changes at any router"
    return Checked(text, "; ".join(moved) or ("none" if up else "routes missing"), "none", up and not moved)


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


def _tunnels_rekeyed(seen: Observation, reason: str, wanted: int, limit: float) -> Checked:
    told = [
        m
        for m in seen.moments
        if m.source == f"{seen.victim}/site-agent"
        and m.event == "TunnelsRekeyed"
        and m.data.get("reason") == reason
        and m.at_ns >= seen.fault_ns
    ]
    total, took = 0, 0.0
    for moment in told:
        if total < wanted:
            total, took = total + int(moment.data["count"]), _ms(seen.fault_ns, moment.at_ns)
    return Checked(
        f"the agent has tunnels rekeyed, because of {reason}",
        f"{total} after {took:.0f} ms" if told else "none",
        f"{wanted} within {limit:g} ms",
        total >= wanted and took <= limit,
    )


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
