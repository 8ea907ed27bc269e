"""Reading a file that an operator names."""

from __future__ import annotations

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
