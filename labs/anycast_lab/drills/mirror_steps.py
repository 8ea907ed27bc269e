"""Steps and checks of drill files about what must outlive the gateway of a tunnel: its SAs and the traffic in it."""

from __future__ import annotations

from typing import Literal

import pydantic

from anycast_lab.drills.crowd_steps import CrowdCheck
from anycast_lab.drills.limits import Strict


class Download(Strict):
    """Every client fetches, over one TCP connection inside its tunnel, what the server behind the site sends at 2 Mbit/s.

    Goes on when all of them receive; ends with the drill. It is no fault.
    """

    do: Literal["download"]
    clients: tuple[str, ...] = ()
    """Only these; all where none is named."""


class ForgetNumbers(Strict):
    """The Backup's kernel forgets the outbound numbers of the SAs that it has: what the mirror is there to prevent.

    Before the fault, and none itself: nothing is sent under those SAs until the Backup is Active.
    """

    do: Literal["forget_numbers"]


class PlantSecret(Strict):
    """A secret of the victim's is written where none must be: the key of an SA, what IKE keys are made of, or a private key.

    For red drills. The file is as before when the drill has ended.
    """

    do: Literal["plant_secret"]
    what: Literal["esp", "ike", "key"]
    form: Literal["raw", "hex", "base64"]
    path: str
    """At its end, where it is there already."""
    readable: bool = False
    """By everybody, from then on."""


class Flow(Strict):
    """Every client asks a server behind the site and is answered at once, and once more `later_s` later; TCP only then.

    Goes on when it was asked once; ends with the drill. Begin it after `nat_inside`. It is no fault.
    """

    do: Literal["flow"]
    kind: Literal["udp", "tcp"]
    every_s: float = pydantic.Field(default=20, gt=0, le=600)
    """UDP only: between two questions."""
    later_s: float = pydantic.Field(gt=0, le=900)


MirrorStep = Download | ForgetNumbers | PlantSecret | Flow


class TcpContinues(Strict):
    """Each client's download goes on over the same connection to the end, every byte right, and never stalls longer."""

    check: Literal["tcp_continues"]
    limit: str


class NoNumberTwice(Strict):
    """Over the captures of both gateways' uplinks, no ESP sequence number and no explicit IV was used twice under one SA."""

    check: Literal["no_number_twice"]


class SentToClient(Strict):
    """Who goes on under an SA of the other gateway sends its packets to where that one sent them last."""

    check: Literal["sent_to_client"]


class SameIkeSa(Strict):
    """Each client has the IKE_SA that it had before the fault, or one that this was rekeyed to; none was built anew."""

    check: Literal["same_ike_sa"]
    clients: tuple[str, ...] = ()
    """Only these; all where none is named."""


class BuiltOnce(Strict):
    """Closed list of exceptions: whose IKE_AUTH was in flight builds its IKE_SA once, and is served within the limit."""

    check: Literal["built_once"]
    clients: tuple[str, ...] = pydantic.Field(min_length=1)
    limit: str


class FlowKept(Strict):
    """Each client's flow is translated, to the same address and port before the fault and after it.

    What the server says of itself after the fault, but for `limit`, comes by the translation that was made before it.
    """

    check: Literal["flow_kept"]
    limit: str


class NoSecretTold(Strict):
    """No SA's key, no IKE_SA's secret and no private key of either gateway stands in anything that the drill has left.

    In files below /run, /var and /etc (key files, which only their owner reads, aside), on screens, in the process table,
    beside the captures, in the report.
    """

    check: Literal["no_secret_told"]
    at: str = ""
    """Only what is found in this file counts; for red drills, each of whose checks must see its own."""


class NoCore(Strict):
    """No process of either gateway through which keys pass would leave a core dump, in a file or to a program."""

    check: Literal["no_core"]


MirrorCheck = (
    TcpContinues | NoNumberTwice | SentToClient | SameIkeSa | BuiltOnce | FlowKept | NoSecretTold | NoCore | CrowdCheck
)
