"""Runs a test inside network, mount and process namespaces of its own, so that it can leave nothing behind.

The child is process 1 of its process namespace: when it ends, however it ends, the kernel kills every daemon the test
started. /run is a private tmpfs, so charon's pid file and sockets are the test's own. It leads a session of its own, as a
service does: what the agent does to its session stays with the test, and a session has the scheduler's group that a runner's
processes lack where their session is older than these groups (CI: children of process 1 that never called setsid).
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable

import pytest

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC = 0x0002_0000, 0x2000_0000, 0x4000_0000, 0x0800_0000
MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x4000, 1 << 18, 2, 4, 8

_libc = ctypes.CDLL(None, use_errno=True)


def in_namespace(test: Callable[[], None]) -> Callable[[], None]:
    """Decorate a test without fixtures. A failure inside fails it outside, with the inner traceback."""

    @pytest.mark.root
    @functools.wraps(test)
    def outside() -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root to make namespaces")
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            os.close(reader)
            os._exit(_inside(test, writer))
        os.close(writer)
        with os.fdopen(reader) as said:
            report = said.read()
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != 0:
            pytest.fail(report or f"ended with {os.waitstatus_to_exitcode(status)}", pytrace=False)

    return outside


def _inside(test: Callable[[], None], writer: int) -> int:
    """The first child makes the namespaces, the second one is process 1 of them and runs the test."""
    try:
        _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC), "unshare")
        grandchild = os.fork()
        if grandchild != 0:
            os.close(writer)
            return os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
        _check(_libc.prctl(1, signal.SIGKILL, 0, 0, 0), "prctl PR_SET_PDEATHSIG")
        os.setsid()
        _check(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount /")
        _check(_libc.mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None), "mount /proc")
        _check(_libc.mount(b"tmpfs", b"/run", b"tmpfs", MS_NOSUID | MS_NODEV, None), "mount /run")
        test()
        code = 0
    except BaseException:
        os.write(writer, traceback.format_exc().encode())
        code = 1
    os._exit(code)


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
