"""fleet.yaml: what is watched beyond the gateway itself, how patiently, and where alarms go.

Which class a check's evidence has is part of its code (`docs/checks.md`), never of this file: a setting that made DNS a
fact could darken the fleet.
"""

from __future__ import annotations

import pydantic

from anycast.fleet.section import Section
from anycast.fleet.values import Account, Address, Argument, Count, Domain, Duration, Name, Path, Url

TIMED_CHECKS = frozenset(
    {
        *("conntrack", "xfrm_stat", "cpu_pressure", "memory", "vici", "ike_probe", "packet_filter"),
        "too_big",
        *("dns", "reachability", "canary", "upstreams", "bfd"),
    }
)
"""Checks whose timing a fleet may set: those that move no route. A test compares them with the agent's."""


class Timing(Section):
    """What differs from a check's own timing. Facts have fixed ones."""

    interval: Duration | None = None
    """From the end of one look to the start of the next; 100 ms to 1 h."""
    timeout: Duration | None = None
    """A look that takes longer is UNKNOWN; 50 ms to 1 min."""
    rise: Count | None = None
    """Passing looks in a row that end a failure; 1 to 100."""
    fall: Count | None = None
    """Failing looks in a row that make one; 1 to 100."""


class Dns(Section):
    """The name that clients look up must lead to the VIPs, at each authoritative server."""

    servers: tuple[Address, ...] = pydantic.Field(min_length=1)
    """Authoritative servers of `service.identity`'s zone. They are asked directly, over UDP and, if truncated, TCP."""


class Canary(Section):
    """A VPN client of our own on every gateway, which connects to the VIP as a stranger would."""

    identity: Domain
    """Its IKE identity, which its certificate carries as subjectAltName."""
    certificate: Path
    key: Path
    gateway_ca: Path
    """Root that signed the gateways' certificates, as every client has it."""
    targets: tuple[Address, ...] = pydantic.Field(min_length=1)
    """Inside addresses that must answer an ICMP echo through the tunnel."""


class SharedChecks(Section):
    """Checks that can fail everywhere at once: shown and alarmed, they move no route."""

    dns: Dns | None = None
    reachability: tuple[Address, ...] = ()
    """Addresses that must answer an ICMP echo. Default: none."""
    canary: Canary | None = None


class ExecCheck(Timing):
    """An operator's own program: exit status 0 passes, anything else fails."""

    command: tuple[Argument, ...] = pydantic.Field(min_length=1)
    """Absolute path of the program and its arguments; no shell."""
    run_as: Account = "nobody"
    """Whom it runs as. A check needs no privilege of the agent's; one that does says ``root`` here."""


class Webhook(Section):
    url: Url
    """``https://...``, or ``http://`` to a loopback address. Gets each alarm as a POST of one JSON object."""
    token_file: Path | None = None
    """File on the gateway whose first line is sent as bearer token. Default: none."""


class AlarmHook(Section):
    """Where alarms go besides event log and metrics."""

    command: tuple[Argument, ...] = ()
    """Program by absolute path, and arguments; gets each alarm as one JSON object on its standard input. Default: none."""
    webhook: Webhook | None = None


ExecChecks = dict[Name, ExecCheck]
Timings = dict[str, Timing]
