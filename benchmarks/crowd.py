"""20,000 clients that nobody has: a charon that lists them, and a kernel that holds their SAs.

    python -m benchmarks.crowd sas COUNT VIP
    python -m benchmarks.crowd vici COUNT VIP LISTEN BEHIND

`sas` has the kernel reserve an SPI for both directions of every client's CHILD_SA (XFRM_MSG_ALLOCSPI): SAs without keys,
which a kernel without ESP holds as well and lists like any other. `vici` stands between the agent and the real charon:
`list-sas` is answered with the crowd, in the bytes that the vici library makes and with the fields that charon 5.9.8 gives;
everything else is passed on to the real charon and back. The connection is called `operators`, as one that we did not write.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import sys
import threading
from typing import Any

from vici.protocol import Message, Packet

FIRST_CLIENT = ipaddress.IPv6Address("2001:db8:e::1")
FIRST_SPI_IN, FIRST_SPI_OUT = 0xC0000000, 0xD0000000
LENGTH = struct.Struct("!I")


def client_of(number: int, vip: str) -> str:
    """The outer address of a client, of the VIP's family: many behind few addresses where it is IPv4."""
    if ":" in vip:
        return str(FIRST_CLIENT + number)
    return str(ipaddress.IPv4Address("198.51.100.128") + number % 100)


def list_sa_event(number: int, vip: str) -> dict[str, Any]:
    """One `list-sa` event, as charon sends one for each IKE_SA."""
    client = client_of(number, vip)
    child = {
        "name": "operators",
        "uniqueid": str(number + 1),
        "reqid": str(number + 1),
        "state": "INSTALLED",
        "mode": "TUNNEL",
        "protocol": "ESP",
        "encap": "yes",
        "spi-in": f"{FIRST_SPI_IN + number:08x}",
        "spi-out": f"{FIRST_SPI_OUT + number:08x}",
        "encr-alg": "AES_GCM_16",
        "encr-keysize": "256",
        **{name: str(1000 + number) for name in ("bytes-in", "packets-in", "use-in", "bytes-out", "packets-out", "use-out")},
        "rekey-time": "3012",
        "life-time": "3599",
        "install-time": "361",
        "local-ts": ["192.0.2.0/28", "2001:db8:b::/64"],
        "remote-ts": [f"{ipaddress.IPv6Address('2001:db8:c::') + number}/128"],
    }
    ike = {
        "uniqueid": str(number + 1),
        "version": "2",
        "state": "ESTABLISHED",
        "local-host": vip,
        "local-port": "4500",
        "local-id": "vpn.example.org",
        "remote-host": client,
        "remote-port": str(1024 + number),
        "remote-id": f"client{number}.clients.vpn.example.org",
        "initiator-spi": f"{number + 1:016x}",
        "responder-spi": f"{~number & 0xFFFFFFFFFFFFFFFF:016x}",
        "nat-remote": "yes",
        "encr-alg": "AES_GCM_16",
        "encr-keysize": "256",
        "prf-alg": "PRF_HMAC_SHA2_384",
        "dh-group": "CURVE_25519",
        "established": "361",
        "rekey-time": "12961",
        "remote-vips": [str(ipaddress.IPv6Address("2001:db8:c::") + number)],
        "child-sas": {f"operators-{number + 1}": child},
    }
    return {"operators": ike}


def answer(count: int, vip: str) -> bytes:
    """The whole reply to `list-sas`: an event for each client, then the empty response."""
    name = b"list-sa"
    head = struct.pack("!BB", Packet.EVENT, len(name)) + name
    events = (head + Message.serialize(list_sa_event(number, vip)) for number in range(count))
    packets = [*events, struct.pack("!B", Packet.CMD_RESPONSE)]
    return b"".join(LENGTH.pack(len(packet)) + packet for packet in packets)


def receive(sock: socket.socket) -> bytes:
    """One packet with its length. Raises EOFError at the end."""
    head = _exactly(sock, LENGTH.size)
    return head + _exactly(sock, LENGTH.unpack(head)[0])


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (piece := sock.recv(size - len(data))):
            raise EOFError
        data += piece
    return data


def serve_client(client: socket.socket, behind: str, crowd: bytes) -> None:
    """Answer one connection until it ends."""
    with client, socket.socket(socket.AF_UNIX) as charon, contextlib.suppress(EOFError, OSError):
        connected = False
        while True:
            asked = receive(client)
            if asked[4:][:1] == bytes([Packet.CMD_REQUEST]) and asked[6 : 6 + asked[5]] == b"list-sas":
                client.sendall(crowd)
                continue
            if asked[4] in (Packet.EVENT_REGISTER, Packet.EVENT_UNREGISTER):  # of its own list, and nobody asks for others
                client.sendall(LENGTH.pack(1) + bytes([Packet.EVENT_CONFIRM]))
                continue
            if not connected:
                charon.connect(behind)
                connected = True
            charon.sendall(asked)
            client.sendall(receive(charon))


def serve(count: int, vip: str, listen: str, behind: str) -> None:
    """Stand in front of charon for ever. Prints one line when it is ready."""
    crowd = answer(count, vip)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(listen)
        listener.listen(16)
        print("ready", flush=True)
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve_client, args=(client, behind, crowd), daemon=True).start()


NETLINK_XFRM, ALLOCSPI, REQUEST = 6, 0x16, 1  # linux/netlink.h, linux/xfrm.h
ESP, TUNNEL = 50, 1
BATCH = 64


def allocate(source: str, target: str, spi: int, reqid: int) -> bytes:
    """`struct nlmsghdr`, `struct xfrm_userspi_info` (linux/xfrm.h): reserve exactly this SPI."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    daddr, saddr = (ipaddress.ip_address(address).packed for address in (target, source))
    selector = struct.pack("=56x")
    ident = struct.pack("=16sIB3x", daddr, 0, ESP)
    info = selector + ident + struct.pack("=16s64x32x12xIIHBBB7x", saddr, 0, reqid, family, TUNNEL, 0, 0)
    body = info + struct.pack("=II", spi, spi)
    return struct.pack("=IHHII", 16 + len(body), ALLOCSPI, REQUEST, 0, 0) + body


def fill(count: int, vip: str) -> None:
    """Have the kernel hold two SAs for each client. Raises OSError."""
    with open("/proc/sys/net/core/xfrm_acq_expires", "w") as expires:
        expires.write("86400")
    ends = [(client_of(n, vip), n) for n in range(count)]
    wanted = [(client, vip, FIRST_SPI_IN + n, n + 1) for client, n in ends]
    wanted += [(vip, client, FIRST_SPI_OUT + n, n + 1) for client, n in ends]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM) as sock:
        for start in range(0, len(wanted), BATCH):
            batch = wanted[start : start + BATCH]
            sock.send(b"".join(allocate(*one) for one in batch))
            for _ in batch:
                length, kind = struct.unpack_from("=IH", reply := sock.recv(4096))
                if kind == 2:  # NLMSG_ERROR; what it reserved otherwise
                    (error,) = struct.unpack_from("=i", reply, 16)
                    raise OSError(-error, f"{os.strerror(-error)}: ALLOCSPI ({length} bytes)")


def main() -> None:
    match sys.argv[1:]:
        case ["sas", count, vip]:
            fill(int(count), vip)
        case ["vici", count, vip, listen, behind]:
            serve(int(count), vip, listen, behind)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
