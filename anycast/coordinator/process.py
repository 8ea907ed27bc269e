"""`anycast serve` as a process: listeners, signals, and an end that leaves nothing half written."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from aiohttp import web

from anycast.coordinator.door import Doors
from anycast.coordinator.event_store import Retention
from anycast.coordinator.porch import listening
from anycast.coordinator.rest import Rest
from anycast.coordinator.service import Service
from anycast.errors import AnycastError, BugError, ConfigError, KernelError, Problem, first_failure
from anycast.pki import files
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Role

PID_FILE = "coordinator.pid"
"""In the run folder, from when it answers until a clean end."""
_log = logging.getLogger(__name__)
STOP_LIMIT_S = 2.0
"""For answers that are under way."""


@dataclasses.dataclass(frozen=True, slots=True)
class Listen:
    address: str
    port: int

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.address).is_loopback


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    pki: Path
    state: Path
    run: Path
    agents: tuple[str, ...]
    """Addresses that agents connect to."""
    agents_port: int
    operators: tuple[Listen, ...]
    """Loopback without TLS; any other with."""
    retention: Retention
    """Of events."""
    page: Path | None = None
    """The program that calls somebody."""


def read_listen(text: str, default_port: int) -> Listen:
    """``ADDRESS``, ``ADDRESS:PORT`` or ``[ADDRESS]:PORT``, literal. Raises ConfigError."""
    address, port = text, str(default_port)
    if text.startswith("["):
        address, _, rest_of = text[1:].partition("]")
        port = rest_of.removeprefix(":") or port
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    try:
        if not 0 <= int(port) < 65536:
            raise ValueError(port)
        return Listen(str(ipaddress.ip_address(address)), int(port))
    except ValueError as exc:
        raise ConfigError([Problem("listen", f"{text!r} is not an address with an optional port")]) from exc


async def serve(plan: Plan, say: Callable[[str], None]) -> None:
    """Until SIGTERM or SIGINT. Raises ConfigError, PeerError, KernelError."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    folder = MachineFolder(plan.pki)
    me = folder.own().identity
    if me.role is not Role.COORDINATOR:
        how = "`anycast pki request NAME --role coordinator` asks for another"
        raise ConfigError([Problem("", f"is the certificate of {me}; {how}", str(folder.identity_file))])
    for needed in (plan.state, plan.run):
        files.make_folder(needed)
    # As many agents and operators as there are: an ordinary limit is 1,024 files.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        operators = plan.pki.parent / "operators.json"
        service = Service(me, folder, plan.state / "coordinator.db", operators, plan.retention, plan.page)
        with _refused_by_the_kernel("listen for agents"):
            await service.start(list(plan.agents), plan.agents_port)
        stack.push_async_callback(service.close)
        runner = web.AppRunner(Rest(service).app, access_log=None, shutdown_timeout=STOP_LIMIT_S)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        with _refused_by_the_kernel("listen for operators"):
            doors = Doors(runner)
            stack.callback(doors.close)
            await doors.on_socket(plan.run / "coordinator.sock")
            for listen in plan.operators:
                context = None if listen.is_loopback else _operators_context(folder)
                doors.on_port(listening(listen.address, listen.port), context)
        pid_file = plan.run / PID_FILE
        files.write(pid_file, f"{os.getpid()}\n".encode(), 0o644)
        stack.callback(pid_file.unlink, missing_ok=True)
        say(f"{me} answers agents on port {service.agents_port}, operators at {plan.run / 'coordinator.sock'}")
        keeping = asyncio.create_task(service.run())
        stack.callback(keeping.cancel)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([keeping, stopping], return_when=asyncio.FIRST_COMPLETED)
        if keeping.done() and (ended := keeping.exception()) is not None:
            raise _cause(ended)


def _cause(ended: BaseException) -> AnycastError:
    """What ended the service, as one sentence for whoever starts it again."""
    ended = first_failure(ended)
    if isinstance(ended, AnycastError):
        return ended
    _log.error("the service ended", exc_info=ended)
    return BugError(f"the service ended: {ended!r}")


def _operators_context(folder: MachineFolder) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder.identity_file)
    return context


@contextlib.contextmanager
def _refused_by_the_kernel(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, socket.gaierror) as exc:
        raise KernelError(exc.errno or 0, what) from exc
