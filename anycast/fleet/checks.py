"""Rules that join several values of fleet.yaml, each a function from the fleet to what breaks it.

A rule's docstring is the reason for it. Rules about addresses are in `address_checks.py`, about blocks and what is planned
from them in `addressing_checks.py`, about two gateways of a site in `pair_checks.py`, about the lab in `lab_checks.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from anycast.fleet.address_checks import ADDRESS_RULES
from anycast.fleet.addressing_checks import ADDRESSING_RULES
from anycast.fleet.announcement_checks import ANNOUNCEMENT_RULES
from anycast.fleet.bounds import bounded
from anycast.fleet.budget import budget_can_be_kept
from anycast.fleet.finding import Finding
from anycast.fleet.lab_checks import LAB_RULES
from anycast.fleet.monitoring import TIMED_CHECKS
from anycast.fleet.name_zone_checks import NAME_ZONE_RULES
from anycast.fleet.observer import observers_can_hear
from anycast.fleet.pair_checks import PAIR_RULES
from anycast.fleet.schema import Defaults, Fleet, Site
from anycast.fleet.yaml_text import Path

Rule = Callable[[Fleet], Iterator[Finding]]

_CIPHERS = frozenset({"aes256gcm16", "aes128gcm16", "chacha20poly1305"})
_PRFS = frozenset({"prfsha256", "prfsha384", "prfsha512"})
_GROUPS = frozenset({"curve25519", "x448", "ecp256", "ecp384", "ecp521"})
_ESN = frozenset({"esn", "noesn"})

_TIMING: dict[str, tuple[str, float, float, bool]] = {
    "interval": ("every look costs the gateway something", 0.1, 3600, False),
    "timeout": ("a look that may take longer tells of the past", 0.05, 60, False),
}
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
    rules = (*RULES, *ADDRESS_RULES, *ADDRESSING_RULES, *ANNOUNCEMENT_RULES, *NAME_ZONE_RULES, *PAIR_RULES, *LAB_RULES)
    return [finding for rule in rules for finding in rule(fleet)]


def _holders(fleet: Fleet) -> list[tuple[Path, Defaults | Site]]:
    """Where `bgp`, `lease` and `agent` settings may be written."""
    return [(("defaults",), fleet.defaults), *((("sites", name), site) for name, site in fleet.sites.items())]


def durations(fleet: Fleet) -> Iterator[Finding]:
    """Each duration has bounds, wherever it is written."""
    yield from bounded(
        ("service", "dpd_delay"), fleet.service.dpd_delay, 1, 3600, "strongSwan counts whole seconds", whole=True
    )
    if fleet.coordinator is not None:
        why = "shorter than a coordinator may be away for, or so long that nothing is ever old"
        yield from bounded(("coordinator", "cold_start_max_age"), fleet.coordinator.cold_start_max_age, 60, 366 * 86400, why)
    for path, holder in _holders(fleet):
        for (section, field), (why, least, most, whole) in _DURATIONS.items():
            settings = getattr(holder, section)
            if field in settings.model_fields_set:
                yield from bounded((*path, section, field), getattr(settings, field), least, most, why, whole=whole)


def timings_are_of_known_checks(fleet: Fleet) -> Iterator[Finding]:
    """A misspelt check would silently keep its own timing; a fact that were asked less often would act late."""
    for path, holder in _holders(fleet):
        timed = [(("timings", name), timing) for name, timing in holder.agent.timings.items()]
        timed += [(("exec", name), check) for name, check in holder.agent.exec.items()]
        for place, timing in timed:
            if place[0] == "timings" and place[1] not in TIMED_CHECKS:
                what = f"is no check with a timing of its own; there are {', '.join(sorted(TIMED_CHECKS))}"
                yield Finding((*path, "agent", *place), what, at_key=True)
            for field, (why, least, most, whole) in _TIMING.items():
                if (span := getattr(timing, field)) is not None:
                    yield from bounded((*path, "agent", *place, field), span, least, most, why, whole=whole)


def commands_are_absolute(fleet: Fleet) -> Iterator[Finding]:
    """No shell and no search path: what runs as root is what the file names."""
    for path, holder in _holders(fleet):
        commands: list[tuple[Path, tuple[str, ...]]] = [(("alarms", "command"), holder.agent.alarms.command)]
        commands += [(("exec", name, "command"), check.command) for name, check in holder.agent.exec.items()]
        for place, command in commands:
            if command and not command[0].startswith("/"):
                yield Finding((*path, "agent", *place, 0), f"{command[0]!r} is no absolute path; no shell looks for it")


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
        routers = (("upstreams", site.upstreams), ("inside_routers", site.inside_routers))
        for kind, machines in (*routers, ("gateways", site.gateways)):
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
            if gateway.router_id is None:
                continue
            router_id = str(gateway.router_id)
            path: Path = ("sites", site_name, "gateways", name, "router_id")
            if router_id in seen:
                yield Finding(path, f"{router_id} is also the router_id of {seen[router_id]}")
            elif gateway.router_id.is_unspecified:
                yield Finding(path, "0.0.0.0 is no BGP identifier (RFC 6286 section 2.1)")
            seen.setdefault(router_id, name)


def bgp_is_whole_or_absent(fleet: Fleet) -> Iterator[Finding]:
    """A site that speaks BGP needs its numbers; one that does not, an address that moves between its gateways."""
    for site_name, site in fleet.sites.items():
        path: Path = ("sites", site_name)
        if site.upstreams or site.inside_routers:
            if site.asn is None:
                yield Finding(path, "has routers to speak BGP with, but no asn", judged=((*path, "asn"),))
            for name, gateway in site.gateways.items():
                if gateway.router_id is None:
                    yield Finding((*path, "gateways", name), "has no router_id, which BGP needs")
        if not site.upstreams and site.vrrp is None:
            yield Finding(path, "has neither upstreams, which announce the service, nor vrrp, which holds its address")
        if not site.upstreams and len(fleet.sites) > 1:
            what = "has no upstreams; without BGP nobody learns which site has the VIP, so such a fleet is one site"
            yield Finding(path, what, judged=((*path, "upstreams"),))


def interfaces_differ(fleet: Fleet) -> Iterator[Finding]:
    """Outside and inside on one interface would let tunnelled packets leave unprotected; and paths fall together."""
    for site_name, site in fleet.sites.items():
        for name, gateway in site.gateways.items():
            taken: dict[str, str] = {}
            for side in ("uplink", "inside", "management"):
                if (attachment := getattr(gateway, side)) is None:
                    continue
                other = taken.setdefault(attachment.interface, side)
                if other != side:
                    path: Path = ("sites", site_name, "gateways", name, side, "interface")
                    what = f"{attachment.interface} is the {other}'s interface; {side} needs its own"
                    yield Finding(path, what, judged=((*path[:-2], other),))


RULES: tuple[Rule, ...] = (
    durations,
    timings_are_of_known_checks,
    commands_are_absolute,
    run_as_is_not_root,
    proposals_are_modern,
    machine_names_are_unique,
    router_ids_are_unique,
    bgp_is_whole_or_absent,
    interfaces_differ,
    budget_can_be_kept,
    observers_can_hear,
)
