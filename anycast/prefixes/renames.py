"""Sites under their new names: the records before, as if each site had always been called what it is called now. Pure."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable

from anycast.fleet.finding import Finding
from anycast.prefixes.allocation import Allocation, Lock, Resting


@dataclasses.dataclass(frozen=True, slots=True)
class Renamed:
    held: dict[str, Allocation]
    resting: list[Resting]
    former: dict[str, str]
    """The keys before of those that have another one now."""
    displaced: list[Allocation]
    """What the site had that went, and whose name another one took in the same edit. It is nobody's."""
    findings: list[Finding]


def under_new_names(lock: Lock, renamed: dict[str, str], wanted: Iterable[str]) -> Renamed:
    """`renamed`: sites' names before, and now; `wanted`: the keys that the file asks for, which name its gateways."""
    if not renamed:
        return Renamed(lock.held, list(lock.resting), {}, [], [])
    sites = {each.site for each in lock.held.values()}
    renamed = {old: new for old, new in renamed.items() if old in sites or new not in sites}
    before, now = _gateways(lock.held), _gateways(wanted)
    findings = []
    for old, new in sorted(renamed.items()):
        # Gateways have one name in a fleet: those of the site whose name it was are those of a site that goes on.
        if new in sites and (same := sorted(now[new] & before[new] - before[old])):
            what = f"{old}, but {new} is there already and goes on (its gateway {same[0]} does): take this out"
            findings.append(Finding(("sites", new, "formerly"), f"{what}, and what {old} had will rest"))
            del renamed[old]
    gone = set(renamed.values()) & sites
    held, former, displaced = {}, {}, []
    for each in lock.held.values():
        if each.site in gone:
            displaced.append(each)
            continue
        key = _renamed(each.key, renamed)
        if key != each.key:
            former[key] = each.key
            each = each._replace(key=key, source=_renamed(each.source, renamed))
        held[key] = each
    resting = [
        each._replace(key=_renamed(each.key, renamed), source=_renamed(each.source, renamed)) for each in lock.resting
    ]
    return Renamed(held, resting, former, displaced, findings)


def _gateways(keys: Iterable[str]) -> dict[str, set[str]]:
    """The names of each site's gateways."""
    found: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        steps = key.split(".")
        if steps[0] == "sites" and len(steps) > 3 and steps[2] == "gateways":
            found[steps[1]].add(steps[3])
    return found


def _renamed(key: str, renamed: dict[str, str]) -> str:
    if not key.startswith("sites."):
        return key
    site, dot, rest = key[len("sites.") :].partition(".")
    return f"sites.{renamed.get(site, site)}{dot}{rest}"
