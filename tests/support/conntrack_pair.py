"""Two gateways' conntrack mirrors on two real kernels' tables, a wire between them that can fail, and flows to put there.

What a table holds is read by pyroute2, which shares no code with what is tested.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from anycast_lab.flood.conntrack import attribute
from site_agent.sync.conntrack_filter import MirroredFlows
from site_agent.sync.conntrack_mirror import ConntrackMirror
from site_agent.sync.conntrack_shell import ConntrackShell
from site_agent.sync.conntrack_words import Unsent
from site_agent.sync.numbers_words import Role, RoleChanged

POOL, POOL6 = "192.0.2.0/24", "2001:db8:5::/64"
SERVER, SERVER6, TRANSLATED = "198.51.100.2", "2001:db8:6::2", "198.51.100.77"
CLIENT, CLIENT6 = "192.0.2.2", "2001:db8:5::2"
GATEWAYS = ("192.0.2.1", "192.0.2.254", "198.51.100.1", TRANSLATED)
ONE, OTHER = "gw1", "gw2"
UDP, TCP = 17, 6
SEEN_REPLY, ASSURED, CONFIRMED = 2, 4, 8
NESTED = 0x8000
_libc = ctypes.CDLL(None, use_errno=True)


def run(*lines: str) -> None:
    for line in lines:
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """In another network namespace, for what is opened meanwhile."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        assert _libc.setns(there, 0) == 0
        yield
    finally:
        assert _libc.setns(before, 0) == 0
        os.close(before)
        os.close(there)


def netfilter(name: str) -> socket.socket:
    with inside(name):
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)


def tracked(*names: str) -> None:
    """Namespaces whose kernel tracks flows and translates, because a rule asks for it."""
    rules = "; ".join(
        f"add table {f} t; add chain {f} t c {{ type filter hook input priority 0; }}; "
        f"add rule {f} t c ct state established counter; add chain {f} t n {{ type nat hook postrouting priority 100; }}"
        for f in ("ip", "ip6")
    )
    for name in names:
        run(f"ip netns add {name}", f"ip -n {name} link set lo up", f"ip netns exec {name} nft '{rules}'")


# Flows, as bytes for a kernel


def _tuple(source: str, target: str, ports: tuple[int, int], protocol: int) -> bytes:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    kinds = (3, 4) if family == socket.AF_INET6 else (1, 2)
    ends = b"".join(attribute(k, socket.inet_pton(family, a)) for k, a in zip(kinds, (source, target), strict=True))
    l4 = attribute(1, bytes([protocol])) + b"".join(attribute(2 + i, struct.pack("!H", p)) for i, p in enumerate(ports))
    return attribute(1 | NESTED, ends) + attribute(2 | NESTED, l4)


def flow(
    port: int, *, source: str = CLIENT, target: str = SERVER, protocol: int = UDP, translated: str = "", timeout: int = 100,
    status: int = SEEN_REPLY | ASSURED | CONFIRMED, mark: int = 0, zone: int = 0, tcp_state: int = 0, extra: bytes = b"",
) -> bytes:  # fmt: skip
    """The body of an IPCTNL_MSG_CT_NEW, `struct nfgenmsg` included."""
    body = attribute(1 | NESTED, _tuple(source, target, (port, 53), protocol))
    body += attribute(2 | NESTED, _tuple(target, source, (53, port), protocol))
    body += attribute(3, struct.pack("!I", status)) + attribute(7, struct.pack("!I", timeout))
    if mark:
        body += attribute(8, struct.pack("!I", mark))
    if zone:
        body += attribute(18, struct.pack("!H", zone))
    if protocol == TCP:
        scales = attribute(2, b"\x07") + attribute(3, b"\x09") + attribute(4, b"\x01\x01") + attribute(5, b"\x01\x01")
        body += attribute(4 | NESTED, attribute(1 | NESTED, attribute(1, bytes([tcp_state])) + scales))
    if translated:
        to = attribute(1, socket.inet_aton(translated)) + attribute(3 | NESTED, attribute(1, struct.pack("!H", port + 1)))
        body += attribute(6 | NESTED, to)
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    return struct.pack("=BBH", family, 0, 0) + body + extra


def told(body: bytes, *, kind: int = 0x100, flags: int = 0) -> bytes:
    """As a kernel tells it."""
    whole = body.ljust((len(body) + 3) & ~3, b"\0")
    return struct.pack("=IHHII", 16 + len(whole), kind, flags, 1, 0) + whole


def ask(name: str, *bodies: bytes, kind: int = 0x100, flags: int = 0x605) -> list[int]:
    """Have a kernel take them; the errno of each."""
    answers = []
    with contextlib.closing(netfilter(name)) as sock:
        for body in bodies:
            sock.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
            answers.append(-struct.unpack_from("=i", sock.recv(4096), 16)[0])
    return answers


def insert(name: str, *bodies: bytes) -> None:
    assert ask(name, *bodies) == [0] * len(bodies)


def delete(name: str, *bodies: bytes) -> None:
    assert ask(name, *bodies, kind=0x102, flags=0x5) == [0] * len(bodies)


def change(name: str, *bodies: bytes) -> None:
    """Of flows that are there."""
    assert ask(name, *bodies, flags=0x5) == [0] * len(bodies)


# What a table holds


Flow = tuple[Any, ...]


def _ends(nested: Any) -> tuple[Any, ...]:
    ip, proto = nested.get_attr("CTA_TUPLE_IP"), nested.get_attr("CTA_TUPLE_PROTO")
    return (*(value for _, value in ip["attrs"]), *(value for _, value in proto["attrs"]))


def table(name: str) -> dict[Flow, dict[str, Any]]:
    """By original ends and zone."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:  # pyroute2 runs an event loop of its own
        return thread.submit(_table, name).result()


def _table(name: str) -> dict[Flow, dict[str, Any]]:
    entries: list[Any] = []
    for family in (socket.AF_INET, socket.AF_INET6):  # it asks for one at a time
        with inside(name), contextlib.closing(NFCTSocket(nfgen_family=family)) as sock:
            entries += sock.dump()
    found = {}
    for each in entries:
        state = tcp = None
        if (info := each.get_attr("CTA_PROTOINFO")) is not None:
            tcp = info.get_attr("CTA_PROTOINFO_TCP")
            state = tcp.get_attr("CTA_PROTOINFO_TCP_STATE") if tcp is not None else None
        zone = each.get_attr("CTA_ZONE") or 0
        found[(*_ends(each.get_attr("CTA_TUPLE_ORIG")), zone)] = {
            "reply": _ends(each.get_attr("CTA_TUPLE_REPLY")),
            "status": each.get_attr("CTA_STATUS") & 0x36,
            "mark": each.get_attr("CTA_MARK"),
            "state": state,
            "timeout": each.get_attr("CTA_TIMEOUT"),
            "tcp": tcp,
        }
    return found


def differences(one: str, other: str) -> list[Any]:
    """What they do not hold alike, but for timeouts and what only one kernel knows of TCP."""
    left, right = (
        {flow: {k: v for k, v in values.items() if k not in ("timeout", "tcp")} for flow, values in table(name).items()}
        for name in (one, other)
    )
    return [(flow, left.get(flow), right.get(flow)) for flow in left | right if left.get(flow) != right.get(flow)]


# The pair


class Gateway:
    def __init__(self, name: str, role: Role, *, prefixes: tuple[str, ...] = (POOL, POOL6)) -> None:
        self.name = name
        self.peer: Gateway | None = None
        self.cut = False
        self.loses: Callable[[bytes], bool] = lambda payload: False
        self.said: list[bytes] = []
        self.worked_off = 0
        self.mirror = ConntrackMirror(MirroredFlows(prefixes, GATEWAYS), role)
        self.shell = ConntrackShell(self.mirror, self._tell, self._done, lambda: True, open_socket=lambda: netfilter(name))

    def _tell(self, payload: bytes) -> None:
        self.said.append(payload)
        assert self.peer is not None
        if self.cut or self.loses(payload):
            self.shell.feed(Unsent())
        else:
            self.peer.shell.deliver(payload, 1)

    def _done(self, epoch: int) -> None:
        self.worked_off += epoch

    def becomes(self, role: Role) -> None:
        self.shell.feed(RoleChanged(role=role))


@contextlib.asynccontextmanager
async def mirrored(*roles: Role, connect: bool = True):  # type: ignore[no-untyped-def]
    """A started pair in the namespaces gw1 and gw2."""
    one, other = (Gateway(name, role) for name, role in zip((ONE, OTHER), roles or (Role.ACTIVE, Role.BACKUP), strict=True))
    one.peer, other.peer = other, one
    try:
        for each in (one, other):
            with inside(each.name):  # whose /proc/sys/net is meant
                each.shell.start()
        if connect:
            for each in (one, other):
                each.shell.connected(resumed=False)
        yield one, other
    finally:
        for each in (one, other):
            each.shell.close()


async def settle(*gateways: Gateway) -> None:
    """Until nothing is left to do and the kernels tell nothing new."""
    quiet = 0
    async with asyncio.timeout(10):
        while quiet < 10:
            await asyncio.sleep(0.001)
            quiet = quiet + 1 if all(each.shell.idle for each in gateways) else 0


async def round_of(active: Gateway, backup: Gateway) -> None:
    """One comparison, now."""
    backup.shell._tell(bytes([6, 0, 0, 0]) + bytes(1024))  # WANT, no bucket: sums, please
    await settle(active, backup)
