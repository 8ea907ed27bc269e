"""What a rollout waits for, in an operator's words, where its step alone does not say it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from anycast.policy.gates import Verdict
from anycast.policy.rollout import EVIDENCE_LIMIT_S, GatewayTold, Rollout, Step

USUAL_S = 2.0
"""How long gateways may take to say that they have a content, before anybody is told of those who have not."""
MOST_NAMED = 3
"""Gateways in one sentence; the first are as good as any other to begin with."""


def waits_for(rollout: Rollout, look: Callable[[], Mapping[str, GatewayTold]], gate: tuple[Verdict, str], now: float) -> str:
    """Empty: for nothing but its time. A look at a large fleet takes a while, so it is taken only where it is needed."""
    for_s = now - rollout.since
    match rollout.step:
        case Step.STAGING if for_s >= USUAL_S:
            gateways = look()
            names = [name for site in rollout.gateways.values() for name in site]
            missing = [_missing(name, gateways.get(name)) for name in names if not _has(gateways.get(name), rollout)]
            more = f", and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
            return f"not taken yet by {', '.join(missing[:MOST_NAMED])}{more}" if missing else ""
        case Step.BAKING if for_s >= rollout.bake_s and not rollout.blind and gate[0] is Verdict.UNKNOWN:
            limit = f"{max(rollout.bake_s, EVIDENCE_LIMIT_S) / 60:.0f} min after its activation this counts as a failure"
            return f"evidence from {rollout.site}: {gate[1]}; {limit} (--without-evidence: a fleet without clients)"
        case _:
            return ""


def _has(found: GatewayTold | None, rollout: Rollout) -> bool:
    return found is not None and rollout.target in (found.staged, found.active)


def _missing(name: str, found: GatewayTold | None) -> str:
    if found is None or not found.fresh:
        return f"{name} (it is not heard)"
    return f"{name} ({found.refused})" if found.refused else name
