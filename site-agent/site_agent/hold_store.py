"""The hold's file, and the clocks that its end is told by.

Root writes it with the agent's help or without: the command line replaces the file whole and then tells the agent, if one
runs, to look. So break-glass needs no network, no agent and no configuration, and outlives both an agent and a boot.
"""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path

from anycast.errors import DecodeError, KernelError
from anycast.policy.hold import Clocks, Hold, decode, encode
from anycast.runtime import boottime

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_clocks() -> Clocks:
    """All of them at once. Without /proc every reading counts as another boot, which leaves the wall clock."""
    return Clocks(wall=time.time(), boot=boottime(), boot_id=_boot_id())


@functools.cache
def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def load(path: Path) -> Hold | None:
    """What the file says, also where it has ended. Raises DecodeError, also where it cannot be read."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise DecodeError("hold", 0, f"{path}: {exc.strerror}") from exc


def store(path: Path, hold: Hold) -> None:
    """Replace the file, and return when the disk has it. Raises KernelError."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644), "wb") as file:
            file.write(encode(hold))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as exc:
        raise KernelError(exc.errno or 0, f"write {path}") from exc


def remove(path: Path) -> None:
    """End the hold. Raises KernelError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise KernelError(exc.errno or 0, f"remove {path}") from exc
