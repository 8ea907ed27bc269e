"""A control socket of charon's that accepts and says nothing: VICI stuck, as every client of it sees that.

charon's own socket is moved aside and a silent one listens in its place, so IKE and tunnels go on as they do when only
VICI is stuck. Connections that were open before go on as well: the drill restarts the agent.
`python -m anycast_lab.drills.stuck_vici PATH` does it in a node until SIGTERM, and puts charon's socket back at the end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from anycast_lab.runner import LabError, Process, Runner

STOP_S = 30.0
VICI_SOCKET = "/run/site-agent/charon.vici"
BACKLOG = 4096
"""Nobody shall be refused: that would be another fault."""


class StuckVici:
    """One drill's. `close` at the end, whatever happened."""

    def __init__(self, runner: Runner, victim: str) -> None:
        self._runner, self._victim = runner, victim
        self._process: Process | None = None

    async def stick(self) -> None:
        """Returns when the silent socket is there. Raises LabError where it does not come."""
        argv = ("python", "-m", "anycast_lab.drills.stuck_vici", VICI_SOCKET)
        self._process = await self._runner.spawn(self._victim, argv)
        aside = Path(f"/proc/{self._runner.pid(self._victim)}/root{_aside(VICI_SOCKET)}")
        try:
            async with asyncio.timeout(STOP_S):
                while not aside.exists():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise LabError(f"no silent control socket at {self._victim}") from None

    async def close(self) -> None:
        """Give charon its socket back."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self._process.wait(), STOP_S)
            self._process = None


def _aside(path: str) -> str:
    return f"{path}.aside"


def main() -> None:
    path = sys.argv[1]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with socket.socket(socket.AF_UNIX) as silent:
        os.rename(path, _aside(path))
        try:
            silent.bind(path)
            silent.listen(BACKLOG)
            signal.sigwait({signal.SIGTERM})
        finally:
            os.replace(_aside(path), path)


if __name__ == "__main__":
    main()
