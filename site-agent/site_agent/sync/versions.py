"""What both gateways of a pair must have alike, and what follows where they do not. Pure.

Two versions of ours work together if the one speaks a protocol that the other one speaks: N with N-1. strongSwan's `ha`
plugin refuses another version's messages without a word, so its differences are told here, and the mirror that would not be
one keeps a planned handover from happening. An unplanned one happens all the same: a peer that is dead cannot be waited
for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anycast.errors import DecodeError
from anycast.reasons import Reason

if TYPE_CHECKING:  # the sync process needs the words, not what reads a document
    from anycast.document import Document

NEWEST = 1
OLDEST = 1
"""Protocols that this version speaks. At the next one: 2 and 1."""
LONGEST_WORD = 128


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """Of one gateway, as it runs now."""

    agent: str
    """Ours, for people: only the protocol must fit."""
    charon: str
    """As VICI tells it; empty while charon does not run."""
    ha: int
    """HA_MESSAGE_VERSION of its `ha` plugin; 0 where that is not known."""
    generation: int
    """The document's; 0 where each agent compiled its own (standalone)."""
    content: str
    """`shared_content` of the document."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that the two do not have alike: why a handover is refused."""

    reason: Reason
    own: str
    peer: str

    def __str__(self) -> str:
        return f"{self.reason}: here {self.own or 'none'}, there {self.peer or 'none'}"


def mismatches(own: Versions, peer: Versions) -> tuple[Mismatch, ...]:
    """Empty where a handover loses nothing by versions."""
    found = []
    if own.charon != peer.charon:
        found.append(Mismatch(Reason.CHARON_DIFFERS, own.charon, peer.charon))
    if own.ha != peer.ha:
        found.append(Mismatch(Reason.HA_PROTOCOL_DIFFERS, str(own.ha), str(peer.ha)))
    if (own.generation, own.content) != (peer.generation, peer.content):
        named = [f"generation {each.generation} ({each.content[:12]})" for each in (own, peer)]
        found.append(Mismatch(Reason.DOCUMENTS_DIFFER, *named))
    return tuple(found)


def shared_content(document: Document) -> str:
    """SHA-256, hex, over the part of a document that both gateways of a site must have alike: what clients are promised, and
    the addresses that move. Own addresses, names and priorities differ by their nature; files and timings may."""
    service = document.service.model_dump(mode="json", exclude={"certificate", "private_key", "client_ca", "checks"})
    router = None
    if document.vrrp is not None:
        router = {"vrid": document.vrrp.vrid, "addresses": sorted(document.vrrp.virtual_addresses)}
    shared = {"fleet": document.fleet, "site": document.site, "service": service, "vrrp": router, "asn": document.bgp.asn}
    return hashlib.sha256(json.dumps(shared, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def to_json(versions: Versions) -> dict[str, Any]:
    return dataclasses.asdict(versions)


def from_json(body: object) -> Versions:
    """Raises DecodeError. Unknown fields are ignored."""
    if not isinstance(body, Mapping):
        raise DecodeError("versions", 0, "not an object")
    return Versions(
        agent=_word(body, "agent"),
        charon=_word(body, "charon"),
        ha=_number(body, "ha"),
        generation=_number(body, "generation"),
        content=_word(body, "content"),
    )


def _word(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or len(value) > LONGEST_WORD or not value.isascii() or not (value + "x").isprintable():
        raise DecodeError(name, 0, "not a word")
    return value


def _number(body: Mapping[str, Any], name: str) -> int:
    value = body.get(name)
    if type(value) is not int or not 0 <= value < 2**63:
        raise DecodeError(name, 0, "not a number in range")
    return value
