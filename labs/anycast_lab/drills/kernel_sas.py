"""SAs and policies as charon would install them, put into the kernel by netlink alone: as many as one likes, and no charon.

    python -m anycast_lab.drills.kernel_sas SAS

Two SAs for each client behind a NAT (AES-GCM, ESP in UDP, window 2,048 inbound), at the VIP 203.0.113.1. Standard library
and pure modules only: inside User Mode Linux an import costs a hundred times of what it costs outside.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

HEADER, NETLINK_XFRM = struct.Struct("=IHHII"), 6
"""linux/netlink.h."""
VIP = bytes([203, 0, 113, 1]) + bytes(12)
NEWSA, DELSA, GETSA, NEWPOLICY, GETPOLICY = 0x10, 0x11, 0x12, 0x13, 0x15
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
ESP = 50
RECEIVE = 32 * 1024
"""As `netlink.transport` reads a dump."""


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def client_of(number: int) -> bytes:
    return bytes([198, 51, 100, number % 250]) + bytes(12)


def spis(number: int) -> tuple[int, int]:
    """Spread over all buckets, as charon's and the clients' are."""
    return 0xC000_0000 | number * 2654435761 % (1 << 28), 0x1000_0000 | number * 40503001 % (1 << 28)


def sa(number: int, *, inbound: bool) -> bytes:
    """XFRM_MSG_NEWSA as charon sends it (kernel_netlink_ipsec.c)."""
    client, spi = client_of(number), spis(number)[0 if inbound else 1]
    destination, source = (VIP, client) if inbound else (client, VIP)
    forever = struct.pack("=QQQQQQQQ", *[(1 << 64) - 1] * 4, 0, 0, 0, 0)
    info = bytes(40) + struct.pack("=H", 2) + bytes(14) + destination + struct.pack(">IB3x", spi, ESP) + source
    info += forever + bytes(32) + bytes(12) + bytes(4) + struct.pack("=IHBBB7x", number + 1, 2, 1, 0, 0x20)
    key = number.to_bytes(20)
    more = attribute(18, b"rfc4106(gcm(aes))".ljust(64, b"\0") + struct.pack("=II", 160, 128) + key)
    ports = (1024 + number, 4500) if inbound else (4500, 1024 + number)
    more += attribute(4, struct.pack("=H", 2) + struct.pack(">HH", *ports) + bytes(18))
    window = 2048 if inbound else 32
    more += attribute(23, struct.pack("=IIIIII", window // 32, 0, 0, 0, 0, window) + bytes(window // 8))
    return info + more


def policy(number: int, direction: int) -> bytes:
    """XFRM_MSG_NEWPOLICY of a client's inner address, 2001:db8::NUMBER."""
    inner = bytes.fromhex("20010db8") + number.to_bytes(12)
    to, of = (inner, bytes(16)) if direction == 1 else (bytes(16), inner)
    selector = to + of + bytes(8) + struct.pack("=HBB", 10, *((128, 0) if direction == 1 else (0, 128))) + bytes(12)
    forever = struct.pack("=QQQQQQQQ", *[(1 << 64) - 1] * 4, 0, 0, 0, 0)
    info = selector + forever + bytes(32) + struct.pack("=IIBBBB4x", 371327, 0, direction, 0, 0, 0)
    ends = (client_of(number), VIP) if direction == 1 else (VIP, client_of(number))
    there = ends[0] + struct.pack(">IB3x", 0, ESP) + struct.pack("=H2x", 2) + ends[1]
    return info + attribute(5, there + struct.pack("=IBBBxIII", number + 1, 1, 0, 0, *[0xFFFF_FFFF] * 3))


class Kernel:
    """One namespace's XFRM; the socket stays in the one that it was made in."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.sock.bind((0, 0))

    def do(self, kind: int, payload: bytes) -> None:
        self.sock.send(HEADER.pack(HEADER.size + len(payload), kind, REQUEST | ACK, 1, 0) + payload)
        code = struct.unpack_from("=i", self.sock.recv(RECEIVE), HEADER.size)[0]
        if code:
            raise OSError(-code, f"{os.strerror(-code)}: request {kind:#x}")

    def dump(self, kind: int) -> list[bytes]:
        """What a bare reader does."""
        self.sock.send(HEADER.pack(HEADER.size, kind, REQUEST | DUMP, 1, 0))
        found = list[bytes]()
        while True:
            data = self.sock.recv(RECEIVE)
            if struct.unpack_from("=H", data, 4)[0] == 3:
                return found
            found.append(data)
            if last_kind(data) == 3:
                return found


def last_kind(data: bytes) -> int:
    """The end of a dump may stand behind its last entries; it is 20 bytes long then."""
    return (
        int(struct.unpack_from("=H", data, len(data) - 16)[0])
        if struct.unpack_from("=I", data, len(data) - 20)[0] == 20
        else 0
    )


def main() -> None:
    kernel = Kernel()
    for number in range(int(sys.argv[1]) // 2):
        kernel.do(NEWSA, sa(number, inbound=True))
        kernel.do(NEWSA, sa(number, inbound=False))


if __name__ == "__main__":
    main()
