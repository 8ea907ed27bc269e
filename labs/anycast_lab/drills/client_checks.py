"""What a drill saw of where its clients were, and in which order it all happened. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anycast_lab.drills.client_steps import ClientCheck, GoodUntil, InOrder, Never, NeverAt, What
from anycast_lab.drills.limits import Limit
from anycast_lab.drills.report import Checked
from anycast_lab.drills.timeline import Moment, judge_packets

if TYPE_CHECKING:
    from anycast_lab.drills.checks import Observation

SOURCE, AT = "clients", "client_at"
"""A client has inner addresses of other sites than at the look before: `detail` names them, sorted."""


def judge(check: ClientCheck, seen: Observation, limits: dict[str, Limit]) -> Checked:
    match check:
        case InOrder(moments=wanted):
            return _in_order(wanted, seen)
        case GoodUntil(client=client, moment=what, limit=name):
            return _good_until(client, what, seen, limits[name].on(seen.kernel))
        case NeverAt(client=client, sites=sites):
            return _never_at(client, sites, seen)
        case Never(moments=unwanted):
            found = [(what, first(what, seen, seen.fault_ns)) for what in unwanted]
            told = [f"{words(what)} at {(m.at_ns - seen.fault_ns) / 1e9:.1f} s" for what, m in found if m is not None]
            return Checked(f"there is no {', no '.join(map(words, unwanted))}", ", ".join(told) or "none", "none", not told)


def words(what: What) -> str:
    return " ".join(filter(None, (what.at, what.event, what.about, what.detail, what.says)))


def first(what: What, seen: Observation, after_ns: int) -> Moment | None:
    """The first such moment that is later than this."""

    def fits(moment: Moment) -> bool:
        return (
            moment.event == what.event
            and what.at in ("", moment.source)
            and what.about in ("", moment.subject)
            and what.detail in ("", moment.detail)
            and what.says in moment.detail
        )

    return next((m for m in sorted(seen.moments) if after_ns < m.at_ns <= seen.end_ns and fits(m)), None)


def _in_order(wanted: tuple[What, ...], seen: Observation) -> Checked:
    text, limit = "these happen in this order", " → ".join(map(words, wanted))
    told, at = list[str](), seen.fault_ns
    for what in wanted:
        found = first(what, seen, at)
        if found is None:
            told.append(f"no {words(what)} after that" if told else f"no {words(what)}")
            return Checked(text, ", ".join(told), limit, False)
        at = found.at_ns
        told.append(f"{what.event} at {(at - seen.fault_ns) / 1e9:.1f} s")
    return Checked(text, ", ".join(told), limit, True)


def _good_until(client: str, what: What, seen: Observation, limit_ms: float) -> Checked:
    text, bound = f"{client}'s packets come back until {words(what)}", f"no gap over {limit_ms:g} ms"
    found, record = first(what, seen, seen.fault_ns), seen.records.get(client)
    if found is None or record is None:
        return Checked(text, f"no {words(what)}" if found is None else "no packets", bound, False)
    packets = judge_packets(_sent_until(record, found.at_ns), seen.fault_ns - 1_000_000_000, found.at_ns)
    told = f"longest gap {packets.longest_gap_ms:g} ms, {packets.lost} of {packets.sent} lost"
    return Checked(text, told, bound, packets.sent > 0 and packets.longest_gap_ms <= limit_ms)


def _sent_until(record: dict[str, Any], until_ns: int) -> dict[str, Any]:
    """What is answered later than that is no answer before it."""
    return {**record, "good_ns": [good if good <= until_ns else 0 for good in record["good_ns"]]}


def _never_at(client: str, sites: tuple[str, ...], seen: Observation) -> Checked:
    looks = [m for m in seen.moments if m.event == AT and m.subject == client]
    before = [m for m in sorted(looks) if m.at_ns <= seen.fault_ns][-1:]
    been = dict.fromkeys(
        site for m in (*before, *looks) if m in before or m.at_ns > seen.fault_ns for site in m.detail.split(", ") if site
    )
    wrong = [site for site in been if site in sites]
    text = f"{client} is never at {' or '.join(sites)}"
    return Checked(text, f"at {', '.join(been)}" if been else "not seen anywhere", "never", bool(been) and not wrong)
