"""What `site-agent apply` has the agent do: put the installed files into force in what already runs, each part by itself."""

from __future__ import annotations

from typing import Any

from anycast.errors import AnycastError
from site_agent.announce.no_route import NoRoute
from site_agent.announce.route_holder import RouteHolder
from site_agent.checks.packet_filter import PacketFilterCheck
from site_agent.ike.charon_process import Charon
from site_agent.vrrp.supervisor import Supervisor


async def apply(
    charon: Charon, packet_filter: PacketFilterCheck, holder: RouteHolder | NoRoute, supervisor: Supervisor | None
) -> dict[str, Any]:
    """Nothing that one part refuses keeps another from being tried. Returns a sentence by part."""
    applied: dict[str, str] = {}
    refused: dict[str, str] = {}
    parts = [("charon", charon.reload), ("nftables", packet_filter.reload), ("exabgp", holder.reload)]
    if supervisor is not None:
        parts.append(("vrrp", supervisor.reload))
    for name, part in parts:
        try:
            applied[name] = await part()
        except AnycastError as exc:
            refused[name] = str(exc)
        except TimeoutError:
            refused[name] = "did not answer"
        except OSError as exc:  # a file of the part's that cannot be read or written: a log, a rendered configuration
            refused[name] = f"{exc.strerror}: {exc.filename}" if exc.filename else str(exc)
    return {"applied": applied, "refused": refused}
