"""A lab outlives the command that brought it up, so it would outlive a test run that is killed. This ends it then."""

from __future__ import annotations

import subprocess
import sys

_WATCHER = "import sys; sys.stdin.read(); from anycast_lab.control import launch; launch.stop(sys.argv[1])"
_watchers: list[subprocess.Popen[bytes]] = []


def ends_with_us(name: str) -> str:
    """Returns `name`. When this process is gone, however it ended, the lab of that name is ended.

    The kernel closes our end of a pipe; a session of its own keeps the watcher from the signals that end a test run.
    """
    command = [sys.executable, "-c", _WATCHER, name]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    _watchers.append(subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True))
    return name
