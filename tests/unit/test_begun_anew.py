"""An agent that ends for another content leaves its interpreter to the next one only where nothing is left in it."""

from __future__ import annotations

import subprocess
import sys

import pytest

CLEAN = """
import os, sys, tempfile, threading
from site_agent.service import _nothing_left
lock = os.open(sys.argv[1], os.O_RDONLY)
{left}
print(_nothing_left(lock))
"""


@pytest.mark.parametrize(("left", "clean"), [
    ("", True),
    ("kept = open(sys.argv[1])", False),
    ("open(sys.argv[1])", True),  # nobody has it any more
    ("a = []; a.append(a); a.append(open(sys.argv[1])); del a", True),  # in a cycle, which is collected first
    ("threading.Thread(target=threading.Event().wait, daemon=True).start()", False),
])  # fmt: skip
def test_a_thread_or_a_descriptor_asks_for_a_new_interpreter(left: str, clean: bool) -> None:
    program = [sys.executable, "-W", "ignore", "-c", CLEAN.format(left=left), __file__]
    done = subprocess.run(program, check=True, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.stdout.strip() == str(clean)
