"""Codec of VICI's `list-sa` events: who is connected, with which inner addresses, from where. No secrets are among it."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address
from typing import Any

from anycast.errors import PeerError

SERVING = frozenset({b"ESTABLISHED", b"REKEYING"})
"""States of an IKE_SA that answers its client; PASSIVE is a copy of the other gateway's (plugin `ha`)."""
NOWHERE = b"%any"
"""A host of an IKE_SA that is being made, by its client or of the other gateway's messages: it has none yet."""
LONGEST_IDENTITY = 256
"""Clients name themselves; RFC 7296 bounds it by the payload only."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One IKE_SA of a client."""

    spis: str
    """The initiator's and the responder's, in hex; an IKE rekey changes them."""
    identity: str
    eap_identity: str
    inner: tuple[str, ...]
    """Its addresses inside, of both families; empty while a copy does not know them, between two rekeys."""
    outer: str
    serving: bool
    age_s: float


def client_of(ike_sa: dict[str, Any]) -> Client | None:
    """The client of one IKE_SA; None where it is not up. Raises PeerError."""
    try:
        state = ike_sa["state"]
        if state not in SERVING and state != b"PASSIVE":
            return None
        identity = printable(ike_sa.get("remote-id", b""))
        eap = printable(ike_sa.get("remote-eap-id", b""))
        host, port = ip_address(ike_sa["remote-host"].decode()), int(ike_sa["remote-port"])
        return Client(
            spis=f"{ike_sa['initiator-spi'].decode()}_{ike_sa['responder-spi'].decode()}",
            identity=identity,
            eap_identity="" if eap == identity else eap,
            inner=_inner(ike_sa),
            outer=f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}",
            serving=state in SERVING,
            age_s=float(ike_sa.get("established", 0)),
        )
    except (KeyError, ValueError, AttributeError, TypeError) as exc:
        raise PeerError("charon", f"list-sas: cannot be understood: {exc!r}") from exc


def _inner(ike_sa: dict[str, Any]) -> tuple[str, ...]:
    """Its virtual addresses; where a mirrored one has lost them, the far ends of its CHILD_SAs that are one address."""
    found = {ip_address(address.decode()) for address in ike_sa.get("remote-vips", ())}
    for child in ike_sa.get("child-sas", {}).values():
        for selector in child.get("remote-ts", ()):
            address, _, length = selector.decode().partition("[")[0].partition("/")
            if length in ("32", "128"):
                parsed = ip_address(address)
                if length == str(parsed.max_prefixlen):
                    found.add(parsed)
    found.discard(ip_address(ike_sa["remote-host"].decode()))
    return tuple(str(address) for address in sorted(found, key=lambda address: (address.version, int(address))))


def printable(value: bytes) -> str:
    """What a stranger wrote, printable: it stands in logs and on terminals."""
    text = value.decode(errors="replace")[:LONGEST_IDENTITY]
    return "".join(letter if letter.isprintable() else "�" for letter in text)
