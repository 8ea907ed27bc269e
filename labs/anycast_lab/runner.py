"""What a drill may do to a lab, whichever runner built it (the embedded one here, or containerlab).

A *node* is one machine of the topology, named as there. Every coroutine raises `LabError` with a sentence when the lab
cannot do what was asked; a command that fails inside a node is not an error but a `Completed` with its exit status.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from anycast.errors import AnycastError
from anycast_lab.topology import Topology

RUNNERS = ("embedded", "containerlab")
Progress = Callable[[str], None]
"""Takes one line for the person who waits. Must not block."""


class LabError(AnycastError):
    """The lab cannot do this: an unknown node, a node that is powered off, a lab that is not up."""


@dataclasses.dataclass(frozen=True, slots=True)
class Completed:
    """A command that ran to its end in a node."""

    argv: tuple[str, ...]
    rc: int
    """Exit status; negative: the signal that ended it; -9 also when `timeout` was over."""
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """What netem does to what leaves an interface. More jitter than there is between two packets reorders them."""

    delay_ms: float = 0
    jitter_ms: float = 0
    loss_percent: float = 0


class Process(Protocol):
    """A command that goes on running in a node. It ends with its node at the latest."""

    @property
    def pid(self) -> int:
        """As seen from the lab server, so ``/proc/PID/root`` leads into the node."""
        ...

    @property
    def returncode(self) -> int | None:
        """None while it runs, then as in `Completed.rc`."""
        ...

    async def wait(self) -> int: ...

    def send_signal(self, signal: int) -> None:
        """Nothing happens when the process has ended."""
        ...


class Runner(Protocol):
    """The lab. `up` once, then any of the rest. Ending a lab is its owner's affair (`anycast lab down`), not a drill's."""

    name: str
    """One of `RUNNERS`."""
    topology: Topology
    lab_dir: Path
    """``lab_dir/NODE/etc`` is the node's /etc/anycast; seen from the lab server."""
    kernel: str
    """``native`` or ``uml``."""
    esp: bool
    """Whether this kernel has ESP; without it a tunnel ends at the IKE_SA."""

    async def up(self, progress: Progress) -> None: ...

    async def exec(
        self,
        node: str,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run to the end. `timeout` in seconds; then the command's whole session is killed."""
        ...

    async def spawn(
        self,
        node: str,
        argv: Sequence[str],
        *,
        stdout: Path | None = None,
        stderr: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start and return at once. `stdout` and `stderr` are files of the lab server (None: discarded)."""
        ...

    async def put(self, node: str, path: str, data: bytes, mode: int = 0o644) -> None:
        """Replace a file of the node in one step (write beside it, rename)."""
        ...

    async def get(self, node: str, path: str) -> bytes: ...

    def pid(self, node: str) -> int:
        """The node's init, as seen from the lab server: ``/proc/PID/root/...`` are the node's files."""
        ...

    def pids(self, node: str) -> list[int]:
        """All processes of the node but its init, as seen from the lab server."""
        ...

    def power(self, node: str) -> bool:
        """Whether the node is powered on (a frozen one is)."""
        ...

    async def power_off(self, node: str, when: Callable[[], Awaitable[None]] | None = None) -> None:
        """Nobody says anything any more, all links lose carrier, every process is killed. Addresses, routes, SAs and /run
        are gone, disks stay. `when` is waited for when all is prepared, and that is its moment."""
        ...

    async def power_on(self, node: str) -> None:
        """Boot again with the topology's `exec` list."""
        ...

    async def freeze(self, node: str) -> None:
        """Stop every process and drop every packet in both directions; the neighbours keep carrier."""
        ...

    async def thaw(self, node: str) -> None: ...

    async def link_down(self, node: str, interface: str) -> None:
        """Both ends lose carrier."""
        ...

    async def link_up(self, node: str, interface: str) -> None: ...

    async def link_mute(self, node: str, interface: str) -> None:
        """Drop every packet of the link in both directions while both ends keep carrier (a silently dead path)."""
        ...

    async def link_unmute(self, node: str, interface: str) -> None: ...

    async def impair(self, node: str, interface: str, impairment: Impairment | None) -> None:
        """Impair what the node sends there, instead of what was said before; None: not at all any more."""
        ...
