"""A file that is written whole beside its place and then put there: who reads meanwhile sees the old one or the new one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_beside(path: Path, data: bytes, mode: int) -> Path:
    """A new file beside `path` with `data` on the disk, whatever the umask; rename or link it. Raises OSError, and then
    there is none."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    try:
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise
    return scratch


def put(path: Path, data: bytes, mode: int) -> None:
    """In place of what was there; returns when the disk has it. Raises OSError, and then what was there is there."""
    scratch = write_beside(path, data, mode)
    try:
        scratch.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise
    settle(path)


def settle(path: Path) -> None:
    """Return when the disk has the name, too. Raises OSError."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
