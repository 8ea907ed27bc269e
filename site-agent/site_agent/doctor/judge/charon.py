"""charon's own settings (strongswan.conf) against what a gateway with many clients needs. Pure.

Defaults are those of strongSwan 5.9; a setting that is not there has its default. charon does not tell its settings through
VICI, so they are read from the file that the running process was started with, and the file may be younger than the process.
"""

from __future__ import annotations

import dataclasses

from site_agent.doctor.finding import Finding, Kind, Severity
from site_agent.ike.settings_file import Settings

TABLE = Kind(
    id="ikesa_table",
    looks_at="ikesa_table_size and ikesa_table_segments against the number of clients",
    why="with one bucket every packet walks a list of all tunnels under one lock, and a crowd's handshakes take seconds",
    worst=Severity.RISKY,
)
HALF_OPEN = Kind(
    id="half_open_limits",
    looks_at="dos_protection, cookie_threshold, block_threshold, init_limit_half_open",
    why="a flood of forged first packets takes all memory, or one carrier's NAT address is blocked with all its clients",
    worst=Severity.RISKY,
)
ROAM = Kind(
    id="roam_events",
    looks_at="kernel-netlink.roam_events",
    why="an address that is added, as at every failover, starts a MOBIKE exchange with every client at once",
    worst=Severity.RISKY,
)
HA = Kind(
    id="ha_plugin",
    looks_at="the `ha` plugin's monitor, resync, heartbeat, segment_count, secret and pools, where it is in use",
    why="the plugin decides over failover by itself, or hands one client's address and packets to another after one",
    worst=Severity.RISKY,
)
PLUGINS = Kind(
    id="plugins",
    looks_at="loaded plugins that change where packets go: kernel-libipsec, bypass-lan",
    why="ESP leaves the kernel, whose state then tells nothing of tunnels; or neighbours' packets bypass the tunnel",
    worst=Severity.RISKY,
)
PROVIDERS = Kind(
    id="address_providers",
    looks_at="loaded plugins that give clients inner addresses by themselves: eap-radius, dhcp, attr-sql, stroke",
    why="such an address is not compared with what other tunnels have, so after a failover two clients may have it",
    worst=Severity.RISKY,
)
STALE = Kind(
    id="settings_loaded",
    looks_at="whether charon's files have changed since it was started",
    why="charon runs by what the files said before; what is judged here takes hold with its next start",
    worst=Severity.NOTE,
)
KINDS = (TABLE, HALF_OPEN, ROAM, HA, PLUGINS, PROVIDERS, STALE)

CROWDED = 500
"""Clients from which on a list of all of them is too long: 500 entries are walked for each packet."""
BLOCK_LEAST = 20
"""After a site is lost, so many clients behind one NAT address shake hands in the same seconds."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CharonReading:
    settings: Settings
    file: str
    """Which strongswan.conf it is."""
    drop_in: str
    """A file that is included after all others, at the top level; empty where the file ends by including none."""
    plugins: frozenset[str]
    """As charon says; empty where it was not asked."""
    clients: int
    """How many the pools have room for, or how many there are now, whichever is more."""
    changed_after_start: bool


def judge(reading: CharonReading) -> list[Finding]:
    found = [_table(reading), *_half_open(reading), _roam(reading), *_ha(reading), *_plugins(reading), *_providers(reading)]
    if reading.changed_after_start:
        seen = f"{reading.file}, or a file that it includes, is younger than charon"
        found.append(
            STALE.found(Severity.NOTE, seen, "swanctl --reload-settings  # sizes of tables and plugins need a restart")
        )
    else:
        found.append(STALE.ok(reading.file))
    return found


def setting(reading: CharonReading, path: str, value: str) -> str:
    """The line that sets one setting. charon reads all of those that are judged here when it starts, and only then."""
    *sections, key = path.split(".")
    text = f"{key} = {value}"
    for name in reversed(sections):
        text = f"{name} {{ {text} }}"
    # Appended, because the last one counts; a folder of drop-ins keeps it apart from the distribution's files.
    target = reading.drop_in or reading.file
    return f"echo '{text}' >> {target}  # takes hold when charon is started anew, which ends its tunnels"


def _table(reading: CharonReading) -> Finding:
    size = reading.settings.number("charon.ikesa_table_size", 1)
    segments = reading.settings.number("charon.ikesa_table_segments", 1)
    seen = f"{size:,} buckets in {segments} segments for {reading.clients:,} clients"
    if reading.clients >= CROWDED and size * 8 < reading.clients:
        wanted = 1 << max(8, (reading.clients - 1).bit_length())
        lines = (
            setting(reading, "charon.ikesa_table_size", str(wanted)),
            setting(reading, "charon.ikesa_table_segments", str(min(64, wanted // 16))),
        )
        return TABLE.found(Severity.RISKY, seen, *lines)
    return TABLE.ok(seen)


def _half_open(reading: CharonReading) -> list[Finding]:
    settings = reading.settings
    found = []
    if not settings.enabled("charon.dos_protection", True):
        mend = setting(reading, "charon.dos_protection", "yes")
        found.append(HALF_OPEN.found(Severity.RISKY, "dos_protection is off: no cookies, no limits", mend))
    if settings.number("charon.cookie_threshold", 10) == 0:
        mend = setting(reading, "charon.cookie_threshold", "30")
        found.append(HALF_OPEN.found(Severity.RISKY, "cookie_threshold is 0: cookies are never asked for", mend))
    block = settings.number("charon.block_threshold", 5)
    if 0 < block < BLOCK_LEAST:
        mend = setting(reading, "charon.block_threshold", "1024")
        seen = (
            f"block_threshold is {block}: more half-open handshakes from one address, as behind a carrier's NAT, are dropped"
        )
        found.append(HALF_OPEN.found(Severity.RISKY, seen, mend))
    if settings.number("charon.init_limit_half_open", 0) == 0:
        mend = setting(reading, "charon.init_limit_half_open", "4096")
        found.append(
            HALF_OPEN.found(Severity.RISKY, "init_limit_half_open is 0: half-open handshakes are not bounded", mend)
        )
    return found or [HALF_OPEN.ok("cookies, and bounded")]


def _roam(reading: CharonReading) -> Finding:
    if not reading.settings.enabled("charon.plugins.kernel-netlink.roam_events", True):
        return ROAM.ok("off")
    mend = setting(reading, "charon.plugins.kernel-netlink.roam_events", "no")
    return ROAM.found(Severity.RISKY, "on, as by default", mend)


def _ha(reading: CharonReading) -> list[Finding]:
    settings, ha = reading.settings, "charon.plugins.ha"
    if not (settings.get(f"{ha}.local") and settings.get(f"{ha}.remote")):
        return [HA.ok("not in use")]
    if reading.plugins and "ha" not in reading.plugins:
        return [HA.ok("set, and not loaded")]
    found = []
    if settings.enabled(f"{ha}.monitor", True):
        mend = setting(reading, f"{ha}.monitor", "no")
        seen = (
            "monitor is on: each node takes the other's segments over after 1 s without a heartbeat, whoever has the address"
        )
        found.append(HA.found(Severity.RISKY, seen, mend))
    if settings.enabled(f"{ha}.resync", True):
        mend = setting(reading, f"{ha}.resync", "no")
        seen = "resync is on: a node that comes back makes every CHILD_SA rekey at once, and loses clients' inner addresses"
        found.append(HA.found(Severity.RISKY, seen, mend))
    if settings.number(f"{ha}.segment_count", 1) != 1:
        mend = setting(reading, f"{ha}.segment_count", "1")
        seen = "more than one segment: they need ClusterIP, which kernels no longer have, and all IPv6 clients are in one"
        found.append(HA.found(Severity.RISKY, seen, mend))
    if settings.get(f"{ha}.secret") and settings.get("charon.interfaces_ignore"):
        mend = setting(reading, f"{ha}.secret", '""')
        seen = "secret and interfaces_ignore: if that is the link between the nodes, the protected link never comes up"
        found.append(HA.found(Severity.NOTE, seen, mend))
    if not settings.names(f"{ha}.pools") and not settings.get(f"{ha}.pools"):
        seen = "without ha.pools: after a failover charon's ordinary pools give new clients addresses that are in use"
        found.append(HA.found(Severity.NOTE, seen))
    return found or [HA.ok("monitor and resync are off")]


def _plugins(reading: CharonReading) -> list[Finding]:
    found = []
    for name, seen in (
        ("kernel-libipsec", "kernel-libipsec: ESP is done by charon, not by the kernel"),
        ("bypass-lan", "bypass-lan: packets between this machine's own networks pass outside every tunnel"),
    ):
        if name in reading.plugins:
            severity = Severity.RISKY if name == "kernel-libipsec" else Severity.NOTE
            mend = setting(reading, f"charon.plugins.{name}.load", "no")
            found.append(PLUGINS.found(severity, seen, mend))
    if found or not reading.plugins:
        return found
    return [PLUGINS.ok(f"{len(reading.plugins)} loaded, none of them")]


def _providers(reading: CharonReading) -> list[Finding]:
    """They act for connections that name their pool; the agent's own never does (`ike/pool_keeper.py`)."""
    found = []
    for name, seen in (
        ("eap-radius", "eap-radius: a RADIUS server's Framed-IP-Address, and its accounting, which ends with the gateway"),
        ("dhcp", "dhcp: addresses of a DHCP server, where a connection has `pools = dhcp`"),
        ("attr-sql", "attr-sql: addresses of a database of its own"),
        ("stroke", "stroke: pools of ipsec.conf (`rightsourceip`)"),
    ):
        if name in reading.plugins:
            severity = Severity.RISKY if "ha" in reading.plugins else Severity.NOTE
            found.append(PROVIDERS.found(severity, seen, setting(reading, f"charon.plugins.{name}.load", "no")))
    if found or not reading.plugins:
        return found
    return [PROVIDERS.ok("none of them loaded")]
