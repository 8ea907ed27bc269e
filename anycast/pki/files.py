"""Files of keys and certificates: written whole, with their modes from the first moment, on the disk before it is said."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from anycast import trusted_file, whole_file
from anycast.errors import ConfigError, DecodeError, KernelError, Problem

SECRET, PUBLIC = 0o600, 0o644
FOLDER = 0o700


def make_folder(path: Path) -> None:
    """For its owner alone where it is new; one that is there keeps its mode. Raises ConfigError."""
    try:
        path.mkdir(mode=FOLDER, parents=True, exist_ok=True)
    except OSError as exc:
        raise refused(path, exc) from exc


def write(path: Path, data: bytes, mode: int) -> None:
    """Put `data` there in one step, in place of what was there. Raises ConfigError where it is not permitted or there is no
    such folder, and KernelError."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        whole_file.put(path, data, mode)
    except (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as exc:
        raise refused(path, exc) from exc
    except OSError as exc:
        raise KernelError(exc.errno or 0, f"write {path}") from exc


def read(path: Path, remedy: str, *, secret: bool = False) -> bytes:
    """A file that somebody else can neither have written nor, where it is secret, read. Raises ConfigError; `remedy` is what
    to do where it is missing."""
    try:
        return trusted_file.read(path, secret=secret)
    except FileNotFoundError as exc:
        raise ConfigError([Problem("", f"is not there; {remedy}", str(path))]) from exc
    except OSError as exc:
        raise refused(path, exc) from exc
    except trusted_file.NotTrusted as exc:
        raise ConfigError([Problem("", exc.what, str(exc.place))]) from exc
    except DecodeError as exc:
        raise ConfigError([Problem("", exc.what, str(path))]) from exc


def refused(path: Path, exc: OSError) -> ConfigError:
    """What the kernel said of a file, as a sentence."""
    as_root = isinstance(exc, PermissionError) and os.geteuid() != 0 and _is_roots(path)
    return ConfigError([Problem("", f"{(exc.strerror or 'failed').lower()}{'; run as root' if as_root else ''}", str(path))])


def _is_roots(path: Path) -> bool:
    """Whether root owns what refuses: a folder of somebody's own that is read-only is not for root to write into."""
    owners = []
    for each in (path, path.parent):
        with contextlib.suppress(OSError):
            owners.append(each.stat().st_uid)
    return 0 in owners or not owners
