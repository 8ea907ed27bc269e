"""The worst case, and the way of a drain's clients, as the coordinator's guard: what is refused, in which words, and what
history says of it. Pure.

It is asked twice: of the whole content when it is handed in, and of each site before the site is activated, by the tunnels
that there are then. A step that is refused waits, as where the ledger has no slot: tunnels go, or somebody overrides.
"""

from __future__ import annotations

from anycast.content.content import Content
from anycast.content.state import State
from anycast.coordinator.refusal import Refusal
from anycast.policy import drain_target
from anycast.policy.rollout import Terms
from anycast.policy.worst_case import DESPITE, WorstCase, refusals, worst_case

OVERRIDE = "`anycast rollout override --reason TEXT` goes on all the same"
NO_REASON = "a guard is overridden with a reason, which stays in the history: --reason TEXT"


def at_submission(running: Content | None, wanted: Content, state: State, terms: Terms) -> dict[str, object]:
    """What history is to say of it. Raises Refusal."""
    found, way = worst_case(running, wanted, state), drain_target.way_of(running, wanted, state)
    if (terms.despite or terms.unannounced) and not terms.reason.strip():
        raise Refusal((NO_REASON,))
    breaks = () if terms.despite else refusals(found)
    missing = () if terms.unannounced else drain_target.refusals(way)
    if breaks or missing:
        raise Refusal((*breaks, *missing))
    overridden = [DESPITE] * terms.despite + [drain_target.DESPITE] * terms.unannounced
    told = {"despite": " ".join(overridden)} if overridden else {}
    return _told(found) | ({"way": list(way.said)} if way.said else {}) | told


def at_step(found: WorstCase) -> str:
    """Why the step has to wait; empty: it has not."""
    return f"{'; '.join(found.breaks)}: {OVERRIDE}" if found.breaks else ""


def at_override(found: WorstCase, reason: str) -> dict[str, object]:
    """What history is to say of it. Raises Refusal."""
    if not reason.strip():
        raise Refusal((NO_REASON,))
    return _told(found)


def _told(found: WorstCase) -> dict[str, object]:
    return {"worst_case": list(found.said)} if found.said else {}
