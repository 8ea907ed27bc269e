"""Steps and checks of drill files about what must outlive the gateway of a tunnel: its SAs and the traffic in it."""

from __future__ import annotations

from typing import Literal

from anycast_lab.drills.crowd_steps import CrowdCheck
from anycast_lab.drills.limits import Strict


class Download(Strict):
    """Every client fetches, over one TCP connection inside its tunnel, what the server behind the site sends at 2 Mbit/s.

    Goes on when all of them receive; ends with the drill. It is no fault.
    """

    do: Literal["download"]


class ForgetNumbers(Strict):
    """The Backup's kernel forgets the outbound numbers of the SAs that it has: what the mirror is there to prevent.

    Before the fault, and none itself: nothing is sent under those SAs until the Backup is Active.
    """

    do: Literal["forget_numbers"]


MirrorStep = Download | ForgetNumbers


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


MirrorCheck = TcpContinues | NoNumberTwice | SentToClient | SameIkeSa | CrowdCheck
