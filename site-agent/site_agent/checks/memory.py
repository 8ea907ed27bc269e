"""Is memory running out?

Load, not a fact: flows, half-open handshakes and sockets of strangers all take memory. What finally happens (the kernel
kills charon) is a fact of its own, with its own check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from anycast.model import EvidenceClass
from anycast.reasons import Reason
from site_agent.checks.base import Finding, Timing, failing, passing
from site_agent.proc_counters import Memory, parse_meminfo
from site_agent.procfs import read_file

NAME = "memory"
PATH = "/proc/meminfo"
LEAST_FREE = 0.05
"""Of all memory. Below this the kernel reclaims in every allocation, and packets are what allocates."""


class MemoryCheck:
    """Reports `memory`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.LOAD}
    timing = Timing(interval_s=5.0, timeout_s=1.0)

    def __init__(self, read: Callable[[str], bytes] = read_file) -> None:
        self._read = read

    async def look(self) -> Sequence[Finding]:
        return [judge(parse_meminfo(self._read(PATH)))]


def judge(memory: Memory) -> Finding:
    """By the kernel's own estimate of what can be had without swapping."""
    detail = f"{memory.available >> 20} of {memory.total >> 20} MiB available"
    low = memory.available < LEAST_FREE * memory.total
    return failing(NAME, Reason.MEMORY_LOW, detail) if low else passing(NAME, detail)
