"""The kernel's settings, its connection tracking table, ESP, and files that processes may open. Pure.

Which settings a gateway needs is one list, shared with the rendered sysctl.d file (`render/sysctl.py`).
"""

from __future__ import annotations

import dataclasses

from site_agent.doctor.finding import Finding, Kind, Severity
from site_agent.render.sysctl import Setting

FORWARDING = Kind(
    id="ip_forward",
    looks_at="net.ipv4.ip_forward, net.ipv6.conf.all.forwarding",
    why="tunnels come up and nothing passes them",
    worst=Severity.WRONG,
)
RP_FILTER = Kind(
    id="rp_filter",
    looks_at="rp_filter of the uplink and the inside interface, joined with `all`",
    why="strict reverse path filtering silently drops packets that arrive by another way than answers would leave by",
    worst=Severity.WRONG,
)
ARP_IGNORE = Kind(
    id="arp_ignore",
    looks_at="arp_ignore, joined with `all`, of interfaces beside an address on loopback",
    why="every interface answers ARP for the service address, so a neighbour may attract it past VRRP and BGP",
    worst=Severity.RISKY,
)
ARP_ANNOUNCE = Kind(
    id="arp_announce",
    looks_at="arp_announce of the uplink and the inside interface, joined with `all`",
    why="ARP requests carry the service address as sender, which many routers do not answer: the gateway goes mute",
    worst=Severity.RISKY,
)
REDIRECTS = Kind(
    id="redirects",
    looks_at="send_redirects, accept_redirects",
    why="an ICMP redirect leads packets past the gateway, outside their tunnel",
    worst=Severity.RISKY,
)
ACCEPT_RA = Kind(
    id="accept_ra",
    looks_at="accept_ra of the uplink and the inside interface",
    why="any neighbour can become the gateway's default route",
    worst=Severity.RISKY,
)
AEVENTS = Kind(
    id="xfrm_aevents",
    looks_at="net.core.xfrm_aevent_rseqth and xfrm_aevent_etime, where the site has a mirror",
    why="the mirror gets a message of the kernel for every second packet of every tunnel, and falls behind under load",
    worst=Severity.RISKY,
)
CT_EVENTS = Kind(
    id="conntrack_events",
    looks_at="net.netfilter.nf_conntrack_events, where the site has a mirror",
    why="flows that were taken over are mirrored no more: after the next failover they are gone",
    worst=Severity.RISKY,
)
CONNTRACK_MAX = Kind(
    id="conntrack_max",
    looks_at="nf_conntrack_max against the memory and against the clients that the pools have room for",
    why="with a full table new flows of every client are refused; with one that is too large a flood takes all memory",
    worst=Severity.RISKY,
)
CONNTRACK_HASH = Kind(
    id="conntrack_hash",
    looks_at="nf_conntrack_max per hash bucket",
    why="every packet walks a chain of that length, so a filling table slows all traffic",
    worst=Severity.RISKY,
)
ESP = Kind(
    id="esp",
    looks_at="ESP in the kernel, or as a module that can be loaded",
    why="IKE comes up, the tunnel's keys cannot be installed, and every client is sent away",
    worst=Severity.WRONG,
)
OPEN_FILES = Kind(
    id="open_files",
    looks_at="the limit of open files of charon",
    why="charon can accept no control connection and open no certificate once its files run out",
    worst=Severity.RISKY,
)
KINDS = (
    FORWARDING, RP_FILTER, ARP_IGNORE, ARP_ANNOUNCE, REDIRECTS, ACCEPT_RA, AEVENTS, CT_EVENTS, CONNTRACK_MAX, CONNTRACK_HASH,
    ESP, OPEN_FILES,
)  # fmt: skip

SYSCTL_FILE = "/etc/sysctl.d/zz-site-doctor.conf"
"""Read last at boot, also after Debian's 99-sysctl.conf: of several files that set one setting the last one counts."""
ENTRY_BYTES = 384
"""struct nf_conn with NAT, time-out and label extensions, rounded to what the slab gives (Linux 6.1)."""
MEMORY_SHARE = 0.25
"""A table that could take more is a weapon: the rest of the machine still has to answer."""
FLOWS_A_CLIENT = 100
"""A phone keeps 50 to 100 flows open; carriers that share an address give a subscriber 512 ports or more (RFC 7422)."""
LONGEST_CHAIN = 4
"""The kernel's own default was 4 until 5.14 and is 1 since."""
LEAST_FILES = 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SettingReading:
    """One setting as the kernel has it now."""

    setting: Setting
    found: int
    joined: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConntrackReading:
    maximum: int
    buckets: int
    memory: int
    """Bytes of the machine."""
    clients: int
    """How many inner addresses the pools hold; 0 where that is not known."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EspReading:
    families: tuple[int, ...]
    """4, 6: of the service."""
    ready: frozenset[int]
    loadable: frozenset[int]
    """There is a module for it that is not loaded yet: the first SA loads it."""
    lab: bool
    """The document is a lab's: labs run without ESP, too, and say so."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FilesReading:
    pid: int
    unit: str
    """Its systemd unit; empty where none is known."""
    soft_limit: int
    hard_limit: int


def judge_settings(readings: list[SettingReading], *, planned: bool) -> list[Finding]:
    """`planned`: the interfaces are the document's; otherwise they are guessed, and what is seen may be meant so."""
    found: list[Finding] = []
    fine: dict[Kind, list[str]] = {}
    for reading in readings:
        setting = reading.setting
        kind = _kind(setting.name)
        if setting.suits(reading.found, reading.joined):
            fine.setdefault(kind, []).append(setting.name)
            continue
        severity = kind.worst if planned or kind is FORWARDING else Severity.RISKY
        joined = "" if setting.joined is None else f" ({setting.joined}: {reading.joined})"
        # Where `all` alone is too large, the interface's own cannot help.
        settled = setting.joined is None or setting.suits(setting.value, reading.joined)
        names = (setting.name,) if settled or setting.joined is None else (setting.joined, setting.name)
        mend = [f"echo '{name} = {setting.value}' | tee -a {SYSCTL_FILE} | sysctl -p -" for name in names]
        found.append(kind.found(severity, f"{setting.name} is {reading.found}{joined}", *mend))
    bad = {finding.id for finding in found}
    return found + [kind.ok(", ".join(names)) for kind, names in fine.items() if kind.id not in bad]


def judge_conntrack(reading: ConntrackReading) -> list[Finding]:
    """Two findings: the size of the table, and the length of its chains."""
    affordable = int(reading.memory * MEMORY_SHARE) // ENTRY_BYTES
    usual = default_entries(reading.memory)
    wanted = min(max(usual, reading.clients * FLOWS_A_CLIENT), affordable)
    room = f"{reading.maximum:,} entries, {reading.memory >> 20:,} MiB of memory"

    def resize(entries: int) -> str:
        return f"echo 'net.netfilter.nf_conntrack_max = {entries}' | tee -a {SYSCTL_FILE} | sysctl -p -"

    if reading.maximum > affordable:
        seen = f"{room}: full, the table takes {reading.maximum * ENTRY_BYTES >> 20:,} MiB"
        found = [CONNTRACK_MAX.found(Severity.RISKY, seen, resize(affordable))]
    elif reading.maximum < wanted:
        clients = f", {reading.clients:,} clients with {FLOWS_A_CLIENT} flows each" if reading.clients else ""
        found = [CONNTRACK_MAX.found(Severity.RISKY, f"{room}{clients}: {wanted:,} fit", resize(wanted))]
    else:
        found = [CONNTRACK_MAX.ok(room)]
    if reading.buckets > 0 and reading.maximum / reading.buckets > LONGEST_CHAIN:
        seen = f"{reading.maximum:,} entries in {reading.buckets:,} buckets"
        right = f"echo {reading.maximum} > /sys/module/nf_conntrack/parameters/hashsize"
        kept = f"echo 'options nf_conntrack hashsize={reading.maximum}' > /etc/modprobe.d/site-doctor.conf"
        found.append(CONNTRACK_HASH.found(Severity.RISKY, seen, right, f"{kept}  # for the next boot"))
    elif reading.buckets > 0:
        found.append(CONNTRACK_HASH.ok(f"{reading.buckets:,} buckets"))
    return found


def default_entries(memory: int) -> int:
    """What the kernel chooses by itself for so many bytes (nf_conntrack_init_start, Linux 5.15 and newer)."""
    if memory > 4 << 30:
        return 262_144
    return 65_536 if memory > 1 << 30 else max(1024, memory // 16_384 // 8)


def judge_esp(reading: EspReading) -> Finding:
    missing = [family for family in reading.families if family not in reading.ready | reading.loadable]
    names = ", ".join(f"IPv{family}" for family in missing)
    if missing and reading.lab:
        return ESP.found(Severity.NOTE, f"none for {names}: in this lab IKE_SAs come up and no packet passes")
    if missing:
        kernel = "apt-get install -y linux-image-$(dpkg --print-architecture)"
        mend = f"{kernel}  # has INET_ESP and INET6_ESP; then reboot in a maintenance window, which ends every tunnel"
        return ESP.found(Severity.WRONG, f"none for {names}, and no module of it", mend)
    if reading.ready >= frozenset(reading.families):
        return ESP.ok("in the kernel")
    modules = " ".join(f"esp{family}" for family in reading.families)
    return ESP.found(Severity.NOTE, f"modules {modules} are there and not loaded yet; the first tunnel loads them")


def judge_files(reading: FilesReading) -> Finding:
    if reading.soft_limit >= LEAST_FILES:
        return OPEN_FILES.ok(f"charon may open {reading.soft_limit:,}")
    wanted = f"{min(65536, reading.hard_limit)}:" if reading.hard_limit >= LEAST_FILES else "65536"
    mend = [f"prlimit --pid {reading.pid} --nofile={wanted}"]
    if reading.unit:
        folder = f"/etc/systemd/system/{reading.unit}.d"
        mend.append(
            f"mkdir -p {folder} && printf '[Service]\\nLimitNOFILE=65536\\n' > {folder}/site-doctor.conf"
            "  # for its next start"
        )
    return OPEN_FILES.found(Severity.RISKY, f"charon (pid {reading.pid}) may open {reading.soft_limit:,}", *mend)


def _kind(name: str) -> Kind:
    last = name.rsplit(".", 1)[-1]
    kinds = {"rp_filter": RP_FILTER, "arp_ignore": ARP_IGNORE, "arp_announce": ARP_ANNOUNCE, "accept_ra": ACCEPT_RA}
    kinds |= {"ip_forward": FORWARDING, "forwarding": FORWARDING}
    kinds |= {"xfrm_aevent_rseqth": AEVENTS, "xfrm_aevent_etime": AEVENTS, "nf_conntrack_events": CT_EVENTS}
    return kinds.get(last, REDIRECTS)
