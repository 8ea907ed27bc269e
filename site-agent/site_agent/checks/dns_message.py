"""Questions for addresses and the answers to them (RFC 1035 section 4): a pure, bounds-checked codec of A, AAAA and CNAME.

Anybody can send a datagram with a name server's address, and who leases the server's line can answer over TCP, so no
message may cost the agent's loop more than a moment. A general DNS library parses before it compares ids, and follows
compression pointers as often as they are written: 64 KiB of pointers to pointers stop it for half a minute. Here

    `is_answer` compares bytes and parses nothing: id, QR, the one question that was asked
    a compression pointer leads backwards only, and `STEPS` bounds labels and pointers of a whole message together
    `UDP_BYTES` (RFC 1035 section 2.3.4: no EDNS is asked for) and `TCP_BYTES` bound the message

What is not asked about (authority, additional data, other types) is passed over unread.
"""

from __future__ import annotations

import dataclasses
import struct
from ipaddress import IPv4Address, IPv6Address

from anycast.errors import DecodeError

HEADER = struct.Struct("!HHHHHH")
"""Id, flags, and how many questions, answers, authorities and additional records (section 4.1.1)."""
RECORD = struct.Struct("!HHIH")
"""What follows an owner: type, class, TTL, length of the data (section 4.1.3)."""
QR, AA, TC, OPCODE, RCODE = 0x8000, 0x0400, 0x0200, 0x7800, 0x000F
A, CNAME, AAAA = 1, 5, 28
KINDS = {"A": A, "AAAA": AAAA}
IN = 1
RCODES = (
    "NOERROR",
    "FORMERR",
    "SERVFAIL",
    "NXDOMAIN",
    "NOTIMP",
    "REFUSED",
    "YXDOMAIN",
    "YXRRSET",
    "NXRRSET",
    "NOTAUTH",
    "NOTZONE",
)
"""RFC 6895 section 2.3."""

UDP_BYTES = 512
TCP_BYTES = 8192
"""Room for 500 addresses."""
NAME_BYTES = 255
LABEL_BYTES = 63
STEPS = 4096
"""500 records with an owner of seven labels each, or 4,096 pointers: a few ms at most."""
ALIASES = 16
"""CNAMEs in a row; resolvers give up sooner."""

Address = IPv4Address | IPv6Address
Name = tuple[bytes, ...]
"""Labels in lower case (RFC 4343), the root being empty."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What an answer says of the name that was asked for."""

    rcode: int
    authoritative: bool
    truncated: bool
    """It did not fit: ask over TCP. Nothing else of it was read."""
    addresses: frozenset[Address] = frozenset()
    """Of the family that was asked for, of the name or of what it is an alias of."""
    alias: str = ""
    """The last name of the aliases; empty where the name is none."""


def encode_query(name: str, kind: str, identifier: int) -> bytes:
    """A question without recursion. Raises ValueError for what is no domain name."""
    labels = [label.encode("ascii") for label in name.rstrip(".").split(".")]
    if not all(0 < len(label) <= LABEL_BYTES for label in labels) or sum(len(label) + 1 for label in labels) >= NAME_BYTES:
        raise ValueError(f"{name!r} is no domain name")
    question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0" + struct.pack("!HH", KINDS[kind], IN)
    return HEADER.pack(identifier, 0, 1, 0, 0, 0) + question


def is_answer(data: bytes, query: bytes) -> bool:
    """Whether `data` answers `query`, as far as a stranger could not guess it. Costs a comparison of bytes.

    Case is passed over (RFC 4343): no length octet of a label, no type and no class of ours is a letter's octet.
    """
    if len(data) < len(query) or data[:2] != query[:2]:
        return False
    flags, questions = struct.unpack_from("!HH", data, 2)
    asked = data[HEADER.size : len(query)].lower() == query[HEADER.size :].lower()
    return flags & (QR | OPCODE) == QR and questions == 1 and asked


def decode_reply(data: bytes, query: bytes) -> Reply:
    """Read what `is_answer` has let through. Raises DecodeError."""
    if not is_answer(data, query):
        raise DecodeError("header", 0, "not an answer to this question")
    if len(data) > TCP_BYTES:
        raise DecodeError("message", 0, f"{len(data)} bytes, more than {TCP_BYTES}")
    _, flags, _, answers, _, _ = HEADER.unpack_from(data)
    head = Reply(rcode=flags & RCODE, authoritative=bool(flags & AA), truncated=bool(flags & TC))
    if head.truncated or head.rcode:
        return head
    kind = int.from_bytes(query[-4:-2], "big")
    names = _Names(data)
    asked, _ = names.read(HEADER.size)
    aliases: dict[Name, Name] = {}
    addresses: dict[Name, set[Address]] = {}
    offset = len(query)
    for _ in range(answers):
        owner, offset = names.read(offset)
        if offset + RECORD.size > len(data):
            raise DecodeError("record", offset, "cut short")
        found, space, _, length = RECORD.unpack_from(data, offset)
        begin, offset = offset + RECORD.size, offset + RECORD.size + length
        if offset > len(data):
            raise DecodeError("record", begin, f"{length} bytes announced, {len(data) - begin} there")
        if space != IN:
            continue
        if found == CNAME:
            target, end = names.read(begin)
            if end != offset:
                raise DecodeError("CNAME", begin, "its name and its length differ")
            aliases.setdefault(owner, target)
        elif found == kind:
            addresses.setdefault(owner, set()).add(_address(kind, data[begin:offset], begin))
    name, hops = asked, 0
    while name not in addresses and name in aliases:
        name, hops = aliases[name], hops + 1
        if hops > ALIASES:
            raise DecodeError("CNAME", len(query), f"more than {ALIASES} aliases in a row")
    alias = to_text(name) if hops else ""
    return dataclasses.replace(head, addresses=frozenset(addresses.get(name, ())), alias=alias)


def rcode_text(rcode: int) -> str:
    return RCODES[rcode] if rcode < len(RCODES) else f"RCODE{rcode}"


def to_text(name: Name) -> str:
    """Without the final dot; whatever could be mistaken for something else as ``\\DDD`` (section 5.1)."""
    return ".".join("".join(_shown(octet) for octet in label) for label in name) or "."


def _shown(octet: int) -> str:
    return chr(octet) if 0x21 <= octet <= 0x7E and octet not in b'.\\"' else f"\\{octet:03d}"


def _address(kind: int, value: bytes, offset: int) -> Address:
    if kind == A and len(value) == 4:
        return IPv4Address(value)
    if kind == AAAA and len(value) == 16:
        return IPv6Address(value)
    raise DecodeError("address", offset, f"{len(value)} bytes")


class _Names:
    """The names of one message, which share its budget."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = STEPS

    def read(self, offset: int) -> tuple[Name, int]:
        """The name at `offset`, and where what follows it begins. Raises DecodeError."""
        data, labels, size = self._data, list[bytes](), 1
        after: int | None = None
        floor = offset
        """Where the part that is being read began: a pointer must lead before it, so no ring is possible."""
        while True:
            self._left -= 1
            if self._left < 0:
                raise DecodeError("name", offset, f"more than {STEPS} labels and pointers in the message")
            if offset >= len(data):
                raise DecodeError("name", offset, "cut short")
            length = data[offset]
            if length >= 0xC0:
                if offset + 2 > len(data):
                    raise DecodeError("name", offset, "cut short")
                after = offset + 2 if after is None else after
                target = (length & 0x3F) << 8 | data[offset + 1]
                if not HEADER.size <= target < floor:
                    raise DecodeError("name", offset, "a pointer that does not lead backwards")
                offset = floor = target
                continue
            if length > LABEL_BYTES:
                raise DecodeError("name", offset, "neither a label nor a pointer")
            offset += 1
            if length == 0:
                return tuple(labels), offset if after is None else after
            size += length + 1
            if offset + length > len(data) or size > NAME_BYTES:
                raise DecodeError("name", offset, "cut short" if size <= NAME_BYTES else f"longer than {NAME_BYTES} bytes")
            labels.append(data[offset : offset + length].lower())
            offset += length
