"""A private key's passphrase: from the first line of a file, or from the terminal; never from an argument."""

from __future__ import annotations

import os
from pathlib import Path

from anycast.errors import ConfigError, Problem
from anycast.pki import files

SHORTEST = 8


def of_key(whose: str, key: Path, file: Path | None, *, encrypted: bool) -> bytes | None:
    """Of the key in `key`, which is `whose`. None where it has none."""
    if file is not None:
        return from_file(file)
    if not encrypted:
        return None
    try:
        # Standard input may carry something else, so the terminal itself is asked.
        with open(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC), "r+b", buffering=0):
            return _ask(f"Passphrase of {whose} key: ")
    except OSError as exc:
        what = "is encrypted, and there is no terminal to ask at; --passphrase-file names a file with the passphrase"
        raise ConfigError([Problem("", what, str(key))]) from exc


def new(whose: str) -> bytes:
    """For a key that is about to be made, asked for twice. Raises ConfigError."""
    if not _may_ask():
        what = "there is no terminal to ask at; --passphrase-file names a file with it; nothing was made"
        raise ConfigError([Problem("passphrase", what)])
    first = _ask(f"New passphrase of {whose} key: ")
    if len(first) < SHORTEST or first != _ask("Again: "):
        what = f"the two differ, or it is shorter than {SHORTEST} characters; nothing was made"
        raise ConfigError([Problem("passphrase", what)])
    return first


def from_file(path: Path) -> bytes:
    lines = files.read(path, "it was to hold the passphrase", secret=True).splitlines()
    if not lines or not lines[0]:
        raise ConfigError([Problem("", "holds no passphrase in its first line", str(path))])
    return lines[0]


def _may_ask() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _ask(prompt: str) -> bytes:
    import getpass

    return getpass.getpass(prompt).encode()
