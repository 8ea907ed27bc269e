"""`python -m anycast_lab.flood.mappings rebind --outside ADDRESS CLIENT…`: a NAT router forgets them.

One is given another port from then on; with two, each is given the other's. `forget CLIENT…` takes that back. One process
for all of it, because each that starts takes User Mode Linux a tenth of a second, and a client waits for four seconds. Raw
ctnetlink, as in `conntrack`: a router of the lab has no other program for it.

What comes in for a forgotten port is dropped meanwhile, as a carrier's NAT drops what it has no mapping for. Else the
gateway's packets would make the router remember a flow of its own there, which takes that port.
"""

from __future__ import annotations

import argparse
import ipaddress
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from anycast_lab.flood import conntrack
from anycast_lab.flood.conntrack import (
    IP_V4_SRC,
    NESTED,
    PROTO_DST_PORT,
    PROTO_NUM,
    TUPLE_IP,
    TUPLE_ORIG,
    TUPLE_PROTO,
    TUPLE_REPLY,
    UDP,
)

CT_GET = 1 << 8 | 1
DUMP = 0x300
_HEADER, _DONE, _ERROR = 16, 3, 2
_IKE = 4500
OTHER_PORTS = "20000-29999"
CHAIN = "anycast_drill"
"""Of its own in each table, so that all of it goes at once."""
_WAIT_S = 20.0
"""No bound that is asserted: clients send many times a second."""


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type without its flag, and payload. Ends where what is left is no whole attribute."""
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4 or at + length > len(data):
            return
        yield kind & ~NESTED & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


def _tuple(body: bytes) -> dict[tuple[int, int], bytes]:
    """(``TUPLE_IP`` or ``TUPLE_PROTO``, attribute) -> its bytes."""
    return {(part, kind): value for part, inner in attributes(body) for kind, value in attributes(inner)}


def flow(body: bytes) -> Mapping[int, dict[tuple[int, int], bytes]]:
    """Both tuples of a ctnetlink message's attributes."""
    return {kind: _tuple(value) for kind, value in attributes(body) if kind in (TUPLE_ORIG, TUPLE_REPLY)}


def outside_port(body: bytes) -> int | None:
    """Of a UDP flow to port 4500: where its answers go to. None for any other."""
    both = flow(body)
    original, reply = both.get(TUPLE_ORIG, {}), both.get(TUPLE_REPLY, {})
    if original.get((TUPLE_PROTO, PROTO_NUM)) != bytes([UDP]):
        return None
    to, answers = original.get((TUPLE_PROTO, PROTO_DST_PORT)), reply.get((TUPLE_PROTO, PROTO_DST_PORT))
    if to is None or answers is None or struct.unpack("!H", to)[0] != _IKE:
        return None
    return int(struct.unpack("!H", answers)[0])


def source(body: bytes) -> str:
    address = flow(body).get(TUPLE_ORIG, {}).get((TUPLE_IP, IP_V4_SRC), b"")
    return str(ipaddress.IPv4Address(address)) if len(address) == 4 else ""


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < _HEADER:
            return
        yield kind, data[at + _HEADER : at + length]
        at += (length + 3) & ~3


def of(addresses: set[str]) -> list[bytes]:
    """The attributes of every flow that one of these began. Raises OSError."""
    found: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, conntrack.NETLINK_NETFILTER) as sock:
        sock.settimeout(10)
        sock.send(conntrack.message(CT_GET, DUMP))
        while True:
            for kind, payload in _messages(sock.recv(1 << 17)):
                if kind in (_DONE, _ERROR):
                    return found
                if source(payload[4:]) in addresses:
                    found.append(payload[4:])


def forget(addresses: set[str]) -> int:
    """How many flows were deleted. Raises OSError."""
    found = of(addresses)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, conntrack.NETLINK_NETFILTER) as sock:
        sock.settimeout(10)
        for body in found:
            wanted = (conntrack.attribute(kind | NESTED, value) for kind, value in attributes(body) if kind == TUPLE_ORIG)
            sock.send(conntrack.message(conntrack.CT_DELETE, 0, b"".join(wanted)))
    return len(found)


def ports_of(address: str) -> list[int]:
    """Where answers to the client's flows to port 4500 go to. Raises OSError."""
    return sorted({port for body in of({address}) if (port := outside_port(body)) is not None})


def rules(outside: str, given: Mapping[str, str], blind: Sequence[int]) -> str:
    """For iptables-restore: the port or ports that each client is given, and those that nothing comes in by."""
    raw = [f"-A {CHAIN} -d {outside} -p udp --dport {port} -j DROP" for port in blind]
    nat = [f"-A {CHAIN} -s {client} -p udp -j SNAT --to-source {outside}:{ports}" for client, ports in given.items()]
    lines = ["*raw", f":{CHAIN} - [0:0]", *raw, "COMMIT", "*nat", f":{CHAIN} - [0:0]", *nat, "COMMIT", ""]
    return "\n".join(lines)


def _restore(text: str) -> None:
    """Raises CalledProcessError."""
    subprocess.run(["iptables-legacy-restore", "--noflush", "-w"], input=text.encode(), check=True)


def _hook(verb: str) -> None:
    """Raises CalledProcessError where -I fails."""
    for table, chain in (("raw", "PREROUTING"), ("nat", "POSTROUTING")):
        words = ["iptables-legacy", "-w", "-t", table, verb, chain, "-j", CHAIN]
        subprocess.run(words, check=verb == "-I", stderr=None if verb == "-I" else subprocess.DEVNULL)


def rebind(outside: str, clients: Sequence[str]) -> None:
    """Returns when each has sent by its new port. Raises OSError, CalledProcessError, TimeoutError."""
    had = {client: ports_of(client) for client in clients}
    if any(len(ports) != 1 for ports in had.values()):
        raise OSError(f"not one mapping for each: {had}")
    others = {client: [str(ports[0]) for other, ports in had.items() if other != client] for client in clients}
    given = {client: ports[0] if ports else OTHER_PORTS for client, ports in others.items()}
    _restore(rules(outside, {}, ()))
    _hook("-I")
    _restore(rules(outside, given, [ports[0] for ports in had.values()]))
    forget(set(clients))
    end = time.monotonic() + _WAIT_S
    while waiting := [client for client in clients if not ports_of(client)]:
        if time.monotonic() >= end:
            raise TimeoutError(f"{' and '.join(waiting)} send nothing")
        time.sleep(0.01)
    _restore(rules(outside, given, ()))


def undo(clients: Sequence[str]) -> None:
    """Every client gets what the router gives by itself."""
    _hook("-D")
    forget(set(clients))


def main() -> None:
    parser = argparse.ArgumentParser(prog="anycast-mappings", description=__doc__)
    parser.add_argument("verb", choices=["rebind", "forget"])
    parser.add_argument("--outside", help="the address that all of them are behind")
    parser.add_argument("clients", nargs="+", metavar="CLIENT", help="its address inside")
    options = parser.parse_args()
    try:
        if options.verb == "rebind":
            rebind(options.outside, options.clients)
        else:
            undo(options.clients)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"anycast-mappings: {error}")


if __name__ == "__main__":
    main()
