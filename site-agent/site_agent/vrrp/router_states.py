"""In which state a virtual router is (RFC 9568 section 6.4), each with its timers: a stale one cannot exist. Pure."""

from __future__ import annotations

import dataclasses

from site_agent.vrrp.router_words import Cause


@dataclasses.dataclass(slots=True)
class Initialize:
    """Waits for its first grant."""

    resume_until: float = float("-inf")
    """Until then it goes on as Active: the process before this one was, and stopped cleanly without a priority 0. Not beside
    another Active that serves: then that one has taken over meanwhile."""


@dataclasses.dataclass(slots=True)
class Backup:
    active_down_timer: float
    active_adver_interval: int
    """As learned from the Active; one's own until one was heard (section 6.1)."""
    since: float
    presence_timer: float
    """When to say the next time that one is there (sealed only)."""
    graced: bool = False
    """The timer was late once already and has been wound up again."""
    deferred: bool = False
    """It has let the other Backup go first once already."""


@dataclasses.dataclass(slots=True)
class Active:
    adver_timer: float
    renew_timer: float
    announce_timers: tuple[float, ...]
    reasserted_at: float = float("-inf")
    release: Release | None = None


@dataclasses.dataclass(slots=True)
class Release:
    """It gives way, and keeps the addresses until the other one has them, or this is over."""

    until: float
    cause: Cause
    taken_with: int | None = None
    """The interval of the other one, once it has them."""


State = Initialize | Backup | Active
