"""`site-agent run` that cannot begin says what to do, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import TWO_SITE


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --fleet or --document"),
        (("--fleet", str(TWO_SITE)), "this host's name; choose one with --gateway NAME: fra-gw1, sin-gw1"),
        (("--fleet", str(TWO_SITE), "--gateway", "ams-gw1"), "no gateway is called ams-gw1; choose one"),
        (("--document", "/nowhere/document.json"), "cannot be read"),
    ],
)
def test_a_run_without_a_configuration_for_it(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    folders = [part for name in ("run", "state", "etc") for part in (f"--{name}-dir", str(tmp_path / name))]
    command = [sys.executable, "-c", "from site_agent.cli import main; main()", "run", *words, *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
    assert not list(tmp_path.iterdir()), "no directory and no pid file before the configuration was read"
