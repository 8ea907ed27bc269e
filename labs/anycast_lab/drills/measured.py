"""The figures of one drill that tables are made of, the same for our gateways and for those of labs/baseline. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anycast_lab.drills.report import Checked
from anycast_lab.drills.timeline import Packets

if TYPE_CHECKING:
    from anycast_lab.drills.checks import Observation

Figures = dict[str, float | None]


def figures(seen: Observation) -> Figures:
    """By name; None where nothing was watched that tells. Times are milliseconds, sums are over all clients.

    ``gap_ms``: the longest of any client, less what its prober itself was late; ``outage_ms``: with that. ``gaps_open``: how
    many clients had no packet any more at the end of what was watched. ``connections_ended``: downloads whose TCP connection
    ended before the drill did. ``number_before``: the highest ESP number of the SA that had sent most when the other gateway
    went on under it, ``number_after``: its first.
    """
    site, mirror = seen.at_site, seen.mirror
    packets = [client.packets for client in seen.clients.values()]
    probes = list(site.probes.values()) if site is not None else []
    found: Figures = {
        "gap_ms": max((p.longest_gap_ms for p in packets), default=None),
        "outage_ms": max((_outage_ns(p, seen.end_ns) / 1e6 for p in packets), default=None),
        "gaps_open": sum(p.longest_gap_ms > 0 and not p.gap_to_ns for p in packets) if packets else None,
        "sent": sum(p.sent for p in packets) if packets else None,
        "lost": sum(p.lost for p in packets) if packets else None,
        "service_gap_ms": max((p.longest_gap_ms for p in probes), default=None),
        "withdrawals": seen.withdraws_everywhere,
        "withdrawals_at_transit": _withdrawn(seen, site.transit_node) if site is not None else None,
    }
    takeovers = mirror.numbers.takeovers if mirror is not None else ()
    longest = max(takeovers, key=lambda one: one.before, default=None)
    found |= {
        "ike_sas_built": sum(one.built for one in mirror.ike.values()) if mirror is not None and mirror.ike else None,
        "connections_ended": sum(bool(one.ended) for one in mirror.downloads.values()) if mirror is not None else None,
        "numbers_twice": len(mirror.numbers.numbers_twice) if mirror is not None else None,
        "number_before": longest.before if longest is not None else None,
        "number_after": longest.first if longest is not None else None,
    }
    return found


def _outage_ns(packets: Packets, end_ns: int) -> int:
    """On the wall clock; to the end of what was watched where it had not ended."""
    return (packets.gap_to_ns or end_ns) - packets.gap_from_ns if packets.gap_from_ns else 0


def _withdrawn(seen: Observation, node: str) -> int:
    """Routes that a router lost after the fault."""
    return sum(m.source == node and m.event == "route_removed" and m.at_ns >= seen.fault_ns for m in seen.moments)


def check(seen: Observation) -> Checked:
    """Red only where a figure is missing of what was watched, or where a witness says that its own record has a hole."""
    found = figures(seen)
    wanted = ["service_gap_ms", "withdrawals"]
    wanted += ["gap_ms", "lost"] if seen.esp else []
    wanted += ["ike_sas_built"] if seen.mirror is not None else []
    problems = [f"no {name}" for name in wanted if found[name] is None]
    if found["sent"] is not None and not found["sent"]:
        problems.append("no packet was sent in time")
    problems += seen.mirror.problems if seen.mirror is not None else ()
    said = ", ".join(f"{name} {value:g}" for name, value in found.items() if value is not None)
    return Checked("it was measured", "; ".join([said, *problems]), "no bound", not problems)
