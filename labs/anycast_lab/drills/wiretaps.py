"""tcpdump on a site's LAN, its way to the transit, its gateways' cables: from before the fault to two seconds after it all.

Ended at once it would lose the last second, and a small buffer loses bursts (both measured), so neither happens here, and
what the kernel says it dropped is a problem of the capture.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from anycast_lab.capture.frames import Seen
from anycast_lab.drills.captured import Captured, decoded
from anycast_lab.runner import LabError, Process, Runner

LAN = "arp or (icmp6 and ip6[40] == 136) or ip proto 112 or ip6 proto 112 or tcp port 179"
BGP = "tcp port 179"
ESP = "esp or ip6 proto 44 or udp port 4500"
"""Fragments of IPv4 are found by the protocol that their first one has; a later one holds no number."""
TOO_BIG = "(icmp[0] == 3 and icmp[1] == 4) or (icmp6 and ip6[40] == 2)"
IKE = "udp port 500 or (udp port 4500 and udp[8:4] == 0)"
"""Over IPv4, and with the marker that tells it from ESP (RFC 3948 section 2.2)."""
LINGER_S = 2.0
_START_S = 20.0
_DROPPED = re.compile(r"(\d+) packets? dropped by kernel")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a capture is made."""

    node: str
    interface: str
    what: str = LAN
    """A filter of tcpdump's."""
    inbound: bool = False
    """Only what comes in there, which is what the cable's other end itself has sent."""
    snapshot: int = 2048
    """Bytes of each frame."""


class Wiretaps:
    """The captures of one drill, by name. `out` says where a node leaves its files."""

    def __init__(self, runner: Runner, places: Mapping[str, Place]) -> None:
        self._runner, self._places = runner, places
        self._processes: dict[str, Process] = {}
        self._died: dict[str, bool] = {}

    def _file(self, name: str, suffix: str) -> Path:
        return self._runner.lab_dir / self._places[name].node / "etc" / "out" / f"{name}.{suffix}"

    async def start(self) -> None:
        """Return when all of them listen. Raises LabError."""
        for name, place in self._places.items():
            for suffix in ("pcap", "err"):
                self._file(name, suffix).unlink(missing_ok=True)
            words = ("-s", str(place.snapshot), *(("-Q", "in") if place.inbound else ()))
            argv = ("tcpdump", "-U", "-n", "-B", "32768", "-Z", "root", "-i", place.interface, *words)
            into = ("-w", f"/etc/anycast/out/{name}.pcap", place.what)
            self._processes[name] = await self._runner.spawn(place.node, argv + into, stderr=self._file(name, "err"))
        end = time.monotonic() + _START_S
        for name, process in self._processes.items():
            while "listening on" not in (said := self._said(name)):
                if process.returncode is not None or time.monotonic() > end:
                    raise LabError(f"tcpdump at {self._places[name].node} does not listen: {said.strip()}")
                await asyncio.sleep(0.02)

    def so_far(self, name: str) -> tuple[Seen, ...]:
        """What a running capture holds by now."""
        return decoded(self._file(name, "pcap").read_bytes() if self._file(name, "pcap").exists() else b"").seen

    async def hush(self) -> None:
        """Linger, and end."""
        if not self._processes:
            return
        await asyncio.sleep(LINGER_S)
        for name, process in self._processes.items():
            self._died[name] = process.returncode is not None
            process.send_signal(signal.SIGINT)
        for process in self._processes.values():
            await asyncio.wait_for(process.wait(), 30)
        self._processes.clear()

    def read(self) -> dict[str, Captured]:
        """What was captured, once they are hushed. Empty where none was started."""
        captured = {}
        for name, died in self._died.items():
            read = decoded(self._file(name, "pcap").read_bytes() if self._file(name, "pcap").exists() else b"")
            dropped = _DROPPED.search(self._said(name))
            problems = list(read.problems)
            if died or dropped is None:
                problems.append("tcpdump ended before it was told to")
            elif dropped[1] != "0":
                problems.append(f"{dropped[1]} packets dropped by kernel")
            captured[name] = dataclasses.replace(read, problems=tuple(problems))
        return captured

    async def close(self) -> None:
        """Let no capture outlive a drill that could not be carried out."""
        for process in self._processes.values():
            process.send_signal(signal.SIGKILL)
        self._processes.clear()

    def _said(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return self._file(name, "err").read_text(errors="replace")
        return ""
