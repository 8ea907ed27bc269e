"""Steps and checks of drill files about a site's two gateways and the virtual router between them.

A step acts on the victim, or on the other gateway of its site where it says `at: peer`.
"""

from __future__ import annotations

from typing import Literal

import pydantic

from anycast_lab.drills.limits import Strict

Where = Literal["victim", "peer"]
Side = Literal["uplink", "inside", "management"]


class StopAll(Strict):
    """Stop every process of the victim; its kernel goes on forwarding and answering."""

    do: Literal["stop_all"]


class ContinueAll(Strict):
    do: Literal["continue_all"]


class MuteLink(Strict):
    """Drop everything on one link of a gateway, both ways; every interface keeps carrier."""

    do: Literal["mute_link"]
    interface: Side
    at: Where = "victim"


class UnmuteLink(Strict):
    do: Literal["unmute_link"]
    interface: Side
    at: Where = "victim"


class Impair(Strict):
    """A cable of a gateway loses packets at random, both ways."""

    do: Literal["impair"]
    interface: Side
    loss_percent: float = pydantic.Field(gt=0, le=100)
    at: Where = "victim"


class EndImpair(Strict):
    do: Literal["end_impair"]
    interface: Side
    at: Where = "victim"


class FlapLink(Strict):
    """Take the carrier of one of the victim's links away and give it back, again and again; it ends up."""

    do: Literal["flap_link"]
    interface: Side
    times: int = pydantic.Field(gt=0, le=1000)
    per_second: float = pydantic.Field(gt=0, le=50)


class Part(Strict):
    """The two gateways hear each other on no path; each still hears everybody else."""

    do: Literal["part"]


class Join(Strict):
    do: Literal["join"]


class Forge(Strict):
    """Somebody on the LAN sends advertisements of priority 255 in the other gateway's name, to the victim and back."""

    do: Literal["forge"]
    seal: Literal["none", "bad"]
    seconds: float = pydantic.Field(gt=0, le=60)
    per_second: int = pydantic.Field(gt=0, le=5000)


class HandOver(Strict):
    """The victim's operator lets the other gateway serve."""

    do: Literal["hand_over"]


class StartDaemons(Strict):
    """Start what does not run of the victim's daemons; only where they are those of labs/baseline."""

    do: Literal["start_daemons"]


class WaitRole(Strict):
    """Go on when a gateway's kernel has all of the virtual addresses, or none."""

    do: Literal["wait_role"]
    role: Literal["active", "backup"]
    at: Where = "victim"
    limit: str


PairStep = (
    StopAll
    | ContinueAll
    | MuteLink
    | UnmuteLink
    | Impair
    | EndImpair
    | FlapLink
    | Part
    | Join
    | Forge
    | HandOver
    | StartDaemons
    | WaitRole
)


class GapBelow(Strict):
    """Probed every millisecond through the upstream, the service's address is never longer without an answer."""

    check: Literal["gap_below"]
    limit: str


class NothingMovesAtTransit(Strict):
    """Over the whole capture between upstream and transit: no withdrawal, no UPDATE with other attributes, no session
    that ends; and the transit's BIRD logs no change."""

    check: Literal["nothing_moves_at_transit"]


class OneActive(Strict):
    """At the end exactly one gateway has the virtual addresses, and on the LAN never two claimed them at once. With a limit:
    two did, until the heal and no longer than that after it."""

    check: Literal["one_active"]
    limit: str | None = None


class RoleMoved(Strict):
    """The victim was Active; the other gateway has the addresses within the limit of the fault."""

    check: Literal["role_moved"]
    limit: str


class RoleStays(Strict):
    """Who was Active before the fault has every address at every moment to the end; the other one has none."""

    check: Literal["role_stays"]


class NeighboursTold(Strict):
    """The new Active announced the virtual addresses of each family to its neighbours, repeatedly."""

    check: Literal["neighbours_told"]


class Why(Strict):
    """`site-agent why` names the reason, among whatever else, since the fault."""

    check: Literal["why"]
    reason: str
    at: Where = "victim"


class Measured(Strict):
    """Gap, packets, IKE_SAs and withdrawals were measured: they are the report's `figures`, and no bound is asserted.

    For tables (docs/baseline.md): the same figures of our gateways and of others.
    """

    check: Literal["measured"]


PairCheck = GapBelow | NothingMovesAtTransit | OneActive | RoleMoved | RoleStays | NeighboursTold | Why | Measured
