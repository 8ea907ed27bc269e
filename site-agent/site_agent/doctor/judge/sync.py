"""The mirror of tunnels between a site's two gateways: can it come up, and would a failover lose or repeat anything? Pure.

Only of a gateway whose document has a mirror (docs/sync.md).
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator

from anycast.pki.trust import Refusal
from site_agent.doctor.finding import Finding, Kind, Severity
from site_agent.doctor.judge.certificates import SOON
from site_agent.doctor.judge.connections import STARTS, ConnectionsReading, mend_of

IDENTITY = Kind(
    id="sync_identity",
    looks_at="this gateway's management certificate, key, roots and revocation list in /etc/anycast/pki, where the site has"
    " a mirror",
    why="without them the channel to the other gateway does not come up, and a failover loses every tunnel",
    worst=Severity.WRONG,
)
PLUGIN = Kind(
    id="sync_plugin",
    looks_at="the `ha` plugin among those that charon has loaded, where the site has a mirror",
    why="charon tells the mirror of no tunnel, and a failover loses all of them",
    worst=Severity.WRONG,
)
VERSION = Kind(
    id="sync_version",
    looks_at="charon's version against those whose `ha` plugin was tried, where the site has a mirror",
    why="the plugin's messages change with the version, and what is not understood is dropped without a word",
    worst=Severity.RISKY,
)
OFFLOAD = Kind(
    id="sync_offload",
    looks_at="hw_offload of every CHILD_SA's configuration, where the site has a mirror",
    why="a card counts by itself, and after a failover the other gateway may use a sequence number and a nonce again",
    worst=Severity.WRONG,
)
BEGINS = Kind(
    id="sync_begins",
    looks_at="start_action, close_action and dpd_action of every connection, and trap policies, where the site has a mirror",
    why="the Backup's charon begins it too, so the peer has two tunnels, of which either gateway ends the other's",
    worst=Severity.RISKY,
)
KINDS = (IDENTITY, PLUGIN, VERSION, OFFLOAD, BEGINS)

TRIED = ("5.9.8",)
"""strongSwan versions whose plugin ran in our tests: the recipe and the message format are theirs."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IdentityReading:
    """What lies in the machine's folder."""

    folder: str
    problem: str = ""
    """Why it cannot be used; then nothing below means anything."""
    installed: bool = False
    """A certificate is there, of whatever use."""
    refusal: Refusal | None = None
    """What the other gateway would say to it, if it believed what this one believes."""
    detail: str = ""
    not_after: datetime.datetime = datetime.datetime.max


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SyncReading:
    gateway: str
    peer: str
    identity: IdentityReading | None
    """None where it may not be looked at."""
    plugins: frozenset[str] | None
    """What charon has loaded; None where it was not asked."""
    version: str
    """charon's; empty where it was not asked."""
    connections: ConnectionsReading | None
    """None where neither charon nor a file told of any."""


def judge(reading: SyncReading, now: datetime.datetime) -> Iterator[Finding]:
    if reading.identity is not None:
        yield _identity(reading.identity, reading.gateway, now)
    if reading.plugins is not None:
        yield _plugin(reading.plugins)
    if reading.version:
        yield _version(reading.version, reading.peer)
    if reading.connections is not None:
        yield from _offload(reading.connections)
        yield from _begins(reading.connections)


def _identity(reading: IdentityReading, gateway: str, now: datetime.datetime) -> Finding:
    verb = "renew" if reading.installed else "issue"
    where = f"where the root is: anycast pki {verb} {gateway} {gateway}.csr > {gateway}.pem"
    mend = (f"anycast pki request {gateway} > {gateway}.csr  # then, {where}", f"anycast pki install {gateway}.pem")
    if reading.problem and reading.installed:
        # Nothing is made beside what cannot be believed: neither a request, nor what comes for it.
        aside = f"mv {reading.folder} {reading.folder}.unusable  # the root is believed anew: compare its fingerprint"
        return IDENTITY.found(Severity.WRONG, reading.problem, aside, *mend)
    if reading.problem:
        return IDENTITY.found(Severity.WRONG, reading.problem, *mend)
    match reading.refusal:
        case Refusal.EXPIRED | Refusal.NOT_YET_VALID:
            # The other gateway goes on with the key that it knows; one that was made anew knows none.
            when = "ended" if reading.refusal is Refusal.EXPIRED else "has not begun: is this machine's clock right?"
            seen = f"{reading.folder}: the certificate's time {when}"
            return IDENTITY.found(Severity.RISKY, f"{seen} ({reading.detail.partition(',')[0]})", *mend)
        case Refusal():
            return IDENTITY.found(Severity.WRONG, f"{reading.folder}: {reading.refusal}: {reading.detail}", *mend)
    until = f"good until {reading.not_after:%Y-%m-%d}"
    if reading.not_after - now < SOON:
        return IDENTITY.found(Severity.RISKY, f"{reading.folder}: {until}", *mend)
    return IDENTITY.ok(f"{reading.folder}: {until}")


def _plugin(plugins: frozenset[str]) -> Finding:
    if "ha" in plugins:
        return PLUGIN.ok("loaded")
    return PLUGIN.found(
        Severity.WRONG,
        "the `ha` plugin is not loaded",
        "apt-get install -y libcharon-extra-plugins  # where the plugin is not installed",
        "site-agent render --diff  # of strongswan.conf there must be none; then charon loads it when it is started anew,"
        " which ends its tunnels",
    )


def _version(version: str, peer: str) -> Finding:
    if version in TRIED:
        return VERSION.ok(version)
    tried = ", ".join(TRIED)
    return VERSION.found(
        Severity.RISKY,
        f"strongSwan {version}; tried with {tried}",
        f"apt-cache policy strongswan-charon  # install {tried} here and at {peer}, or try a failover with this one first",
    )


def _offload(reading: ConnectionsReading) -> Iterator[Finding]:
    if reading.swanctl is None:
        return
    found = []
    for connection in reading.swanctl.names("connections"):
        for child in reading.swanctl.names(f"connections.{connection}.children"):
            path = f"connections.{connection}.children.{child}.hw_offload"
            value = reading.swanctl.get(path) or "no"
            if value != "no":
                mend = (mend_of(reading, path, "no"), "swanctl --load-conns  # tunnels take it at their next rekey")
                found.append(OFFLOAD.found(Severity.WRONG, f"{connection}.{child}: hw_offload = {value}", *mend))
    yield from found or [OFFLOAD.ok("ESP is the kernel's")]


def _begins(reading: ConnectionsReading) -> Iterator[Finding]:
    """Also towards one fixed peer, which for a single gateway may be meant so."""
    found = []
    for connection in reading.connections:
        reasons, lines = [], []
        for child in connection.children:
            path = f"connections.{connection.name}.children.{child.name}"
            start = (reading.swanctl.get(f"{path}.start_action") if reading.swanctl else None) or "none"
            if start not in STARTS and child.name in reading.traps:
                start = "trap"
            for option, value in (
                ("start_action", start), ("dpd_action", child.dpd_action), ("close_action", child.close_action),
            ):  # fmt: skip
                if value in STARTS:
                    reasons.append(f"{child.name}: {option} = {value}")
                    lines.append(mend_of(reading, f"{path}.{option}", "clear" if option == "dpd_action" else "none"))
        if reasons:
            seen = f"{connection.name} begins by itself ({'; '.join(reasons)}), and so it does at the other gateway"
            found.append(BEGINS.found(Severity.RISKY, seen, *lines, "swanctl --load-conns"))
    if not found and reading.connections:
        known = "" if reading.swanctl else "; start_action is not known"
        found.append(BEGINS.ok(f"{', '.join(each.name for each in reading.connections)} only answer{known}"))
    yield from found
