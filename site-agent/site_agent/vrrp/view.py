"""The virtual router as people read it: one sentence of how it stands, one of what the last transition cost. Pure.

It reads the plain data that `status` has under ``vrrp`` and imports nothing heavy: a machine in trouble must answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PATHS = ("outside", "inside", "management")
"""By bit of what is heard (`seal.Path`)."""
_WHY = {
    "started": "nobody had asked it to serve yet",
    "resumed": "went on after a clean restart",
    "owner": "owns the addresses",
    "peer_silent": "the Active was not heard any more",
    "peer_released": "the Active let go",
    "peer_preferred": "another Active comes first",
    "handed_over": "handed over",
    "unfit": "this gateway could not serve",
    "parent_silent": "the agent was silent",
    "uplink_unproven": "the upstream router did not answer",
    "addresses_refused": "the kernel refused the addresses",
    "clock_gap": "the process had stood still",
    "shutdown": "the process ended",
    "vrrp_silent": "the vrrp process did not answer, and was killed",
    "vrrp_exited": "the vrrp process ended",
}


def heard_on(bits: int) -> str:
    """``outside, inside``; ``nowhere``."""
    return ", ".join(name for bit, name in enumerate(PATHS) if bits >> bit & 1) or "nowhere"


def why(cause: str) -> str:
    """A cause's word with what it means."""
    return f"{cause}: {_WHY[cause]}" if cause in _WHY else cause


def cost(vrrp: Mapping[str, Any]) -> str:
    """What becoming Active cost: silence before the decision, and the time until the kernel had the addresses."""
    installed = f"addresses in the kernel {vrrp['installed_us'] / 1000:.1f} ms after the decision"
    if vrrp["silent_us"]:
        return f"nobody heard as Active for {vrrp['silent_us'] / 1000:.0f} ms, then {installed}"
    return f"no silence before it, {installed}"


def peer(vrrp: Mapping[str, Any]) -> str:
    """``fra-gw2 is Active, could serve, heard outside, inside``."""
    name = vrrp["peer_gateway"] or "the other router"
    if vrrp["peer"] == "silent" and not vrrp["heard"]:
        return f"{name} is not heard"
    role = "is Active" if vrrp["peer_active"] else "is Backup"
    able = {"fit": "could serve", "unfit": "could not serve"}.get(vrrp["peer"], "says nothing of itself")
    return f"{name} {role}, {able}" + (f", heard {heard_on(vrrp['heard'])}" if vrrp["heard"] else "")
