"""The agent's contents on its disk (`anycast/content/record.py`): one file, replaced whole, so a SIGKILL leaves no half."""

from __future__ import annotations

from pathlib import Path

from anycast import trusted_file, whole_file
from anycast.content.record import NOTHING, Record, decode_record
from anycast.errors import DecodeError, KernelError

_MODE = 0o600


def load(path: Path) -> Record:
    """What was stored last; an empty record where nothing ever was. Raises DecodeError, also where the file cannot be read
    or somebody else could have written it: such a file is not the same as none."""
    try:
        return decode_record(trusted_file.read(path))
    except FileNotFoundError:
        return NOTHING
    except OSError as exc:
        raise DecodeError("record", 0, f"{path}: {exc.strerror}") from exc


def store(path: Path, record: Record) -> None:
    """Return when the disk has it. Raises KernelError, and then what was there is there."""
    try:
        whole_file.put(path, record.data, _MODE)
    except OSError as exc:
        raise KernelError(exc.errno or 0, f"write {path}") from exc
