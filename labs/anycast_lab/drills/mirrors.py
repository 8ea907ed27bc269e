"""Whether the gateways of a pair mirror each other, as their own `site-agent status` says: a drill begins from there.

It is only waited for. What a drill asserts of the mirror is what clients, captures and the transit saw.
"""

from __future__ import annotations

import json
from typing import Any

from anycast.fleet.schema import Fleet
from anycast_lab.runner import LabError, Runner


async def unmirrored(runner: Runner, fleet: Fleet, crowd: int = 0) -> list[str]:
    """What is missing, a sentence a gateway; empty where every site's tunnels would outlive its Active. So many clients of a
    crowd are there: a gateway may not have looked at all of them yet."""
    missing, tunnels, everywhere = [], 0, True
    for site in fleet.sites.values():
        if site.sync is None:
            everywhere = False
            continue
        for gateway in site.gateways:
            found = await status(runner, gateway)
            if found is None:
                missing.append(f"{gateway}: its mirror says nothing")
            elif not found["connected"] or not found["settled"]:
                missing.append(f"{gateway}: its mirror is not {'settled' if found['connected'] else 'connected'}")
            elif found["role"] == "active":
                tunnels += found["tunnels"]
                if found["unprotected"] or found["taken_over"]:
                    missing.append(f"{gateway}: {found['unprotected']} of {found['tunnels']} SAs are not protected")
    assert fleet.lab is not None
    if not missing and everywhere and runner.esp and tunnels < 2 * (clients := len(fleet.lab.clients) + crowd):
        missing.append(f"the mirrors know {tunnels} SAs of {clients} clients")
    return missing


async def status(runner: Runner, gateway: str) -> dict[str, Any] | None:
    """What `site-agent status` says of the mirror; None where it says nothing."""
    try:
        done = await runner.exec(gateway, ("site-agent", "status", "--json"))
        found = json.loads(done.text)["sync"]["status"]
    except (LabError, ValueError, KeyError, TypeError):  # off, or not up yet
        return None
    return found if isinstance(found, dict) else None
