"""How large what is planned has to be. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from anycast.fleet.addressing import Addressing

VISIBLE = {"ipv4": 24, "ipv6": 48}
"""The longest prefixes that the Internet's networks commonly accept (RFC 7454 section 6.1.3)."""
LAB_VISIBLE = {"ipv4": 28, "ipv6": 56}
"""Documentation space has three /24 (RFC 5737)."""
LAN = {
    "uplink": {"ipv4": 28, "ipv6": 64},
    "inside": {"ipv4": 28, "ipv6": 64},
    "management": {"ipv4": 29, "ipv6": 64},
}
"""Of a site's LAN: room for two gateways, what moves between them, two routers, and as many again; /64 by RFC 7421."""
_NOBODYS = 2
"""The first and the last address of an IPv4 pool are given to nobody."""


class Need(NamedTuple):
    """Of a site's pools of one family, together."""

    addresses: int
    """To be given out at one time."""
    why: str

    @property
    def length(self) -> int:
        """Of the smallest IPv4 prefix that has as many."""
        return length_for(self.addresses)


def length_for(addresses: int) -> int:
    """The length of the smallest IPv4 prefix that can give out so many addresses."""
    return 32 - max(2, (addresses + _NOBODYS - 1).bit_length())


def given_out(length: int) -> int:
    """How many addresses an IPv4 pool gives out."""
    return max(0, (1 << (32 - length)) - _NOBODYS)


def clients_need(site: dict[str, Any], addressing: Addressing) -> Need | None:
    """What a site of the fleet file's text needs; None where nobody says for how many clients, or it cannot be read.

    A mirrored pair needs each client's address twice: every pool is cut into a share for each gateway, and a gateway gives
    out of its own (docs/clients.md).
    """
    text = site.get("clients")
    if text is None:
        clients = addressing.clients
    elif isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 9:
        clients = int(text)
    else:
        return None
    if not clients:
        return None
    needed = -(-clients * (100 + addressing.headroom) // 100)
    gateways = site.get("gateways")
    mirrored = site.get("sync") is not None and isinstance(gateways, dict) and len(gateways) == 2
    why = f"{clients} clients + {addressing.headroom} % = {needed}{', twice for a mirrored pair' if mirrored else ''}"
    needed *= 1 + mirrored
    return Need(needed, why)


def visible_lengths(environment: str, addressing: Addressing) -> dict[str, int]:
    """The longest prefix of each family that is heard everywhere."""
    if environment != "lab":
        return VISIBLE
    written = addressing.visible
    if written is None:
        return LAB_VISIBLE
    return {family: written.of(family) or length for family, length in LAB_VISIBLE.items()}  # type: ignore[arg-type]
