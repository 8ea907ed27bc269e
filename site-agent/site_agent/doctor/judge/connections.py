"""The connections: who begins, how far packets may be reordered, and handshakes in pieces. Pure.

What charon has loaded comes from VICI (`list-conns`, `list-policies`); `start_action`, `replay_window` and
`fragmentation` only swanctl.conf has. Who began an IKE_SA is no evidence: after a rekey by the gateway that is the gateway.
"""

from __future__ import annotations

import dataclasses
import re

from site_agent.doctor.finding import Finding, Kind, Severity
from site_agent.ike.settings_file import Settings

INITIATES = Kind(
    id="initiates",
    looks_at="start_action, close_action and dpd_action of every connection, and trap policies",
    why="from an anycast address the answer may reach another site, and a lost client is called for ever",
    worst=Severity.WRONG,
)
REPLAY = Kind(
    id="replay_window",
    looks_at="replay_window of every CHILD_SA's configuration",
    why="a path that changes, or a card with several queues, reorders more than 32 packets; what is late is dropped",
    worst=Severity.RISKY,
)
FRAGMENTS = Kind(
    id="ike_fragmentation",
    looks_at="fragmentation of every connection",
    why="a handshake with certificates is larger than a packet, and many paths drop IP fragments (RFC 7383)",
    worst=Severity.RISKY,
)
KINDS = (INITIATES, REPLAY, FRAGMENTS)

LEAST_WINDOW = 128
DEFAULT_WINDOW = 32
"""charon.replay_window."""
WANTED_WINDOW = 2048
_RANGE = re.compile(r"[0-9.]+-[0-9.]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*-[0-9a-fA-F:.]+")
"""Of addresses; a name may have a hyphen in it, too."""
STARTS = frozenset({"start", "trap", "restart", "hold", "route", "trap|start"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    name: str
    dpd_action: str
    close_action: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """As charon has it loaded."""

    name: str
    local: tuple[str, ...]
    remote: tuple[str, ...]
    """As written: addresses, names, networks, ranges, `%any`."""
    children: tuple[Child, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionsReading:
    connections: tuple[Connection, ...]
    traps: frozenset[str]
    """CHILD_SA configurations with a trap policy installed now."""
    swanctl: Settings | None
    """swanctl.conf; None where it could not be read."""
    swanctl_file: str
    drop_in: str
    """A file that swanctl.conf includes after all others; empty where it ends by including none."""
    settings: Settings
    """strongswan.conf."""
    vips: frozenset[str]
    """Service addresses; a connection that begins from another may be meant so."""
    planned: bool
    """A fleet says that they are anycast; otherwise that is not known, and one site may begin."""


def judge(reading: ConnectionsReading) -> list[Finding]:
    return [*_initiates(reading), *_replay(reading), *_fragments(reading)]


def _initiates(reading: ConnectionsReading) -> list[Finding]:
    found = []
    for connection in reading.connections:
        reasons, lines = [], []
        for child in connection.children:
            path = f"connections.{connection.name}.children.{child.name}"
            start = (reading.swanctl.get(f"{path}.start_action") if reading.swanctl else None) or "none"
            if start in STARTS or child.name in reading.traps:
                reasons.append(f"{child.name}: start_action = {start if start in STARTS else 'trap'}")
                lines.append(mend_of(reading, f"{path}.start_action", "none"))
            for option, action in (("dpd_action", child.dpd_action), ("close_action", child.close_action)):
                if action in STARTS:
                    reasons.append(f"{child.name}: {option} = {action}")
                    lines.append(mend_of(reading, f"{path}.{option}", "clear" if option == "dpd_action" else "none"))
        if reasons:
            anycast = bool(reading.vips & set(connection.local)) or "%any" in connection.local or not connection.local
            severity = _severity(anycast=anycast, fixed=_fixed(connection.remote), planned=reading.planned)
            seen = f"{connection.name} begins by itself ({'; '.join(reasons)})"
            # What may be meant so, as between two sites, is not taken apart by a line that is pasted.
            mend = () if severity is Severity.NOTE else (*lines, "swanctl --load-conns")
            found.append(INITIATES.found(severity, seen, *mend))
    if not found and reading.connections:
        names = ", ".join(connection.name for connection in reading.connections)
        known = "" if reading.swanctl else "; start_action is not known"
        found.append(INITIATES.ok(f"{names} only answer{known}"))
    return found


def _severity(*, anycast: bool, fixed: bool, planned: bool) -> Severity:
    if not anycast or (fixed and not planned):
        return Severity.NOTE
    return Severity.WRONG if planned and not fixed else Severity.RISKY


def _fixed(remote: tuple[str, ...]) -> bool:
    """Whether the peers are known by address or name, as another site is, and clients are not."""
    return bool(remote) and not any("%" in peer or "/" in peer or _RANGE.fullmatch(peer) for peer in remote)


def _replay(reading: ConnectionsReading) -> list[Finding]:
    if reading.swanctl is None:
        return []
    usual = reading.settings.number("charon.replay_window", DEFAULT_WINDOW)
    found, fine = [], []
    for connection in reading.swanctl.names("connections"):
        for child in reading.swanctl.names(f"connections.{connection}.children"):
            path = f"connections.{connection}.children.{child}.replay_window"
            window = reading.swanctl.number(path, usual)
            if window < LEAST_WINDOW:
                mend = (
                    mend_of(reading, path, str(WANTED_WINDOW)),
                    "swanctl --load-conns  # tunnels take it at their next rekey",
                )
                found.append(REPLAY.found(Severity.RISKY, f"{connection}.{child}: {window} packets", *mend))
            else:
                fine.append(f"{connection}.{child}: {window} packets")
    return found or ([REPLAY.ok(", ".join(fine))] if fine else [])


def _fragments(reading: ConnectionsReading) -> list[Finding]:
    if reading.swanctl is None:
        return []
    found = []
    for connection in reading.swanctl.names("connections"):
        path = f"connections.{connection}.fragmentation"
        if reading.swanctl.get(path) == "no":
            mend = (mend_of(reading, path, "yes"), "swanctl --load-conns")
            found.append(FRAGMENTS.found(Severity.RISKY, f"{connection}: off", *mend))
    return found or ([FRAGMENTS.ok("on")] if reading.swanctl.names("connections") else [])


def mend_of(reading: ConnectionsReading, path: str, value: str) -> str:
    """The line that sets one setting of swanctl.conf; `swanctl --load-conns` loads it."""
    *sections, key = path.split(".")
    text = f"{key} = {value}"
    for name in reversed(sections):
        text = f"{name} {{ {text} }}"
    return f"echo '{text}' >> {reading.drop_in or reading.swanctl_file}"
