"""Does charon have the connections that were rendered for it?

A configuration alarm of class `load`, never evidence against the gateway: a file that charon refused is no proof that the
established tunnels do not work, and a fleet whose sites all got the same bad file must not go dark (architecture, rule 2).
The names come with an answer that the `vici` check asks for; that check reports it.
"""

from __future__ import annotations

from collections.abc import Collection

from anycast.errors import PeerError
from anycast.reasons import Reason
from site_agent.checks.base import Finding, failing, passing
from site_agent.ike.vici_client import Section

NAME = "connections"


def loaded_connections(conns: Section) -> frozenset[str]:
    """Their names, of VICI's `get-conns`. Raises PeerError."""
    try:
        return frozenset(name.decode() for name in conns.get("conns", []))
    except (AttributeError, TypeError, UnicodeDecodeError) as exc:
        raise PeerError("charon", f"get-conns: cannot be understood: {exc!r}") from exc


def judge(loaded: Collection[str], rendered: Collection[str]) -> Finding:
    """`rendered` is what must be there; where nothing of ours was rendered, any connection at all."""
    if missing := sorted(set(rendered) - set(loaded)):
        return failing(NAME, Reason.CONNECTIONS_NOT_LOADED, f"charon has not loaded {', '.join(missing)}")
    if not loaded:
        return failing(NAME, Reason.CONNECTIONS_NOT_LOADED, "charon has no connection at all")
    return passing(NAME, f"{len(rendered) or len(loaded)} loaded")
