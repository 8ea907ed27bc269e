"""A dockerd of our own: it lives in namespaces that end with it, and the machine's own Docker, if any, never hears of it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from anycast_lab.runner import LabError

START_TIMEOUT = 60.0
"""Seconds; 2 natively, 14 in User Mode Linux."""
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}


@contextlib.contextmanager
def for_images(data_root: Path, scratch: Path) -> Iterator[dict[str, str]]:
    """A dockerd that runs no container, over `data_root`; gives the environment in which `docker` speaks with it.

    It has a network namespace without any interface, and does not touch bridges or rules there either. Its PID namespace
    takes its containerd with it, whatever ends us.
    """
    socket, log = scratch / "docker.sock", scratch / "dockerd.log"
    command = [
        "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc",
        "dockerd", "--data-root", str(data_root), "--exec-root", str(scratch / "exec"),
        "--pidfile", str(scratch / "docker.pid"), "-H", f"unix://{socket}",
        "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false",
    ]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    environment = {**_ENVIRONMENT, "DOCKER_HOST": f"unix://{socket}"}
    try:
        end = time.monotonic() + START_TIMEOUT
        while subprocess.run(["docker", "info"], env=environment, capture_output=True, check=False).returncode:
            if process.poll() is not None or time.monotonic() > end:
                raise LabError(f"dockerd does not start: {_last_line(log)}")
            time.sleep(0.3)
        yield environment
    finally:
        # unshare waits for its child, which is the namespace's PID 1: dockerd writes its store down and ends everything.
        _terminate_child(process)


def _terminate_child(process: subprocess.Popen[bytes]) -> None:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with contextlib.suppress(OSError):
        subprocess.run(["kill", *children.read_text().split()], check=False, capture_output=True)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
