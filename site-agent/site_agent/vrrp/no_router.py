"""Stands where a plan has no virtual router (a single gateway, which only speaks BFD): asks for nothing. Pure."""

from __future__ import annotations

import enum

from site_agent.vrrp.election import Peer
from site_agent.vrrp.packet import Discard
from site_agent.vrrp.router_words import Action, Input
from site_agent.vrrp.seal import Path


class NoRole(enum.StrEnum):
    NONE = "none"


class NoRouter:
    """What the process asks of a `VirtualRouter`, answered."""

    role = NoRole.NONE
    deadline: float | None = None
    keeps = False
    priority = term = 0

    def __init__(self) -> None:
        self.discarded: dict[tuple[Path, Discard], int] = {}

    def handle(self, event: Input, now: float) -> list[Action]:
        return []

    def heard(self, now: float) -> Path:
        return Path(0)

    def peer(self, now: float) -> Peer:
        return Peer.SILENT

    def peer_serves(self, now: float) -> bool:
        return False

    def peer_serves_until(self) -> float:
        return 0.0
