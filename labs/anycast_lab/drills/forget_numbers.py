"""Set the outbound sequence numbers of a gateway's SAs back to 0, where a mirror without numbers would leave them.

    python -m anycast_lab.drills.forget_numbers --from 203.0.113.1 2001:db8:a::1

A fault for red drills. Prints how many it has set back. The kernel's own messages (linux/xfrm.h) without the product's
codecs: a dump of the SAs (XFRM_MSG_GETSA), and for each that sends from one of the addresses its replay state with another
number (XFRM_MSG_NEWAE).
"""

from __future__ import annotations

import argparse
import socket
import struct
from collections.abc import Container, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

NETLINK_XFRM = 6
_NEWSA, GETSA, _NEWAE = 0x10, 0x12, 0x1E
_ERROR, _DONE = 2, 3
_REQUEST, ACK, _REPLACE, DUMP = 0x1, 0x4, 0x100, 0x300
_HEADER = struct.Struct("=IHHII")
SA_INFO_BYTES = 224
ID_AT, SOURCE_AT, _REQID_AT, FAMILY_AT = 56, 80, 208, 212
_REPLAY, _REPLAY_ESN = 10, 23
_ESN_WORDS = struct.Struct("=6I")
"""xfrm_replay_state_esn: bmp_len, oseq, seq, oseq_hi, seq_hi, replay_window; the bitmap follows."""


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload of each netlink message."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            raise OSError(f"a netlink message of {length} bytes")
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def forgotten(sa: bytes, sources: Container[IPv4Address | IPv6Address]) -> bytes | None:
    """The XFRM_MSG_NEWAE payload that sets the number of a dumped SA back; None where it does not send from `sources`."""
    family, protocol = struct.unpack_from("=H", sa, FAMILY_AT)[0], sa[ID_AT + 20]
    size = 4 if family == socket.AF_INET else 16
    if ip_address(sa[SOURCE_AT : SOURCE_AT + size]) not in sources:
        return None
    attributes = b""
    at = SA_INFO_BYTES
    while at + 4 <= len(sa):
        length, kind = struct.unpack_from("=HH", sa, at)
        if length < 4:
            break
        value = sa[at + 4 : at + length]
        if kind == _REPLAY_ESN:
            words = list(_ESN_WORDS.unpack_from(value))
            words[1] = words[3] = 0
            attributes = _attribute(kind, _ESN_WORDS.pack(*words) + value[_ESN_WORDS.size :])
        elif kind == _REPLAY and not attributes:
            attributes = _attribute(kind, bytes(4) + value[4:])
        at += (length + 3) & ~3
    if not attributes:
        return None
    sa_id = sa[ID_AT : ID_AT + 20] + struct.pack("=HBx", family, protocol)
    reqid = struct.unpack_from("=I", sa, _REQID_AT)[0]
    return sa_id + sa[SOURCE_AT : SOURCE_AT + 16] + struct.pack("=II", 0, reqid) + attributes


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def ask(sock: socket.socket, kind: int, flags: int, payload: bytes) -> Iterator[bytes]:
    """The payloads of a dump; nothing of what is only acknowledged. Raises OSError."""
    sock.send(_HEADER.pack(_HEADER.size + len(payload), kind, _REQUEST | flags, 1, 0) + payload)
    while True:
        for answer, body in messages(sock.recv(1 << 18)):
            if answer == _DONE:
                return
            if answer == _ERROR:
                if code := struct.unpack_from("=i", body)[0]:
                    raise OSError(-code, "the kernel refuses")
                return
            if answer == _NEWSA:
                yield body


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="anycast-forget-numbers", description=__doc__)
    parser.add_argument("--from", dest="sources", nargs="+", type=ip_address, required=True)
    sources = frozenset(parser.parse_args(argv).sources)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM) as sock:
        requests = [found for sa in list(ask(sock, GETSA, DUMP, b"")) if (found := forgotten(sa, sources))]
        for request in requests:
            list(ask(sock, _NEWAE, ACK | _REPLACE, request))
    print(len(requests))


if __name__ == "__main__":
    main()
