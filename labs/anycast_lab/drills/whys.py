"""What `site-agent why` says after a drill."""

from __future__ import annotations

import json
from collections.abc import Iterable

from anycast_lab.runner import Runner


async def tell(runner: Runner, gateways: Iterable[str], fault_ns: int) -> dict[str, str]:
    """Its JSON since the fault, at each of these that there is and that is on."""
    found = {}
    for gateway in filter(None, gateways):
        if runner.power(gateway):
            found[gateway] = (await runner.exec(gateway, ("site-agent", "why", "--json", "--since", str(fault_ns)))).text
    return found


def first_reason(told: str) -> str:
    """What it names for the first thing that went wrong; empty where it names nothing."""
    try:
        answer = json.loads(told)
        return str(answer["first"]["reason"]) if answer.get("first") else ""
    except (ValueError, KeyError, TypeError):
        return ""
