"""What a doctor says: findings of known kinds, and what could not be looked at. Plain data, pure.

A kind exists once, with the one sentence that says why it matters, so that the command line, the JSON and the table in
docs/doctor.md cannot tell different stories. A judge is a function from typed readings to findings; it never looks itself.
"""

from __future__ import annotations

import dataclasses
import enum

from anycast.errors import BugError


class Severity(enum.StrEnum):
    """From worst to best; the order of the members is the order of the report."""

    WRONG = "wrong"
    """Clients are refused or lose their tunnels by it, now or at the next foreseeable event."""
    RISKY = "risky"
    """Works until load, an attack, an upgrade or a failure meets it."""
    NOTE = "note"
    """Worth knowing; may be meant so."""
    OK = "ok"

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return list(Severity).index(self)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at, and what follows."""

    id: str
    severity: Severity
    seen: str
    """What the machine said: figures, names, places."""
    why: str
    mend: tuple[str, ...] = ()
    """Shell lines for root that mend it, to be run in this order; empty where nothing needs mending."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of finding."""

    id: str
    looks_at: str
    """For the table in docs/doctor.md."""
    why: str
    """One sentence: what goes wrong, and for whom."""
    worst: Severity

    def found(self, severity: Severity, seen: str, *mend: str) -> Finding:
        """A finding of this kind. Raises BugError for one that is worse than the kind says, or bad without a mend."""
        if severity.rank < self.worst.rank or (severity in (Severity.WRONG, Severity.RISKY) and not mend):
            raise BugError(f"{self.id}: a finding that its kind does not allow: {severity}, {seen}")
        return Finding(id=self.id, severity=severity, seen=seen, why=self.why, mend=mend)

    def ok(self, seen: str) -> Finding:
        """Looked at, nothing to do."""
        return Finding(id=self.id, severity=Severity.OK, seen=seen, why=self.why)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """Something that could not be looked at. Nothing is inferred from it."""

    what: str
    """One sentence."""
    needs: str = ""
    """The privilege that is missing; empty where none would help."""
