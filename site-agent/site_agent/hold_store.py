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

from anycast import trusted_file
from anycast.errors import DecodeError, KernelError
from anycast.policy.hold import Clocks, Hold, decode, encode, none
from anycast.runtime import boottime
from anycast.whole_file import settle
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
    """What the younger file says, also where it has ended. Raises DecodeError, also where it cannot be read, or could have
    been written by somebody else than root or our own user.
    """
    for path in (paths.hold_for_this_boot, paths.hold):
        try:
            return decode(trusted_file.read(path))
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise DecodeError("hold", 0, f"{path}: {exc.strerror}") from exc
    return None


def store_for_this_boot(paths: Paths, hold: Hold) -> bool:
    """Put it into force without any disk: on the run directory's tmpfs, which `load` reads first. False: no room there."""
    try:
        _write(paths.hold_for_this_boot, encode(hold))
    except OSError:
        return False
    return True


def store(paths: Paths, hold: Hold) -> bool:
    """Replace the file, and return when the disk has it. False: the disk has no room or is broken, so the hold lies on the
    run directory's tmpfs and does not outlive a boot; a full disk must not refuse break-glass. Raises KernelError.
    """
    try:
        _write(paths.hold, encode(hold))
    except OSError as exc:
        if not store_for_this_boot(paths, hold):
            raise KernelError(exc.errno or 0, f"write {paths.hold}, and {paths.hold_for_this_boot}") from exc
        return False
    _unlink(paths.hold_for_this_boot)
    return True


def end_for_this_boot(paths: Paths) -> bool:
    """End the hold without any disk: what lies on the tmpfs is read first, so there a hold that has ended hides the disk's.
    False: no room for that, so only the tmpfs' own is gone. Raises KernelError.
    """
    if store_for_this_boot(paths, none(read_clocks())):
        return True
    _unlink(paths.hold_for_this_boot)
    return False


def remove(paths: Paths) -> bool:
    """End the hold for good, and return when the disk has let go of it: whether one lay there. One that was begun meanwhile
    stays. Raises KernelError.
    """
    lay_there = paths.hold.exists()
    _unlink(paths.hold)
    with contextlib.suppress(DecodeError, OSError):
        if decode(paths.hold_for_this_boot.read_bytes()).left_s(read_clocks()) > 0:
            return lay_there
    _unlink(paths.hold_for_this_boot)
    return lay_there


def _write(path: Path, data: bytes) -> None:
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
        path.parent.chmod(0o755)  # whatever the umask: ExaBGP's user must get through a run directory that was made here
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
    settle(path)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise KernelError(exc.errno or 0, f"remove {path}") from exc
