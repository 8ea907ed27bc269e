"""Codec of VICI's `list-sa` events as digests need them: which IKE_SAs and CHILD_SAs a charon holds, and where they end.

Both charons of a pair are asked, the Active's and the passive one that the `ha` plugin feeds. Unique ids and reqids are each
charon's own; SPIs and addresses are the same on both, so records are made of these:

    IKE_SA    initiator SPI (8)  responder SPI (8)  local (16)  remote (16)  remote port (2)
    CHILD_SA  inbound SPI (4)  protocol (1)  outbound SPI (4)  SPIs of its IKE_SA (16)

A CHILD_SA's addresses are those of its IKE_SA.

Anything decodes or raises PeerError.
"""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address
from typing import Any, NamedTuple

from anycast.errors import PeerError
from site_agent.ike.child_sa import CARRYING, PROTOCOLS
from site_agent.ike.clients import NOWHERE, printable
from site_agent.netlink.xfrm_keys import pack_address

IKE_RECORD_BYTES = 50
IKE_NAME_BYTES = 16
"""The two SPIs."""
CHILD_RECORD_BYTES = 25
CHILD_NAME_BYTES = 5
"""Inbound SPI and protocol."""
_STANDING = frozenset({b"ESTABLISHED", b"REKEYING", b"PASSIVE"})
"""IKE_SA states in which it is nobody's memory and nobody's attempt."""


def ike_spis(ike_sa: dict[str, Any]) -> bytes:
    """The initiator's and the responder's. Raises KeyError, ValueError, TypeError, OverflowError."""
    return int(ike_sa["initiator-spi"], 16).to_bytes(8) + int(ike_sa["responder-spi"], 16).to_bytes(8)


def ike_sa_name(identity: str) -> str:
    """Of a client's, for people."""
    return f"the IKE_SA of {identity or 'an unnamed client'}"


class IkeSa(NamedTuple):
    """What only this charon says of an IKE_SA."""

    ike_id: str
    """Unique id."""
    initiator: bool
    """We began it, for example by a rekey."""
    established_s: int | None = None
    """For how long, by this charon, which counts from its own promotion; None for one that is PASSIVE."""
    rekeying: bool = False
    identity: str = ""
    """Its client's."""


class Tunnel(NamedTuple):
    """One CHILD_SA."""

    reqid: int
    """The same over all its rekeys, and those of its IKE_SA."""
    child_id: str
    ike_id: str
    """Unique ids, for VICI's `rekey` and `terminate`."""
    name: str
    """As swanctl and charon's log write it, with the client's identity: for people."""
    record: bytes
    ends: tuple[bytes, bytes]
    """Of the inbound and the outbound SA, as `netlink.xfrm_digest` has them: SPI, protocol, destination, source."""
    carrying: bool
    """Neither being made nor on its way out."""
    rekeying: bool
    rekey_in_s: int | None = None
    """Until this charon rekeys it by itself, negative where that time has passed; None where it never will."""
    life_in_s: int | None = None
    """Until it ends by its lifetime. A mirrored one counts from its own installation, which is the Active's as well."""
    identity: str = ""


@dataclasses.dataclass(slots=True)
class CharonView:
    """What one `list-sas` told; `take` is called with each event of it."""

    vips: frozenset[str]
    connections: frozenset[str] = frozenset()
    """Those of clients."""
    passive: int = 0
    """IKE_SAs of these that speak with nobody."""
    tunnels: list[Tunnel] = dataclasses.field(default_factory=list)
    ike: dict[bytes, IkeSa] = dataclasses.field(default_factory=dict)
    """By record."""
    stubs: list[str] = dataclasses.field(default_factory=list)
    """Unique ids of what is no IKE_SA yet and has no address of ours: the plugin was told of keys, and of nothing else. A
    handshake that this charon answers has one from its first packet on."""

    def take(self, event: dict[str, Any]) -> None:
        """Raises PeerError."""
        try:
            for name, ike_sa in event.items():
                self.passive += name in self.connections and ike_sa["state"] == b"PASSIVE"
                local = ike_sa["local-host"].decode()
                if ike_sa["state"] == b"CONNECTING" and ike_sa["local-host"] == NOWHERE:
                    self.stubs.append(ike_sa["uniqueid"].decode())
                if local in self.vips and ike_sa["remote-host"] != NOWHERE:
                    self._take_ike(ike_sa, pack_address(ip_address(local)))
        except (KeyError, ValueError, AttributeError, TypeError, OverflowError) as exc:
            raise PeerError("charon", f"list-sas: cannot be understood: {exc!r}") from exc

    def _take_ike(self, ike_sa: dict[str, Any], local: bytes) -> None:
        ike_id = ike_sa["uniqueid"].decode()
        remote = pack_address(ip_address(ike_sa["remote-host"].decode()))
        spis = ike_spis(ike_sa)
        identity = printable(ike_sa.get("remote-id", b""))
        if ike_sa["state"] in _STANDING:
            ours = ike_sa.get("initiator") == b"yes"
            self.ike[spis + local + remote + int(ike_sa["remote-port"]).to_bytes(2)] = IkeSa(
                ike_id, ours, _seconds(ike_sa, "established"), ike_sa["state"] == b"REKEYING", identity
            )
        for child in ike_sa.get("child-sas", {}).values():
            if "spi-in" not in child:  # a trap, or one that is still negotiated
                continue
            protocol = PROTOCOLS[child["protocol"].decode()].to_bytes(1)
            unique_id = child["uniqueid"].decode()
            spi_in, spi_out = int(child["spi-in"], 16).to_bytes(4), int(child["spi-out"], 16).to_bytes(4)
            self.tunnels.append(
                Tunnel(
                    reqid=int(child["reqid"]),
                    child_id=unique_id,
                    ike_id=ike_id,
                    name=f"{child['name'].decode()}{{{unique_id}}} of {identity or 'an unnamed client'}",
                    record=spi_in + protocol + spi_out + spis,
                    ends=(spi_in + protocol + local + remote, spi_out + protocol + remote + local),
                    carrying=child["state"] in CARRYING,
                    rekeying=child["state"] == b"REKEYING",
                    rekey_in_s=_seconds(child, "rekey-time"),
                    life_in_s=_seconds(child, "life-time"),
                    identity=identity,
                )
            )


def _seconds(section: dict[str, Any], name: str) -> int | None:
    return int(section[name]) if name in section else None
