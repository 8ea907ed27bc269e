"""The gateway's one nftables table, made of its document. Pure.

`inet anycast` does four things and decides about nobody else's packets: no rule of it accepts or drops what the
operator's own chains would judge, except that the VIP never answers "port unreachable", that the site's virtual router
(by its id, on its interfaces) hears the other gateway only, and that charon is handed a mirror's SAs by root only.

* *No connection tracking for the gateway's own packets* (IKE and ESP at the VIP, BGP and BFD with the routers, VRRP on every
  path, the mirror's channel to the other gateway and its datagrams on loopback). BFD's two directions are two flows that
  nobody answers, the first that a full table forgets; and a full table that drops advertisements makes a second Active, or
  a Backup that knows no tunnels. A tunnel is one flow that charon and XFRM know already; garbage at the VIP
  would be an entry a packet, and a full table refuses the clients' flows. With them goes the ICMP that says "too big"
  about them: tracked, it would belong to nothing and be `invalid`. And so does UDP to a port of the VIP at which no
  socket waits, because who floods chooses the port: nobody would have received it. What the operator serves at the VIP
  beside IKE has a socket, and is tracked as ever. An operator's rules may live by tracking (`ct state new udp dport 500
  accept`); `untracking.py` says whether they do, and then `tracked` is what is loaded.
* *No ICMP "port unreachable" from the VIP.* While charon is restarted clients would take it for the end of their
  tunnel.
* *TCP's MSS is clamped* for flows of the client pools, both ways: see `clamped_mss`.

No rate limit: behind one carrier's NAT address are thousands of clients that all return at once after a failover, and
no number tells them from a flood. charon's cookies do.

The whole file is one transaction of the kernel (nft(8), "atomic rule replacement"), and it holds an empty chain whose
name is the digest of the rest. So who finds that chain knows that all of this text is in force, whatever nft's version
prints.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Literal

from anycast.document import Document
from site_agent.render.strongswan import HA_LOCAL, HA_REMOTE
from site_agent.render.templating import render
from site_agent.sync import ha_wire

TABLE = "anycast"
PATH_MTU = 1280
"""Bytes that every path carries: IPv6 allows no smaller link (RFC 8200 5), and tunnels before clients eat much of 1500."""
OUTER = 40 + 8
"""The larger of both outer IP headers, and UDP (RFC 3948)."""
ESP = 8 + 8 + 16
"""SPI and sequence number, explicit IV, integrity check value: the same for AES-GCM (RFC 4106) and ChaCha20-Poly1305
(RFC 7634), and a document has no other ciphers."""
ESP_TRAILER = 2
"""Pad length and next header, at the end of the last whole 4 bytes (RFC 4303 2.4)."""
INNER: dict[Literal["ipv4", "ipv6"], int] = {"ipv4": 20 + 20, "ipv6": 40 + 20}
"""IP and TCP headers without options, which is how an MSS counts (RFC 6691)."""


def clamped_mss(family: Literal["ipv4", "ipv6"], path_mtu: int = PATH_MTU) -> int:
    """The largest MSS whose segments pass `path_mtu` in ESP in UDP whole: 1158 for IPv4, 1138 for IPv6.

    On a path of 1500 bytes this costs 1.4 % of the throughput that its own MSS would have. What it saves is the client
    whose path drops ICMP "too big": it would connect, log in and then hang.
    """
    room = (path_mtu - OUTER - ESP) & ~3
    return room - ESP_TRAILER - INNER[family]


def render_nftables(document: Document) -> str:
    """The text of a file for ``nft -f``, which replaces our table and touches no other."""
    rules = render(
        "nftables.conf.j2",
        document=document,
        table=TABLE,
        vips=_by_family(document.service.ends),
        pools=_by_family(pool.prefix for pool in document.service.pools),
        sessions=[(_family(n.address), n.local_address, n.address) for n in document.bgp.neighbors],
        bfd=[(_family(n.address), n.local_address, n.address) for n in document.bgp.neighbors if n.bfd is not None],
        voices=[*_voices(document)],
        channel=_channel(document),
        ha={"ends": (HA_LOCAL, HA_REMOTE), "port": ha_wire.PORT},
        mss={family: clamped_mss(family) for family in INNER},
    )
    digest = hashlib.sha256(rules.encode()).hexdigest()[:16]
    return rules.replace(_PLACE, f"rendered_{digest}")


def marker(text: str) -> str:
    """The name of the chain that says that `text` is in force."""
    return next(line.split()[1] for line in text.splitlines() if line.startswith(("\tchain rendered_", "\tchain tracked_")))


def tracked(text: str) -> str:
    """`text` without its rules against connection tracking, with a marker of its own."""
    return _UNTRACKED.sub("", text).replace("chain rendered_", "chain tracked_")


_UNTRACKED = re.compile(r"\tchain untracked_(?:in|out) \{\n.*?\n\t\}\n", re.DOTALL)
_PLACE = "rendered_0"
"""What the template has for the marker, so that the digest is of everything else."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Voice:
    """VRRP of one family on one interface: between two addresses that are known, or to a group."""

    word: Literal["ip", "ip6"]
    interface: str
    vrid: int
    own: str
    """Empty: the interface's link-local one, to a group."""
    peer: str
    """Or the group."""

    @property
    def to_group(self) -> bool:
        """From whom its advertisements come is not known; the router's id says that they are ours."""
        return ipaddress.ip_address(self.peer).is_multicast


def _voices(document: Document) -> Iterator[_Voice]:
    if document.vrrp is None:
        return
    for path in document.vrrp.paths:
        for voice in path.voices:
            made = _Voice(
                word="ip6" if ":" in voice.destination else "ip", interface=path.interface, vrid=document.vrrp.vrid,
                own=voice.source, peer=voice.destination,
            )  # fmt: skip
            if made.own or made.to_group:
                yield made


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Channel:
    """The mirror's one TCP connection, which the gateway of rank 0 opens."""

    word: Literal["ip", "ip6"]
    interface: str
    own: str
    peer: str
    port: int
    own_side: Literal["sport", "dport"]
    """Where the port stands in what goes out."""
    peer_side: Literal["sport", "dport"]


def _channel(document: Document) -> _Channel | None:
    if (sync := document.sync) is None or document.management is None:
        return None
    return _Channel(
        word="ip6" if ":" in sync.own_address else "ip", interface=document.management.name, own=sync.own_address,
        peer=sync.peer_address, port=sync.port, own_side="sport" if sync.rank else "dport",
        peer_side="dport" if sync.rank else "sport",
    )  # fmt: skip


def _by_family(texts: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"ipv4": [], "ipv6": []}
    for text in texts:
        found[_family(text)].append(text)
    return found


def _family(text: str) -> Literal["ipv4", "ipv6"]:
    return "ipv4" if ipaddress.ip_network(text).version == 4 else "ipv6"
