"""What an agent keeps in mind of a content: of the text of a whole fleet the little that its own gateway goes by. Pure.

The text itself, megabytes of it where a fleet is large, stays on the disk (`content_store.py`): to read it takes longer than
a lease may wait for its renewal, so that is done elsewhere (`content_judge.py`), once for each that was taken.
"""

from __future__ import annotations

import dataclasses

from anycast.content.content import Because, Intent, Moves
from anycast.content.record import Record, Taken
from anycast.document import Document
from anycast.policy.floors import Budget, budget_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """Of one that is active, or waits."""

    generation: int
    hash: str
    key: str
    """Whose signature it has (`Signature.key`)."""
    budget: Budget
    intent: Intent
    """For the gateway's own site; ANNOUNCED where the content does not name that."""
    moves: Moves | None
    because: Because | None
    """Its operators' words, where it is dark."""
    prepend: int
    """Where it is degraded: more copies of its AS number."""
    runs: Document
    """What the gateway is to run by, under this generation."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Of everything that an agent has."""

    staged: Brief | None = None
    active: Brief | None = None
    frozen: int | None = None
    """The generation that two contents came under."""


def brief(taken: Taken, site: str) -> Brief:
    """For a gateway at `site`. Raises DecodeError where this version cannot read it."""
    content = taken.decoded
    own = content.sites.get(site)
    return Brief(
        generation=taken.generation,
        hash=taken.hash,
        key=taken.signature.key,
        budget=budget_of(content),
        intent=Intent.ANNOUNCED if own is None else own.intent,
        moves=None if own is None else own.moves,
        because=None if own is None else own.because,
        prepend=0 if own is None else own.prepend,
        runs=taken.runs,
    )


def known(record: Record, site: str) -> Known:
    """Raises DecodeError."""
    return Known(
        staged=None if record.staged is None else brief(record.staged, site),
        active=None if record.active is None else brief(record.active, site),
        frozen=None if record.frozen is None else record.frozen.generation,
    )
