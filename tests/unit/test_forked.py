"""Which command lines are forked from the preloaded process, and that the fork behaves like a new interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from anycast_lab.embedded import forked

TREE = Path(__file__).resolve().parents[2]


def test_console_scripts_are_those_of_pyproject() -> None:
    project = tomllib.loads((TREE / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == forked.CONSOLE_SCRIPTS
    tops = {package.partition(".")[0] for package in project["tool"]["setuptools"]["packages"]}
    assert tops == set(forked.OUR_PACKAGES)


@pytest.mark.parametrize(
    ("argv", "target"),
    [
        (["site-agent", "run"], "site_agent.cli:main"),
        (["python", "-m", "exabgp_bridge", "--socket", "x"], "exabgp_bridge"),
        (["python3", "-m", "anycast_lab.drills.probe"], "anycast_lab.drills.probe"),
        (["python3", "-m", "exabgp"], None),
        (["python3", "-m", "anycastle"], None),
        (["python3", "-c", "1"], None),
        (["/usr/bin/site-agent"], None),
        (["sh", "-c", "site-agent"], None),
    ],
)
def test_what_is_ours(argv: list[str], target: str | None) -> None:
    assert forked.python_target(argv) == target


def forked_run(tmp_path: Path, body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module of one function in a fork of an interpreter that has imported `forked`, as a node's init does."""
    (tmp_path / "victim.py").write_text(f"import atexit, os, signal, sys, threading\ndef main():\n    {body}\n")
    script = (
        "import os, signal, sys; from anycast_lab.embedded import forked; signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "pid = os.fork()\n"
        f"if pid == 0: forked.run('victim:main', {['site-agent', *arguments]!r}, {{'WHERE': 'lab'}})\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{TREE}:{TREE / 'labs'}"}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(
    ("body", "status", "out", "err"),
    [
        ("print(sys.argv, dict(os.environ))", 0, "['site-agent', 'run'] {'WHERE': 'lab'}\n", ""),
        ("return 3", 3, "", ""),
        ("sys.exit(4)", 4, "", ""),
        ("sys.exit('sentence')", 1, "", "sentence\n"),
        ("raise KeyboardInterrupt", 130, "", ""),
        ("1 / 0", 1, "", "ZeroDivisionError: division by zero\n"),
        ("atexit.register(print, 'later'); print('now')", 0, "now\nlater\n", ""),
        ("threading.Thread(target=lambda: print('joined')).start()", 0, "joined\n", ""),
        ("print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)", 0, "True\n", ""),
        ("print(signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN)", 0, "True\n", ""),
        ("print(len(os.listdir('/proc/self/fd')))", 0, "4\n", ""),
    ],
)
def test_a_fork_ends_and_speaks_like_a_program(tmp_path: Path, body: str, status: int, out: str, err: str) -> None:
    done = forked_run(tmp_path, body, "run")
    assert (done.returncode, done.stdout) == (status, out)
    assert done.stderr.endswith(err)


def test_usage_errors_name_the_command_that_was_typed() -> None:
    words = [sys.executable, "-m", "site_agent.cli", "hold", "withdraw", "--nonsense"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and "Usage: site-agent hold withdraw" in done.stderr
