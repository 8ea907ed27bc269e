"""What tcpdump is told for a capture that somebody watches. Pure; the drills' own captures are `drills/wiretaps.py`'s."""

from __future__ import annotations

from collections.abc import Sequence

BUFFER_KIB = 32768
"""A small one loses bursts (measured)."""
SNAPSHOT = 9600
"""Bytes of each frame: all of one on a link with containerlab's own MTU."""


LISTENS = b"listening on"
"""What tcpdump says when it has begun."""


def command(interface: str, expression: Sequence[str], *, packets: int, decoded: bool) -> tuple[str, ...]:
    """For a node's `interface` (``any``: all); until there are `packets`; 0: until it is ended.

    Standard output is text, a line a packet, where `decoded`; otherwise a capture file. Both are whole after each packet.
    """
    counts = ("-c", str(packets)) if packets else ()
    shape = ("-l",) if decoded else ("-U", "-w", "-")
    # In the default mode the kernel keeps packets for up to a second, and the end would lose them; in this one each packet
    # takes a whole snapshot of the buffer, and one of the default's length loses bursts (measured).
    options = ("-n", "--immediate-mode", "-s", str(SNAPSHOT), "-B", str(BUFFER_KIB), "-Z", "root", "-i", interface)
    return ("tcpdump", *options, *counts, *shape, "--", *expression)
