"""Steps of drill files about tunnels and their mirror: rekeys, moves of clients, handovers, a mirror switched off."""

from __future__ import annotations

from typing import Literal

import pydantic

from anycast_lab.drills.crowd_steps import CrowdStep, LoseInFlight
from anycast_lab.drills.limits import Strict
from anycast_lab.drills.moment_steps import ClientsDpd as ClientsDpd
from anycast_lab.drills.moment_steps import MomentStep
from anycast_lab.drills.moment_steps import PowerOffWhen as PowerOffWhen


class WaitMirror(Strict):
    """Go on when each gateway says that every tunnel is protected and none waits for its rekey after a takeover."""

    do: Literal["wait_mirror"]
    limit: str
    noticed: bool = False
    """First wait, within the same limit, until a gateway says that something is missing."""


class Rekeys(Strict):
    """From now on each client and the victim rekey their CHILD_SAs, again and again, to the drill's end. It is no fault."""

    do: Literal["rekeys"]
    every_s: float = pydantic.Field(gt=0, le=60)
    """Between the end of one rekey and the next one at the same machine."""


class EndRekeys(Strict):
    do: Literal["end_rekeys"]


class GatewaysSend(Strict):
    """From now on both gateways themselves send to each client's inner address, from their own address inside.

    While the pair is well, the Backup's kernel lets nothing out. It is no fault, and ends with the drill.
    """

    do: Literal["gateways_send"]


class MoveClient(Strict):
    """A client's outer IPv4 address becomes the next one of its subnet (MOBIKE, RFC 4555); `back`: its own again."""

    do: Literal["move_client"]
    client: str
    back: bool = False


class RebindNat(Strict):
    """A NAT router forgets its mappings and uses other ports from now on; `back`: as at first."""

    do: Literal["rebind_nat"]
    nat: str
    back: bool = False


class Terminate(Strict):
    """The victim's charon closes every IKE_SA, as when dead peer detection gives up, and waits for nobody's answer."""

    do: Literal["terminate"]


class WaitRefused(Strict):
    """Go on when the other gateway's mirror says that it has refused an IKE_DELETE for each client since `terminate`."""

    do: Literal["wait_refused"]
    limit: str


class HandOvers(Strict):
    """Whoever is Active hands over, `times` times. Each must succeed; one that is refused is asked for again."""

    do: Literal["hand_overs"]
    times: int = pydantic.Field(gt=0, le=100)
    each: Literal["at_once", "mirrored"]
    """Before the next one: nothing, or `wait_mirror`."""
    limit: str
    """For one handover, refusals and waits included."""


class MirrorOff(Strict):
    """Both gateways boot from a fleet file without `sync`; goes on when every client has a tunnel. `MirrorOn` undoes it.

    It is no fault: what was seen of tunnels before it counts for nothing.
    """

    do: Literal["mirror_off"]


class MirrorOn(Strict):
    do: Literal["mirror_on"]


TunnelStep = (
    WaitMirror
    | Rekeys
    | EndRekeys
    | GatewaysSend
    | MoveClient
    | RebindNat
    | Terminate
    | WaitRefused
    | HandOvers
    | MirrorOff
    | MirrorOn
    | MomentStep
    | CrowdStep
)
FAULTS = MoveClient | RebindNat | Terminate | HandOvers | LoseInFlight
"""The others are none, or say themselves when it happens."""
