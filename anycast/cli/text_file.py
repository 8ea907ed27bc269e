"""Files that an operator names: reading one, and being alone with one."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from anycast.errors import ConfigError, Problem
from anycast.pki import files


def text_of(path: Path) -> str:
    """Raises ConfigError."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise files.refused(path, exc) from exc
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigError([Problem("", "not UTF-8", str(path), line, exc.start - data.rfind(b"\n", 0, exc.start))]) from exc


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Two at a time would each act on what the other one changes: the second one waits. `file` is what both have open."""
    try:
        held = open(file, "rb")  # noqa: SIM115
    except OSError as exc:
        raise files.refused(file, exc) from exc
    with held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
