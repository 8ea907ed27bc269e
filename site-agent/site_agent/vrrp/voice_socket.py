"""Sends and receives advertisements of one family on one link: a raw socket, and the bytes between it and the core.

What does not depend on the moment is encoded once; with a seal only flags, sequence and digest change. Everything that
arrives is distrusted: `packet.decode`, then the seal, then the replay window, and what fails any of them becomes an
`AdvertDiscarded` with its cause. What repeats the last good one is not decoded again (`familiar`).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from ipaddress import ip_address

from anycast.errors import KernelError
from site_agent.vrrp import packet
from site_agent.vrrp.familiar import Familiar, familiar
from site_agent.vrrp.packet import PROTOCOL, TTL, Advertisement, Discard, DiscardError
from site_agent.vrrp.plan import Link, Plan, Voice
from site_agent.vrrp.router_words import AdvertDiscarded, AdvertReceived
from site_agent.vrrp.seal import Flag, Stamp, Window, newest_in, unseal
from site_agent.vrrp.socket_filter import SocketFilter

LONGEST = 2048
_ANCILLARY = 256
_IP_HEADER_LEAST = 20


class VoiceSocket:
    """Opens at once. Raises KernelError where the interface, the address or the privilege is missing."""

    def __init__(self, link: Link, voice: Voice, plan: Plan, window: Window) -> None:
        self._voice, self._plan = voice, plan
        self._window = window
        self._encoded: dict[int, tuple[bytes, Stamp | None]] = {}
        """By priority."""
        self._to = str(voice.destination), 0
        self._announced = frozenset(voice.announced)
        self.path, self.peer_key, self.peer_newest = link.path, 0, 0
        """Of the last good advertisement: the id of the key that sealed it, and what it says of its sender's newest."""
        self._known: Familiar | None = None
        self._v4 = voice.source.version == 4
        family = socket.AF_INET if voice.source.version == 4 else socket.AF_INET6
        try:
            self._sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, PROTOCOL)
            # One's own is read, too, for the count that tells of a loop. To the group anybody may speak.
            self._filter = SocketFilter(self._sock, None if voice.multicast else (voice.destination, voice.source))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.interface.encode() + b"\0")
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)  # before bulk traffic in the interface's queue
            index = socket.if_nametoindex(link.interface)
            self._prepare_v4(voice, index) if family == socket.AF_INET else self._prepare_v6(voice, index)
        except OSError as exc:
            raise KernelError(exc.errno or 0, f"vrrp socket for {voice.source} on {link.interface}") from exc

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def look(self) -> None:
        """Once a second."""
        self._filter.look()

    def use(self, plan: Plan) -> None:
        """Go on by this plan, which differs in its keys only."""
        self._plan, self._known = plan, None
        self.peer_key = self.peer_newest = 0  # who is still there says it again within an interval
        self._encoded.clear()

    def send(self, priority: int, fields: bytes) -> None:
        """One advertisement, sealed with `fields`. What the kernel refuses is lost, as on the wire: the next is due soon."""
        advert, stamp = self._encoded.get(priority) or self._encode(priority)
        if stamp is not None:
            advert += fields + stamp.digest(fields)
        try:
            self._sock.sendto(advert, self._to)
        except OSError:
            return

    def _encode(self, priority: int) -> tuple[bytes, Stamp | None]:
        voice, plan = self._voice, self._plan
        ends = voice.source, voice.destination
        fields = Advertisement(
            vrid=voice.vrid,
            priority=priority,
            max_advertise_interval=plan.advertisement_interval,
            addresses=voice.announced,
        )
        advert = packet.encode(fields, *ends, plan.interop)
        stamp = Stamp(advert, *ends, plan.keys[plan.key_in_use]) if plan.sealed else None
        self._encoded[priority] = advert, stamp
        return advert, stamp

    def receive(self, take: Callable[[AdvertReceived | AdvertDiscarded], None]) -> bool:
        """One packet that waits; whether one did. Whether another does is cheaper asked of all sockets than of this one."""
        ancillary: list[tuple[int, int, bytes]] = []
        sender: tuple[object, ...] = ()
        try:
            if self._v4:
                data = self._sock.recv(LONGEST)
            else:
                data, ancillary, _flags, sender = self._sock.recvmsg(LONGEST, _ANCILLARY)
        except OSError:  # nothing waits, or an ICMP error about an earlier one
            return False
        known = self._known
        if known is not None and known.repeats(data, ancillary, sender, self._window):
            take(known.event)
        else:
            take(self._understood(data, ancillary, sender))
        return True

    def _understood(self, data: bytes, ancillary: list[tuple[int, int, bytes]], sender: tuple[object, ...]) -> (
        AdvertReceived | AdvertDiscarded
    ):  # fmt: skip
        try:
            if self._v4:
                whence, payload, ttl = _from_v4(data)
            else:
                whence, payload, ttl = _from_v6(data, ancillary, sender)
            event, stamp = self._judged(whence, payload, ttl)
        except DiscardError as discarded:
            if discarded.cause is Discard.TTL:
                self._filter.routed()
            return AdvertDiscarded(path=self.path, cause=discarded.cause)
        self._known = familiar(data, ancillary, sender, v4=self._v4, stamp=stamp, event=event)
        return event

    def _judged(self, whence: bytes, payload: memoryview, ttl: int) -> tuple[AdvertReceived, Stamp | None]:
        half = len(whence) // 2
        source, destination = ip_address(whence[:half]), ip_address(whence[half:])
        advert, rest = packet.decode(payload, source, destination, ttl, self._plan.interop)
        stamp = None
        if advert.vrid != self._voice.vrid:
            raise DiscardError(Discard.VRID, "virtual rtr id", 1, f"{advert.vrid} is not ours")
        if source == self._voice.source:
            raise DiscardError(Discard.OWN, "source", 12, "is ours")
        if self._plan.sealed:
            bare = bytes(payload[: len(payload) - len(rest)])
            said = unseal(bare, rest, source, destination, self._plan.keys)
            if said.router_id == self._plan.router_id:
                raise DiscardError(Discard.OWN, "router id", 4, "is ours")
            self._window.take(said)
            self.peer_key, self.peer_newest = rest[1], newest_in(rest)
            flags, router_id, term = said.flags, said.router_id, said.term
            stamp = Stamp(bare, source, destination, self._plan.keys[rest[1]])
        else:
            flags, router_id, term = Flag.ACTIVE, None, 0
        if frozenset(advert.addresses) != self._announced:
            raise DiscardError(Discard.ADDRESSES, "addresses", 8, "are not ours")
        event = AdvertReceived(
            path=self.path,
            source=source,
            priority=advert.priority,
            max_advertise_interval=advert.max_advertise_interval,
            flags=flags,
            router_id=router_id,
            term=term,
            local=self._voice.source,
        )
        return event, stamp

    def _prepare_v4(self, voice: Voice, index: int) -> None:
        sock = self._sock
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xC0)  # internetwork control
        if voice.multicast:
            member = struct.pack("=4s4si", voice.destination.packed, voice.source.packed, index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, TTL)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            # Not bound: a bound raw socket hears only what is sent to its own address. The kernel takes the first
            # address of the interface as source, so it is told: IP_MULTICAST_IF names it.
        else:
            sock.bind((str(voice.source), 0))

    def _prepare_v6(self, voice: Voice, index: int) -> None:
        sock = self._sock
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, TTL)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0xC0)
        if voice.multicast:
            member = voice.destination.packed + struct.pack("=i", index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, TTL)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        # Bound, which IPv6 allows beside a group: its checksum covers the source, so the kernel must not choose one.
        sock.bind((str(voice.source), 0, 0, index if voice.source.is_link_local else 0))


def _from_v4(data: bytes) -> tuple[bytes, memoryview, int]:
    """Source and destination in one, payload, TTL: a raw IPv4 socket hands over the header, too."""
    header = (data[0] & 0xF) * 4 if data else 0
    if header < _IP_HEADER_LEAST or len(data) < header:
        raise DiscardError(Discard.LENGTH, "ip header", 0, "truncated")
    return data[12:20], memoryview(data)[header:], data[8]


def _from_v6(
    data: bytes, ancillary: list[tuple[int, int, bytes]], sender: tuple[object, ...]
) -> tuple[bytes, memoryview, int]:
    """The same; IPv6 tells all but the payload beside it."""
    hops, destination = -1, bytes(16)
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_HOPLIMIT:
            hops = struct.unpack("=i", value[:4])[0]
        elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            destination = value[:16]
    return socket.inet_pton(socket.AF_INET6, str(sender[0]).partition("%")[0]) + destination, memoryview(data), hops
