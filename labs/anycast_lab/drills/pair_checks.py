"""What a drill asserts of a site's two gateways, judged on captures, probes and the kernels' addresses. Pure."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Iterator, Mapping

from anycast.reasons import Reason
from anycast_lab.capture import claims
from anycast_lab.capture.bgp import Prefix
from anycast_lab.capture.frames import Address, Segment
from anycast_lab.capture.routes import Movement, Transcript, movement, transcript
from anycast_lab.drills.captured import Captured
from anycast_lab.drills.report import Checked
from anycast_lab.drills.timeline import Moment, Packets

ACTIVE, BACKUP = "active", "backup"
_WORD = re.compile(r"[a-z]+(?:_[a-z]+)*")
_REASONS = frozenset(Reason)
_CLOCKS_NS = 1_000_000
"""The fault's time is read before the fault is caused, in the same kernel."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SiteSeen:
    """Everything that was seen at the victim's site."""

    victim: str
    peer: str
    """The other gateway; empty where there is none."""
    roles_before: Mapping[str, str]
    roles_after: Mapping[str, str]
    """By gateway, as its kernel has the virtual addresses: active, backup, partly, off."""
    changes: tuple[Moment, ...]
    """Each change of those: `source` is the gateway, `detail` the new word."""
    probes: Mapping[str, Packets]
    """By family."""
    lan: Captured
    transit: Captured
    routers: Mapping[bytes, str]
    """The gateways' MAC addresses."""
    virtual_outside: tuple[Address, ...]
    prefixes: tuple[Prefix, ...]
    transit_node: str
    transit_addresses: tuple[Address, ...]
    """The transit's, where it hears the site's upstreams."""
    why: Mapping[str, tuple[str, ...]]
    """Reasons that `site-agent why` names since the fault, by gateway."""


def gap_below(seen: SiteSeen, limit: float) -> Checked:
    """No family's longest gap exceeds `limit` (milliseconds), and each had ended."""
    parts = [
        f"{family} gap {p.longest_gap_ms:g} ms, {p.lost} of {p.sent} lost, {p.late} late"
        for family, p in seen.probes.items()
    ]
    passed = bool(seen.probes) and all(
        p.longest_gap_ms <= limit and p.sent > p.lost and (p.gap_to_ns or not p.longest_gap_ms) for p in seen.probes.values()
    )
    return Checked("the service's address answers", "; ".join(parts) or "not probed", f"{limit:g} ms", passed)


def nothing_moves_at_transit(seen: SiteSeen, logged: tuple[str, ...]) -> Checked:
    """`logged`: what the transit's BIRD says that moved after the fault."""
    text = "no withdrawal and no changed attribute reach the transit"
    read = transcript(one for one in seen.transit.seen if isinstance(one, Segment))
    problems = [*seen.transit.problems, *read.problems, *logged, *_ends(seen, read)]
    moved = {prefix: movement(read, prefix, seen.transit_addresses) for prefix in seen.prefixes}
    for prefix, move in moved.items():
        problems += _complaints(prefix, move)
    updates = ", ".join(f"{prefix}: {move.updates} identical UPDATEs" for prefix, move in moved.items())
    passed = bool(moved) and not problems
    return Checked(text, updates if passed else "; ".join(problems) or "no prefix", "0 of both", passed)


def _complaints(prefix: Prefix, move: Movement) -> Iterator[str]:
    if not move.updates:
        yield f"{prefix}: no UPDATE to hold others against"
    if move.withdrawn:
        yield f"{prefix}: {len(move.withdrawn)} withdrawals"
    if move.changed:
        yield f"{prefix}: {len(move.changed)} UPDATEs with other attributes"


def _ends(seen: SiteSeen, read: Transcript) -> Iterator[str]:
    for _at, sender, receiver, how in read.ended:
        if sender in seen.transit_addresses or receiver in seen.transit_addresses:
            yield f"{how} from {sender}"


def one_active(seen: SiteSeen, heal_ns: int, limit: float | None) -> Checked:
    """`limit`: for how many milliseconds after the heal two may claim the addresses still; None: never two at all."""
    reigns = claims.reigns(seen.lan.seen, seen.routers)
    together_ms = claims.together_ns(reigns) / 1e6
    after_ms = claims.together_ns(reigns, from_ns=heal_ns) / 1e6
    active = [gateway for gateway, word in seen.roles_after.items() if word == ACTIVE]
    partly = [gateway for gateway, word in seen.roles_after.items() if word == "partly"]
    said = f"{', '.join(active) or 'nobody'} at the end; two claimed at once for {together_ms:.0f} ms"
    said += "" if limit is None else f", {after_ms:.0f} ms of it after the heal"
    problems = [*seen.lan.problems, *(f"{gateway} has some of the addresses" for gateway in partly)]
    kept = together_ms == 0 if limit is None else heal_ns > 0 and after_ms < together_ms and after_ms <= limit
    text = "one Active at the end, and " + ("never two" if limit is None else "two until the heal")
    passed = len(active) == 1 and not problems and bool(reigns) and kept
    return Checked(text, "; ".join([said, *problems]), f"{limit or 0:g} ms", passed)


def role_moved(seen: SiteSeen, fault_ns: int, limit: float) -> Checked:
    """The other gateway's kernel has all addresses within `limit` milliseconds of the fault, and keeps them."""
    text = f"the addresses move from {seen.victim} to {seen.peer}"
    took = next(
        (
            (m.at_ns - fault_ns) / 1e6
            for m in seen.changes
            if m.source == seen.peer and m.detail == ACTIVE and m.at_ns >= fault_ns - _CLOCKS_NS
        ),
        None,
    )
    was = seen.roles_before.get(seen.victim) == ACTIVE
    now = seen.roles_after.get(seen.peer) == ACTIVE
    said = "never" if took is None else f"after {took:.0f} ms{'' if now else ', and not to stay'}"
    passed = was and now and took is not None and took <= limit
    return Checked(text, said if was else f"{seen.victim} was not Active", f"{limit:g} ms", passed)


def role_stays(seen: SiteSeen) -> Checked:
    """No gateway's kernel gained or lost an address at any look; and on the LAN nobody else ever claimed them."""
    holder = next((gateway for gateway, word in seen.roles_before.items() if word == ACTIVE), "")
    others = {r.router for r in claims.reigns(seen.lan.seen, seen.routers)} - {holder}
    moves = [f"{m.source} is {m.detail}" for m in seen.changes]
    problems = [*seen.lan.problems, *moves, *(f"{name} claimed the addresses" for name in sorted(others))]
    passed = bool(holder) and not problems and dict(seen.roles_before) == dict(seen.roles_after)
    return Checked(f"{holder or 'nobody'} stays Active", "; ".join(problems) or "no change", "no change", passed)


def neighbours_told(seen: SiteSeen, fault_ns: int) -> Checked:
    """Each virtual address that neighbours use was announced by the peer, at least twice, after the fault."""
    counts = {}
    for address in seen.virtual_outside:
        told = claims.announced(seen.lan.seen, address, fault_ns - _CLOCKS_NS)
        counts[address] = sum(seen.routers.get(mac) == seen.peer for _, mac in told)
    said = ", ".join(f"{address} {count} times" for address, count in counts.items())
    passed = bool(counts) and min(counts.values()) >= 2 and not seen.lan.problems
    return Checked(f"{seen.peer} tells the neighbours where the addresses are", said or "no address", "2 times each", passed)


def reasons_named(answer: str, since_ns: int) -> tuple[str, ...]:
    """What `site-agent why --json` names in its trail from `since_ns` on: reasons, causes of the virtual router, and the
    reasons in what is said beside them. Empty where there is no answer."""
    try:
        trail = json.loads(answer)["log"]["trail"]
        lately = [r for r in trail if datetime.datetime.fromisoformat(r["at"]).timestamp() * 1e9 >= since_ns - _CLOCKS_NS]
    except (ValueError, KeyError, TypeError):
        return ()
    words = (word for record in lately for word in _WORD.findall(json.dumps(record)))
    causes = {str(record["cause"]) for record in lately if "cause" in record}
    return tuple(dict.fromkeys(word for word in words if word in _REASONS or word in causes))


def why(seen: SiteSeen, gateway: str, reason: str) -> Checked:
    """`site-agent why` at `gateway` names `reason` for something since the fault."""
    named = seen.why.get(gateway, ())
    return Checked(f"`site-agent why` at {gateway} names the reason", ", ".join(named) or "nothing", reason, reason in named)
