"""The lab server: PID 1 of the lab, natively and in User Mode Linux alike.

It imports the product's libraries once (nodes and their commands are forks of it), owns the runner and serves `wire.py`
on the unix socket that it inherits, or on User Mode Linux's serial line. It never returns to its caller: the lab lives as
long as this process.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import functools
import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
import tty
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from anycast.errors import AnycastError, DecodeError
from anycast.fleet.schema import Fleet
from anycast_lab.capture import live
from anycast_lab.containerlab.lab import FOLDER, ContainerlabRunner
from anycast_lab.control import wire
from anycast_lab.control.children import Children
from anycast_lab.drills import coordinators, drill, first_content, pairs, readiness
from anycast_lab.drills import run as drill_run
from anycast_lab.embedded.lab import EmbeddedRunner
from anycast_lab.embedded.root import VARIABLES
from anycast_lab.machines import prepare
from anycast_lab.runner import RUNNERS, Impairment, LabError, Progress
from anycast_lab.topology import load

LABS = Path("/run/anycast-lab")
"""In the lab's own /run: ``LABS/NAME/NODE`` is a node's folder."""
PRELOAD = (
    "anycast.cli.main",
    "anycast.coordinator.process",
    "site_agent.cli",
    "site_agent.checks.dns",
    "exabgp_bridge",
    "exabgp.application.server",
    "jinja2",
    "prometheus_client",
    "pydantic",
    "pyroute2",
    "vici",
    "yaml",
)
"""Imported before the first node is forked. One that cannot be imported is told in the log and fails again in its own
command, where it belongs: a mistake in the agent must not look like a lab that does not start."""
FAULTS = frozenset({"power_off", "power_on", "freeze", "thaw"})
LINK_FAULTS = frozenset({"link_down", "link_up", "link_mute", "link_unmute"})


class Lab:
    """What the verbs act on."""

    def __init__(self, runner: EmbeddedRunner | ContainerlabRunner) -> None:
        self.runner = runner
        self.state = "starting"
        self.fleet: Fleet | None = None
        self._drilling = asyncio.Lock()

    async def up(self, progress: Progress) -> None:
        if self.state != "starting":
            raise LabError(f"lab {self.runner.topology.name} is up already")
        self.state = "coming up"
        if prepare.fleet_file(self.runner.topology.path).exists():
            self.fleet = prepare.prepare(self.runner.topology, self.runner.lab_dir)
            progress("addresses, keys and profiles written")
        await self.runner.up(progress)
        if self.fleet is not None:
            limits = drill.load_limits()
            await readiness.wait(self.runner, self.fleet, limits, progress)
            await first_content.take(self.runner, self.fleet, limits["first_content"].on(self.runner.kernel) / 1e3, progress)
        self.state = "up"

    async def status(self) -> dict[str, Any]:
        runner, fleet = self.runner, self.fleet
        node = coordinators.node_of(fleet) if fleet is not None else None
        coordinator = None
        if fleet is not None and node is not None:
            coordinator = coordinators.summary(await coordinators.status(runner, node), fleet, node)
        roles = pairs.roles(runner, self.fleet) if self.fleet is not None else {}
        nodes = {
            name: {
                "group": node.group,
                "state": runner.state(name),
                "role": roles.get(name, ""),
                "processes": len(runner.pids(name)) if runner.power(name) else 0,
                "links": [str(end) for link in runner.topology.links_of(name) for end in link.ends() if end.node != name],
            }
            for name, node in runner.topology.nodes.items()
        }
        told = {
            "lab": runner.topology.name,
            "state": self.state,
            "kernel": runner.kernel,
            "esp": runner.esp,
            "runner": runner.name,
        }
        return {**told, "nodes": nodes, "coordinator": coordinator}

    async def drill(self, names: list[str], progress: Progress) -> list[dict[str, Any]]:
        known = drill.load_drills()
        if unknown := [name for name in names if name not in known]:
            raise LabError(f"there is no drill {', '.join(unknown)}; there are {', '.join(known)}")
        if self.fleet is None:
            raise LabError(f"topology {self.runner.topology.name} has no fleet file, so no drill fits it")
        if self._drilling.locked():
            raise LabError("another drill is running in this lab")
        reports = []
        async with self._drilling:
            for name in names:
                report = await drill_run.run_drill(self.runner, self.fleet, known[name], drill.load_limits(), progress)
                reports.append(report.to_json())
        return reports


class Connection:
    """One client. Its requests run side by side and end with it."""

    def __init__(self, lab: Lab, write: Callable[[bytes], None]) -> None:
        self.lab, self.write = lab, write

    async def serve(self, reader: asyncio.StreamReader) -> None:
        tasks = set[asyncio.Task[None]]()
        try:
            while line := await reader.readline():
                request = wire.decode(line)
                task = asyncio.create_task(self.answer(request))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                task.add_done_callback(functools.partial(self.report_bug, request))
        except (DecodeError, ValueError, ConnectionError) as exc:  # ValueError: a line longer than wire.LINE
            print(f"a client was dropped: {exc}", flush=True)
        finally:
            for task in tasks:
                task.cancel()

    def report_bug(self, request: dict[str, Any], task: asyncio.Task[None]) -> None:
        """An exception that nobody raised on purpose still gets an answer: the client would wait for ever."""
        if not task.cancelled() and (exc := task.exception()) is not None:
            traceback.print_exception(exc)
            error = {"message": f"the lab's server has a bug, its log says more: {type(exc).__name__}: {exc}"}
            self.write(wire.encode({"id": request.get("id"), "error": error}))

    async def answer(self, request: dict[str, Any]) -> None:
        number = request.get("id")
        try:
            answer = {"id": number, "result": await self.perform(request, number)}
        except AnycastError as exc:
            answer = {"id": number, "error": wire.encode_error(exc)}
        except asyncio.CancelledError:
            if request.get("verb") == "up":
                _end(1)  # whoever wanted this lab is gone before it was one
            raise
        self.write(wire.encode(answer))

    async def perform(self, request: dict[str, Any], number: Any) -> Any:
        def progress(text: str) -> None:
            self.write(wire.encode({"id": number, "progress": text}))

        def output(fd: int, data: bytes) -> None:
            self.write(wire.encode({"id": number, "output": fd, "data": base64.b64encode(data).decode()}))

        runner = self.lab.runner
        match request:
            case {"v": version} if version != wire.VERSION:
                raise LabError(f"the lab speaks version {wire.VERSION}, not {version}; `anycast lab down` and `up` again")
            case {"verb": "up"}:
                await self.lab.up(progress)
                return await self.lab.status()
            case {"verb": "status"}:
                return await self.lab.status()
            case {"verb": "exec", "node": node, "argv": [*argv]}:
                stdin, timeout = base64.b64decode(request.get("stdin", "")), request.get("timeout")
                return {"rc": await runner.stream(node, argv, output, stdin=stdin, timeout=timeout)}
            case {"verb": "put", "node": node, "path": path, "data": data, "mode": mode}:
                return await runner.put(node, path, base64.b64decode(data), mode)
            case {"verb": "get", "node": node, "path": path}:
                return {"data": base64.b64encode(await runner.get(node, path)).decode()}
            case {"verb": verb, "node": node} if verb in FAULTS:
                return await getattr(runner, verb)(node)
            case {"verb": verb, "node": node, "interface": interface} if verb in LINK_FAULTS:
                return await getattr(runner, verb)(node, interface)
            case {"verb": "impair", "node": node, "interface": interface, "impairment": impairment}:
                return await runner.impair(node, interface, Impairment(**impairment) if impairment is not None else None)
            case {"verb": "capture", "node": node, "interface": interface, "expression": [*words]}:
                command = live.command(interface, words, packets=request["packets"], decoded=request["decoded"])
                return {"rc": await capture(runner, node, command, request["seconds"], output)}
            case {"verb": "drill", "names": [*names]}:
                return await self.lab.drill(names, progress)
        raise LabError(f"the lab does not understand `{request.get('verb')}` with {', '.join(sorted(request))}")


Output = Callable[[int, bytes], None]
"""Takes 1 (standard output) or 2, and what came there."""


async def capture(
    runner: EmbeddedRunner | ContainerlabRunner, node: str, argv: Sequence[str], seconds: float, output: Output
) -> int:
    """Its exit status; 0 where it had to be ended, `seconds` after it began to listen (0: never)."""
    listens = asyncio.Event()

    def hear(fd: int, data: bytes) -> None:
        if fd == 2 and live.LISTENS in data:
            listens.set()
        output(fd, data)

    running = asyncio.ensure_future(runner.stream(node, argv, hear))
    listening = asyncio.ensure_future(listens.wait())
    try:
        await asyncio.wait([running, listening], return_when=asyncio.FIRST_COMPLETED)
        done, _ = await asyncio.wait([running], timeout=seconds or None)
        return running.result() if done else 0
    finally:
        listening.cancel()
        running.cancel()


async def serve_socket(lab: Lab, listener: socket.socket) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(lab, writer.write).serve(reader)
        writer.close()

    server = await asyncio.start_unix_server(connected, sock=listener, limit=wire.LINE)
    await server.serve_forever()


async def serve_serial(lab: Lab, device: int) -> None:
    """All connections over one line, `wire.unwrap`'s way; a frame of connection 0 asks the relay for the next frame."""
    loop = asyncio.get_running_loop()
    tty.setraw(device)
    lines = asyncio.StreamReader(limit=wire.LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(device, "rb", buffering=0))
    out, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(os.dup(device), "wb", buffering=0))
    out.write(wire.wrap(0, b""))
    readers = dict[int, asyncio.StreamReader]()

    def write(channel: int, line: bytes) -> None:
        out.write(wire.wrap(channel, line))

    tasks = set[asyncio.Task[None]]()
    while line := await lines.readline():
        out.write(wire.wrap(0, b""))
        channel, rest = wire.unwrap(line)
        reader = readers.get(channel)
        if reader is None:
            reader = readers[channel] = asyncio.StreamReader(limit=wire.LINE)
            connection = Connection(lab, functools.partial(write, channel))
            task = asyncio.create_task(connection.serve(reader))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if rest:
            reader.feed_data(rest)
        else:
            readers.pop(channel).feed_eof()


def _end(status: int) -> None:
    sys.stdout.flush()
    os._exit(status)  # the kernel ends everything else with PID 1


async def _main(arguments: argparse.Namespace) -> None:
    topology = load(arguments.topology, json.loads(os.environ.pop(VARIABLES)))
    lab_dir = LABS / (topology.name if arguments.runner == "embedded" else f"{FOLDER}-{topology.name}")
    lab_dir.mkdir(parents=True)
    children = Children()  # nodes' init processes, and daemons of the lab that lost their parent
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, children.reap)
    runner: EmbeddedRunner | ContainerlabRunner
    if arguments.runner == "embedded":
        runner = EmbeddedRunner(topology, lab_dir, arguments.kernel, arguments.esp)
    else:
        runner = ContainerlabRunner(topology, lab_dir, arguments.kernel, arguments.esp, children)
    lab = Lab(runner)
    if arguments.serial is not None:
        await serve_serial(lab, os.open(arguments.serial, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    else:
        await serve_socket(lab, socket.socket(fileno=arguments.listen_fd))


def main() -> None:
    parser = argparse.ArgumentParser(prog="anycast_lab.control.server")
    parser.add_argument("--topology", type=Path, required=True)
    parser.add_argument("--kernel", choices=["native", "uml"], required=True)
    parser.add_argument("--esp", action="store_true")
    parser.add_argument("--runner", choices=RUNNERS, default="embedded")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--listen-fd", type=int)
    way.add_argument("--serial", type=Path)
    arguments = parser.parse_args()
    for module in PRELOAD if arguments.runner == "embedded" else ():  # a container has its own
        try:
            importlib.import_module(module)
        except ImportError:
            traceback.print_exc()
    gc.collect()
    gc.freeze()  # what is imported never becomes garbage: do not copy its pages in every fork by looking at it
    asyncio.run(_main(arguments))
    _end(0)


if __name__ == "__main__":
    main()
