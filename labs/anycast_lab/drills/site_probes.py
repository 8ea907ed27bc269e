"""Who probes the service's address every few milliseconds, through the upstream router, as the world reaches it.

No tunnel is needed: the gateway's kernel answers an echo to the VIP. One prober a family, at the transit; where a site
speaks no BGP, at the plain router beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from pathlib import Path
from typing import Any

from anycast.fleet.schema import Fleet
from anycast_lab.runner import LabError, Process, Runner

INTERVAL_MS = {"native": 1.0, "uml": 20.0}
"""By kernel: what User Mode Linux's one CPU carries beside two clients that probe, too."""


class SiteProbes:
    """One prober a family of the VIPs."""

    def __init__(self, runner: Runner, fleet: Fleet, node: str) -> None:
        self._runner, self._node = runner, node
        self._targets = {family: str(fleet.service.vips.of(family)) for family in fleet.service.vips.families}
        self._processes: dict[str, Process] = {}

    def _file(self, family: str, suffix: str) -> Path:
        return self._runner.lab_dir / self._node / "etc" / "out" / f"site-{family}.{suffix}"

    async def start(self) -> None:
        for family, target in self._targets.items():
            for suffix in ("json", "live"):
                self._file(family, suffix).unlink(missing_ok=True)
            interval = str(INTERVAL_MS[self._runner.kernel])
            argv = ("python", "-m", "anycast_lab.drills.probe", "--to", target, "--interval-ms", interval)
            paths = ("--out", f"/etc/anycast/out/site-{family}.json", "--live", f"/etc/anycast/out/site-{family}.live")
            self._processes[family] = await self._runner.spawn(self._node, (*argv, "--realtime", *paths))

    def all_good_since(self, since_ns: int) -> bool:
        """Whether every family has had an answer after `since_ns`."""
        return all(self._last_good_ns(family) > since_ns for family in self._processes)

    def _last_good_ns(self, family: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return int(json.loads(self._file(family, "live").read_text())["last_good_ns"])
        return 0

    async def stop(self) -> dict[str, dict[str, Any]]:
        """End the probers; their records by family."""
        records = {}
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for family, process in self._processes.items():
            await asyncio.wait_for(process.wait(), 30)
            try:
                records[family] = json.loads(self._file(family, "json").read_text())
            except (OSError, ValueError) as error:
                raise LabError(f"the prober at {self._node} left no record for {family}") from error
        self._processes.clear()
        return records
