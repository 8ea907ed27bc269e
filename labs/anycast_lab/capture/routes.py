"""What a capture of BGP sessions says about routes: which were told, which changed, which were taken back. Pure.

The first UPDATE for a prefix is what every later one is held against, so a capture must hold one from before the fault
(`birdc reload out` has it sent). The same UPDATE again is allowed: BIRD sends one when its best path is a twin of the dead.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable

from anycast.errors import DecodeError
from anycast_lab.capture import bgp
from anycast_lab.capture.bgp import Attributes, Direction, Prefix
from anycast_lab.capture.frames import Address, Segment


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One prefix in one UPDATE."""

    at_ns: int
    sender: Address
    receiver: Address
    prefix: Prefix
    attributes: Attributes | None
    """None: withdrawn."""


@dataclasses.dataclass(frozen=True, slots=True)
class Transcript:
    """Everything of one capture, in order."""

    told: tuple[Told, ...]
    ended: tuple[tuple[int, Address, Address, str], ...]
    """When, sender and receiver, and how a session ended or began anew: NOTIFICATION, OPEN, FIN, RST."""
    problems: tuple[str, ...]
    """Why parts cannot be judged; none where all of it was read."""


def transcript(segments: Iterable[Segment]) -> Transcript:
    """Read all BGP sessions among `segments`. Never raises: what cannot be read is a problem of the transcript."""
    directions: dict[tuple[tuple[Address, int], tuple[Address, int]], Direction] = {}
    broken: dict[tuple[tuple[Address, int], tuple[Address, int]], str] = {}
    for segment in segments:
        if bgp.PORT not in (segment.source[1], segment.destination[1]):
            continue
        key = segment.source, segment.destination
        if key not in broken:
            try:
                directions.setdefault(key, Direction()).receive(segment)
            except DecodeError as error:
                broken[key] = f"{key[0][0]} to {key[1][0]}: {error}"
    told, ended, problems = [], [], list(broken.values())
    for (source, destination), direction in directions.items():
        sender, receiver = source[0], destination[0]
        if direction.holes:
            problems.append(f"{sender} to {receiver}: the capture has lost packets")
        ended += [(at, sender, receiver, how) for at, how in direction.ends]
        for at, kind, body in direction.messages:
            if kind in (bgp.OPEN, bgp.NOTIFICATION):
                ended.append((at, sender, receiver, "OPEN" if kind == bgp.OPEN else "NOTIFICATION"))
            elif kind == bgp.UPDATE:
                try:
                    update = bgp.decode_update(body)
                except DecodeError as error:
                    problems.append(f"{sender} to {receiver}: {error}")
                    continue
                for prefix in update.withdrawn:
                    told.append(Told(at_ns=at, sender=sender, receiver=receiver, prefix=prefix, attributes=None))
                for prefix in update.announced:
                    told.append(
                        Told(at_ns=at, sender=sender, receiver=receiver, prefix=prefix, attributes=update.attributes)
                    )
    told.sort(key=operator.attrgetter("at_ns"))  # stable: the order within one UPDATE stays
    return Transcript(tuple(told), tuple(sorted(ended, key=operator.itemgetter(0))), tuple(problems))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """What moved for one prefix as one receiver heard it; all empty where nothing did."""

    updates: int
    """UPDATEs with the prefix, the first included."""
    withdrawn: tuple[int, ...]
    changed: tuple[int, ...]
    """Times of UPDATEs with other attributes than the first."""


def movement(read: Transcript, prefix: Prefix, receivers: Iterable[Address]) -> Movement:
    """Of `prefix`, as it was told to any of `receivers`."""
    heard = set(receivers)
    mine = [one for one in read.told if one.prefix == prefix and one.receiver in heard]
    first = next((one.attributes for one in mine if one.attributes is not None), None)
    return Movement(
        updates=sum(one.attributes is not None for one in mine),
        withdrawn=tuple(one.at_ns for one in mine if one.attributes is None),
        changed=tuple(one.at_ns for one in mine if one.attributes is not None and one.attributes != first),
    )
