"""Reading a file that moves a route: only where nobody but root, or we ourselves, could have written it.

A folder that others may write to lets them replace any file in it, so its owner and mode count like the file's own. One that
holds a secret must not be readable by others either.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from anycast.errors import DecodeError

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_MAY_READ = stat.S_IRGRP | stat.S_IROTH


class NotTrusted(DecodeError):
    """Somebody else could have written it, or read it."""

    def __init__(self, place: Path, what: str) -> None:
        self.place = place
        super().__init__(str(place), 0, what)


def read(path: Path, *, secret: bool = False) -> bytes:
    """The whole of a regular file. Raises as `opened`."""
    with opened(path, secret=secret) as file:
        return file.read()


def opened(path: Path, *, secret: bool = False) -> BinaryIO:
    """A regular file to be read. Raises NotTrusted where somebody else could have written it (or read it, where it holds
    a secret), DecodeError where it is no file, and OSError."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError(str(path), 0, "no regular file")
        for place, found in ((path, status), (path.parent, path.parent.stat())):
            mode = stat.S_IMODE(found.st_mode)
            if found.st_uid not in (0, os.geteuid()):
                raise NotTrusted(place, f"belongs to user {found.st_uid}, not to root: not believed")
            if mode & _OTHERS_MAY_WRITE:
                raise NotTrusted(place, f"others than its owner may write it (mode {mode:04o}): not believed")
            if secret and place == path and mode & _OTHERS_MAY_READ:
                raise NotTrusted(place, f"others than its owner may read it (mode {mode:04o}): no secret any more")
    except BaseException:
        file.close()
        raise
    return file
