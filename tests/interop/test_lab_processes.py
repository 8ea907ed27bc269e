"""What the lab's server starts as PID 1, which reaps everything: in a process of its own, or it would take pytest's."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, os, signal, sys
from anycast_lab.containerlab import process
from anycast_lab.control.children import Children
from anycast_lab.runner import LabError

async def main():
    children, env, heard = Children(), {"PATH": os.environ["PATH"]}, []
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, children.reap)
    talks = ["sh", "-c", "echo one; echo two >&2; exit 3"]
    rc, said = await process.run(children, talks, env, limit_s=20, progress=heard.append)
    assert (rc, said, heard) == (3, "one\\ntwo\\n", ["one", "two"]), (rc, said, heard)
    assert (await process.run(children, ["sh", "-c", "kill -9 $$"], env, limit_s=20))[0] == -9
    many = await asyncio.gather(*(process.run(children, ["sh", "-c", f"exit {n}"], env, limit_s=20) for n in range(8)))
    assert [rc for rc, _ in many] == list(range(8)), many
    try:
        await process.run(children, ["sleep", "1000"], env, limit_s=0.2)
    except LabError as error:
        assert str(error) == "`sleep 1000` did not end within 0 s", error
    else:
        raise AssertionError("nobody waits for ever")
    print("all told")

asyncio.run(main())
"""

STOPPED = """
import asyncio, os, signal, subprocess, sys
from anycast_lab.containerlab import process
from anycast_lab.control.children import Children

async def until(pid, states):
    while open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] not in states:
        await asyncio.sleep(0.01)

async def main():
    children, env = Children(), {"PATH": os.environ["PATH"]}
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, children.reap)
    container = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "1000"])
    children_of = f"/proc/{container.pid}/task/{container.pid}/children"
    while not (init := open(children_of).read().split()):
        await asyncio.sleep(0.01)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for last, status in ((signal.SIGCONT, 5), (signal.SIGKILL, -9)):
            argv = ["sh", "-c", "sleep 0.5; exit 5"]
            one = await process.ContainerProcess.start(children, int(init[0]), argv, env, (null, null, null))
            one.send_signal(signal.SIGSTOP)
            await until(one.pid, "T")
            await until(one._helper, "T")  # nsenter stops itself
            one.send_signal(last)
            assert await asyncio.wait_for(one.wait(), 20) == status == one.returncode
    finally:
        container.kill()
    print("all told")

asyncio.run(main())
"""


@pytest.mark.parametrize("program", [PROGRAM, pytest.param(STOPPED, marks=pytest.mark.root)], ids=["run", "stopped"])
def test_each_command_gets_its_own_status_and_output(program: str) -> None:
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "all told\n"), done.stderr
