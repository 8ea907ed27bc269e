"""What the picture of a running lab shows besides its cabling."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from anycast_lab.picture.ways import Way
from anycast_lab.topology import Link


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """One gateway, as it says itself and as its kernel has it."""

    role: str
    """``active``, ``backup``, ``partly``; empty where its site has no virtual router."""
    says: str
    """Its verdict, in one or two words."""
    reason: str = ""
    """The first cause, where the verdict has one."""
    routes: str = ""
    """How many of its routes are announced."""


@dataclasses.dataclass(frozen=True, slots=True)
class Live:
    """A lab at one moment."""

    at: str
    """UTC, to the second."""
    states: Mapping[str, str]
    """By machine: ``on``, ``off`` or ``frozen``."""
    gateways: Mapping[str, Seen]
    dead: frozenset[Link]
    """Cables without carrier, or that drop everything."""
    ways: Mapping[str, Way]
    """By client: where its packets to the service go."""
