"""Whether two gateways together used one ESP sequence number, or one explicit IV, twice. Pure.

A sequence number twice is a replay to the client, which drops it; an IV twice under one key gives AES-GCM's authentication
key and the difference of two plaintexts away (RFC 4106 section 9, RFC 7634 section 4). Linux makes the IV of the sequence
number and a salt of its own for each installation of an SA, so two gateways may repeat one without the other: both are
looked at.

An SA is told by its destination and SPI (RFC 4301 section 4.1), whichever gateway sent. Give one capture of each gateway,
made where only what that gateway itself has sent is seen, each packet once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping

from anycast_lab.capture.frames import Address, Sealed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """One packet whose number or IV had been sent under this SA before."""

    destination: Address
    spi: int
    sequence: int
    first: tuple[str, int]
    again: tuple[str, int]
    """By whom, and when (nanoseconds)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """The first packet that another gateway sent under an SA."""

    at_ns: int
    destination: Address
    spi: int
    gateway: str
    before: int
    """The highest number that had been sent until then."""
    first: int
    """The number of this packet."""
    own: int | None = None
    """The lowest number of this gateway's own before it, of two Actives that send by turns; None: it sent none."""
    elsewhere: Address | None = None
    """Where the client was, as the packet before this one under that SPI was sent there; None: where this one goes."""

    @property
    def jump(self) -> int:
        """How many numbers were skipped, and 1; not above 0 where the new one began too low.

        Too low is a number twice, seen or not: an SA counts from 1, and a capture rarely begins with it. Who sent under the
        SA before must stay above where its own capture begins: of the numbers since, each one that came twice is seen. A
        packet may have a lower number than the one before it: Linux numbers it, and first serves interrupts that waited.
        """
        return self.first - (self.before if self.own is None else self.own)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What both captures hold together."""

    packets: Mapping[str, int]
    """By gateway."""
    sas: int
    numbers_twice: tuple[Reuse, ...]
    ivs_twice: tuple[Reuse, ...]
    takeovers: tuple[Takeover, ...]


def numbers(captures: Mapping[str, Iterable[Sealed]], sources: Container[Address]) -> Numbers:
    """Judge what each gateway sent from any of `sources`, which are the service's and the gateways' own addresses."""
    sent = {name: [one for one in seen if one.source in sources] for name, seen in captures.items()}
    packets = sorted(
        ((one.at_ns, name, one) for name, seen in sent.items() for one in seen), key=lambda entry: (entry[0], entry[1])
    )
    sas: dict[tuple[Address, int], _Sa] = {}
    numbers_twice, ivs_twice, takeovers = list[Reuse](), list[Reuse](), list[Takeover]()
    places: dict[int, Address] = {}
    for at, name, one in packets:
        was, places[one.spi] = places.get(one.spi, one.destination), one.destination
        sa = sas.setdefault((one.destination, one.spi), _Sa(name, one.sequence))
        if sa.sender != name:
            takeovers.append(
                Takeover(
                    at_ns=at,
                    destination=one.destination,
                    spi=one.spi,
                    gateway=name,
                    before=sa.highest,
                    first=one.sequence,
                    own=sa.lowest.get(name),
                    elsewhere=None if was == one.destination else was,
                )
            )
            sa.sender = name
        sa.lowest[name] = min(sa.lowest.get(name, one.sequence), one.sequence)
        sa.highest = max(sa.highest, one.sequence)
        for first, found in ((sa.numbers.get(one.sequence), numbers_twice), (sa.ivs.get(one.iv), ivs_twice)):
            if first is not None:
                reuse = Reuse(destination=one.destination, spi=one.spi, sequence=one.sequence, first=first, again=(name, at))
                found.append(reuse)
        sa.numbers.setdefault(one.sequence, (name, at))
        sa.ivs.setdefault(one.iv, (name, at))
    return Numbers(
        packets={name: len(seen) for name, seen in sent.items()},
        sas=len(sas),
        numbers_twice=tuple(numbers_twice),
        ivs_twice=tuple(ivs_twice),
        takeovers=tuple(takeovers),
    )


@dataclasses.dataclass(slots=True)
class _Sa:
    """What was sent under one SA so far: each number and each IV, by whom and when first."""

    sender: str
    highest: int
    lowest: dict[str, int] = dataclasses.field(default_factory=dict)
    """By gateway."""
    numbers: dict[int, tuple[str, int]] = dataclasses.field(default_factory=dict)
    ivs: dict[bytes, tuple[str, int]] = dataclasses.field(default_factory=dict)
