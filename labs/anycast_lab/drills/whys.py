"""What `site-agent why` says after a drill."""

from __future__ import annotations

import json
from collections.abc import Iterable

from anycast_lab.drills import pair_checks
from anycast_lab.runner import Runner


async def first_reason(runner: Runner, victim: str, fault_ns: int) -> str:
    """What it names at the victim for the first thing that went wrong after the fault."""
    if not runner.power(victim):
        return ""
    done = await runner.exec(victim, ("site-agent", "why", "--json", "--since", str(fault_ns)))
    try:
        answer = json.loads(done.text)
        return str(answer["first"]["reason"]) if answer.get("first") else ""
    except (ValueError, KeyError, TypeError):
        return ""


async def all_reasons(runner: Runner, gateways: Iterable[str], fault_ns: int) -> dict[str, tuple[str, ...]]:
    """Every reason that it names since the fault, at each of these that there is and that is on."""
    found = {}
    for gateway in filter(None, gateways):
        if runner.power(gateway):
            done = await runner.exec(gateway, ("site-agent", "why", "--json", "--since", str(fault_ns)))
            found[gateway] = pair_checks.reasons_named(done.text, fault_ns)
    return found
