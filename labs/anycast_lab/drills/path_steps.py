"""Steps and checks of drill files about clients' ways to the service (`path_watch` looks, `path_checks` judges)."""

from __future__ import annotations

from typing import Literal

import pydantic

from anycast.fleet.values import Family
from anycast_lab.drills.limits import Strict


class RebindClients(Strict):
    """The NAT router before these clients forgets their mappings, and no other's.

    One gets another port from then on; with two, each gets the other's. It goes on when they have sent, and ends with the
    drill.
    """

    do: Literal["rebind_clients"]
    clients: tuple[str, ...] = pydantic.Field(min_length=1, max_length=2)


class Fetch(Strict):
    """These clients fetch by TCP from the server behind their tunnel. It goes on when each has so much, or at the limit."""

    do: Literal["fetch"]
    clients: tuple[str, ...] = pydantic.Field(min_length=1)
    bytes: int = pydantic.Field(gt=0)
    limit: str
    mss: int | None = pydantic.Field(default=None, ge=536, le=1460)
    """As if a router on the way had clamped it."""


class EchoBig(Strict):
    """These clients ask the server behind their tunnel for echoes of this size, which may be fragmented on the way."""

    do: Literal["echo_big"]
    clients: tuple[str, ...] = pydantic.Field(min_length=1)
    size: int = pydantic.Field(gt=0, le=60000)


class MuteFamily(Strict):
    """The router on the victim's uplink drops every packet of one address family from there and to there."""

    do: Literal["mute_family"]
    family: Family


class UnmuteFamily(Strict):
    do: Literal["unmute_family"]
    family: Family


class Connect(Strict):
    """A guest gets an address of its own subnet, and connects. It goes on when it has a tunnel, or at the limit.

    `split`: for that address the router before it sends IKE on port 500 one way and IKE on 4500 another one, by its own
    kernel's word; without it, both the same way.
    """

    do: Literal["connect"]
    client: str
    split: bool
    limit: str


PathStep = Connect | RebindClients | Fetch | EchoBig | MuteFamily | UnmuteFamily


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


class HasFetched(Strict):
    """Each of these clients has fetched all that it wanted within the limit, every byte right."""

    check: Literal["fetched"]
    clients: tuple[str, ...] = pydantic.Field(min_length=1)
    clamped: bool = False
    limit: str


class Hangs(Strict):
    """Each of these clients has connected, and received nothing at all after that."""

    check: Literal["hangs"]
    clients: tuple[str, ...] = pydantic.Field(min_length=1)


class Echoed(Strict):
    """Every big echo of each of these clients has come back; `none`: not a single one."""

    check: Literal["echoed"]
    clients: tuple[str, ...] = pydantic.Field(min_length=1)
    none: bool = False


class TooBigAt(Strict):
    """By captures at all gateways: "packet too big" about the client's tunnel came to this gateway and to no other."""

    check: Literal["too_big_at"]
    client: str
    gateway: str


class TooBigCounted(Strict):
    """The gateway's /metrics counts exactly those "packet too big" about other sites' tunnels that were captured there."""

    check: Literal["too_big_counted"]
    gateway: str
    astray: bool
    """Whether there were any."""


class FamilyGone(Strict):
    """The victim's routes of one address family go within the limit of the fault, and no route of the other one anywhere."""

    check: Literal["family_gone"]
    family: Family
    limit: str


class Balanced(Strict):
    """When the drill began, this router sent to the service by so many paths."""

    check: Literal["balanced"]
    at: str
    paths: int = pydantic.Field(ge=2)


class Connects(Strict):
    """The guest has its tunnel; by captures at all gateways every message of its IKE came to one of them."""

    check: Literal["connects"]
    client: str


class SplitsApart(Strict):
    """The guest has no tunnel: by captures its IKE_SA_INIT came to one gateway, and what it sent after that to another."""

    check: Literal["splits_apart"]
    client: str


_Ways = Balanced | Connects | SplitsApart | FamilyGone
PathCheck = _Ways | SameTunnels | PortsMoved | NobodyElses | HasFetched | Hangs | Echoed | TooBigAt | TooBigCounted
