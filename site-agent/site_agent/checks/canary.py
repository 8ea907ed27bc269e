"""Does a client of our own get in, and reach the inside? The canary connects to each VIP of this gateway as a stranger
would and sends echoes through its tunnels.

Shared, not a fact, although the tunnel ends at this very gateway: the certificate that expires, the root that signed it,
the servers inside and the profile that clients are given are the same everywhere. A canary that dies for one of these
dies at every site in the same minute, and a fleet that withdrew for it would be dark. So: an alarm, and what failed.

The value is the longest round trip through any tunnel in milliseconds. A kernel without ESP can carry no tunnel: then it
is said how far IKE came, and there is no alarm.

Where the Backup of a pair has no clients (a mirror's gate and door keep them away, or the VIPs themselves are the Active's),
it has no canary either: what it cannot do by design is no failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address

from anycast.document import Document
from anycast.errors import DecodeError, PeerError
from anycast.model import EvidenceClass, Status
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.canary.plan import outer_addresses
from site_agent.canary.process import Cage, Canary
from site_agent.canary.tunnels import NAME, Address, Echo, Reconnect, Tunnel, judge, read_tunnels, states, tunnel_name
from site_agent.checks.base import Finding, Timing, unknown
from site_agent.checks.icmp_echo import decode_reply, encode_request
from site_agent.ike.vici_client import Section

MAKING_S = 2.0
"""What one look waits for a cage that is being made."""
CONNECT_S = 4.0
"""For all tunnels together: two round trips and two signatures each, and one lost packet."""
REFUSED_S = 1.0
"""A handshake that is listed no more by then has failed; a CHILD_SA takes no longer either."""
POLL_S = 0.2
EXIT_KNOWN_S = 1.0
"""A charon that was killed closes its socket before the kernel tells of its end."""
LIST_LIMIT_S = 2.0
TRIES = 2
ANSWER_S = 1.0
RECEIVE_BYTES = 2048
IP_PKTINFO = 8
"""linux/in.h; Python's socket module knows IPv6's only."""


class CanaryCheck:
    """Reports `canary`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.SHARED}
    # One answer through the tunnel proves all that failed, so one look ends a failure. Three make one: 15 s, in which the
    # canary connects anew at least once.
    timing = Timing(interval_s=5.0, timeout_s=15.0, rise=1, fall=3)

    def __init__(self, canary: Canary, document: Document, *, active: Callable[[], bool] = lambda: True) -> None:
        """`active`: this gateway holds the site's addresses; asked only where a Backup takes no clients."""
        self._canary = canary
        self._active = active if document.sync is not None or document.vip_moves else lambda: True
        self._targets = tuple(ip_address(target) for target in canary.targets)
        self._names = tuple(tunnel_name(way.vip) for way in outer_addresses(document))
        self._reconnect = {name: Reconnect() for name in self._names}
        self._cage: Cage | None = None
        self._credentials: tuple[int, ...] = ()

    async def look(self) -> Sequence[Finding]:
        if not self._active():
            return [unknown(NAME, Reason.CHECK_UNAVAILABLE, "this gateway is Backup: clients are the other one's")]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MAKING_S):
                await self._canary.known()
        cage = self._canary.cage
        if cage is None:
            if self._canary.problem:
                return [unknown(NAME, Reason.CHECK_REFUSED, self._canary.problem)]
            return [unknown(NAME, Reason.CHECK_UNAVAILABLE, "its charon is starting")]
        if cage is not self._cage:
            self._cage = cage
            self._reconnect = {name: Reconnect() for name in self._names}
            self._credentials = self._canary.credentials_version()
        elif (credentials := self._canary.credentials_version()) != self._credentials:
            self._credentials = credentials
            for pace in self._reconnect.values():
                pace.renew()
        try:
            return [await self._through(cage)]
        except PeerError:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXIT_KNOWN_S):
                    while self._canary.cage is cage:
                        await asyncio.sleep(POLL_S)
            if self._canary.cage is cage:
                raise
            return [unknown(NAME, Reason.CHECK_UNAVAILABLE, "its charon has just ended")]

    async def _through(self, cage: Cage) -> Finding:
        tunnels = await self._connect(cage)
        if not cage.esp:
            return unknown(NAME, Reason.CHECK_UNAVAILABLE, f"this kernel has no ESP; {states(self._names, tunnels)}")
        echoes = await self._ask(cage, tunnels)
        for name, tunnel in tunnels.items():
            if tunnel.installed:
                answered = any(echo.rtt_ms is not None for echo in echoes if echo.tunnel == name)
                self._reconnect[name].looked(answered=answered)
        seen = judge(self._names, tunnels, echoes, self._canary.last_words)
        if seen.status is Status.PASSING:
            self._canary.forget_words()
        return seen

    async def _connect(self, cage: Cage) -> dict[str, Tunnel]:
        """The tunnels as they are after those that are missing or carry nothing, and are due, have been tried."""
        tunnels = await self._tunnels(cage)
        waiting = False
        for name in self._names:
            pace, tunnel = self._reconnect[name], tunnels.get(name)
            if tunnel is not None and not tunnel.established:
                waiting = True  # a handshake is under way; charon gives it up by itself
            elif tunnel is not None and tunnel.complete(esp=cage.esp):
                if pace.given_up(boottime()):
                    await self._end(cage, tunnel)
                    waiting = await self._initiate(cage, name)
            elif pace.due(boottime()):
                waiting = await self._initiate(cage, name)
        if waiting:
            began = boottime()
            while (spent_s := boottime() - began) < CONNECT_S:
                tunnels = await self._tunnels(cage)
                if all(name in tunnels and tunnels[name].complete(esp=cage.esp) for name in self._names):
                    break
                if spent_s > REFUSED_S and all(tunnel.established for tunnel in tunnels.values()):
                    break  # what is not there was refused: charon is not at it any more
                await asyncio.sleep(POLL_S)
        return tunnels

    async def _initiate(self, cage: Cage, name: str) -> bool:
        self._reconnect[name].tried(boottime())
        await self._canary.load(cage)
        await cage.vici.request("initiate", {"ike": name, "child": name, "timeout": "-1"}, timeout_s=LIST_LIMIT_S)
        return True

    async def _end(self, cage: Cage, tunnel: Tunnel) -> None:
        message = {"ike-id": tunnel.unique_id, "force": "yes", "timeout": "-1"}
        await cage.vici.request("terminate", message, timeout_s=LIST_LIMIT_S)

    async def _tunnels(self, cage: Cage) -> dict[str, Tunnel]:
        events: list[Section] = []
        await cage.vici.stream("list-sas", "list-sa", events.append, timeout_s=LIST_LIMIT_S)
        return {name: tunnel for name, tunnel in read_tunnels(events).items() if name in self._names}

    async def _ask(self, cage: Cage, tunnels: Mapping[str, Tunnel]) -> list[Echo]:
        """Each target through each tunnel that has an inner address of its family."""
        wanted = [
            (name, inner, target)
            for name, tunnel in tunnels.items()
            if tunnel.installed
            for inner in tunnel.inner
            for target in self._targets
            if inner.version == target.version
        ]
        rtts = await Echoes(cage.icmp).ask([(inner, target) for _, inner, target in wanted])
        return [Echo(name, str(target), rtt) for (name, _, target), rtt in zip(wanted, rtts, strict=True)]


class Echoes:
    """Echo requests of one look over sockets that were made in the canary's network namespace."""

    def __init__(self, sockets: Mapping[int, socket.socket]) -> None:
        self._sockets = sockets
        self._token = os.urandom(16)
        self._sent: dict[int, float] = {}
        self._answered: dict[int, float] = {}
        self._news = asyncio.Event()

    async def ask(self, pairs: Sequence[tuple[Address, Address]]) -> list[float | None]:
        """The round trip in milliseconds of each (source, target), None where no answer came."""
        loop = asyncio.get_running_loop()
        for version, sock in self._sockets.items():
            loop.add_reader(sock, self._receive, version, sock)
        try:
            for _ in range(TRIES):
                for number, (source, target) in enumerate(pairs):
                    if number not in self._answered:
                        self._send(number, source, target)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ANSWER_S):
                        while len(self._answered) < len(pairs):
                            self._news.clear()
                            await self._news.wait()
        finally:
            for sock in self._sockets.values():
                loop.remove_reader(sock)
        return [self._answered.get(number) for number in range(len(pairs))]

    def _send(self, number: int, source: Address, target: Address) -> None:
        # The source chooses the tunnel: the policy of each has its own inner address.
        level, kind, info = (
            (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4x", 0, source.packed))
            if source.version == 4
            else (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source.packed + bytes(4))
        )
        message = encode_request(source.version, os.getpid() & 0xFFFF, number, self._token)
        self._sent[number] = boottime()
        with contextlib.suppress(OSError):  # no tunnel any more: the kernel blocks it, and no answer comes
            self._sockets[source.version].sendmsg([message], [(level, kind, info)], 0, (str(target), 0))

    def _receive(self, version: int, sock: socket.socket) -> None:
        try:
            reply = decode_reply(version, sock.recv(RECEIVE_BYTES), ip_header=version == 4)
        except (OSError, DecodeError):
            return
        if reply is not None and reply.payload == self._token and reply.sequence in self._sent:
            self._answered.setdefault(reply.sequence, (boottime() - self._sent[reply.sequence]) * 1e3)
            self._news.set()
