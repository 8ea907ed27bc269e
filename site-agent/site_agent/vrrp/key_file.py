"""A pair's key file on the disk: read only where root alone could have read and written it, replaced whole."""

from __future__ import annotations

import os
from pathlib import Path

from anycast import trusted_file, whole_file
from anycast.errors import ConfigError, DecodeError, KernelError, Problem
from site_agent.vrrp import pair_keys
from site_agent.vrrp.pair_keys import PairKeys

DEFAULT = Path("/etc/anycast/secrets/vrrp.keys")
"""Beside the gateway's certificate."""
MODE = 0o600


def load(path: Path) -> PairKeys:
    """Raises ConfigError, in one sentence with the remedy, where it is missing, means nothing, or others could have read
    or written it."""
    try:
        return pair_keys.decode(trusted_file.read(path, secret=True))
    except FileNotFoundError as exc:
        remedy = f"`site-agent keys new {path}` makes one, or copy the other gateway's"
        raise ConfigError([Problem("", f"there is no such key file; {remedy}", str(path))]) from exc
    except OSError as exc:
        remedy = "; run as root" if isinstance(exc, PermissionError) else ""
        raise ConfigError([Problem("", f"{exc.strerror}{remedy}", str(path))]) from exc
    except trusted_file.NotTrusted as exc:
        remedy = f"chown root: {exc.place}; chmod {'go-w' if exc.place != path else '600'} {exc.place}"
        raise ConfigError([Problem("", f"{exc.what}; `{remedy}`", str(exc.place))]) from exc
    except DecodeError as exc:
        raise ConfigError([Problem("", f"no key file: {exc.field}: {exc.what}", str(path))]) from exc


def load_keys(path: Path) -> tuple[dict[int, bytes], int]:
    """For a plan or `wire.Keys`: every accepted key by id, and the id of the one that seals. Raises ConfigError."""
    keys = load(path)
    return keys.by_id, keys.in_use


def make(path: Path, keys: PairKeys) -> None:
    """Put the first file there. Raises ConfigError where one lies there already, and KernelError."""
    try:
        scratch = whole_file.write_beside(path, pair_keys.encode(keys), MODE)
        try:
            os.link(scratch, path)  # unlike a rename it replaces nothing
        finally:
            scratch.unlink()
        whole_file.settle(path)
    except FileExistsError as exc:
        what = "lies there already; `site-agent keys rotate` changes its keys"
        raise ConfigError([Problem("", what, str(path))]) from exc
    except FileNotFoundError as exc:
        what = f"there is no such folder; `install -d -m 700 {path.parent}` makes it"
        raise ConfigError([Problem("", what, str(path.parent))]) from exc
    except OSError as exc:
        raise KernelError(exc.errno or 0, f"write {path}") from exc


def replace(path: Path, keys: PairKeys) -> None:
    """Returns when the disk has it; who reads meanwhile sees the old or the new file. Raises KernelError."""
    try:
        whole_file.put(path, pair_keys.encode(keys), MODE)
    except OSError as exc:
        raise KernelError(exc.errno or 0, f"write {path}") from exc
