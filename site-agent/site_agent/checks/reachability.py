"""Do the addresses answer that the operator wants reachable from every gateway?

Shared, not a fact: what is central to all sites fails for all of them at once, and so does a firewall rule against echoes.
An echo that is lost says nothing of this gateway's own service. So: an alarm that names the silent ones.

ICMP echo without starting a program: a ping socket where the kernel lets our group have one (net.ipv4.ping_group_range),
else a raw socket, which takes CAP_NET_RAW. Sockets are connected, so the kernel hands on only what comes from the target.
The value is the worst round-trip time in milliseconds of those that answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import socket
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from anycast.errors import DecodeError, KernelError
from anycast.model import EvidenceClass
from anycast.reasons import Reason
from site_agent.checks.base import Finding, Timing, failing, passing
from site_agent.checks.icmp_echo import decode_reply, encode_request

NAME = "reachability"
TRIES = 3
ANSWER_SHARE = 0.9
"""Of a look's time limit that the targets have; in the rest the look can still say which of them were silent."""
TOKEN_BYTES = 16
RECEIVE_BYTES = 2048
CLOSED_TO_US = (errno.EACCES, errno.EPERM, errno.EPROTONOSUPPORT)
"""Why a ping socket may be refused: the group is outside the range, or the kernel was built without them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Echo:
    """What became of one target."""

    target: str
    rtt_ms: float | None
    problem: str = ""
    """Why there was no reply."""


class ReachabilityCheck:
    """Reports `reachability`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.SHARED}
    timing = Timing(interval_s=5.0, timeout_s=3.0, rise=2, fall=2)

    def __init__(self, targets: Sequence[str], *, timeout_s: float = timing.timeout_s) -> None:
        """`timeout_s` is the limit of one look, which a fleet may set."""
        self._targets = tuple(targets)
        self._patience_s = ANSWER_SHARE * timeout_s / TRIES

    async def look(self) -> Sequence[Finding]:
        return [judge(await asyncio.gather(*(echo(target, self._patience_s) for target in self._targets)))]


def judge(echoes: Sequence[Echo]) -> Finding:
    """All targets of one look together."""
    reached = {e.target: e.rtt_ms for e in echoes if e.rtt_ms is not None}
    value = max(reached.values(), default=None)
    if len(reached) == len(echoes):
        return passing(NAME, ", ".join(f"{target} {rtt:.1f} ms" for target, rtt in reached.items()), value)
    silent = ", ".join(f"{e.target} ({e.problem})" for e in echoes if e.rtt_ms is None)
    which = f"{len(echoes) - len(reached)} of {len(echoes)} unreachable" if reached else "all unreachable"
    return failing(NAME, Reason.TARGET_UNREACHABLE, f"{which}: {silent}", value)


async def echo(target: str, patience_s: float) -> Echo:
    """Ask `target` up to `TRIES` times for an echo, waiting `patience_s` for each. Raises KernelError without a socket."""
    version, loop = ip_address(target).version, asyncio.get_running_loop()
    sock, ip_header = _open(version)
    token = os.urandom(TOKEN_BYTES)
    problem = f"no answer within {TRIES * patience_s:g} s"
    with contextlib.closing(sock):
        try:
            sock.connect((target, 0))
        except OSError as exc:
            return Echo(target, None, exc.strerror or "no route")
        for sequence in range(TRIES):
            sent = time.monotonic()
            try:
                async with asyncio.timeout(patience_s):
                    sock.send(encode_request(version, os.getpid() & 0xFFFF, sequence, token))
                    while not _is_ours(await loop.sock_recv(sock, RECEIVE_BYTES), version, ip_header, sequence, token):
                        await asyncio.sleep(0)  # what is queued already does not wait: a flood must not starve the loop
                return Echo(target, (time.monotonic() - sent) * 1e3)
            except TimeoutError:
                continue
            except OSError as exc:  # a router's word about the target, or our own kernel's: the next try comes a while later
                problem = exc.strerror or problem
                await asyncio.sleep(max(0.0, sent + patience_s - time.monotonic()))
    return Echo(target, None, problem)


def _is_ours(data: bytes, version: int, ip_header: bool, sequence: int, token: bytes) -> bool:
    try:
        reply = decode_reply(version, data, ip_header=ip_header)
    except DecodeError:  # whatever it was, it is no answer
        return False
    return reply is not None and (reply.sequence, reply.payload) == (sequence, token)


def _open(version: int) -> tuple[socket.socket, bool]:
    """A socket for echoes of IP `version`, and whether it hands on the IP header."""
    family, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    refused = 0
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
        except OSError as exc:
            refused = exc.errno or errno.EPERM
            if refused not in CLOSED_TO_US:
                break
            continue
        return sock, kind == socket.SOCK_RAW and version == 4
    raise KernelError(refused, "a socket for ICMP echoes (net.ipv4.ping_group_range or CAP_NET_RAW allows one)")
