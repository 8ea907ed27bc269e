"""Asks the routers on the uplink whether they are there, over a packet socket a family, and tells when the answer changes.

Runs beside the checks in the agent's loop. Six questions a second at a lease of one second. A socket filter in the kernel
lets only answers for the asked addresses through, and of those no more than a handful a round are read: no flood costs more.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_interface
from typing import Any

from anycast.document import Document
from anycast.errors import DecodeError
from anycast.runtime import boottime, drive
from site_agent.netlink.addresses import Interface
from site_agent.vrrp.interfaces import Facts, facts_of
from site_agent.vrrp.neighbours import ETH_P_ARP, ETH_P_IPV6
from site_agent.vrrp.packet import Address
from site_agent.vrrp.socket_filter import attach
from site_agent.vrrp.solicitations import answers_only, decode_answer, parse, solicitation
from site_agent.vrrp.uplink_proof import Answered, Ask, Flooded, LinkSeen, Proven, UplinkProof

LONGEST = 256
FRAMES_PER_ROUND = 16
"""Far more than witnesses and peers have addresses."""
_VIRTUAL_MACS = ("00005e0001", "00005e0002")
"""IPv4's and IPv6's, with the virtual router id behind (RFC 9568 section 7.3): ours, where the other router has one."""


def witness_of(document: Document, tell: Callable[[bool | None], None]) -> UplinkWitness | None:
    """What the document wants asked; None where nobody is to be, or nobody can be for want of an own address."""
    if document.vrrp is None or not document.vrrp.witnesses:
        return None
    own = tuple(ip_interface(address) for address in document.uplink.addresses)
    families = {address.version for address in own}
    outside = [voice for path in document.vrrp.paths if path.path == "outside" for voice in path.voices]
    peers = [address for address in parse(voice.destination for voice in outside) if not address.is_multicast]
    witnesses = [address for address in parse(document.vrrp.witnesses) if address.version in families]
    if not witnesses:
        return None
    return UplinkWitness(
        interface=document.uplink.name,
        own=own,
        witnesses=witnesses,
        peers=[address for address in peers if address.version in families],
        vrid=document.vrrp.vrid,
        lease_s=document.lease.duration_ms / 1000,
        tell=tell,
    )


class UplinkWitness:
    """`run` once, in the event loop's thread."""

    def __init__(
        self,
        *,
        interface: str,
        own: Sequence[Interface],
        witnesses: Sequence[Address],
        peers: Sequence[Address],
        vrid: int,
        lease_s: float,
        tell: Callable[[bool | None], None],
    ) -> None:
        """`own`: our addresses on `interface`, of each family that is asked. `tell` takes what is proven, as it changes."""
        self._interface, self._tell = interface, tell
        self._asked = {address: _source_for(address, own) for address in (*witnesses, *peers)}
        never = [bytes.fromhex(f"{prefix}{vrid:02x}") for prefix in _VIRTUAL_MACS]
        self._core = UplinkProof(witnesses=witnesses, peers=peers, never=never, lease_s=lease_s, now=boottime())
        self._inbox: asyncio.Queue[Answered | Flooded | LinkSeen] = asyncio.Queue()
        self._facts: Facts | None = None
        self._sockets: dict[int, socket.socket] = {}
        """By IP version."""
        self._left = 0
        """Frames that are read in this round."""

    @property
    def proven(self) -> bool | None:
        return self._core.proven

    def describe(self) -> dict[str, Any]:
        """For `status`."""
        return {"uplink_proven": self._core.proven, "witnesses": [str(address) for address in self._core.witnesses]}

    async def run(self) -> None:
        """Until cancelled."""
        self._look()
        try:
            await drive(self._core, self._inbox, self._perform)
        except Exception:
            self._tell(None)  # nobody asks any more
            raise
        finally:
            self._close()

    def _perform(self, action: Ask | Proven) -> None:
        if isinstance(action, Proven):
            self._tell(action.proven)
            return
        self._look()
        sock, source = self._sockets.get(action.address.version), self._asked[action.address]
        if sock is None or self._facts is None:
            return  # counts as asked in vain: nothing passes a link that is not there
        try:
            sock.send(solicitation(action.address, source, self._facts.mac, action.to))
        except OSError:
            self._close()

    def _look(self) -> None:
        """At the interface, whose index and MAC address may have changed; opens what is not open."""
        facts, versions = facts_of(self._interface), {address.version for address in self._asked}
        if facts != self._facts or self._sockets.keys() != versions:
            self._close()
            self._facts = facts
            if facts is not None:
                self._inbox.put_nowait(LinkSeen(facts.mac))
                for version in versions:
                    with contextlib.suppress(OSError):
                        self._open(version)
        self._left = FRAMES_PER_ROUND

    def _open(self, version: int) -> None:
        kind = ETH_P_ARP if version == 4 else ETH_P_IPV6
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        try:
            program = answers_only(kind, [address for address in self._asked if address.version == version])
            attach(sock, program)
            sock.bind((self._interface, kind))
        except OSError:
            sock.close()
            raise
        self._sockets[version] = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable, sock)

    def _readable(self, sock: socket.socket) -> None:
        try:
            frame, sender = sock.recvfrom(LONGEST)
        except BlockingIOError:
            return
        except OSError:  # the interface is down, or gone: the next round looks
            return
        if sender[2] != socket.PACKET_OUTGOING:
            with contextlib.suppress(DecodeError):
                self._inbox.put_nowait(Answered(decode_answer(frame, self._asked)))
        self._left -= 1
        if self._left <= 0:
            self._inbox.put_nowait(Flooded())
            self._close()  # and what waits in them is forgotten

    def _close(self) -> None:
        for sock in self._sockets.values():
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        self._sockets = {}


def _source_for(address: Address, own: Sequence[Interface]) -> Address:
    """Ours in the same subnet, otherwise the first of the family."""
    of_family = [interface for interface in own if interface.version == address.version]
    return next((i.ip for i in of_family if address in i.network), of_family[0].ip)
