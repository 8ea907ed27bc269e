"""What differs between two buckets, by cause, and whether two looks agree that it does. Pure."""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from site_agent.netlink.xfrm_digest import POLICY_ENDS_BYTES, SA_ENDS_BYTES, SA_PORTS_BYTES
from site_agent.sync.digest_table import NAME_BYTES, Of, Record

T = TypeVar("T", bound=Hashable)

SPI_AND_PROTOCOL = 5
_SA_DESTINATION, _SA_SOURCE = slice(5, 21), slice(21, 37)
_IKE_ADDRESSES = 48


class Cause(enum.IntEnum):
    """How the Backup falls short of the Active. The number is on the wire."""

    MISSING_IN_KERNEL = 1
    MISSING_IN_CHARON = 2
    """Of a CHILD_SA its kernel may have all: it would answer a rekey with CHILD_SA_NOT_FOUND."""
    ADDRESS = 3
    """The client has moved (MOBIKE), or its NAT has."""
    PORTS = 4
    """Only its NAT's port is another."""
    SETTINGS = 5
    """Mode, window, flags, marks: the two configurations differ, or the two versions."""
    IKE_SA = 6
    """Its charon has the CHILD_SA with another IKE_SA: a rekey was lost."""


class Finding(NamedTuple):
    of: Of
    record: Record
    """As the Active has it."""
    cause: Cause


class Extra(NamedTuple):
    """What the Backup has and the Active has not."""

    of: Of
    record: Record
    """As the Backup has it."""


def compare(of: Of, theirs: Sequence[Record], ours: Sequence[Record]) -> tuple[list[Finding], list[Extra]]:
    """One bucket of the Active and of the Backup."""
    missing, spare = set(theirs) - set(ours), set(ours) - set(theirs)
    findings = list[Finding]()
    by_name = {record[: NAME_BYTES[of]]: record for record in spare}
    nameless = list[Record]()
    for record in sorted(missing):
        if (other := by_name.pop(record[: NAME_BYTES[of]], None)) is None:
            nameless.append(record)
        else:
            spare.remove(other)
            findings.append(Finding(of, record, _difference(of, record, other)))
    by_rest = {rest: other for other in sorted(spare) for rest in _without_one_end(of, other)}
    for record in nameless:
        other = next((by_rest[rest] for rest in _without_one_end(of, record) if by_rest.get(rest) in spare), None)
        if other is not None:
            spare.remove(other)
        cause = Cause.MISSING_IN_KERNEL if of in (Of.SAS, Of.POLICIES) else Cause.MISSING_IN_CHARON
        findings.append(Finding(of, record, Cause.ADDRESS if other is not None else cause))
    return findings, [Extra(of, record) for record in sorted(spare)]


def _difference(of: Of, record: Record, other: Record) -> Cause:
    """Of two records with one name."""
    if of is Of.IKE_SAS:
        return Cause.ADDRESS if record[:_IKE_ADDRESSES] != other[:_IKE_ADDRESSES] else Cause.PORTS
    if of is Of.CHILD_SAS:
        return Cause.IKE_SA
    if of is Of.POLICIES:
        return Cause.ADDRESS if record[:POLICY_ENDS_BYTES] != other[:POLICY_ENDS_BYTES] else Cause.SETTINGS
    if record[:SA_ENDS_BYTES] != other[:SA_ENDS_BYTES]:
        return Cause.ADDRESS
    return Cause.PORTS if record[:SA_PORTS_BYTES] != other[:SA_PORTS_BYTES] else Cause.SETTINGS


def _without_one_end(of: Of, record: Record) -> tuple[bytes, ...]:
    """An outbound SA is named by the client's address. One that has moved has its SPI and the other end still."""
    if of is not Of.SAS:
        return ()
    spi = record[:SPI_AND_PROTOCOL]
    return b"to" + spi + record[_SA_DESTINATION], b"from" + spi + record[_SA_SOURCE]


class TwoLooks(Generic[T]):
    """What one look has found is only said once a later one, of `after_s` or more, has found it too: a rekey in flight, or
    a message that is still on its way, differs for a moment."""

    def __init__(self, after_s: float) -> None:
        self._after = after_s
        self._since: dict[T, float] = {}

    def looked(self, found: Iterable[T], now: float) -> set[T]:
        """Those of `found` that stand. What is not found any more begins anew."""
        self._since = {each: self._since.get(each, now) for each in found}
        return {each for each, since in self._since.items() if now - since >= self._after}

    def clear(self) -> None:
        self._since = {}
