"""Codec of what must be equal on both gateways of a pair: one record an SA and one a policy, cut from dumps (linux/xfrm.h).

A record holds facts, side by side, so that two gateways compare bytes:

    SA       SPI (4)  protocol (1)  destination (16)  source (16)  encapsulation (6)  settings (8)
    policy   direction (1)  selector (45)  destination (16)  source (16)  settings (8)

The encapsulation is type, source and destination port of XFRMA_ENCAP, zeros without. Settings are a hash of what says how,
not who: of an SA family, mode, replay window, flags (ESN), selector, marks, if_id, padding, extra flags; of a policy
priority, action, flags, marks, if_id, and its template's protocol, mode and family. A client that has moved (MOBIKE) or
that its NAT has moved shows in the addresses or in the ports.

Left out, because each machine has its own: numbers and lifetimes, counters, reqid, a policy's index. Left out, because they
are secret: keys. An attribute that holds them is stepped over by its length, nothing of it enters a record or its hash.

Speed
-----
A gateway with 20,000 tunnels has 40,000 SAs and 120,000 policies, and compares them all the time. Messages of one length
mostly have the same attributes at the same places (a *shape*), so one `unpack_from` takes all headers and facts of a
message at once; that they are what the shape says is proved by looking the tuple up: it contains every header, and equal
headers from the first on are the same walk. What is not found is walked attribute by attribute, bounds-checked, once.

Any bytes give records or raise DecodeError.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple

from anycast.errors import DecodeError
from site_agent.netlink.messages import HEADER, split_attributes
from site_agent.netlink.xfrm import (
    USER_TMPL_BYTES,
    USERPOLICY_INFO_BYTES,
    USERSA_INFO_BYTES,
    XFRM_MSG_NEWPOLICY,
    XFRM_MSG_NEWSA,
    XFRMA_TMPL,
)
from site_agent.netlink.xfrm_keys import (
    FORWARD,
    XFRMA_ALG_AEAD,
    XFRMA_ALG_AUTH,
    XFRMA_ALG_AUTH_TRUNC,
    XFRMA_ALG_CRYPT,
    PackedAddress,
)

XFRMA_ENCAP, XFRMA_MARK, XFRMA_TFCPAD, XFRMA_REPLAY_ESN_VAL, XFRMA_SA_EXTRA_FLAGS = 4, 21, 22, 23, 24
XFRMA_SET_MARK, XFRMA_SET_MARK_MASK, XFRMA_IF_ID = 29, 30, 31

SA_RECORD_BYTES = 51
SA_NAME_BYTES = 21
"""SPI, protocol, destination: by which the kernel finds it."""
SA_ENDS_BYTES = 37
"""With the source: all that charon knows of it."""
SA_PORTS_BYTES = 43
"""With the encapsulation."""
POLICY_RECORD_BYTES = 86
POLICY_NAME_BYTES = 46
POLICY_ENDS_BYTES = 78

SETTINGS_BYTES = 8

_MAX_SHAPES = 32
"""A service has a few: by cipher, NAT or not, in or out. A machine with more is walked."""
_MAX_KNOWN = 1 << 14
"""Settings of one shape; one or two in tunnel mode, one a client in transport mode."""

_SA_FIXED = "=45s11x16s4ss3x16s116x5s7x"
"""Selector; destination, SPI, protocol; source; family, mode, replay_window, flags. 224 bytes."""
_POLICY_FIXED = "=45s107x4sIs3s4x"
"""Selector; priority, index, dir; action, flags, share. 168 bytes."""
_NO_ENCAPSULATION = bytes(6)
_ATTRIBUTE = 4
"""struct nlattr: length, type."""
_KEYS = frozenset({XFRMA_ALG_AUTH, XFRMA_ALG_CRYPT, XFRMA_ALG_AEAD, XFRMA_ALG_AUTH_TRUNC})
_FACTS: dict[int, tuple[tuple[int, int], ...]] = {
    XFRMA_ENCAP: ((0, 6),),  # struct xfrm_encap_tmpl: type, sport, dport
    XFRMA_MARK: ((0, 8),),
    XFRMA_TFCPAD: ((0, 4),),
    XFRMA_REPLAY_ESN_VAL: ((0, 4), (20, 24)),  # bmp_len and replay_window; between them are the numbers
    XFRMA_SA_EXTRA_FLAGS: ((0, 4),),
    XFRMA_SET_MARK: ((0, 4),),
    XFRMA_SET_MARK_MASK: ((0, 4),),
    XFRMA_IF_ID: ((0, 4),),
    # struct xfrm_user_tmpl: destination; protocol; family; source; reqid; mode, share, optional
    XFRMA_TMPL: ((0, 16), (20, 21), (24, 26), (28, 44), (44, 48), (48, 51)),
}
"""What an attribute says that must be equal, by kind, as slices in their order. A value that is shorter is refused."""

Record = bytes
"""One SA or policy as above."""


class Owned(NamedTuple):
    """What only this machine says of a policy."""

    reqid: int
    """Binds it to its tunnel."""
    number: int
    """Its index, by which the kernel deletes it."""


class _Shape(NamedTuple):
    fields: struct.Struct
    own: int
    """Where in `fields` the encapsulation is, or a policy's template; -1 for none."""
    known: dict[tuple[object, ...], bytes | None]
    """By everything but what is an SA's or policy's own: its settings, or None for what does not count."""


class SaReader:
    """Give it the datagrams of a dump, then take `records`. `ends`: the service's addresses, one of which an SA must have.

    An SA without keys only reserves an SPI and does not count.
    """

    def __init__(self, ends: frozenset[PackedAddress]) -> None:
        self._ends = ends
        self._shapes: dict[int, _Shape] = {}
        self.records: list[Record] = []

    def take_datagram(self, data: bytes) -> None:
        """Messages of other kinds are left to others. Raises DecodeError."""
        _take_each(data, XFRM_MSG_NEWSA, self._take)

    def take(self, payload: bytes | memoryview) -> None:
        """One XFRM_MSG_NEWSA. Raises DecodeError."""
        self._take(payload, 0, len(payload))

    def _take(self, data: bytes | memoryview, offset: int, length: int) -> None:
        if (shape := self._shapes.get(length)) is not None:
            selector, destination, spi, protocol, source, *rest = shape.fields.unpack_from(data, offset)
            if destination not in self._ends and source not in self._ends:
                return
            encapsulation = _NO_ENCAPSULATION if shape.own < 0 else rest.pop(shape.own)
            rest.append(selector)
            try:
                settings = shape.known[tuple(rest)]
            except KeyError:
                pass
            else:
                if settings is not None:
                    self.records.append(spi + protocol + destination + source + encapsulation + settings)
                return
        self._walk(data, offset, length)

    def _walk(self, data: bytes | memoryview, offset: int, length: int) -> None:
        if length < USERSA_INFO_BYTES:
            raise DecodeError("xfrm_usersa_info", length, f"shorter than {USERSA_INFO_BYTES} bytes")
        view = memoryview(data)[offset : offset + length]
        found, layout = _attributes(view, USERSA_INFO_BYTES)
        fields = struct.Struct(_SA_FIXED + layout)
        selector, destination, spi, protocol, source, *rest = fields.unpack_from(view)
        how = rest[0]
        own = _place_of(XFRMA_ENCAP, found)
        encapsulation = _NO_ENCAPSULATION if own < 0 else rest.pop(own)
        rest.append(selector)
        settings = None
        if any(kind in _KEYS for kind, _ in found):
            settings = _hash(selector + how, (each for each in _facts(found) if each[0] != XFRMA_ENCAP))
        _learn(self._shapes, length, _Shape(fields, own, {}), tuple(rest), settings)
        if settings is not None and (destination in self._ends or source in self._ends):
            self.records.append(spi + protocol + destination + source + encapsulation + settings)


class PolicyReader:
    """As SaReader, of policies whose template has an end in `ends`.

    Sockets' own are skipped, and those without a template: the mirror's gate blocks, and stands on one gateway only.
    """

    def __init__(self, ends: frozenset[PackedAddress]) -> None:
        self._ends = ends
        self._shapes: dict[int, _Shape] = {}
        self.records: dict[Record, Owned] = {}

    def take_datagram(self, data: bytes) -> None:
        """Messages of other kinds are left to others. Raises DecodeError."""
        _take_each(data, XFRM_MSG_NEWPOLICY, self._take)

    def take(self, payload: bytes | memoryview) -> None:
        """One XFRM_MSG_NEWPOLICY. Raises DecodeError."""
        self._take(payload, 0, len(payload))

    def _take(self, data: bytes | memoryview, offset: int, length: int) -> None:
        if (shape := self._shapes.get(length)) is not None:
            selector, priority, index, direction, *rest = shape.fields.unpack_from(data, offset)
            destination, source, reqid = _pop_ends(rest, shape.own)
            rest.append(priority)
            if (settings := shape.known.get(tuple(rest))) is not None:
                self._keep(direction + selector, destination, source, settings, reqid, index)
                return
        self._walk(data, offset, length)

    def _walk(self, data: bytes | memoryview, offset: int, length: int) -> None:
        if length < USERPOLICY_INFO_BYTES:
            raise DecodeError("xfrm_userpolicy_info", length, f"shorter than {USERPOLICY_INFO_BYTES} bytes")
        view = memoryview(data)[offset : offset + length]
        found, layout = _attributes(view, USERPOLICY_INFO_BYTES)
        if all(kind != XFRMA_TMPL for kind, _ in found):
            return  # of a socket, or a gate that blocks: not one of a tunnel
        fields = struct.Struct(_POLICY_FIXED + layout)
        selector, priority, index, direction, *rest = fields.unpack_from(view)
        how, own = rest[0], _place_of(XFRMA_TMPL, found)
        destination, source, reqid = _pop_ends(rest, own)
        rest.append(priority)
        settings = _hash(priority + how, _facts(found))
        _learn(self._shapes, length, _Shape(fields, own, {}), tuple(rest), settings)
        self._keep(direction + selector, destination, source, settings, reqid, index)

    def _keep(self, name: bytes, destination: bytes, source: bytes, settings: bytes, reqid: bytes, index: int) -> None:
        if name[0] <= FORWARD and (destination in self._ends or source in self._ends):
            self.records[name + destination + source + settings] = Owned(int.from_bytes(reqid, sys.byteorder), index)


def _take_each(data: bytes, wanted: int, take: Callable[[bytes, int, int], None]) -> None:
    offset, size = 0, len(data)
    while offset < size:
        if size - offset < HEADER.size:
            raise DecodeError("nlmsghdr", offset, "truncated")
        length, kind, _flags, _sequence, _port = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > size:
            raise DecodeError("nlmsg_len", offset, f"{length} does not fit")
        if kind == wanted:
            take(data, offset + HEADER.size, length - HEADER.size)
        offset += (length + 3) & ~3


def _attributes(view: memoryview, start: int) -> tuple[list[tuple[int, memoryview]], str]:
    """The attributes from `start` on, and how a struct takes their headers and facts. Raises DecodeError."""
    found, layout, offset = [], [], start
    for kind, value in split_attributes(view, start):
        end = min((offset + _ATTRIBUTE + len(value) + 3) & ~3, len(view))
        layout.append("4s")
        at = 0
        for first, behind in _FACTS.get(kind, ()):
            if len(value) < behind:
                raise DecodeError(f"attribute {kind}", offset, f"shorter than {behind} bytes")
            layout.append(f"{first - at}x{behind - first}s")
            at = behind
        layout.append(f"{end - offset - _ATTRIBUTE - at}x")  # keys among it
        found.append((kind, value))
        offset = end
    return found, "".join(layout)


def _place_of(wanted: int, found: list[tuple[int, memoryview]]) -> int:
    """Where the facts of an attribute begin among the fields, counted from the last fixed one; -1 where it is not found."""
    place = 1
    for kind, _value in found:
        place += 1  # its header
        if kind == wanted:
            return place
        place += len(_FACTS.get(kind, ()))
    return -1


def _pop_ends(rest: list[bytes], template: int) -> tuple[bytes, bytes, bytes]:
    """Destination, source and reqid of the template whose facts begin there."""
    return rest.pop(template), rest.pop(template + 2), rest.pop(template + 2)


def _facts(found: list[tuple[int, memoryview]]) -> Iterator[tuple[int, bytes]]:
    """What enters the settings, in the order of the kinds: another kernel may have another order of attributes."""
    for kind, value in sorted(found, key=lambda each: each[0]):
        if kind == XFRMA_TMPL:
            yield kind, bytes([value[20], *value[24:26], *value[48:51], len(value) // USER_TMPL_BYTES & 0xFF])
        elif kind in _FACTS:
            yield kind, b"".join(bytes(value[first:behind]) for first, behind in _FACTS[kind])


def _hash(fixed: bytes, facts: Iterable[tuple[int, bytes]]) -> bytes:
    told = bytearray(fixed)
    for kind, value in facts:
        told += kind.to_bytes(2) + len(value).to_bytes(2) + value
    return blake2b(told, digest_size=SETTINGS_BYTES).digest()


def _learn(shapes: dict[int, _Shape], length: int, shape: _Shape, rest: tuple[object, ...], settings: bytes | None) -> None:
    """`rest` by `shape` is what a message of `length` bytes has."""
    known = shapes.get(length)
    if known is None or known.fields.format != shape.fields.format:
        if known is None and len(shapes) >= _MAX_SHAPES:
            return
        shapes[length] = known = shape
    if len(known.known) >= _MAX_KNOWN:
        known.known.clear()
    known.known[rest] = settings
