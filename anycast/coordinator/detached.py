"""`anycast serve --detach`: in the background once it answers; what it complains of until then is told by itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

Say = Callable[[str], None]


def start(run: Callable[[Say], None], log: Path) -> int:
    """Fork a process that does `run`, and return when that has said its line, which is printed; the exit status.

    From then on the process has no terminal, and what it writes goes to `log`. Where it ends before, what it ended with is
    told by itself, on the standard error that it still has.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child != 0:
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as told:
            line = told.read()
        if not line:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(line, file=sys.stderr)
        return 0
    os.close(reading)
    os.setsid()

    def say(line: str) -> None:
        null = os.open(os.devnull, os.O_RDONLY)
        out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for source, target in ((null, 0), (out, 1), (out, 2)):
            os.dup2(source, target)
        os.write(writing, line.encode())
        for each in (null, out, writing):
            os.close(each)

    run(say)  # what it raises is told as in the foreground
    os._exit(0)  # the rest of this stack is the parent's to return through
