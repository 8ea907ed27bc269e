"""What a socket and a frame depend on of an interface: its index and its MAC address, which both may change under us.

An interface that was removed and made again has the old name and another index, and a socket that is bound to the old one
stays deaf for ever; a bond that changes its MAC address makes every prepared frame a lie.
"""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path as FilePath


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    index: int
    mac: bytes


def facts_of(interface: str) -> Facts | None:
    """As they are now; None where there is no such interface."""
    try:
        index = socket.if_nametoindex(interface)
        text = FilePath(f"/sys/class/net/{interface}/address").read_text()
        return Facts(index, bytes.fromhex(text.strip().replace(":", "")))
    except (OSError, ValueError):
        return None
