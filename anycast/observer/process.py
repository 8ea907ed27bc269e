"""`anycast observe`: an ExaBGP that listens, what it tells made into `Sight`, and that told to the coordinator.

    router ──BGP──▶ ExaBGP ──JSON──▶ relay ──unix socket──▶ Observing ──HTTP──▶ coordinator

ExaBGP tells nothing twice, so what a relay that ended had told is worth nothing: all of it begins anew. A coordinator that
does not answer is asked again; its own clock makes what it last heard old.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from anycast.errors import AnycastError, DecodeError, PeerError
from anycast.fleet.observer import Observer
from anycast.observer import exabgp_conf
from anycast.observer.exabgp_lines import LONGEST_LINE, decode_line
from anycast.observer.seen import Sight
from anycast.pki import files

TELL_EVERY_S = 2.0
PACE_S = 0.2
"""Between two words, however fast things change."""
AGAIN_S = 2.0
END_LIMIT_S = 5.0
_SETTINGS = {
    "api.ack": "true", "api.cli": "false", "api.encoder": "json", "daemon.daemonize": "false", "daemon.drop": "false",
    "log.destination": "stderr", "log.level": "WARNING", "tcp.bind": "",
}  # fmt: skip
_INHERITED = ("PATH", "PYTHONPATH", "LANG", "TZ")
_log = logging.getLogger(__name__)
Tell = Callable[[dict[str, object]], None]


class Observing:
    """Use from the event loop's thread; `run` until cancelled."""

    def __init__(self, observer: Observer, sight: Sight, run_dir: Path, tell: Tell) -> None:
        """`tell` hands a word to the coordinator, in a thread. Raises ConfigError, KernelError where `run_dir` cannot be
        used."""
        self._sight, self._tell = sight, tell
        files.make_folder(run_dir)
        run_dir = run_dir.resolve()  # ExaBGP starts its helper elsewhere
        self._socket, self._conf = run_dir / "relay.sock", run_dir / "exabgp.conf"
        relay = (sys.executable, "-m", "anycast.observer.relay", str(self._socket))
        files.write(self._conf, exabgp_conf.render(observer, relay).encode(), files.SECRET)
        self._changed = asyncio.Event()
        self.problem = ""
        """Why the coordinator does not hear it."""

    def word(self) -> dict[str, object]:
        """What the coordinator is told."""
        return {
            "v": 1,
            "sites": {site: seen.value for site, seen in self._sight.sites().items()},
            "routers": self._sight.up,
        }

    async def run(self) -> None:
        """Raises OSError where it cannot listen."""
        self._socket.unlink(missing_ok=True)
        ended: asyncio.Queue[None] = asyncio.Queue()

        async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while line := await reader.readline():
                    for event in decode_line(line):
                        self._sight.handle(event)
                    self._changed.set()
            except (DecodeError, ValueError, OSError) as exc:  # ValueError: a line without an end
                _log.warning("ExaBGP says what means nothing, so it begins anew: %s", exc)
            finally:
                writer.transport.abort()
                ended.put_nowait(None)

        async with asyncio.TaskGroup() as group:
            server = await asyncio.start_unix_server(hear, self._socket, limit=LONGEST_LINE)
            self._socket.chmod(0o600)
            try:
                group.create_task(self._keep_exabgp(ended))
                group.create_task(self._tell_on())
                await asyncio.Event().wait()
            finally:
                server.close()

    async def _keep_exabgp(self, ended: asyncio.Queue[None]) -> None:
        while True:
            process = await self._start_exabgp()
            waits = {asyncio.create_task(process.wait()), asyncio.create_task(ended.get())}
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()
                await _end(process)
            self._sight.lost()
            self._changed.set()
            _log.warning("ExaBGP has ended; it is started again in %g s, and everything is unknown until then", AGAIN_S)
            await asyncio.sleep(AGAIN_S)
            while not ended.empty():
                ended.get_nowait()

    async def _start_exabgp(self) -> asyncio.subprocess.Process:
        env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        env |= {f"exabgp_{name.replace('.', '_')}": value for name, value in _SETTINGS.items()}
        # As the gateways' ExaBGP: nothing of an operator's own settings, and no wait for a resolver (docs/bfd.md).
        env |= {"EXABGP_ENVFILE": os.devnull, "RES_OPTIONS": "timeout:1 attempts:1"}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exabgp", "server", str(self._conf)), env=env, stdin=asyncio.subprocess.DEVNULL
        )

    async def _tell_on(self) -> None:
        while True:
            self._changed.clear()
            try:
                await asyncio.to_thread(self._tell, self.word())
                problem = ""
            except AnycastError as exc:
                problem = str(exc)
            if problem != self.problem:
                _log.warning("%s", problem or "the coordinator hears this observer again")
                self.problem = problem
            await asyncio.sleep(PACE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TELL_EVERY_S - PACE_S):
                    await self._changed.wait()


async def _end(process: asyncio.subprocess.Process) -> None:
    """ExaBGP's own helper ends with it: its pipe is closed. Raises PeerError where it does not end."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(END_LIMIT_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        try:
            async with asyncio.timeout(END_LIMIT_S):
                await process.wait()
        except TimeoutError as exc:
            raise PeerError("exabgp", f"pid {process.pid} did not end {END_LIMIT_S:g} s after SIGKILL") from exc
