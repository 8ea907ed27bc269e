"""Ending ExaBGP ends its bridge too, also one that neither sees its pipe close nor heeds any signal but SIGKILL."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from pathlib import Path

from site_agent.announce.exabgp_process import children, end_with_children
from site_agent.daemon_process import DetachedProcess, ProcessSpec

PARENT = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
open(sys.argv[2], "w").write("ready")
signal.pause()
"""
CHILD = """
import signal
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
    signal.signal(number, signal.SIG_IGN)
print("deaf", flush=True)
while True:
    signal.pause()
"""


def test_a_deaf_bridge_is_ended_with_its_exabgp(tmp_path: Path) -> None:
    async def main() -> None:
        ready = tmp_path / "ready"
        os.mkfifo(ready)
        exits: list[int | None] = []
        spec = ProcessSpec(
            name="parent",
            argv=(sys.executable, "-c", PARENT, CHILD, str(ready)),
            env={},
            record=tmp_path / "record",
            log=tmp_path / "log",
        )
        process = DetachedProcess(spec, lambda pid, status: exits.append(status))
        process.start()
        assert process.pid is not None
        assert await asyncio.to_thread(ready.read_text) == "ready"
        (child,) = children(process.pid)
        pidfd = os.pidfd_open(child)
        try:
            await end_with_children(process)
            assert exits == [-9]
            assert select.select([pidfd], [], [], 0)[0], "the child still runs"
        finally:
            os.close(pidfd)

    asyncio.run(main())
