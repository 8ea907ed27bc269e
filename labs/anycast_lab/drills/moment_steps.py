"""Steps of drill files that need an exact moment: a failover at a packet, a soft expiry at a Backup, rekeys, DPD."""

from __future__ import annotations

from typing import Literal

import pydantic

from anycast_lab.drills.limits import Strict


class PowerOffWhen(Strict):
    """The victim loses its power `after_ms` after a message of IKE has passed its uplink's cable.

    The client is made to cause it. ike_auth: its charon is killed, started, and connects anew. create_child_sa: it rekeys
    its CHILD_SA; the response says that the gateway has the new one.
    """

    do: Literal["power_off_when"]
    client: str
    exchange: Literal["ike_auth", "create_child_sa"]
    message: Literal["request", "response"]
    after_ms: float = pydantic.Field(ge=0, le=1000)
    limit: str
    """How much later it may be; later is another drill."""


class SoftExpire(Strict):
    """The Backup's kernel tells its charon that every SA is past its soft limit, as time and packets do. No fault.

    For so long it must send nothing at all, and neither kernel may lose or get an SA.
    """

    do: Literal["soft_expire"]
    seconds: float = pydantic.Field(gt=0, le=60)


class RekeyEach(Strict):
    """Each client, and after them whoever is Active, rekeys its CHILD_SAs and then its IKE_SAs, one after the other.

    Each must have happened within the limit, at both ends.
    """

    do: Literal["rekey_each"]
    limit: str


class ClientsDpd(Strict):
    """Every client begins anew without dead peer detection, so that the gateway's is what happens; `back`: as at first.

    Before the drill's fault, and none.
    """

    do: Literal["clients_dpd"]
    back: bool = False


class Idle(Strict):
    """No client sends anything for so long. Meanwhile `asks` asks for each tunnel's silent peer, and is answered."""

    do: Literal["idle"]
    seconds: float = pydantic.Field(gt=0, le=120)
    asks: Literal["client", "gateway"]


class NatInside(Strict):
    """Both gateways translate what clients send to the servers inside to the site's virtual address there. No fault.

    The rule is the drill's own, and goes with it or with the gateway's power.
    """

    do: Literal["nat_inside"]


class SkewClock(Strict):
    """The Backup boots anew, and to its every process the wall clock is so many seconds ahead. No fault; undone at the end.

    By a library that every program loads that is executed there (`skewed_clock.c`): all machines of a lab have one kernel,
    and that has one clock. Its other clocks are as ever.
    """

    do: Literal["skew_clock"]
    seconds: int = pydantic.Field(ge=-86_400, le=86_400)
    limit: str
    """Until every tunnel is protected again."""


MomentStep = PowerOffWhen | SoftExpire | RekeyEach | ClientsDpd | Idle | NatInside | SkewClock
