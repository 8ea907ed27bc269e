"""Who uses the coordinator's state folder: coordinators share it (the store fences them), a restore has it alone.

A lock of the kernel (flock(2)) on the folder itself, so that it ends with its holder, however that ends, and so that a
coordinator that is stopped still has it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from anycast.errors import PeerError
from anycast.pki import files


class Used:
    """Shared with other coordinators, from its making until `end`."""

    def __init__(self, folder: Path) -> None:
        """Raises PeerError while a restore is under way, ConfigError where there is no such folder."""
        self._fd = _locked(folder, fcntl.LOCK_SH, "a restore is under way there; start again when it has ended")

    def end(self) -> None:
        """Twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Raises PeerError where a coordinator runs on it, ConfigError where there is no such folder."""
    fd = _locked(folder, fcntl.LOCK_EX, "a coordinator runs on it, or another restore; stop it first, nothing was changed")
    try:
        yield
    finally:
        os.close(fd)


def _locked(folder: Path, how: int, refused: str) -> int:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise files.refused(folder, exc) from exc
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(fd)
        raise PeerError(str(folder), refused) from exc
    return fd
