"""Steps and checks of drill files about where clients' tunnels end (`client_sites` looks, `client_checks` judges)."""

from __future__ import annotations

from typing import Literal

import pydantic

from anycast_lab.drills.limits import Strict


class WaitClient(Strict):
    """Go on when the client has inner addresses of this site and of no other, and packets come back through the tunnel."""

    do: Literal["wait_client"]
    client: str
    site: str
    limit: str


class Reconnect(Strict):
    """These clients end their tunnels and connect anew to the service's address, as laptops do that are closed and opened.

    It goes on when each has an IKE_SA again, whatever became of its CHILD_SA.
    """

    do: Literal["reconnect"]
    clients: tuple[str, ...] = pydantic.Field(min_length=1)


ClientStep = WaitClient | Reconnect


class What(Strict):
    """A moment of the drill's timeline, by what its report shows; what is empty may be anything."""

    event: str
    at: str = ""
    """Who saw it, e.g. ``transit``, or ``ams-gw1/site-agent``."""
    about: str = ""
    """Its subject, e.g. a client."""
    detail: str = ""
    says: str = ""
    """Somewhere in its detail."""


class InOrder(Strict):
    """From the fault on all of these are seen, each later than the one before it."""

    check: Literal["in_order"]
    moments: tuple[What, ...] = pydantic.Field(min_length=2)


class GoodUntil(Strict):
    """The client has no longer gap than the limit from the fault until this moment, which is seen."""

    check: Literal["good_until"]
    client: str
    moment: What
    limit: str


class NeverAt(Strict):
    """From the fault to the end the client never has an inner address of one of these sites."""

    check: Literal["never_at"]
    client: str
    sites: tuple[str, ...] = pydantic.Field(min_length=1)


class Never(Strict):
    """From the fault to the end nothing of this is seen."""

    check: Literal["never"]
    moments: tuple[What, ...] = pydantic.Field(min_length=1)


ClientCheck = InOrder | GoodUntil | NeverAt | Never
