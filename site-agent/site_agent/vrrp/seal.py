"""The seal that routers of one pair put behind an ADVERTISEMENT: who sent it, when, and proof of both. Pure.

     0                   1                   2                   3
    | Format (1)    | Key id        | Newest  |Flags| Newest  |Heard|
    |                       Router id                               |
    |                       Boot (64 bits)                          |
    |   Term (16)   |         Sequence (48 bits)                    |
    |                       HMAC-SHA-256 (32 bytes)                 |

VRRP itself has no authentication (RFC 9568 section 9): whoever can send to the link becomes Active with priority 255. The
digest covers source and destination address, the advertisement and the seal before it, so nothing can be changed or sent
on to another path. Unsealed or wrongly sealed packets act on nothing.

Replay: a sender counts up from `sequence` within one `boot`, and a later process begins a later boot (its wall clock when
it began, in nanoseconds). A receiver takes only what is later than the last it took from that router (`Window`): every
advertisement supersedes the ones before it, so what the network reorders or repeats may be dropped.

Term and sequence are one number of 64 bits to whoever compares: a term never falls within a boot, and a version that knows
of none reads a long sequence. `router.VirtualRouter.term` says what it is.

Rotation: keys have ids. A router seals with the one that its key file says is in use and accepts every key of its file:
add the new key on both, switch both, remove the old one, and no advertisement is ever refused. *Newest* says which key a
router has accepted last, so that the other one can tell whether it may switch.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import hmac
import struct
from collections.abc import Mapping

from anycast.errors import DecodeError
from site_agent.vrrp.packet import Address, Discard, DiscardError

FORMAT = 1
_FIELDS = struct.Struct("!BBBBIQQ")
FIELDS_BYTES = _FIELDS.size
"""Of the seal; its digest follows."""
DIGEST_BYTES = hashlib.sha256().digest_size
SEAL_BYTES = FIELDS_BYTES + DIGEST_BYTES
KEY_BYTES = 32
"""As long as the digest (RFC 2104 section 3)."""
LARGEST_KEY_ID = 255
_SEQUENCE_BITS = 48
"""Of an advertisement every 10 ms: 89,000 years."""
MAX_TERM = 0xFFFF
"""It stays there: then priorities decide."""
_SAID_BITS, _NEWEST_HALF = 3, 5
"""Of the bytes `flags` and `heard`, which share what is left of them."""


class Flag(enum.IntFlag):
    """What the sender says of itself."""

    ACTIVE = 1
    """It holds the virtual addresses. Without: a Backup that says it is there."""
    UPLINK_PROVEN = 2
    """Its upstream router answered it lately."""
    HANDING_OVER = 4
    """An Active with priority 0 that keeps the addresses until it hears the other one has them."""


class Path(enum.IntFlag):
    """Where two gateways of a site can hear each other."""

    OUTSIDE = 1
    INSIDE = 2
    MANAGEMENT = 4


_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))
"""RFC 2104's ipad and opad, as tables for `bytes.translate`."""
FLAGS, PATHS = tuple(map(Flag, range(8))), tuple(map(Path, range(8)))
"""Every combination by its number: making one anew costs a microsecond or two, for each packet."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What is sealed besides the advertisement."""

    flags: Flag
    heard: Path
    """Paths on which the sender hears the receiver."""
    router_id: int
    """32 bits, unique in the fleet: breaks ties alike on every path."""
    boot: int
    sequence: int
    """With the term before it."""

    @property
    def term(self) -> int:
        return self.sequence >> _SEQUENCE_BITS


def numbered(term: int, count: int) -> int:
    """The `sequence` of a router's advertisement number `count`."""
    return term << _SEQUENCE_BITS | count


def check_keys(keys: Mapping[int, bytes], in_use: int) -> None:
    """Can these seal, and open what they sealed? Raises DecodeError, which names no key."""
    if any(len(key) != KEY_BYTES or not 0 < key_id <= LARGEST_KEY_ID for key_id, key in keys.items()) or in_use not in keys:
        raise DecodeError("keys", 0, f"keys of {KEY_BYTES} bytes with ids from 1 to {LARGEST_KEY_ID}, one of them in use")


def seal(advert: bytes, said: Seal, source: Address, destination: Address, key_id: int, key: bytes) -> bytes:
    """`advert` (an encoded advertisement) with its seal behind it."""
    fields = pack_fields(key_id, said.flags, said.heard, said.router_id, said.boot, said.sequence)
    return advert + fields + _digest(key, source, destination, advert + fields)


def pack_fields(
    key_id: int, flags: Flag, heard: Path, router_id: int, boot: int, sequence: int, newest: int = 0
) -> bytes:
    """The seal without its digest: the same for every path of one tick. `Seal` says what each is; `newest`: see `newest`."""
    high, low = newest >> _NEWEST_HALF << _SAID_BITS, (newest << _SAID_BITS) & 0xFF
    return _FIELDS.pack(FORMAT, key_id, int(flags) | high, int(heard) | low, router_id, boot, sequence)


def newest(keys: Mapping[int, bytes]) -> int:
    """The tag of the last of a file's keys (by id, oldest first). 0: there is none, or the router is of a version that does
    not say."""
    return tag(list(keys.values())[-1]) if keys else 0


def tag(key: bytes) -> int:
    """Ten bits, not all 0, which tell a key from another one and nothing more."""
    digest = hmac.digest(key, b"anycast-vpn newest vrrp key", "sha256")
    return int.from_bytes(digest[:2]) % (1 << 2 * _NEWEST_HALF) or 1


def newest_in(fields: bytes | memoryview) -> int:
    """Of a seal that is proven."""
    return fields[2] >> _SAID_BITS << _NEWEST_HALF | fields[3] >> _SAID_BITS


class Stamp:
    """`_digest` over seals behind one and the same advertisement: what does not change is hashed once.

    RFC 2104's two halves of the key, the addresses and the advertisement are three of five blocks; and a copied hash needs
    none of OpenSSL's look-ups, which is most of what `hmac.digest` costs a process that has slept.
    """

    def __init__(self, advert: bytes, source: Address, destination: Address, key: bytes) -> None:
        block = key.ljust(hashlib.sha256().block_size, b"\0")
        self._inner = hashlib.sha256(block.translate(_INNER) + source.packed + destination.packed + advert)
        self._outer = hashlib.sha256(block.translate(_OUTER))

    def digest(self, fields: bytes) -> bytes:
        """Of the seal that begins with `fields`."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(fields)
        outer.update(inner.digest())
        return outer.digest()


def unseal(advert: bytes | memoryview, trailer: bytes | memoryview, source: Address, destination: Address,
           keys: Mapping[int, bytes]) -> Seal:  # fmt: skip
    """What the trailer says, once proven by one of `keys` (by id). Raises DiscardError.

    `advert` is exactly the bytes that `packet.decode` read.
    """
    if len(trailer) != SEAL_BYTES:
        raise DiscardError(Discard.SEAL, "seal", 0, f"{len(trailer)} bytes, not {SEAL_BYTES}")
    form, key_id, flags, heard, router_id, boot, sequence = _FIELDS.unpack_from(trailer)
    if form != FORMAT:
        raise DiscardError(Discard.SEAL, "format", 0, f"{form} is not known here")
    if (key := keys.get(key_id)) is None:
        raise DiscardError(Discard.SEAL, "key id", 1, f"{key_id} is no key of ours")
    message = bytes(advert) + bytes(trailer[: _FIELDS.size])
    if not hmac.compare_digest(_digest(key, source, destination, message), bytes(trailer[_FIELDS.size :])):
        raise DiscardError(Discard.SEAL, "digest", _FIELDS.size, "does not fit")
    # Bits that a later version may add mean nothing to us and are dropped.
    return Seal(flags=FLAGS[flags & 7], heard=PATHS[heard & 7], router_id=router_id, boot=boot, sequence=sequence)


class Window:
    """The last that was taken of each router, on one path. Bounded by the number of keys' holders: two.

    Keep `last` beyond a restart: a receiver that has forgotten takes one recorded packet after the other from a router that
    is silent now, and a Backup that believes in a dead Active never takes over.
    """

    def __init__(self, last: Mapping[int, tuple[int, int]] | None = None) -> None:
        self.last: dict[int, tuple[int, int]] = dict(last or {})
        """Boot and sequence by router id."""

    def take(self, said: Seal) -> None:
        """Raises DiscardError where this, or something later, was taken before."""
        now = said.boot, said.sequence
        if now <= self.last.get(said.router_id, (0, -1)):
            raise DiscardError(Discard.REPLAY, "sequence", 16, f"{said.sequence} is not later than the last")
        self.last[said.router_id] = now

    def take_fields(self, fields: bytes) -> bool:
        """`take` of a seal that is proven and has not been unpacked; False where `take` would raise."""
        *_, router_id, boot, sequence = _FIELDS.unpack(fields)
        if (boot, sequence) <= self.last.get(router_id, (0, -1)):
            return False
        self.last[router_id] = boot, sequence
        return True


def _digest(key: bytes, source: Address, destination: Address, message: bytes) -> bytes:
    return hmac.digest(key, source.packed + destination.packed + message, "sha256")
