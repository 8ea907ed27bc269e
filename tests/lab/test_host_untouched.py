"""A lab changes nothing outside itself, however it ends: as asked, killed, interrupted or abandoned.

Each test is the "host": it runs in namespaces of its own (`in_namespace`), so what it compares is not blurred by what else
the machine does, and a lab that leaked would leak into there. The lab's nodes try to change the host on purpose.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast_lab.control import launch
from tests.support.host import picture, unchanged
from tests.support.namespace import in_namespace

pytestmark = pytest.mark.lab

ANYCAST = str(Path(sys.executable).with_name("anycast"))
DEADLINE_S = 40
VANDAL = """\
for file in /etc/anycast-lab-was-here /opt/anycast-lab-was-here /usr/anycast-lab-was-here /root/anycast-lab-was-here; do
    echo x >$file
done
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=2 net.ipv6.conf.all.forwarding=1
sysctl -qw kernel.printk_ratelimit=6 vm.stat_interval=7
ip rule add from 192.0.2.77 lookup 77
ip route add 192.0.2.128/25 dev lo table 77
ip addr add 192.0.2.1/24 dev eth1
ip link add name br0 type bridge
ip link set eth1 master br0
nft add table bridge lab
setsid sleep 1000 </dev/null >/dev/null 2>&1 &
"""
TOPOLOGY = """\
name: untouched
topology:
  defaults: {kind: linux, network-mode: none, binds: ["vandal:/etc/anycast/vandal"], exec: [sh /etc/anycast/vandal]}
  nodes:
    a: {}
    b: {%s}
  links:
    - endpoints: ["a:eth1", "b:eth1"]
"""
HANGS = "exec: [sleep 1000]"


@contextlib.contextmanager
def topology(second_node: str = "") -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="untouched-"))
    try:
        (folder / "vandal").write_text(VANDAL)
        (folder / "t.clab.yml").write_text(TOPOLOGY % second_node)
        yield str(folder / "t.clab.yml")
    finally:
        shutil.rmtree(folder)


def anycast(*arguments: str, kernel: str, expect: int = 0) -> str:
    command, environment = [ANYCAST, "lab", *arguments], os.environ | {"LAB_KERNEL": kernel}
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, env=environment, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def lab_pid() -> int:
    """The lab's PID 1, asked of the kernel as `anycast lab down` does."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(launch.run_dir("untouched") / "control.sock"))
        return int(struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


def bury(pid: int) -> None:
    """Wait for a process that became our child when its parent ended."""
    ended = os.pidfd_open(pid)
    assert select.select([ended], [], [], DEADLINE_S)[0], f"process {pid} goes on"
    os.close(ended)
    os.waitpid(pid, 0)


def coming_up(path: str, kernel: str) -> subprocess.Popen[str]:
    """An `up` in the middle: node a has done its worst, node b hangs."""
    command = [ANYCAST, "lab", "up", "-t", path]
    up = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"LAB_KERNEL": kernel})
    assert up.stderr is not None
    for line in up.stderr:
        if "a started" in line:
            return up
    raise AssertionError(f"up ended with {up.wait()}")


def needs_uml() -> None:
    if shutil.which("linux.uml") is None:
        pytest.skip("needs the package user-mode-linux")


def up_and_down(kernel: str) -> None:
    with topology() as path, unchanged():
        anycast("up", "-t", path, kernel=kernel)
        assert json.loads(anycast("status", "-t", path, "--json", kernel=kernel))["nodes"]["a"]["processes"] == 1
        assert "is up already" in anycast("up", "-t", path, kernel=kernel, expect=1)
        anycast("down", "-t", path, kernel=kernel)
        assert "was not up" in anycast("down", "-t", path, kernel=kernel)


def killed(kernel: str) -> None:
    with topology() as path, unchanged():
        anycast("up", "-t", path, kernel=kernel)
        pid = lab_pid()
        os.kill(pid, signal.SIGKILL)
        bury(pid)
        assert launch.run_dir("untouched").exists(), "nobody was there to remove it"
        anycast("down", "-t", path, kernel=kernel)


def command_line_killed(kernel: str) -> None:
    with topology(HANGS) as path, unchanged():
        up = coming_up(path, kernel)
        pid = lab_pid()
        up.kill()
        up.wait()
        bury(pid)  # it ends by itself: nobody wants it any more
        anycast("down", "-t", path, kernel=kernel)


def interrupted(kernel: str) -> None:
    with topology(HANGS) as path, unchanged():
        up = coming_up(path, kernel)
        up.send_signal(signal.SIGINT)
        assert up.wait(DEADLINE_S) == 130
        assert not launch.RUN.exists(), "Ctrl-C leaves nothing to clean up"


@in_namespace
def test_up_and_down() -> None:
    up_and_down("native")


@in_namespace
def test_the_host_while_the_lab_is_up() -> None:
    with topology() as path:
        before = picture()
        anycast("up", "-t", path, kernel="native")
        lab = str(launch.RUN)
        own = {key for key in picture() if key.startswith(("process", f"file {lab}"))} - before.keys()
        assert len(own) >= 4, "the lab's processes and its run directory"
        sockets = "ss -Hlntuxp"  # its control socket
        differs = {key for key, value in picture().items() if before.get(key) != value} - own - {sockets}
        assert not differs
        anycast("down", "-t", path, kernel="native")


@in_namespace
def test_server_killed() -> None:
    killed("native")


@in_namespace
def test_command_line_killed_in_the_middle_of_up() -> None:
    command_line_killed("native")


@in_namespace
def test_interrupted_in_the_middle_of_up() -> None:
    interrupted("native")


@in_namespace
def test_user_mode_linux_up_and_down() -> None:
    needs_uml()
    up_and_down("uml")


@in_namespace
def test_user_mode_linux_killed() -> None:
    needs_uml()
    killed("uml")


@pytest.mark.long  # the way out is the same as natively; to see it again here takes most of a minute
@in_namespace
def test_user_mode_linux_interrupted_in_the_middle_of_up() -> None:
    needs_uml()
    interrupted("uml")
