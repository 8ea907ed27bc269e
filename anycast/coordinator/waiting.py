"""What a rollout waits for, in an operator's words, where its step alone does not say it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from anycast.policy.gates import Verdict
from anycast.policy.rollout import EVIDENCE_LIMIT_S, GatewayTold, Rollout, Step

USUAL_S = 2.0
"""How long gateways may take to say that they have a content, before anybody is told of those who have not."""
MOST_NAMED = 3
"""Gateways of one reason; the first are as good as any other to begin with."""


def waits_for(rollout: Rollout, look: Callable[[], Mapping[str, GatewayTold]], gate: tuple[Verdict, str], now: float) -> str:
    """Empty: for nothing but its time. A look at a large fleet takes a while, so it is taken only where it is needed."""
    for_s = now - rollout.since
    match rollout.step:
        case Step.STAGING if for_s >= USUAL_S:
            gateways = look()
            missing: dict[str, list[str]] = {}
            for name in (name for site in rollout.gateways.values() for name in site):
                if not _has(found := gateways.get(name), rollout):
                    missing.setdefault(_why(found), []).append(name)
            return f"not taken yet by {'; by '.join(map(_group, missing.items()))}" if missing else ""
        case Step.BAKING if for_s >= rollout.bake_s and not rollout.blind and gate[0] is Verdict.UNKNOWN:
            limit = f"{max(rollout.bake_s, EVIDENCE_LIMIT_S) / 60:.0f} min after its activation this counts as a failure"
            return f"evidence from {rollout.site}: {gate[1]}; {limit} (--without-evidence: a fleet without clients)"
        case _:
            return ""


def _has(found: GatewayTold | None, rollout: Rollout) -> bool:
    return found is not None and rollout.target in (found.staged, found.active)


def _why(found: GatewayTold | None) -> str:
    return found.refused if found is not None and found.fresh else "it is not heard"


def _group(item: tuple[str, list[str]]) -> str:
    """Gateways of one reason, as one mistake is mostly everywhere."""
    why, names = item
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}{f' ({why})' if why else ''}"
