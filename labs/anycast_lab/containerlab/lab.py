"""The other runner: the same topology file, deployed by containerlab as containers of a dockerd that lives in the lab.

It runs inside the lab server as the embedded one does, in User Mode Linux, so that whatever happens takes dockerd, its
containers and everything containerlab wrote away with it. Deploying, power and impairments are containerlab's own commands;
commands in nodes, carrier and silently dead links are done in the node's own namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from anycast_lab.commands import SessionProcess
from anycast_lab.containerlab import engine, images, process
from anycast_lab.control.children import Children
from anycast_lab.embedded import links
from anycast_lab.embedded.channel import send_signal
from anycast_lab.namespaces import NamespaceRunner
from anycast_lab.runner import Impairment, LabError, Progress
from anycast_lab.topology import Topology

DEPLOY_TIMEOUT = 600.0
"""Seconds; ten nodes take 200 on a quiet machine."""
STEP_TIMEOUT = 120.0
"""Seconds for one stop, start or inspection."""
FOLDER = "clab"
"""How containerlab's folder of a lab begins, whatever the topology's `prefix`, by which containers are called."""
_LOOK_S = 0.05
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class ContainerlabRunner(NamespaceRunner):
    """Implements `anycast_lab.runner.Runner`."""

    name = "containerlab"

    def __init__(self, topology: Topology, lab_dir: Path, kernel: str, esp: bool, children: Children) -> None:
        super().__init__(topology, lab_dir, kernel, esp)
        self._children = children
        self._inits = dict[str, int]()

    # -- the whole lab --------------------------------------------------------------------------------------------

    async def up(self, progress: Progress) -> None:
        async with self._shape:
            if self._inits:
                raise LabError(f"lab {self.topology.name} is up already")
            engine.load_modules()
            started = time.monotonic()
            await engine.start(self._children)
            progress(f"dockerd answers after {time.monotonic() - started:.0f} s")
            await self._check()
            try:
                await self._deploy(progress)
                for name in self.topology.nodes:
                    await self._meet(name)
            except BaseException:
                with contextlib.suppress(LabError):  # what went wrong first is what is told
                    await asyncio.shield(self._containerlab("destroy", "--cleanup"))
                raise
            progress(f"{len(self.topology.nodes)} nodes and {len(self.topology.links)} links deployed by containerlab")

    async def _check(self) -> None:
        """What containerlab would look for in an image registry, and bridges that nobody has made, are refused by node."""
        for node in self.topology.nodes.values():
            if node.kind != "linux":
                raise LabError(f"{node.name}: the containerlab runner has nodes of kind linux only, not {node.kind}")
        argv = ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]
        _, said = await process.run(self._children, argv, engine.ENVIRONMENT, limit_s=STEP_TIMEOUT)
        have = said.split()
        for node in self.topology.nodes.values():
            if node.image not in have:
                raise LabError(f"{node.name}: there is no image {node.image or '(none named)'}; there are {', '.join(have)}")

    async def _deploy(self, progress: Progress) -> None:
        def heard(line: str) -> None:
            if created := re.search(r"Creat\w+ container.*name=\"?([\w.-]+)", _COLOUR.sub("", line)):
                progress(f"containerlab creates {created[1]}")

        rc, said = await self._containerlab("deploy", limit_s=DEPLOY_TIMEOUT, progress=heard)
        complaints = [line for line in said if re.search(r"\b(ERRO|FATA|Error:)", line)]
        if rc or complaints:
            text = "\n".join(complaints or said[-6:])
            # "node=clab-LAB-NAME", "node=NAME" or `node "NAME"`; a bare word may be a word of a sentence.
            named = [name for name in self.topology.nodes if re.search(self._told_as(name), text)]
            raise LabError(f"{', '.join(named) or 'the lab'}: containerlab could not deploy it: {text}")

    def _told_as(self, name: str) -> str:
        long_name = re.escape(self.topology.long_name(name))
        return rf"(?<![\w.-])(?:{long_name}|node[ =]\"?{re.escape(name)})(?![\w.-])"

    async def _containerlab(
        self, verb: str, *words: str, limit_s: float = STEP_TIMEOUT, progress: Progress = lambda _: None
    ) -> tuple[int, list[str]]:
        argv = ["containerlab", verb, "--topo", str(self.topology.path), *words]
        env = {**self.topology.variables, **engine.ENVIRONMENT, "CLAB_LABDIR_BASE": str(self.lab_dir.parent)}
        rc, said = await process.run(self._children, argv, env, limit_s=limit_s, progress=progress)
        print(f"containerlab {verb} {' '.join(words)}: {rc}\n{said}", flush=True)
        return rc, [_COLOUR.sub("", line) for line in said.splitlines() if line.strip()]

    async def _meet(self, name: str) -> None:
        """Find a started container's first process and its network namespace, and see to its links."""
        container = self.topology.long_name(name)
        argv = ["docker", "inspect", "--format", "{{json .State}}", container]
        rc, said = await process.run(self._children, argv, engine.ENVIRONMENT, limit_s=STEP_TIMEOUT)
        state = json.loads(said) if rc == 0 else {}
        if not state.get("Running"):
            raise LabError(f"{name}: its container {container} does not run: {said.strip() or 'it is gone'}")
        self._inits[name] = pid = state["Pid"]
        self._namespaces[name] = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        for end in self._ends(name):
            await self._wire(links.checksums_in_software, end, self._namespaces[name])

    # -- commands -------------------------------------------------------------------------------------------------

    def pid(self, node: str) -> int:
        self._known(node)
        if node not in self._inits:
            raise LabError(f"{node} is powered off")
        return self._inits[node]

    async def _start(
        self, node: str, argv: Sequence[str], env: Mapping[str, str], fds: tuple[int, int, int]
    ) -> SessionProcess:
        init = self.pid(node)
        if node in self._frozen:
            raise LabError(f"{node} is frozen: nothing can be started in it")
        # What `docker exec` gives: the environment that the container was created with.
        words = Path(f"/proc/{init}/environ").read_bytes().decode(errors="replace").split("\0")
        base = {"PATH": images.PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb"}
        created = dict(word.split("=", 1) for word in words if "=" in word)
        return await process.ContainerProcess.start(self._children, init, argv, {**base, **created, **env}, fds)

    async def impair(self, node: str, interface: str, impairment: Impairment | None) -> None:
        async with self._shape:
            self.pid(node)
            self._end(node, interface)
            argv = ["containerlab", "tools", "netem", "reset" if impairment is None else "set"]
            argv += ["--node", self.topology.long_name(node), "--interface", interface]
            if impairment is not None:
                argv += [f"--delay={impairment.delay_ms}ms", f"--jitter={impairment.jitter_ms}ms"]
                argv.append(f"--loss={impairment.loss_percent}")
            rc, said = await process.run(self._children, argv, engine.ENVIRONMENT, limit_s=STEP_TIMEOUT)
            if rc:
                raise LabError(f"{node}: containerlab could not impair {interface}: {said.strip()}")

    # -- power ----------------------------------------------------------------------------------------------------

    def power(self, node: str) -> bool:
        self._known(node)
        return node in self._inits

    async def power_off(self, node: str, when: Callable[[], Awaitable[None]] | None = None) -> None:
        async with self._shape:
            init = self.pid(node)
            processes = [init, *self.pids(node)]
            if when is not None:
                await when()

            def stop() -> None:
                for pid in processes:
                    send_signal(pid, signal.SIGSTOP)

            # containerlab takes seconds. What a dead machine does at once is done at once: nobody says anything any more,
            # and no link has carrier. Then `stop` parks the links, which a killed container would lose, and kills the rest.
            await self._wire(links.cut, self._ends(node), self._namespaces[node], stop)
            self._stop_all(node)
            os.close(self._namespaces.pop(node))
            stopping = asyncio.create_task(self._containerlab("stop", "--node", node))
            while not stopping.done():
                if _asked_to_end(init):
                    send_signal(init, signal.SIGKILL)
                await asyncio.sleep(_LOOK_S)
            rc, said = await stopping
            if rc:
                raise LabError(f"containerlab could not stop {node}: {' '.join(said[-3:])}")
            del self._inits[node]
            self._frozen.discard(node)

    async def power_on(self, node: str) -> None:
        async with self._shape:
            self._known(node)
            if node in self._inits:
                raise LabError(f"{node} is powered on already")
            rc, said = await self._containerlab("start", "--node", node)
            complaints = [line for line in said if re.search(r"\b(ERRO|FATA|Error:)", line)]
            if rc or complaints:
                raise LabError(f"containerlab could not start {node}: {' '.join(complaints or said[-3:])}")
            await self._meet(node)


def _asked_to_end(pid: int) -> bool:
    """Whether a stopped process has a SIGTERM waiting. containerlab asks Docker to kill, but one with an API before 1.42
    (Debian 12's) sends that first and waits two minutes; what is killed before Docker was asked, Docker starts again."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    pending = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask >> (signal.SIGTERM - 1) & 1 for mask in pending)
