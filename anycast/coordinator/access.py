"""Who may ask the coordinator for what. A credential has a name, a role and the sites that it is for; what the store holds
of its secret is a hash. Pure.

A secret is 256 random bits, so that one round of SHA-256 is enough: there is nothing to guess.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import hmac
from collections.abc import Collection, Mapping
from typing import Any

from anycast.errors import DecodeError
from anycast.model import NAME

KIND = "credential"
"""In the store."""
_PREFIX = "anycast"


class Role(enum.StrEnum):
    """Each may do what the one before it may; an observer is beside them."""

    VIEWER = "viewer"
    """Sees everything."""
    OPERATOR = "operator"
    """Drains, pauses, returns the sites it is for; hands in what an operator's key has signed."""
    ADMIN = "admin"
    """Makes and takes credentials, restores."""
    OBSERVER = "observer"
    """Says what it sees of routes from outside, under its own name; sees and moves nothing."""


RANK = {Role.OBSERVER: -1, Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who has proved who they are."""

    name: str
    role: Role
    sites: frozenset[str] | None = None
    """None: all."""

    def may(self, role: Role, sites: Collection[str] | None = None) -> bool:
        """Whether its role is at least `role`, for all of `sites`; None: for the whole fleet."""
        if role is Role.OBSERVER:
            return self.role in (Role.OBSERVER, Role.ADMIN)
        if RANK[self.role] < RANK[role]:
            return False
        return self.sites is None or role is Role.VIEWER or (sites is not None and self.sites.issuperset(sites))


def record(secret: bytes, role: Role, sites: frozenset[str] | None, made_at: float, made_by: str) -> dict[str, Any]:
    """What the store keeps of a credential."""
    return {
        "v": 1,
        "hash": hashlib.sha256(secret).hexdigest(),
        "role": role.value,
        "sites": None if sites is None else sorted(sites),
        "made_at": made_at,
        "made_by": made_by,
    }


def token(name: str, secret: bytes) -> str:
    """What its owner keeps, in one word."""
    return f"{_PREFIX}_{name}_{secret.hex()}"


def read_token(text: str) -> tuple[str, bytes]:
    """Name and secret. Raises DecodeError, which does not repeat what was sent."""
    prefix, _, rest = text.partition("_")
    name, _, secret = rest.rpartition("_")
    if prefix != _PREFIX or not NAME.fullmatch(name) or len(secret) != 64:
        raise DecodeError("credential", 0, "is none of ours")
    try:
        return name, bytes.fromhex(secret)
    except ValueError as exc:
        raise DecodeError("credential", 0, "is none of ours") from exc


def caller(name: str, secret: bytes, kept: Mapping[str, Any] | None) -> Caller | None:
    """Who that is; None where the store knows no such credential, or another secret."""
    wanted = "0" * 64 if kept is None else str(kept["hash"])
    if not hmac.compare_digest(hashlib.sha256(secret).hexdigest(), wanted) or kept is None:
        return None
    sites = None if kept["sites"] is None else frozenset(kept["sites"])
    return Caller(name, Role(kept["role"]), sites)
