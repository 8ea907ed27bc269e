"""Codec of VICI's `list-sa` events: the client CHILD_SAs that charon believes in, and what each needs of the kernel.

A CHILD_SA in tunnel mode needs two SAs, and for each pair of traffic selectors of one family a policy out, in and forward
(strongSwan, src/libcharon/sa/child_sa.c). Traffic selectors are written as charon writes them: a network, or a range, which
charon widens to the network around it, followed by protocol and ports in brackets.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from anycast.errors import PeerError
from site_agent.ike.clients import NOWHERE, printable
from site_agent.netlink.xfrm_keys import (
    FORWARD,
    IN,
    OUT,
    PackedNetwork,
    PolicyKey,
    SaKey,
    make_policy_key,
    make_sa_key,
    pack_network,
)

PROTOCOLS = {"ESP": 50, "AH": 51}
CARRYING = frozenset({b"INSTALLED", b"REKEYING"})
"""States in which a CHILD_SA carries its client's packets; REKEYING lasts until the client has answered."""


@dataclasses.dataclass(frozen=True, slots=True)
class ChildSa:
    """One client CHILD_SA as charon sees it."""

    unique_id: str
    ike_id: str
    """Unique id of the IKE_SA that it belongs to."""
    connection: str
    child: str
    """Their names in swanctl.conf."""
    reqid: int
    """What binds policies to SAs; a rekey keeps it."""
    sas: tuple[SaKey, SaKey]
    """The inbound and the outbound SA that must be in the kernel."""
    policies: frozenset[PolicyKey]
    """Policies that must be there; none for modes other than tunnel."""
    carrying: bool
    """charon takes it for up: neither being made nor replaced."""
    rekeying: bool
    """A request to rekey it is with the client."""
    identity: str = ""
    """The client's IKE identity."""

    @property
    def name(self) -> str:
        """As swanctl and charon's log write it."""
        return f"{self.child}{{{self.unique_id}}}"


def client_child_sas(event: dict[str, Any], vips: frozenset[str]) -> list[ChildSa]:
    """The CHILD_SAs with SPIs in one `list-sa` event whose tunnels end at a VIP, carrying or not. Raises PeerError."""
    found = []
    try:
        for connection, ike_sa in event.items():
            if NOWHERE in (ike_sa["local-host"], ike_sa["remote-host"]):
                continue
            local = _address(ike_sa["local-host"])
            if str(local) not in vips:
                continue
            remote = ip_address(ike_sa["remote-host"].decode())
            for child in ike_sa.get("child-sas", {}).values():
                if "spi-in" not in child:  # a trap or a CHILD_SA that is still negotiated
                    continue
                state, reqid = child["state"], int(child["reqid"])
                protocol = PROTOCOLS[child["protocol"].decode()]
                found.append(
                    ChildSa(
                        unique_id=child["uniqueid"].decode(),
                        ike_id=ike_sa["uniqueid"].decode(),
                        connection=connection,
                        child=child["name"].decode(),
                        reqid=reqid,
                        sas=(
                            make_sa_key(local, protocol, int(child["spi-in"], 16)),
                            make_sa_key(remote, protocol, int(child["spi-out"], 16)),
                        ),
                        policies=_policies(reqid, child) if child["mode"] == b"TUNNEL" else frozenset(),
                        carrying=state in CARRYING,
                        rekeying=state == b"REKEYING",
                        identity=printable(ike_sa.get("remote-id", b"")),
                    )
                )
    except (KeyError, ValueError, AttributeError, TypeError, OverflowError, struct.error) as exc:
        raise PeerError("charon", f"list-sas: cannot be understood: {exc!r}") from exc
    return found


def parse_selector(text: str) -> PackedNetwork:
    """The network of a traffic selector as charon prints it. Raises ValueError."""
    span = text.partition("[")[0]
    first, slash, length = span.partition("/")
    if slash:
        return pack_network(ip_address(first), int(length))
    first, dots, last = span.partition("..")
    low, high = ip_address(first), ip_address(last if dots else first)
    if low.version != high.version:
        raise ValueError(f"{text!r} is a range over two families")
    host_bits = (int(low) ^ int(high)).bit_length()
    network = type(low)(int(low) >> host_bits << host_bits)
    return pack_network(network, low.max_prefixlen - host_bits)


_address = functools.lru_cache(maxsize=64)(lambda text: ip_address(text.decode()))
"""Of our own side: the same few for all tunnels of a gateway, and parsing is what a look at 20,000 of them consists of."""


@functools.lru_cache(maxsize=64)
def _our_selectors(texts: tuple[bytes, ...]) -> tuple[PackedNetwork, ...]:
    return _selectors(texts)


def _selectors(texts: Iterable[bytes]) -> tuple[PackedNetwork, ...]:
    return tuple(parse_selector(text.decode()) for text in texts)


def _policies(reqid: int, child: dict[str, Any]) -> frozenset[PolicyKey]:
    packed, keys = struct.pack("=I", reqid), list[PolicyKey]()
    theirs = _selectors(child.get("remote-ts", ()))
    for here in _our_selectors(tuple(child.get("local-ts", ()))):
        for there in theirs:
            if here.family == there.family:
                keys.append(make_policy_key(OUT, packed, here, there))
                keys.append(make_policy_key(IN, packed, there, here))
                keys.append(make_policy_key(FORWARD, packed, there, here))
    return frozenset(keys)
