"""The list of trusted operators as a file: beside the management root, where it is changed; on a gateway, where it is read.

    ./operators.json                on the machine of whoever keeps the list
    /etc/anycast/operators.json     on a gateway: root puts it there (`anycast operator install`)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from anycast.content.operators import Operators, decode_operators, replacing
from anycast.errors import ConfigError, DecodeError, PeerError, Problem
from anycast.pki import files

INSTALLED = Path("/etc/anycast/operators.json")


class OperatorsFile:
    """Each method raises ConfigError or PeerError, in one sentence, and then nothing was changed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Operators:
        data = files.read(self.path, "a list is begun by `anycast operator trust --fleet FLEET`, and installed on a gateway")
        try:
            return decode_operators(data)
        except DecodeError as exc:
            raise ConfigError([Problem("", exc.what, str(self.path))]) from exc

    def change(self, change: Callable[[Operators], Operators], new: Operators | None = None) -> Operators:
        """Put `change` of the list in its place, and of `new` where it is given, which must not be there yet."""
        with self._alone():
            if new is not None and self.path.exists():
                raise PeerError(str(self.path), "is there already; --fleet is for a list that is to be begun")
            before = self.read() if new is None else new
            try:
                after = change(before)
            except DecodeError as exc:
                raise PeerError(exc.field, f"{exc.what}; nothing was changed") from exc
            if after != before:
                files.write(self.path, after.data, files.PUBLIC)
            return after

    def install(self, data: bytes) -> Operators:
        """Take a newer list of the same fleet."""
        files.make_folder(self.path.parent)
        with self._alone():
            try:
                after = decode_operators(data)
                replacing(self.read() if self.path.exists() else None, after)
            except DecodeError as exc:
                raise PeerError("the list", f"{exc.what}; nothing was changed") from exc
            files.write(self.path, after.data, files.PUBLIC)
            return after

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Two at once must not each lose what the other one wrote."""
        try:
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise files.refused(self.path.parent, exc) from exc
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
