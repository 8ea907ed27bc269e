"""What the lab's server starts as PID 1, which reaps everything: in a process of its own, or it would take pytest's."""

from __future__ import annotations

import subprocess
import sys

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


def test_each_command_gets_its_own_status_and_output() -> None:
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "all told\n"), done.stderr
