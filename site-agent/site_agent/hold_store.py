"""The hold's file, and the clocks that its end is told by.

Root writes it with the agent's help or without: the command line replaces the file whole and then tells the agent, if one
runs, to look. So break-glass needs no network, no agent and no configuration, and outlives both an agent and a boot.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from pathlib import Path

from anycast.errors import DecodeError, KernelError
from anycast.policy.hold import Clocks, Hold, decode, encode
from anycast.runtime import boottime
from site_agent.paths import Paths

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


def load(paths: Paths) -> Hold | None:
    """What the younger file says, also where it has ended. Raises DecodeError, also where it cannot be read."""
    for path in (paths.hold_for_this_boot, paths.hold):
        try:
            return decode(path.read_bytes())
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise DecodeError("hold", 0, f"{path}: {exc.strerror}") from exc
    return None


def store(paths: Paths, hold: Hold) -> bool:
    """Replace the file, and return when the disk has it. False: the disk has no room or is broken, so the hold lies on the
    run directory's tmpfs and does not outlive a boot; a full disk must not refuse break-glass. Raises KernelError.
    """
    try:
        _write(paths.hold, encode(hold))
    except OSError:
        try:
            _write(paths.hold_for_this_boot, encode(hold))
        except OSError as exc:
            raise KernelError(exc.errno or 0, f"write {paths.hold_for_this_boot}") from exc
        return False
    _unlink(paths.hold_for_this_boot)
    return True


def remove(paths: Paths) -> None:
    """End the hold. Raises KernelError."""
    for path in (paths.hold, paths.hold_for_this_boot):
        _unlink(path)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    try:
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise KernelError(exc.errno or 0, f"remove {path}") from exc
