"""`python -m anycast_lab.flood.conntrack track | fill | empty`: a connection tracking table as full as a flood makes it.

`track` adds the rule that every stateful firewall has: without one, the kernel tracks nothing in this namespace. `fill`
inserts flows that look established (assured, so that the kernel may not drop them early for a new one) until the table's
own limit refuses; that limit is the whole machine's and is not lowered. `empty` removes the rule and these flows.
Raw ctnetlink: 300,000 entries a second, where `conntrack -I` starts a process for each.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc/sys/net/netfilter")
TABLE = "anycast_drill"
NFT_RULES = f"""
table ip {TABLE} {{ chain in {{ type filter hook input priority 0; ct state established counter; }}; }}
table ip6 {TABLE} {{ chain in {{ type filter hook input priority 0; ct state established counter; }}; }}
"""
LEGACY_RULE = ("POSTROUTING", "-s", "203.0.113.255", "-j", "SNAT", "--to-source", "203.0.113.255")
"""User Mode Linux has neither nftables' ip family nor the conntrack match. Address translation, even of an address that
nobody has, makes its kernel track IPv4."""

NETLINK_NETFILTER = 12
CT_NEW, CT_DELETE = 1 << 8 | 0, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, linux/netfilter/nfnetlink_conntrack.h
REQUEST, CREATE = 0x1, 0x400
NESTED = 0x8000
TUPLE_ORIG, TUPLE_REPLY, STATUS, TIMEOUT = 1, 2, 3, 7
TUPLE_IP, TUPLE_PROTO = 1, 2
IP_V4_SRC, IP_V4_DST = 1, 2
PROTO_NUM, PROTO_SRC_PORT, PROTO_DST_PORT = 1, 2, 3
LIKE_ESTABLISHED = 0x2 | 0x4 | 0x8
"""IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED."""
UDP = 17
BATCH = 512
FEW = 1_000
"""Flows that are left are the gateway's own, and the last strangers'; they end by themselves."""
LIFE_S = 120
"""So that a drill that is killed in the middle leaves a table that empties itself."""
FIRST_SOURCE = ipaddress.IPv4Address("203.0.113.128")


def attribute(kind: int, body: bytes) -> bytes:
    """One netlink attribute with its padding."""
    return struct.pack("=HH", 4 + len(body), kind) + body + bytes(-len(body) % 4)


def tuple_of(source: bytes, target: bytes, source_port: int, port: int) -> bytes:
    ends = attribute(IP_V4_SRC, source) + attribute(IP_V4_DST, target)
    ports = attribute(PROTO_SRC_PORT, struct.pack("!H", source_port)) + attribute(PROTO_DST_PORT, struct.pack("!H", port))
    return attribute(TUPLE_IP | NESTED, ends) + attribute(TUPLE_PROTO | NESTED, attribute(PROTO_NUM, bytes([UDP])) + ports)


def message(kind: int, flags: int, body: bytes = b"") -> bytes:
    """`struct nlmsghdr`, `struct nfgenmsg`, attributes."""
    return struct.pack("=IHHIIBBH", 20 + len(body), kind, REQUEST | flags, 0, 0, socket.AF_INET, 0, 0) + body


def insertion(number: int, target: bytes, port: int) -> bytes:
    """The `number`-th flow to UDP `port` at `target`."""
    source, source_port = (FIRST_SOURCE + number // 60_000).packed, 2000 + number % 60_000
    return message(
        CT_NEW,
        CREATE,
        attribute(TUPLE_ORIG | NESTED, tuple_of(source, target, source_port, port))
        + attribute(TUPLE_REPLY | NESTED, tuple_of(target, source, port, source_port))
        + attribute(TIMEOUT, struct.pack("!I", LIFE_S))
        + attribute(STATUS, struct.pack("!I", LIKE_ESTABLISHED)),
    )


def deletion(number: int, target: bytes, port: int) -> bytes:
    """Of the same flow."""
    source, source_port = (FIRST_SOURCE + number // 60_000).packed, 2000 + number % 60_000
    return message(CT_DELETE, 0, attribute(TUPLE_ORIG | NESTED, tuple_of(source, target, source_port, port)))


def _forget_answers(sock: socket.socket) -> None:
    while select.select([sock], [], [], 0)[0]:
        with contextlib.suppress(OSError):  # more of them than the queue holds
            sock.recv(65536)


def entries() -> int:
    """How many flows this namespace tracks."""
    return int((PROC / "nf_conntrack_count").read_text())


def fill(share: float, target: str) -> int:
    """Insert flows until `share` of the limit is reached; returns how many the table then holds."""
    return fill_to(int(share * int((PROC / "nf_conntrack_max").read_text())), target)


def fill_to(wanted: int, target: str, port: int = 4500) -> int:
    """Insert flows until the table holds so many; returns how many it then holds."""
    number, address = 0, ipaddress.IPv4Address(target).packed
    with _netlink() as sock:
        # The table's own entries come and go meanwhile, so its count is what ends this, not ours.
        while (count := entries()) < wanted and number < 2 * wanted:
            size = min(BATCH, wanted - count)
            sock.send(b"".join(insertion(number + i, address, port) for i in range(size)))
            number += size
            _forget_answers(sock)  # refusals, at the very end
    return entries()


def empty(target: str, port: int = 4500) -> None:
    """Take the inserted flows out again, a few at a time. Raises OSError.

    Not by one request for all: the kernel answers that in one go, a second long in User Mode Linux, where nothing else
    runs meanwhile.
    """
    number, address = 0, ipaddress.IPv4Address(target).packed
    with _netlink() as sock:
        while entries() > FEW and number < 2 * int((PROC / "nf_conntrack_max").read_text()):
            sock.send(b"".join(deletion(number + i, address, port) for i in range(BATCH)))
            number += BATCH
            _forget_answers(sock)


def flush() -> None:
    """Forget every flow of this namespace: a router that was switched off and on. Raises OSError."""
    with _netlink() as sock:
        sock.send(message(CT_DELETE, 0))
        _forget_answers(sock)


def track() -> None:
    """Have the kernel track flows here, with the rule of a stateful firewall. Raises CalledProcessError."""
    untrack()
    if subprocess.run(["nft", "-f", "-"], input=NFT_RULES.encode(), capture_output=True, check=False).returncode:
        subprocess.run(["iptables-legacy", "-w", "-t", "nat", "-A", *LEGACY_RULE], check=True)


def untrack() -> None:
    """Take the rule away again, whichever it was."""
    for family in ("ip", "ip6"):
        subprocess.run(["nft", "delete", "table", family, TABLE], capture_output=True, check=False)
    subprocess.run(["iptables-legacy", "-w", "-t", "nat", "-D", *LEGACY_RULE], capture_output=True, check=False)


@contextlib.contextmanager
def _netlink() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
        sock.settimeout(10)
        yield sock


def main() -> None:
    parser = argparse.ArgumentParser(prog="anycast-conntrack", description=__doc__)
    parser.add_argument("verb", choices=["track", "fill", "empty"])
    parser.add_argument("--to", required=True, help="the flows' target: an IPv4 address")
    parser.add_argument("--share", type=float, default=1.0, help="of the table's limit")
    options = parser.parse_args()
    try:
        match options.verb:
            case "track":
                track()
            case "fill":
                print(fill(options.share, options.to))
            case "empty":
                untrack()
                empty(options.to)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"anycast-conntrack: {error}")


if __name__ == "__main__":
    main()
