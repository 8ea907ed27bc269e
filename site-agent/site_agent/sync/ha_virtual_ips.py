"""A message of strongSwan's `ha` plugin that we say to a gateway's own charon: this client has these inner addresses.

charon tells its peer of them once, when it hands them out. An IKE_SA that the peer learns later, because it was rekeyed,
comes there without (strongSwan 5.9.8, measured): CHILD_SAs live on, but the next rekey of one ends with "no acceptable
traffic selectors found", whoever begins it, because they are narrowed to the addresses that the IKE_SA has. The CHILD_SAs'
own selectors say which they are, so each gateway looks at its own charon and says it again.

    version (1)  IKE_UPDATE (1)  IKE_ID (1)  ike_sa_id (18)  { REMOTE_VIP (1)  port (2)  family (1)  address (4 or 16) }

As charon writes it (ha_message.c: host_encoding_t; compared with its own). Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

from anycast.errors import PeerError
from site_agent.ike.mirror_view import ike_spis
from site_agent.netlink.xfrm import AF_INET, AF_INET6
from site_agent.sync.ha_forget import ike_id
from site_agent.sync.ha_wire import MessageType

HA_REMOTE_VIP = 12
_HOST = struct.Struct(">BHB")
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Lacking(NamedTuple):
    """An IKE_SA whose charon does not know all inner addresses that its CHILD_SAs carry."""

    spis: bytes
    """Initiator's and responder's."""
    initiator: bool
    """This charon is the initiator."""
    addresses: tuple[Address, ...]
    """All of them: what is said replaces what charon knows."""


def encode_virtual_ips(version: int, lacking: Lacking) -> bytes:
    """`version`: of the plugin's protocol, as our charon speaks it."""
    said = bytes([version, MessageType.IKE_UPDATE]) + ike_id(lacking.spis, lacking.initiator)
    for address in lacking.addresses:
        said += _HOST.pack(HA_REMOTE_VIP, 0, AF_INET if address.version == 4 else AF_INET6) + address.packed
    return said


class VirtualIps:
    """What one `list-sas` told; `take` is called with each event of it. `pools`: of which the clients' addresses are."""

    def __init__(self, pools: Iterable[Network]) -> None:
        self._pools = tuple(pools)
        self.lacking: list[Lacking] = []

    def take(self, event: dict[str, Any]) -> None:
        """Raises PeerError."""
        try:
            for ike_sa in event.values():
                self._take(ike_sa)
        except (KeyError, ValueError, AttributeError, TypeError, OverflowError) as exc:
            raise PeerError("charon", f"list-sas: cannot be understood: {exc!r}") from exc

    def _take(self, ike_sa: dict[str, Any]) -> None:
        carried = dict[Address, None]()
        for child in ike_sa.get("child-sas", {}).values():
            for selector in child.get("remote-ts", ()):
                if (address := self._inner(selector.decode())) is not None:
                    carried[address] = None
        if not carried:
            return
        known = {ip_address(address.decode()) for address in ike_sa.get("remote-vips", ())}
        if carried.keys() <= known:
            return
        addresses = tuple({**dict.fromkeys(known), **carried})
        self.lacking.append(Lacking(ike_spis(ike_sa), ike_sa.get("initiator") == b"yes", addresses))

    def _inner(self, selector: str) -> Address | None:
        """The address of a selector that is one client's, without protocol and port (``203.0.113.65/32``)."""
        network = ip_network(selector.partition("[")[0])
        if network.num_addresses != 1:
            return None
        address = network.network_address
        return address if any(address.version == pool.version and address in pool for pool in self._pools) else None
