"""Rules that join several values of fleet.yaml, each a function from the fleet to what breaks it.

A rule's docstring is the reason for it. Rules about addresses are in `address_checks.py`, about the lab in
`lab_checks.py`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator

from anycast.fleet.address_checks import ADDRESS_RULES
from anycast.fleet.finding import Finding
from anycast.fleet.lab_checks import LAB_RULES
from anycast.fleet.schema import Fleet
from anycast.fleet.section import Section
from anycast.fleet.yaml_text import Path

Rule = Callable[[Fleet], Iterator[Finding]]

_CIPHERS = frozenset({"aes256gcm16", "aes128gcm16", "chacha20poly1305"})
_PRFS = frozenset({"prfsha256", "prfsha384", "prfsha512"})
_GROUPS = frozenset({"curve25519", "x448", "ecp256", "ecp384", "ecp521"})
_ESN = frozenset({"esn", "noesn"})

_DURATIONS: dict[tuple[str, str], tuple[str, float, float, bool]] = {
    # section, field: why, least seconds, most seconds, whole seconds only
    ("bgp", "hold_time"): ("RFC 4271 section 4.2: a 16-bit number of seconds, at least 3", 3, 65535, True),
    ("lease", "duration"): ("shorter than a scheduling hiccup, or too long for a dead gateway", 0.2, 10, False),
    ("lease", "grace"): ("a route without an agent is a route without a witness", 0, 60, False),
    ("agent", "stop_limit"): ("long enough for a core dump to be told from a hang", 0.1, 60, False),
    ("agent", "recovery"): ("a flapping route is punished, a route that stays away serves nobody", 0, 600, False),
}


def check(fleet: Fleet) -> list[Finding]:
    """Everything that is wrong with `fleet` as a whole."""
    return [finding for rule in (*RULES, *ADDRESS_RULES, *LAB_RULES) for finding in rule(fleet)]


def _seconds(span: datetime.timedelta) -> str:
    total = span.total_seconds()
    return f"{total:.0f} s" if total == int(total) else f"{span // datetime.timedelta(milliseconds=1)} ms"


def _bounded(path: Path, value: datetime.timedelta, least: float, most: float, whole: bool, why: str) -> Iterator[Finding]:
    low, high = datetime.timedelta(seconds=least), datetime.timedelta(seconds=most)
    if not low <= value <= high:
        yield Finding(path, f"{_seconds(value)} is not between {_seconds(low)} and {_seconds(high)} ({why})")
    elif whole and value.microseconds:
        yield Finding(path, f"{_seconds(value)} is not a whole number of seconds ({why})")


def durations(fleet: Fleet) -> Iterator[Finding]:
    """Each duration has bounds, wherever it is written."""
    yield from _bounded(("service", "dpd_delay"), fleet.service.dpd_delay, 1, 3600, True, "strongSwan counts whole seconds")
    holders: list[tuple[Path, Section]] = [(("defaults",), fleet.defaults)]
    holders += [(("sites", name), site) for name, site in fleet.sites.items()]
    for path, holder in holders:
        for (section, field), (why, least, most, whole) in _DURATIONS.items():
            settings = getattr(holder, section)
            if field in settings.model_fields_set:
                yield from _bounded((*path, section, field), getattr(settings, field), least, most, whole, why)


def run_as_is_not_root(fleet: Fleet) -> Iterator[Finding]:
    """ExaBGP talks to the network: it runs without privileges."""
    places: list[tuple[Path, str]] = [(("defaults", "bgp", "run_as"), fleet.defaults.bgp.run_as)]
    places += [(("sites", name, "bgp", "run_as"), site.bgp.run_as) for name, site in fleet.sites.items()]
    for path, account in places:
        if account in ("root", "0"):
            yield Finding(path, "is root; ExaBGP runs as a user of its own (exabgp)")


def proposals_are_modern(fleet: Fleet) -> Iterator[Finding]:
    """AEAD ciphers and elliptic curves only: one legacy proposal is what an attacker downgrades to."""
    ike, esp = fleet.service.ike_proposals, fleet.service.esp_proposals
    for field, proposals, known in (
        ("ike_proposals", ike, _CIPHERS | _PRFS | _GROUPS),
        ("esp_proposals", esp, _CIPHERS | _GROUPS | _ESN),
    ):
        if not proposals:
            yield Finding(("service", field), "is empty; leave it out for the defaults")
        for i, proposal in enumerate(proposals):
            path = ("service", field, i)
            words = set(proposal.split("-"))
            if unknown := sorted(words - known):
                yield Finding(path, f"{', '.join(unknown)}: not among {', '.join(sorted(known))}")
            elif not words & _CIPHERS:
                yield Finding(path, f"has no cipher; one of {', '.join(sorted(_CIPHERS))}")
            elif field == "ike_proposals" and not words & _PRFS:
                yield Finding(path, f"has no pseudo-random function; one of {', '.join(sorted(_PRFS))}")
            elif field == "ike_proposals" and not words & _GROUPS:
                yield Finding(path, f"has no key exchange group; one of {', '.join(sorted(_GROUPS))}")


def machine_names_are_unique(fleet: Fleet) -> Iterator[Finding]:
    """A gateway or router is called by its name alone, in metrics, in events and on the command line."""
    seen: dict[str, Path] = {}
    for site_name, site in fleet.sites.items():
        for kind, machines in (("upstreams", site.upstreams), ("gateways", site.gateways)):
            for name in machines:
                path: Path = ("sites", site_name, kind, name)
                if name in seen:
                    yield Finding(path, f"is also the name of {'.'.join(map(str, seen[name]))}", at_key=True)
                seen.setdefault(name, path)


def router_ids_are_unique(fleet: Fleet) -> Iterator[Finding]:
    """RFC 6286: unique within an AS; here within the fleet, so that an upstream's table names the gateway."""
    seen: dict[str, str] = {}
    for site_name, site in fleet.sites.items():
        for name, gateway in site.gateways.items():
            router_id = str(gateway.router_id)
            path: Path = ("sites", site_name, "gateways", name, "router_id")
            if router_id in seen:
                yield Finding(path, f"{router_id} is also the router_id of {seen[router_id]}")
            elif gateway.router_id.is_unspecified:
                yield Finding(path, "0.0.0.0 is no BGP identifier (RFC 6286 section 2.1)")
            seen.setdefault(router_id, name)


def interfaces_differ(fleet: Fleet) -> Iterator[Finding]:
    """Outside and inside on one interface would let tunnelled packets leave unprotected."""
    for site_name, site in fleet.sites.items():
        for name, gateway in site.gateways.items():
            if gateway.uplink.interface == gateway.inside.interface:
                path: Path = ("sites", site_name, "gateways", name, "inside", "interface")
                yield Finding(path, f"{gateway.inside.interface} is the uplink's interface; inside needs its own")


RULES: tuple[Rule, ...] = (
    durations,
    run_as_is_not_root,
    proposals_are_modern,
    machine_names_are_unique,
    router_ids_are_unique,
    interfaces_differ,
)
