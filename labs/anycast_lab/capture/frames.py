"""What a captured Ethernet frame says, as far as a failover is concerned: ARP, neighbours, VRRP, TCP, ESP, IKE. Pure.

An observer's own reading: nothing of the product's codecs is used here, so that a mistake of theirs cannot hide itself.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from anycast.errors import DecodeError
from anycast_lab.capture import too_big
from anycast_lab.capture.pcap import Frame
from anycast_lab.capture.too_big import TooBig

Address = IPv4Address | IPv6Address

_ETHERNET_BYTES = 14
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_TCP, _UDP, _ESP, _VRRP, _ICMPV6, _FRAGMENT = 6, 17, 50, 112, 58, 44
_ESP_IN_UDP, _IKE_ALONE = 4500, 500
_UDP_BYTES = 8
_SEALED_BYTES = 16
_NEIGHBOUR_ADVERTISEMENT = 136
_OVERRIDE = 0x20
_SEAL_BYTES = 56
_VRRP_HEADER_BYTES = 8
_IKE = struct.Struct("!QQ2xBBII")
_IKE_RESPONSE = 0x20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Arp:
    at_ns: int
    operation: int
    """1 asks, 2 answers."""
    mac: bytes
    """The sender's, as the packet says it."""
    sender: Address
    target: Address

    @property
    def gratuitous(self) -> bool:
        """RFC 5227 section 1.2.1, RFC 9568 section 8.1.2: tells everybody who has the address."""
        return self.sender == self.target


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourAdvertisement:
    at_ns: int
    mac: bytes
    """The frame's source."""
    target: Address
    destination: Address
    override: bool

    @property
    def unsolicited(self) -> bool:
        return self.destination.is_multicast


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement:
    """VRRP version 3; the seal's flags where one follows."""

    at_ns: int
    mac: bytes
    source: Address
    destination: Address
    ttl: int
    vrid: int
    priority: int
    interval_cs: int
    addresses: tuple[Address, ...]
    flags: int | None
    """The seal's: 1 Active, 2 uplink proven, 4 handing over; None without a seal."""

    @property
    def claims(self) -> bool:
        """The sender says that it holds the virtual addresses and serves. Without a seal only such a one speaks."""
        return self.priority > 0 and (self.flags is None or bool(self.flags & 1))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """TCP."""

    at_ns: int
    source: tuple[Address, int]
    destination: tuple[Address, int]
    sequence: int
    syn: bool
    fin: bool
    rst: bool
    payload: bytes
    cut: bool
    """The snapshot did not hold all of the payload."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """ESP (RFC 4303 section 2), by itself or in UDP (RFC 3948 section 2.1): what stands before the ciphertext."""

    at_ns: int
    source: Address
    destination: Address
    spi: int
    sequence: int
    """The 32 bits on the wire; with extended sequence numbers the lower half."""
    iv: bytes
    """8 bytes: the explicit IV of AES-GCM (RFC 4106 section 3.1) and of ChaCha20-Poly1305 (RFC 7634 section 2)."""
    in_udp: bool
    ports: tuple[int, int] = (0, 0)
    """UDP's, source first; zeros where there is none."""


class Exchange(enum.IntEnum):
    """RFC 7296, section 3.1."""

    IKE_SA_INIT = 34
    IKE_AUTH = 35
    CREATE_CHILD_SA = 36
    INFORMATIONAL = 37


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ike:
    """What is in the clear of an IKE message (RFC 7296, section 3.1), or of one of its fragments (RFC 7383)."""

    at_ns: int
    source: Address
    destination: Address
    spis: tuple[int, int]
    """The initiator's and the responder's."""
    exchange: int
    """An `Exchange`, or one that is of no concern here."""
    response: bool
    message: int
    """Message ID."""
    ports: tuple[int, int] = (0, 0)
    """UDP's, source first."""


Seen = Arp | NeighbourAdvertisement | Advertisement | Segment | Sealed | Ike | TooBig


def decode(frame: Frame) -> Seen | None:
    """None for what is of no concern here. Raises DecodeError for what is, but is damaged."""
    data = frame.data
    if len(data) < _ETHERNET_BYTES:
        raise DecodeError("ethernet", len(data), "truncated")
    mac, (kind,) = data[6:12], struct.unpack_from("!H", data, 12)
    if kind == _ARP:
        return _arp(frame)
    if kind == _IPV4:
        return _ipv4(frame, mac)
    return _ipv6(frame, mac) if kind == _IPV6 else None


def _need(data: bytes, at: int, size: int, field: str) -> None:
    if len(data) < at + size:
        raise DecodeError(field, len(data), f"truncated, {at + size} bytes wanted")


def _arp(frame: Frame) -> Arp | None:
    data, at = frame.data, _ETHERNET_BYTES
    _need(data, at, 28, "arp")
    hardware, protocol, hardware_bytes, protocol_bytes, operation = struct.unpack_from("!HHBBH", data, at)
    if (hardware, protocol, hardware_bytes, protocol_bytes) != (1, _IPV4, 6, 4):
        return None
    sender, target = IPv4Address(data[at + 14 : at + 18]), IPv4Address(data[at + 24 : at + 28])
    return Arp(at_ns=frame.at_ns, operation=operation, mac=data[at + 8 : at + 14], sender=sender, target=target)


def _ipv4(frame: Frame, mac: bytes) -> Seen | None:
    data, at = frame.data, _ETHERNET_BYTES
    _need(data, at, 20, "ipv4")
    header, total = (data[at] & 0xF) * 4, struct.unpack_from("!H", data, at + 2)[0]
    if data[at] >> 4 != 4 or header < 20 or total < header:
        raise DecodeError("ipv4", at, "header does not fit")
    fragment, protocol = struct.unpack_from("!H", data, at + 6)[0], data[at + 9]
    if fragment & 0x1FFF or (fragment & 0x2000 and protocol not in (_ESP, _UDP)):
        return None  # a fragment: of what is looked for only ESP is ever sent in any, and its header is in the first
    source, destination = IPv4Address(data[at + 12 : at + 16]), IPv4Address(data[at + 16 : at + 20])
    end = at + total  # a short frame is padded behind it
    return _payload(frame, mac, protocol, source, destination, data[at + 8], at + header, end)


def _ipv6(frame: Frame, mac: bytes) -> Seen | None:
    data, at = frame.data, _ETHERNET_BYTES
    _need(data, at, 40, "ipv6")
    length, following, hops = struct.unpack_from("!HBB", data, at + 4)
    source, destination = IPv6Address(data[at + 8 : at + 24]), IPv6Address(data[at + 24 : at + 40])
    at, end = at + 40, at + 40 + length
    if following == _FRAGMENT:
        _need(data, at, 8, "ipv6 fragment header")
        following, offset = data[at], struct.unpack_from("!H", data, at + 2)[0] & 0xFFF8
        if offset or following not in (_ESP, _UDP):
            return None
        at += 8
    return _payload(frame, mac, following, source, destination, hops, at, end)


def _payload(
    frame: Frame, mac: bytes, protocol: int, source: Address, destination: Address, ttl: int, at: int, end: int
) -> Seen | None:
    body = frame.data[at:end]
    short = len(frame.data) < end
    if protocol == _TCP:
        return _tcp(frame, source, destination, body, short)
    if protocol == _ESP:
        return _sealed(frame.at_ns, source, destination, body, in_udp=False)
    if protocol == _UDP:
        return _udp(frame.at_ns, source, destination, body)
    if tuple(body[:2]) == too_big.KINDS.get(protocol):
        return too_big.read(frame.at_ns, source, protocol, body)
    if short and protocol in (_VRRP, _ICMPV6):
        raise DecodeError("payload", len(frame.data), f"truncated, {end} bytes wanted")
    if protocol == _VRRP:
        return _vrrp(frame, mac, source, destination, ttl, body)
    if protocol == _ICMPV6 and body[:1] == bytes([_NEIGHBOUR_ADVERTISEMENT]):
        _need(body, 0, 24, "neighbour advertisement")
        return NeighbourAdvertisement(
            at_ns=frame.at_ns,
            mac=mac,
            target=IPv6Address(body[8:24]),
            destination=destination,
            override=bool(body[4] & _OVERRIDE),
        )
    return None


def _udp(at_ns: int, source: Address, destination: Address, body: bytes) -> Sealed | Ike | None:
    _need(body, 0, _UDP_BYTES, "udp")
    *ends, length = struct.unpack_from("!HHH", body)
    content, ports = body[_UDP_BYTES:], (ends[0], ends[1])
    if _IKE_ALONE in ports:
        return _ike(at_ns, source, destination, content, ports)
    if _ESP_IN_UDP not in ports or length <= _UDP_BYTES + 1:
        return None  # one byte, 0xFF, is a keepalive (RFC 3948 section 2.3)
    if not any(content[:4]) and len(content) >= 4:  # the marker before IKE (RFC 3948 section 2.2)
        return _ike(at_ns, source, destination, content[4:], ports)
    return dataclasses.replace(_sealed(at_ns, source, destination, content, in_udp=True), ports=ports)


def _ike(at_ns: int, source: Address, destination: Address, content: bytes, ports: tuple[int, int]) -> Ike:
    _need(content, 0, _IKE.size, "ike")
    initiator, responder, exchange, flags, message, _length = _IKE.unpack_from(content)
    return Ike(
        at_ns=at_ns, source=source, destination=destination, spis=(initiator, responder), exchange=exchange,
        response=bool(flags & _IKE_RESPONSE), message=message, ports=ports,
    )  # fmt: skip


def _sealed(at_ns: int, source: Address, destination: Address, body: bytes, *, in_udp: bool) -> Sealed:
    _need(body, 0, _SEALED_BYTES, "esp")
    spi, sequence = struct.unpack_from("!II", body)
    iv = body[8:_SEALED_BYTES]
    return Sealed(at_ns=at_ns, source=source, destination=destination, spi=spi, sequence=sequence, iv=iv, in_udp=in_udp)


def _tcp(frame: Frame, source: Address, destination: Address, body: bytes, cut: bool) -> Segment:
    _need(body, 0, 20, "tcp")
    source_port, destination_port, sequence = struct.unpack_from("!HHI", body)
    header, flags = (body[12] >> 4) * 4, body[13]
    if header < 20 or (len(body) < header and not cut):
        raise DecodeError("tcp", 12, "header does not fit")
    return Segment(
        at_ns=frame.at_ns,
        source=(source, source_port),
        destination=(destination, destination_port),
        sequence=sequence,
        syn=bool(flags & 2),
        fin=bool(flags & 1),
        rst=bool(flags & 4),
        payload=body[header:],
        cut=cut,
    )


def _vrrp(frame: Frame, mac: bytes, source: Address, destination: Address, ttl: int, body: bytes) -> Advertisement | None:
    _need(body, 0, _VRRP_HEADER_BYTES, "vrrp")
    if body[0] != 0x31:
        return None
    size = 4 if source.version == 4 else 16
    end = _VRRP_HEADER_BYTES + body[3] * size
    _need(body, 0, end, "vrrp addresses")
    addresses = tuple(ip_address(body[i : i + size]) for i in range(_VRRP_HEADER_BYTES, end, size))
    return Advertisement(
        at_ns=frame.at_ns,
        mac=mac,
        source=source,
        destination=destination,
        ttl=ttl,
        vrid=body[1],
        priority=body[2],
        interval_cs=struct.unpack_from("!H", body, 4)[0] & 0xFFF,
        addresses=addresses,
        flags=body[end + 2] if len(body) == end + _SEAL_BYTES else None,
    )
