"""A changed configuration for an ExaBGP that runs: checked before it is installed, told by a signal, and confirmed.

On SIGUSR1 ExaBGP 5.0.15 reads its file again. Measured against BIRD: sessions whose neighbor did not change stay up
with their routes, one that changed goes down and comes back, a new one comes up, one that is gone is closed, and the
bridge goes on. A lease or a grace of the bridge does not change that way.

Two traps, both measured. A file that it refuses leaves its parser in the middle: every later reload fails too, until it
is started anew. So a file is validated by an ExaBGP of its own before it takes the place of the old one. And a signal
that comes while routes are on their way out is dropped. So the answer is awaited, and it stands nowhere but in ExaBGP's
log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from anycast.errors import ConfigError, PeerError, Problem
from site_agent.daemon_process import DetachedProcess

DONE = b"loaded new configuration successfully"
REFUSED = b"could not load/reload configuration"
ANSWER_LIMIT_S = 2.0
"""It reads the file within one turn of its loop, 0.1 s."""
ATTEMPTS = 2
POLL_S = 0.02


def validate(config: Path, *, limit_s: float) -> None:
    """Have ExaBGP's own parser read `config`: 0.4 s natively, 3 s in User Mode Linux.

    Raises ConfigError with its words, and PeerError where it has said nothing after `limit_s`.
    """
    command = [sys.executable, "-m", "exabgp", "validate", "-n", str(config)]
    env = os.environ | {"EXABGP_ENVFILE": os.devnull}
    try:
        done = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, check=False, timeout=limit_s)
    except subprocess.TimeoutExpired as exc:
        raise PeerError("exabgp", f"did not read the new configuration within {limit_s:.1f} s") from exc
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line and str(config) not in line and "password" not in line]
        raise ConfigError([Problem("bgp", f"ExaBGP refuses what is rendered: {'; '.join(said[:3])}")])


async def reload(process: DetachedProcess) -> None:
    """Have ExaBGP read its file again and wait until it has. Raises PeerError where it refuses or does not answer."""
    log = process.spec.log
    for _ in range(ATTEMPTS):
        start = log.stat().st_size if log.exists() else 0
        if not process.kill(signal.SIGUSR1):
            raise PeerError("exabgp", "is not running; it reads its file when it is started")
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                while True:
                    said = _after(log, start)
                    if DONE in said:
                        process.took_settings()
                        return
                    if REFUSED in said:
                        raise PeerError(
                            "exabgp", f"refused its file and reads no other before it is started anew ({log} says why)"
                        )
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            continue
    raise PeerError("exabgp", f"did not answer within {ANSWER_LIMIT_S:g} s")


def _after(log: Path, start: int) -> bytes:
    with open(log, "rb") as file:
        # A log that was shortened meanwhile begins anew.
        file.seek(start if start <= os.fstat(file.fileno()).st_size else 0)
        return file.read()
