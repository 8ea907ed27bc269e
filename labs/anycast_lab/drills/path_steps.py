"""Steps and checks of drill files about clients' ways to the service (`path_watch` looks, `path_checks` judges)."""

from __future__ import annotations

from typing import Literal

import pydantic

from anycast_lab.drills.limits import Strict


class RebindClients(Strict):
    """The NAT router before these clients forgets their mappings, and no other's.

    One gets another port from then on; with two, each gets the other's. It goes on when they have sent, and ends with the
    drill.
    """

    do: Literal["rebind_clients"]
    clients: tuple[str, ...] = pydantic.Field(min_length=1, max_length=2)


PathStep = RebindClients
FAULTS = RebindClients


class SameTunnels(Strict):
    """Each client has at the end the IKE_SA and the inner addresses that it had before the fault."""

    check: Literal["same_tunnels"]


class PortsMoved(Strict):
    """By a capture outside their NAT: ESP of exactly these clients comes from other ports than before the fault.

    `swapped`: each of the two from the other's.
    """

    check: Literal["ports_moved"]
    clients: tuple[str, ...] = pydantic.Field(min_length=1)
    swapped: bool = False


class NobodyElses(Strict):
    """By captures at every client: no ESP and no IKE comes to it that is another's.

    `limit`: but from the fault to so long after it. All of it is sealed, and who gets it has no key for it.
    """

    check: Literal["nobody_elses"]
    limit: str | None = None


PathCheck = SameTunnels | PortsMoved | NobodyElses
