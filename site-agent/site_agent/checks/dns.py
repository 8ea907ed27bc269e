"""Does the service's name lead to the service's addresses, at each authoritative server?

Shared, not a fact: one zone serves all sites, so one slip of one hand, or one lost name server, shows at every gateway at
once. Withdrawing on it would make of a wrong record an outage of the whole fleet, while every client that knows the
address, and every tunnel, goes on. So: an alarm, and the coordinator's token before anything in BGP changes.

The servers are asked directly, without recursion, over UDP and, where the answer is truncated, TCP. A server is asked twice
before it counts as silent: one lost datagram is none of its doing. Silence counts as failing and not as UNKNOWN, because it
is what this check looks for; rise and fall keep it steady.

A stranger can send datagrams with a server's address. Each question therefore leaves from a connected socket of its own,
with a source port and an id drawn at random. What does not carry that id and that question is passed over after a comparison
of bytes, one datagram an iteration of the loop; what does is read by a codec whose work is bounded (`dns_message`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import socket
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address

from anycast.errors import DecodeError
from anycast.model import EvidenceClass
from site_agent.checks.base import Finding, Timing
from site_agent.checks.dns_message import (
    TCP_BYTES,
    UDP_BYTES,
    Reply,
    decode_reply,
    encode_query,
    is_answer,
    rcode_text,
)
from site_agent.checks.name_answers import Answer, judge

NAME = "dns"
PORT = 53
TRIES = 2
ANSWER_SHARE = 0.9
"""Of a look's time limit that the servers have; in the rest the look can still say which of them were silent."""
LOWEST_SOURCE_PORT = 1024 * 16
"""Drawn from here to the end: 49,152 ports (RFC 5452 section 9.2), above those that services are configured with."""
PORT_DRAWS = 16


class DnsCheck:
    """Reports `dns`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.SHARED}
    timing = Timing(interval_s=10.0, timeout_s=4.0, rise=2, fall=2)

    def __init__(
        self, identity: str, vips: Iterable[str], servers: Sequence[str], *, timeout_s: float = timing.timeout_s
    ) -> None:
        """`servers` are addresses; `timeout_s` is the limit of one look, which a fleet may set."""
        self._identity, self._servers = identity, tuple(servers)
        self._vips = frozenset(ip_address(vip) for vip in vips)
        self._patience_s = ANSWER_SHARE * timeout_s / TRIES

    async def look(self) -> Sequence[Finding]:
        asked = [(server, kind) for server in self._servers for kind in ("A", "AAAA")]
        answers = await asyncio.gather(*(self._ask(server, kind) for server, kind in asked))
        return [judge(NAME, self._identity, self._vips, answers)]

    async def _ask(self, server: str, kind: str) -> Answer:
        problem = ""
        for _ in range(TRIES):
            query = encode_query(self._identity, kind, secrets.randbits(16))
            try:
                async with asyncio.timeout(self._patience_s):
                    reply = await _over_udp(server, query)
                    if reply.truncated:
                        reply = await _over_tcp(server, query)
                return read(server, reply)
            except TimeoutError:
                problem = f"no answer within {TRIES * self._patience_s:g} s"
            except (OSError, EOFError) as exc:
                problem = f"not reached: {getattr(exc, 'strerror', None) or 'the connection was closed'}"
            except DecodeError as exc:
                return Answer(server=server, problem=f"unintelligible answer ({exc})")
        return Answer(server=server, problem=problem, silent=True)


def read(server: str, reply: Reply) -> Answer:
    """What `server` says of the name that it was asked for."""
    problem = ""
    if reply.rcode:
        problem = rcode_text(reply.rcode)
    elif reply.alias and not reply.addresses:
        problem = f"an alias of {reply.alias} and no address"
    return Answer(server=server, addresses=reply.addresses, authoritative=reply.authoritative, problem=problem)


async def _over_udp(server: str, query: bytes) -> Reply:
    """The first answer to `query`; everything else is passed over. Raises OSError, DecodeError. Cancel freely."""
    loop = asyncio.get_running_loop()
    with contextlib.closing(_connected(server)) as sock:
        sock.send(query)
        while True:
            data = await loop.sock_recv(sock, UDP_BYTES + 1)
            if len(data) <= UDP_BYTES and is_answer(data, query):
                return decode_reply(data, query)
            # `sock_recv` does not yield while something waits: a flood must leave everybody else their turn.
            await asyncio.sleep(0)


def _connected(server: str) -> socket.socket:
    """A UDP socket that hears nobody but `server`, at a port drawn at random. Raises OSError."""
    family = socket.AF_INET if ip_address(server).version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        for draw in range(PORT_DRAWS):
            try:
                sock.bind(("", LOWEST_SOURCE_PORT + secrets.randbelow(65536 - LOWEST_SOURCE_PORT)))
                break
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE or draw == PORT_DRAWS - 1:
                    raise
        sock.connect((server, PORT))
    except OSError:
        sock.close()
        raise
    return sock


async def _over_tcp(server: str, query: bytes) -> Reply:
    """The answer behind a truncated one (RFC 7766). Raises OSError, EOFError, DecodeError. Cancel freely."""
    reader, writer = await asyncio.open_connection(server, PORT, limit=TCP_BYTES)
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        length = int.from_bytes(await reader.readexactly(2), "big")
        if length > TCP_BYTES:
            raise DecodeError("message", 0, f"{length} bytes, more than {TCP_BYTES}")
        reply = decode_reply(await reader.readexactly(length), query)
        if reply.truncated:
            raise DecodeError("message", 0, "truncated over TCP")
        return reply
    finally:
        writer.transport.abort()
