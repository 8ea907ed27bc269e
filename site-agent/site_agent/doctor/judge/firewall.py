"""Does a filter drop what an IKE gateway lives by, is IKE tracked, does TCP learn the tunnel's size? Pure.

Best effort by design: a ruleset may ask for anything, so a judgement is made only where no unknown answer changes it.
"""

from __future__ import annotations

import dataclasses

from site_agent.bfd.packet import PORT as BFD
from site_agent.doctor.finding import Finding, Kind, Severity
from site_agent.doctor.judge.nft_rules import Packet, Ruleset
from site_agent.untracking import advertisement
from site_agent.vrrp.packet import PROTOCOL

DROPS = Kind(
    id="firewall_drops",
    looks_at="nftables' input rules for UDP 500 and 4500, ESP, BGP's answers (TCP 179), and the document's BFD (UDP 3784),"
    " VRRP (protocol 112) and mirror (its TCP port, and UDP 4510 on loopback)",
    why="clients get no answer to their first packet, their tunnels carry nothing, BGP or BFD never comes up, both"
    " gateways of a site are Active, or a Backup has no tunnels to take over",
    worst=Severity.WRONG,
)
TRACKED = Kind(
    id="ike_tracked",
    looks_at="whether IKE and ESP are kept out of connection tracking",
    why="a flood of garbage IKE or ESP from forged addresses fills the connection tracking table that clients' flows need",
    worst=Severity.RISKY,
)
MSS = Kind(
    id="mss",
    looks_at="a rule that clamps TCP's MSS, or charon's `kernel-netlink.mss`",
    why='TCP through the tunnel hangs after its first full segment where the path drops ICMP "packet too big"',
    worst=Severity.RISKY,
)
KINDS = (DROPS, TRACKED, MSS)

TABLE = "site_doctor"
"""Name of the table that mending commands make."""
KEEP = (
    f"nft list table inet {TABLE} > /etc/{TABLE}.nft; grep -q {TABLE} /etc/nftables.conf ||"
    f" echo 'include \"/etc/{TABLE}.nft\"' >> /etc/nftables.conf  # for the next boot, where nftables.service is enabled"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FirewallReading:
    ruleset: Ruleset
    legacy: bool
    """Rules of the older ip_tables are in force, which nft does not show."""
    families: tuple[str, ...]
    """Of the service: ``ip``, ``ip6``."""
    vips: tuple[str, ...] = ()
    sessions: tuple[tuple[str, str], ...] = ()
    """The other end's address and ours of each BGP session that is known."""
    bfd: tuple[tuple[str, str], ...] = ()
    """The same of those that BFD runs beside."""
    vrrp: tuple[tuple[str | None, str], ...] = ()
    """Source and destination of what the site's virtual router must hear; None: to a group, from anybody."""
    mirror: tuple[Packet, ...] = ()
    """What the mirror between the site's gateways must hear."""
    rendered: str = ""
    """Our own table's file, where there is one."""
    bgp: bool
    """This machine speaks BGP."""
    charon_clamps: bool
    """charon sets the MSS on its routes."""


def packets(reading: FirewallReading) -> list[Packet]:
    """What must come in."""
    found = []
    for family in reading.families:
        version = "IPv4" if family == "ip" else "IPv6"
        vip = next((vip for vip in reading.vips if (":" in vip) == (family == "ip6")), None)
        found += [
            Packet(name=f"{version} UDP {port}", family=family, protocol="udp", dport=port, sport=port, daddr=vip)
            for port in (500, 4500)
        ]
        found.append(Packet(name=f"{version} ESP", family=family, protocol="esp", daddr=vip))
        if reading.bgp and not reading.sessions:
            bgp = Packet(name=f"{version} BGP answers", family=family, protocol="tcp", sport=179, state="established")
            found.append(bgp)
    for peer, local in reading.sessions:
        answers = Packet(
            name=f"BGP answers of {peer}", family="ip6" if ":" in peer else "ip", protocol="tcp", sport=179,
            state="established", saddr=peer, daddr=local,
        )  # fmt: skip
        found.append(answers)
    for peer, local in reading.bfd:
        family = "ip6" if ":" in peer else "ip"
        found.append(Packet(name=f"BFD of {peer}", family=family, protocol="udp", dport=BFD, saddr=peer, daddr=local))
    return [*found, *(advertisement(saddr, daddr) for saddr, daddr in reading.vrrp), *reading.mirror]


def judge(reading: FirewallReading) -> list[Finding]:
    return [*_drops(reading), *_tracked(reading), _mss(reading)]


def _drops(reading: FirewallReading) -> list[Finding]:
    found, unclear = [], []
    for packet in packets(reading):
        dropped, chain = _dropped(reading.ruleset, packet)
        if dropped:
            found.append(DROPS.found(Severity.WRONG, f"{packet.name} is dropped by chain {chain}", _accept(packet, chain)))
        elif dropped is None:
            unclear.append(f"{packet.name} (chain {chain})")
    if unclear:
        found.append(DROPS.found(Severity.NOTE, f"could not tell whether it is dropped: {', '.join(unclear)}"))
    if reading.legacy:
        found.append(DROPS.found(Severity.NOTE, "could not tell: ip_tables rules are in force, see `iptables-legacy -S`"))
    return found or [DROPS.ok("nothing that IKE, ESP, BGP, BFD, VRRP or the mirror needs is dropped")]


def _dropped(ruleset: Ruleset, packet: Packet) -> tuple[bool | None, str]:
    """As it meets the filter: what is not tracked is neither new nor established."""
    untracked = ruleset.untracked(packet)
    states = {True: ("untracked",), False: (packet.state,), None: ("untracked", packet.state)}[untracked]
    answers = [ruleset.dropped(dataclasses.replace(packet, state=state), "input") for state in states]
    chain = next((chain for dropped, chain in answers if dropped is not False), "")
    return (answers[0][0] if len({dropped for dropped, _ in answers}) == 1 else None), chain


def _accept(packet: Packet, chain: str) -> str:
    family, table, name = chain.split()
    if packet.iif is not None:
        side, port = ("dport", packet.dport) if packet.dport is not None else ("sport", packet.sport)
        match = f"iifname {packet.iif} {packet.family} saddr {packet.saddr} {packet.protocol} {side} {port}"
    elif packet.protocol == "esp":
        match = "meta l4proto esp"
    elif packet.protocol == "vrrp":
        side, address = ("saddr", packet.saddr) if packet.saddr is not None else ("daddr", packet.daddr)
        match = f"{packet.family} {side} {address} meta l4proto {PROTOCOL}"
    elif packet.protocol == "tcp" and packet.saddr is not None:
        match = f"{packet.family} saddr {packet.saddr} tcp sport 179"
    elif packet.protocol == "tcp":
        match = "tcp sport 179 ct state established"
    elif packet.saddr is not None:
        match = f"{packet.family} saddr {packet.saddr} udp dport {packet.dport}"
    else:
        match = f"udp dport {packet.dport}"
    return (
        f"nft insert rule {family} {table} {name} {match} accept"
        "  # and in the file that your firewall is loaded from, else it is gone with the next boot"
    )


def _tracked(reading: FirewallReading) -> list[Finding]:
    if not reading.ruleset.tracks:
        return [TRACKED.ok("no rule makes the kernel track connections")]
    ike = [packet for packet in packets(reading) if packet.protocol == "esp" or packet.dport in (500, 4500)]
    tracked = [packet.name for packet in ike if reading.ruleset.untracked(packet) is False]
    if not tracked:
        return [TRACKED.ok("IKE and ESP are not tracked")]
    seen = f"tracked: {', '.join(tracked)}"
    if reading.rendered:
        return [TRACKED.found(Severity.RISKY, seen, *_reopen(reading, packets(reading)), f"nft -f {reading.rendered}")]
    mend = [f"nft add table inet {TABLE}"]
    for hook, port in (("prerouting", "dport"), ("output", "sport")):
        mend += [
            f"nft 'add chain inet {TABLE} {hook} {{ type filter hook {hook} priority raw; }}'",
            f"nft 'add rule inet {TABLE} {hook} udp {port} {{ 500, 4500 }} notrack'",
            f"nft 'add rule inet {TABLE} {hook} meta l4proto esp notrack'",
        ]
    return [TRACKED.found(Severity.RISKY, seen, *mend, KEEP, *_reopen(reading, ike))]


def _reopen(reading: FirewallReading, untracked: list[Packet]) -> list[str]:
    """A filter that waits for "new" or "established" has to let in by name what is not tracked any more."""
    lines = []
    for packet in untracked:
        dropped, chain = reading.ruleset.dropped(dataclasses.replace(packet, state="untracked"), "input")
        if dropped:
            lines.append(_accept(packet, chain))
    return lines


def _mss(reading: FirewallReading) -> Finding:
    if reading.charon_clamps:
        return MSS.ok("charon sets it on its routes")
    if reading.ruleset.clamps_mss:
        return MSS.ok("a rule clamps it")
    seen = "no rule clamps TCP's MSS" + (" (ip_tables rules, which may, are not seen)" if reading.legacy else "")
    if reading.rendered:
        return MSS.found(Severity.RISKY, seen, f"nft -f {reading.rendered}  # the agent does it when it starts")
    return MSS.found(
        Severity.RISKY,
        seen,
        f"nft add table inet {TABLE}",
        f"nft 'add chain inet {TABLE} forward {{ type filter hook forward priority mangle; }}'",
        f"nft 'add rule inet {TABLE} forward tcp flags syn tcp option maxseg size set rt mtu'",
        KEEP,
    )
