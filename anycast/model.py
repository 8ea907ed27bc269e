"""What evidence, verdicts and routes are. Plain data; imports nothing of ours but the reasons.

Times named `at` or ending in `_at` are CLOCK_BOOTTIME in seconds (float) inside one process; times that cross a process
border are integer nanoseconds of CLOCK_BOOTTIME and end in `_ns`. Wall-clock time appears only in records for people.
"""

from __future__ import annotations

import dataclasses
import enum
import re

from anycast.reasons import Reason

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""Of fleets, sites and gateways: a label of a domain name (RFC 1123 section 2.1), in small letters."""


class EvidenceClass(enum.StrEnum):
    """What a check's evidence may cause. Part of the check's code with its reason, never of the configuration."""

    FACT = "fact"
    """The kernel or the process table says so and no outsider can cause it: acts at once, alone."""
    LOAD = "load"
    """Travels with traffic or can be sent by a stranger: alarms and protects, never withdraws."""
    SHARED = "shared"
    """Can fail everywhere at once: shown; needs a token for any change in BGP."""


class Status(enum.StrEnum):
    """What one look saw."""

    PASSING = "passing"
    FAILING = "failing"
    UNKNOWN = "unknown"
    """The check could not see (timed out, crashed, refused). Never counts as failing."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one check saw of one thing at one time."""

    check: str
    """Name of the check, e.g. ``charon_process``."""
    evidence_class: EvidenceClass
    status: Status
    reason: Reason
    detail: str = ""
    """One sentence for people: figures, pids, addresses. Never parsed."""
    value: float | None = None
    """The measured figure that the status was judged by, in the unit that the check's module names; for graphs."""
    at: float
    """When it was seen."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A reason with the check it came from and its detail: one line of `site-agent why`."""

    reason: Reason
    check: str = ""
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}{f' ({self.detail})' if self.detail else ''}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One prefix as one upstream shall hear it. Sets of these cross component borders, never deltas."""

    neighbor: str
    """The upstream's address, as ExaBGP's neighbor is named."""
    prefix: str
    """CIDR text of the covering prefix, canonical."""
    next_hop: str
    """Address literal; never ``self``, so that what is announced can be compared."""
    communities: tuple[str, ...] = ()
    """Standard communities as ``high:low`` numbers. Symbolic names are refused: ExaBGP 5 matches commands by substring."""
    large_communities: tuple[str, ...] = ()
    """``asn:value:value`` numbers (RFC 8092)."""
    med: int | None = None
    prepend: int = 0
    """How many extra copies of the local AS."""
    local_pref: int | None = None
    """LOCAL_PREF, on a session inside one AS only."""

    @property
    def key(self) -> tuple[str, str]:
        """What BGP replaces: a second announcement with the same key is an implicit withdrawal of the first."""
        return self.neighbor, self.prefix

    def __lt__(self, other: Route) -> bool:
        # Not `order=True`: `med` may be None, which compares with nothing. No MED sorts before MED 0.
        return self._sort_key < other._sort_key

    @property
    def _sort_key(self) -> tuple[object, ...]:
        med = -1 if self.med is None else self.med
        local_pref = -1 if self.local_pref is None else self.local_pref
        communities = self.communities, self.large_communities
        return self.neighbor, self.prefix, self.next_hop, *communities, med, self.prepend, local_pref


class SessionState(enum.StrEnum):
    """A BGP session as ExaBGP reports it to its helper."""

    CONNECTED = "connected"
    UP = "up"
    DOWN = "down"
