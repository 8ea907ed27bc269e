"""May the gateway's own packets be kept out of connection tracking, or do the operator's rules live by it? Pure.

What is not tracked is neither new nor established to a filter, and passes every translation by. `ct state new udp dport
500 accept` before a policy of drop, `ct state invalid,untracked drop`, a `dnat` at the VIP: each of them serves clients
until our table is loaded, and nobody afterwards, with no fact that sees it. So every packet that would lose its tracking
is led through the operator's rules first, once as it is and once untracked. Where the second way is not certainly open
(and the first not closed anyhow), tracking stays: a fuller table is a load, a closed gateway is an outage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from ipaddress import ip_address

from anycast.document import Document
from site_agent.bfd.packet import PORT as BFD
from site_agent.doctor.judge.nft_rules import Json, Packet, Ruleset
from site_agent.render.strongswan import HA_LOCAL, HA_REMOTE
from site_agent.sync.ha_wire import PORT as HA_PORT
from site_agent.vrrp.packet import PROTOCOL

TOO_BIG = {"ip": ("icmp", "destination-unreachable"), "ip6": ("icmpv6", "packet-too-big")}


@dataclasses.dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a packet must stay tracked."""

    seen: str
    mend: str
    """A command, or where there is none, what to do."""


def without(listing: Json, table: str) -> Json:
    """`nft --json list ruleset` without one inet table."""

    def ours(item: Json) -> bool:
        return any(
            isinstance(what, dict)
            and what.get("family") == "inet"
            and what.get("name" if kind == "table" else "table") == table
            for kind, what in item.items()
        )

    return {"nftables": [item for item in listing.get("nftables", ()) if not ours(item)]}


def obstacles(ruleset: Ruleset, document: Document) -> list[Obstacle]:
    """`ruleset` is everybody's but ours. None where all may go untracked."""
    found = [_cut(ruleset, packet, hook) for packet, hook in _ways(document)]
    found += [_translated(ruleset, packet) for packet, hook in _ways(document, whole_udp=True) if hook == "prerouting"]
    return list(dict.fromkeys(each for each in found if each is not None))


def _ways(document: Document, *, whole_udp: bool = False) -> Iterator[tuple[Packet, str]]:
    """Each packet of ours, at each hook that it passes. `whole_udp`: with every other port of the VIP."""
    for packet in _incoming(document, whole_udp=whole_udp):
        yield packet, "prerouting"
        yield packet, "input"
        if packet.icmp_type is None:
            answer = _answer(packet)
            yield answer, "output"
            yield answer, "postrouting"


def _answer(packet: Packet) -> Packet:
    """What goes out for it. BFD and VRRP answer nothing: each way is a flow of its own, to the same port or to none."""
    name = packet.name.replace(" to ", " from ").replace(" of ", " to ")
    if _to_group(packet):
        return dataclasses.replace(packet, name=name)
    to = dataclasses.replace(packet, name=name, saddr=packet.daddr, daddr=packet.saddr)
    to = dataclasses.replace(to, iif=None, oif=packet.iif)
    if packet.dport == BFD or packet.protocol == "vrrp":
        return to
    return dataclasses.replace(to, sport=packet.dport, dport=packet.sport, state="established")


def _incoming(document: Document, *, whole_udp: bool) -> Iterator[Packet]:
    for vip in document.service.ends:
        family = "ip6" if ":" in vip else "ip"
        for port in (500, 4500, None) if whole_udp else (500, 4500):
            name = f"UDP{'' if port is None else f' {port}'} to {vip}"
            yield Packet(name=name, family=family, protocol="udp", dport=port, daddr=vip)
        yield Packet(name=f"ESP to {vip}", family=family, protocol="esp", daddr=vip)
        icmp, kind = TOO_BIG[family]
        yield Packet(name=f"ICMP {kind} to {vip}", family=family, protocol=icmp, icmp_type=kind, daddr=vip, state="related")
    yield from _of_the_virtual_router(document)
    yield from of_the_mirror(document)
    for neighbor in document.bgp.neighbors:
        family = "ip6" if ":" in neighbor.address else "ip"
        yield Packet(
            name=f"BGP of {neighbor.address}", family=family, protocol="tcp", sport=179,
            state="established", saddr=neighbor.address, daddr=neighbor.local_address,
        )  # fmt: skip
        if neighbor.bfd is not None:
            yield Packet(
                name=f"BFD of {neighbor.address}", family=family, protocol="udp", dport=BFD,
                saddr=neighbor.address, daddr=neighbor.local_address,
            )  # fmt: skip


def of_the_mirror(document: Document) -> Iterator[Packet]:
    """What the mirror must hear: its channel's packets, and on loopback the `ha` plugin's, both ways."""
    if (sync := document.sync) is None or document.management is None:
        return
    calls = sync.rank == 0
    yield Packet(
        name=f"the mirror's channel to {sync.peer_address}" if calls else f"the mirror's channel of {sync.peer_address}",
        family="ip6" if ":" in sync.own_address else "ip", protocol="tcp", sport=sync.port if calls else None,
        dport=None if calls else sync.port, state="established" if calls else "new", saddr=sync.peer_address,
        daddr=sync.own_address, iif=document.management.name,
    )  # fmt: skip
    for saddr, daddr in ((HA_LOCAL, HA_REMOTE), (HA_REMOTE, HA_LOCAL)):
        yield Packet(
            name=f"charon's mirror of {saddr}", family="ip", protocol="udp", sport=HA_PORT, dport=HA_PORT,
            saddr=saddr, daddr=daddr, iif="lo",
        )  # fmt: skip


def _of_the_virtual_router(document: Document) -> Iterator[Packet]:
    for saddr, daddr in advertisements(document):
        yield advertisement(saddr, daddr)


def advertisements(document: Document) -> tuple[tuple[str | None, str], ...]:
    """Source and destination of what the site's virtual router must hear; from whom one to a group comes is not known."""
    voices = [voice for path in document.vrrp.paths for voice in path.voices] if document.vrrp is not None else []
    pairs = [
        (None, voice.destination) if ip_address(voice.destination).is_multicast else (voice.destination, voice.source)
        for voice in voices
    ]
    return tuple(dict.fromkeys((saddr, daddr) for saddr, daddr in pairs if daddr))


def advertisement(saddr: str | None, daddr: str) -> Packet:
    return Packet(
        name=f"VRRP of {saddr or daddr}", family="ip6" if ":" in daddr else "ip", protocol="vrrp", saddr=saddr, daddr=daddr
    )


def _to_group(packet: Packet) -> bool:
    return packet.daddr is not None and ip_address(packet.daddr).is_multicast


def _cut(ruleset: Ruleset, packet: Packet, hook: str) -> Obstacle | None:
    untracked, chain = ruleset.dropped(dataclasses.replace(packet, state="untracked"), hook)
    as_it_is, _ = ruleset.dropped(packet, hook)
    if untracked is False or as_it_is is True:
        return None
    if untracked is None is as_it_is and _to_group(packet):
        return None  # it depends on who sends it, tracked or not
    certainty = "drops" if untracked else "may drop"
    return Obstacle(f"{packet.name}: chain {chain} {certainty} it untracked", accept_command(packet, chain))


def _translated(ruleset: Ruleset, packet: Packet) -> Obstacle | None:
    chain = ruleset.translated(packet, "prerouting")
    if not chain:
        return None
    return Obstacle(f"{packet.name}: chain {chain} may translate it", f"except the VIP there: nft -a list chain {chain}")


def accept_command(packet: Packet, chain: str) -> str:
    """Let `packet` pass `chain` ("family table name") whatever its connection state."""
    match = [f"{packet.family} {side} {address}" for side in ("saddr", "daddr") if (address := getattr(packet, side))]
    if packet.icmp_type is not None:
        match.append(f"{packet.protocol} type {packet.icmp_type}")
    elif packet.sport is None and packet.dport is None:
        match.append(f"meta l4proto {PROTOCOL if packet.protocol == 'vrrp' else packet.protocol}")
    else:
        match += [f"{packet.protocol} {side} {port}" for side in ("sport", "dport") if (port := getattr(packet, side))]
    return f"nft insert rule {chain} {' '.join(match)} accept"
