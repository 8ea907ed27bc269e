"""Steps and checks of drill files about a crowd: many clients on one machine, each with a tunnel of its own."""

from __future__ import annotations

from typing import Literal

import pydantic

from anycast_lab.drills.limits import Strict


class CrowdUp(Strict):
    """So many clients of the crowd connect, in order, who have not yet. It is no fault; all leave with the drill."""

    do: Literal["crowd_up"]
    count: int = pydantic.Field(gt=0, le=5000)


class CrowdRekey(Strict):
    """Each client that is there rekeys its IKE_SA. Goes on when all have another one. It is no fault."""

    do: Literal["crowd_rekey"]
    limit: str


class CrowdRekeys(Strict):
    """From now on the crowd rekeys, one IKE_SA or CHILD_SA after the other, to `end_crowd_rekeys`. It is no fault."""

    do: Literal["crowd_rekeys"]
    per_second: float = pydantic.Field(gt=0, le=100)


class EndCrowdRekeys(Strict):
    """Goes on when nobody is in the middle of one."""

    do: Literal["end_crowd_rekeys"]
    limit: str


class CrowdProbe(Strict):
    """From now on clients chosen at random send echo requests through their tunnels, to the drill's end."""

    do: Literal["crowd_probe"]
    count: int = pydantic.Field(gt=0, le=50)
    every_ms: float = pydantic.Field(default=100, ge=5)
    """Each inner address."""


class CrowdGoesOn(Strict):
    """Go on when every client has asked whether its peer lives, and was answered, since now, and each has sent packets."""

    do: Literal["crowd_goes_on"]
    limit: str


class WatchFeed(Strict):
    """Read `site-agent status` at the Active again and again, until it says that everything is protected."""

    do: Literal["watch_feed"]
    limit: str


class FillKernel(Strict):
    """A gateway's kernel is given so many SAs of clients that no charon knows; they stay until its power ends.

    It is no fault.
    """

    do: Literal["fill_kernel"]
    sas: int = pydantic.Field(gt=0, le=40000)
    at: Literal["victim", "peer"] = "victim"


class LoseInFlight(Strict):
    """Whoever is Active loses its power while clients have exchanges open, again and again, and is fed in between.

    Each time some clients connect (IKE_AUTH), some rekey their CHILD_SA (CREATE_CHILD_SA), and all who are there tell of
    an address that came or went (MOBIKE, INFORMATIONAL). The power is cut when a request has passed the uplink's cable, of
    the kind that was in flight least often. Goes on when `each` exchanges of every kind were in flight at a cut.
    """

    do: Literal["lose_in_flight"]
    each: int = pydantic.Field(gt=0, le=200)
    within_ms: float = pydantic.Field(ge=0, le=100)
    """The cut comes so long after the request at most, another time each time."""
    limit: str
    """For every client to have a tunnel with packets in it again."""


CrowdStep = (
    CrowdUp | CrowdRekey | CrowdRekeys | EndCrowdRekeys | CrowdProbe | CrowdGoesOn | WatchFeed | FillKernel | LoseInFlight
)


class CrowdStays(Strict):
    """Each client built its tunnel once and no more, and has it, with the inner addresses that it was given."""

    check: Literal["crowd_stays"]
    clients: int


class AddressesOnce(Strict):
    """In no look at the clients had two of them one inner address, and as many different ones were given in each family."""

    check: Literal["addresses_once"]
    ipv4: int
    ipv6: int


class CrowdAnswered(Strict):
    """After the takeover each client's question whether its peer lives was answered within the limit."""

    check: Literal["crowd_answered"]
    limit: str


class CrowdPackets(Strict):
    """Packets came back through each inner address, and those clients that sent all the time never waited longer."""

    check: Literal["crowd_packets"]
    limit: str


class FedWithProgress(Strict):
    """The status counted down to 0, with the time that is left, within the limit."""

    check: Literal["fed_with_progress"]
    limit: str


class RekeysPaced(Strict):
    """No more rekeys reached the crowd in any five seconds of the feeding than the budget allows."""

    check: Literal["rekeys_paced"]
    rate: str


class InFlightRecover(Strict):
    """So many exchanges of every kind were in flight at a cut, and everybody had a tunnel with packets in it in time."""

    check: Literal["in_flight_recover"]
    each: int
    limit: str


CrowdCheck = CrowdStays | AddressesOnce | CrowdAnswered | CrowdPackets | FedWithProgress | RekeysPaced | InFlightRecover
