"""Frames that ask a link for one neighbour's MAC address, and what answers them (RFC 826, RFC 4861 section 7.2). Pure codec.

A router that answers is reached over the link, whatever the carrier says: nobody forwards these frames.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from anycast.errors import DecodeError
from site_agent.vrrp.neighbours import BROADCAST, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6
from site_agent.vrrp.packet import Address

_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_REQUEST, _ARP_REPLY = 1, 2
_IPV6 = struct.Struct("!IHBB16s16s")
_ICMPV6, _HOP_LIMIT = 58, 255
_SOLICITATION, _ADVERTISEMENT = 135, 136
_ADVERTISED = struct.Struct("!BBHI16s")
_SOLICITED = 1 << 30
_SOURCE_OPTION, _TARGET_OPTION = 1, 2
_OPTION = struct.Struct("!BB6s")
_FILTER = struct.Struct("=HBBI")
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x06


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Somebody says that `address` is at `mac`."""

    address: Address
    mac: bytes
    sender: bytes
    """Source of the Ethernet frame: another than `mac` where a router has a virtual MAC address."""


def solicitation(address: Address, source: Address, mac: bytes, to: bytes | None) -> bytes:
    """The frame that asks for `address`, from our `source` at `mac`. `to`: where it was last; None asks the whole link."""
    if isinstance(address, IPv4Address):
        body = _ARP.pack(1, ETH_P_IP, 6, 4, _ARP_REQUEST, mac, source.packed, bytes(6), address.packed)
        return _ETHERNET.pack(to or BROADCAST, mac, ETH_P_ARP) + body
    group = IPv6Address(bytes.fromhex("ff0200000000000000000001ff") + address.packed[13:])
    destination = address if to else group
    option = _OPTION.pack(_SOURCE_OPTION, 1, mac)
    head = _ADVERTISED.pack(_SOLICITATION, 0, 0, 0, address.packed)
    total = checksum(source.packed, destination.packed, head + option)
    body = head[:2] + struct.pack("!H", total) + head[4:] + option
    ip = _IPV6.pack(6 << 28, len(body), _ICMPV6, _HOP_LIMIT, source.packed, destination.packed)
    return _ETHERNET.pack(to or b"\x33\x33" + group.packed[12:], mac, ETH_P_IPV6) + ip + body


def checksum(source: bytes, destination: bytes, message: bytes) -> int:
    """ICMPv6's, over pseudo-header and message (RFC 4443 section 2.3); 0 where the message carries a right one."""
    whole = source + destination + struct.pack("!I3xB", len(message), _ICMPV6) + message
    whole += bytes(len(whole) % 2)
    total: int = sum(struct.unpack(f"!{len(whole) // 2}H", whole))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def decode_answer(frame: bytes, asked: Mapping[Address, Address]) -> Answer:
    """Raises DecodeError where it is no answer to a question of ours. `asked`: our source address by the one asked for."""
    if len(frame) < _ETHERNET.size:
        raise DecodeError("ethernet", 0, "truncated")
    _, sender, kind = _ETHERNET.unpack_from(frame)
    if kind == ETH_P_ARP:
        address, mac, answered = _arp(frame)
    elif kind == ETH_P_IPV6:
        address, mac, answered = _advertisement(frame, sender)
    else:
        raise DecodeError("ethernet type", 12, f"{kind:#06x}")
    if asked.get(address) != answered:
        raise DecodeError("address", 0, f"{address} was not asked for by {answered}")
    return Answer(address=address, mac=mac, sender=sender)


def _arp(frame: bytes) -> tuple[Address, bytes, Address]:
    if len(frame) < _ETHERNET.size + _ARP.size:
        raise DecodeError("arp", _ETHERNET.size, "truncated")
    hardware, protocol, hardware_bytes, protocol_bytes, operation, mac, address, _, answered = _ARP.unpack_from(
        frame, _ETHERNET.size
    )
    if (hardware, protocol, hardware_bytes, protocol_bytes, operation) != (1, ETH_P_IP, 6, 4, _ARP_REPLY):
        raise DecodeError("arp", _ETHERNET.size, "no reply for IPv4 over Ethernet")
    return IPv4Address(address), mac, IPv4Address(answered)


def _advertisement(frame: bytes, sender: bytes) -> tuple[Address, bytes, Address]:
    at = _ETHERNET.size + _IPV6.size
    if len(frame) < at + _ADVERTISED.size:
        raise DecodeError("neighbor advertisement", _ETHERNET.size, "truncated")
    word, length, following, hops, source, destination = _IPV6.unpack_from(frame, _ETHERNET.size)
    message = frame[at : at + length]
    if word >> 28 != 6 or following != _ICMPV6 or hops != _HOP_LIMIT or not _ADVERTISED.size <= length == len(message):
        raise DecodeError("ipv6", _ETHERNET.size, "no ICMPv6 of this link (RFC 4861 section 7.1.2)")
    kind, code, _, flags, target = _ADVERTISED.unpack_from(message)
    if (kind, code) != (_ADVERTISEMENT, 0) or not flags & _SOLICITED:
        raise DecodeError("icmpv6", at, "no Neighbor Advertisement that was asked for")
    if checksum(source, destination, message):
        raise DecodeError("icmpv6 checksum", at + 2)
    return IPv6Address(target), _option(message, sender, at), IPv6Address(destination)


def _option(message: bytes, sender: bytes, at: int) -> bytes:
    """The target's link-layer address; the frame's sender where the answer leaves it out, as it may (section 4.4)."""
    place = _ADVERTISED.size
    while place < len(message):
        if len(message) < place + _OPTION.size or not message[place + 1]:
            raise DecodeError("option", at + place, "truncated")
        kind, eights, mac = _OPTION.unpack_from(message, place)
        if kind == _TARGET_OPTION:
            return bytes(mac)
        place += 8 * eights
    return sender


def answers_only(kind: int, addresses: Iterable[Address]) -> bytes:
    """A socket filter (``struct sock_filter``, several) that lets through what may be an answer for one of `addresses`, of
    ethernet type `kind`: what else the link carries costs us nothing."""
    words = [int.from_bytes(address.packed[-4:], "big") for address in addresses]
    if kind == ETH_P_ARP:
        conditions, place = [(_LOAD_HALF, 20, _ARP_REPLY)], 28
    else:
        conditions, place = [(_LOAD_BYTE, 20, _ICMPV6), (_LOAD_BYTE, 54, _ADVERTISEMENT)], 74  # the target's last four bytes
    rest = 2 * len(conditions) + 1 + len(words)  # instructions before the two returns
    program: list[tuple[int, int, int, int]] = []
    for load, offset, value in conditions:
        program += [(load, 0, 0, offset), (_JUMP_IF_EQUAL, 0, rest - len(program) - 2, value)]
    program.append((_LOAD_WORD, 0, 0, place))
    for word in words:
        program.append((_JUMP_IF_EQUAL, rest - len(program), 0, word))
    program += [(_RETURN, 0, 0, 0), (_RETURN, 0, 0, 0xFFFF)]
    return b"".join(_FILTER.pack(*line) for line in program)


def parse(texts: Iterable[str]) -> tuple[Address, ...]:
    """Addresses without length, as documents have them."""
    return tuple(ip_address(text) for text in texts)
