"""The mirror as people read it: how it stands, in a line or two. Pure.

It reads the plain data that `status` has under ``sync`` and imports nothing heavy: a machine in trouble must answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def lines(sync: Mapping[str, Any]) -> list[tuple[bool, str]]:
    """Each with whether all is well with it."""
    peer, status = sync["peer_gateway"], sync["status"]
    if status is None:
        why = "it has not spoken yet" if sync["pid"] is not None else "no sync process runs"
        return [(False, f"mirror: {why}; what {peer} holds of our tunnels grows old")]
    connected = "connected to" if status["connected"] else "not connected to"
    follows = f"settled as {status['role']}" if status["settled"] else f"not settled yet, acts as {status['role']}"
    found = [(status["connected"] and status["settled"], f"mirror: {connected} {peer}, {follows}; {_load(status)}")]
    if status["role"] == "active":
        found.append((status["unprotected"] == 0, _protection(status)))
    found += [(False, f"a handover is refused: {mismatch}") for mismatch in status["mismatches"]]
    return found


def _load(status: Mapping[str, Any]) -> str:
    parts = [f"{status['outbound']} {_plural(status['outbound'], 'SA')}"]
    for field, text in (
        ("taken_over", "to be rekeyed since the takeover"),
        ("unconfirmed", "not known to stand higher at the other gateway"),
        ("waiting", "messages not acknowledged"),
        ("gaps", "messages lost"),
        ("retired", "SAs deleted because no number was safe"),
        ("conflicts", "times both gateways were Active"),
    ):
        if status[field]:
            parts.append(f"{status[field]} {text}")
    return ", ".join(parts)


def _protection(status: Mapping[str, Any]) -> str:
    text = f"unprotected: {status['unprotected']} of {status['tunnels']}"
    if status["causes"]:
        text += " (" + ", ".join(f"{cause} {count}" for cause, count in sorted(status["causes"].items())) + ")"
    if status["repairs"]:
        text += f"; {status['repairs']} to be rekeyed, so that the other gateway learns them"
        text += f" (about {status['repairs_left_s']} s)"
    if status["given_up"]:
        text += f"; {status['given_up']} given up (`site-agent events` names them)"
    return text


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
