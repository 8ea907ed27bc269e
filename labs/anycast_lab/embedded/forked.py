"""Run a command of the product in a fork of a process that has imported it: as if it had been started by exec.

What exec would have given and a fork must restore: argv, environment, standard streams, default signals, closed
descriptors, an unset wake-up descriptor, no running event loop, and caches that know another machine's name.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import io
import os
import platform
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

CONSOLE_SCRIPTS = {"anycast": "anycast.cli.main:main", "site-agent": "site_agent.cli:main"}
"""As in pyproject.toml, [project.scripts]; tests/unit/test_forked.py compares them."""
OUR_PACKAGES = ("anycast", "site_agent", "exabgp_bridge", "anycast_lab")
_PYTHONS = ("python", "python3")


def python_target(argv: Sequence[str]) -> str | None:
    """``module:function`` or ``module`` when `argv` is one of our own commands, else None."""
    match argv:
        case [script, *_] if script in CONSOLE_SCRIPTS:
            return CONSOLE_SCRIPTS[script]
        case [python, "-m", module, *_] if python in _PYTHONS and module.partition(".")[0] in OUR_PACKAGES:
            return module
    return None


def default_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is not signal.SIG_DFL:
            try:
                signal.signal(number, signal.SIG_DFL)
            except OSError:  # the C library keeps two real-time signals for itself
                continue
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def forget_parent(keep: Iterable[int]) -> None:
    """Drop the lab server's descriptors, signals and event loop in a node's init. 0, 1 and 2 stay (the server's log)."""
    default_signals()
    asyncio._set_running_loop(None)
    kept = sorted({0, 1, 2, *keep})
    for low, high in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)


def run(target: str, argv: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Never returns: ends the process with the exit status an interpreter would have had."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    default_signals()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, "r", closefd=False), encoding="utf-8")
    sys.stdout = _writer(1)
    sys.stderr = _writer(2)
    platform._uname_cache = None  # type: ignore[attr-defined]  # remembers the server's host name
    status = 1
    try:
        status = _call(target, argv)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # what Py_Finalize does first: join non-daemon threads
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _call(target: str, argv: Sequence[str]) -> int:
    module, _, function = target.partition(":")
    try:
        if function:
            sys.argv = list(argv)
            result = getattr(importlib.import_module(module), function)()
        else:
            sys.argv = list(argv[2:])
            result = None
            sys.modules.pop(module, None)  # it is about to be __main__, as in a new interpreter
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as exc:
        result = exc.code
    if isinstance(result, str):
        print(result, file=sys.stderr)
        return 1
    return result & 0xFF if isinstance(result, int) else 0


def _writer(fd: int) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True)
