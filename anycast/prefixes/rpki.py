"""Route origin validation (RFC 6811) of what a fleet announces, against the VRPs that a validator exported. Pure.

The ROAs that a fleet needs are minimal (RFC 9319): one for each announced prefix and origin AS, of exactly that length. A
maxLength beyond what is announced lets anybody who forges the origin announce the longer prefix validly.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from anycast.prefixes.numbers import WIDTH, Range, read
from anycast.prefixes.origins import Announcement, Origin
from anycast.prefixes.vrps import Vrp


class Validity(enum.StrEnum):
    """RFC 6811 section 2."""

    VALID = "valid"
    """A VRP covers the prefix, names its origin and allows its length."""
    INVALID = "invalid"
    """VRPs cover it, and none of them matches."""
    NOT_FOUND = "not found"
    """No VRP covers it."""


class Judged(NamedTuple):
    announcement: Announcement
    validity: Validity
    covering: tuple[Vrp, ...]
    """Every VRP that covers the prefix; of a valid one, those that match."""

    @property
    def why(self) -> str:
        """One sentence that names the VRPs."""
        asn, prefix = self.announcement.origin, self.announcement.prefix
        if self.validity is Validity.NOT_FOUND:
            return f"no ROA covers it; one for {prefix} and AS {asn} would make it valid"
        return "; ".join(_said(vrp, self.announcement) for vrp in self.covering[:4]) + (
            f"; and {len(self.covering) - 4} more" if len(self.covering) > 4 else ""
        )


def _said(vrp: Vrp, announcement: Announcement) -> str:
    anchor = f" ({vrp.anchor})" if vrp.anchor else ""
    if vrp.asn != announcement.origin:
        whose = "nobody (AS 0)" if vrp.asn == 0 else f"AS {vrp.asn}"
        return f"{vrp.prefix} is authorised for {whose}{anchor}, not for AS {announcement.origin}"
    if vrp.max_length < announcement.range.length:
        return f"AS {vrp.asn} is authorised for {vrp.prefix} up to /{vrp.max_length}{anchor}, and this is longer"
    return f"AS {vrp.asn} is authorised for {vrp.prefix} up to /{vrp.max_length}{anchor}"


def judge(told: Iterable[Announcement], vrps: Iterable[Vrp]) -> list[Judged]:
    """Each announcement's validity, in the order of `told`."""
    told = list(told)
    by_prefix: dict[Range, list[Vrp]] = defaultdict(list)
    for vrp in vrps:
        by_prefix[vrp.range].append(vrp)
    found = []
    for each in told:
        covering = [vrp for around in covers(each.range) for vrp in by_prefix.get(around, ())]
        matching = [vrp for vrp in covering if vrp.asn == each.origin and each.range.length <= vrp.max_length]
        validity = Validity.VALID if matching else Validity.INVALID if covering else Validity.NOT_FOUND
        found.append(Judged(each, validity, tuple(matching or covering)))
    return found


def covers(each: Range) -> list[Range]:
    """Every prefix that holds `each`, the longest first, itself among them."""
    family, start, length = each
    width = WIDTH[family]
    return [Range(family, start >> (width - n) << (width - n), n) for n in range(length, -1, -1)]


def loose(judged: Iterable[Judged]) -> list[tuple[Announcement, Vrp]]:
    """Where a matching VRP also allows what is longer than the announced prefix (RFC 9319 section 3)."""
    return [
        (each.announcement, vrp)
        for each in judged
        if each.validity is Validity.VALID
        for vrp in each.covering
        if vrp.max_length > each.announcement.range.length
    ]


def unneeded(wanted: Iterable[Origin], vrps: Iterable[Vrp], asns: Iterable[int]) -> list[Vrp]:
    """VRPs that name one of the fleet's ASNs for a prefix in or around its own that it does not announce."""
    wanted, own = list(wanted), set(asns)
    said = {(read(each.prefix), each.asn) for each in wanted}
    return [vrp for vrp in vrps if vrp.asn in own and (vrp.range, vrp.asn) not in said]
