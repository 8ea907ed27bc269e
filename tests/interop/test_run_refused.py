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
        (("--document", str(TWO_SITE)), "no compiled document, which is JSON; give YAML with --fleet"),
    ],
)
def test_a_run_without_a_configuration_for_it(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    folders = [part for name in ("run", "state", "etc") for part in (f"--{name}-dir", str(tmp_path / name))]
    command = [sys.executable, "-c", "from site_agent.cli import main; main()", "run", *words, *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
    assert not list(tmp_path.iterdir()), "no directory and no pid file before the configuration was read"


@pytest.mark.root
@pytest.mark.parametrize("words", [("run", "--fleet", str(TWO_SITE), "--gateway", "fra-gw1"), ("status",), ("events",)])
def test_who_is_not_root_is_told_so_in_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    run_dir, state_dir = tmp_path / "run", tmp_path / "state"
    state_dir.mkdir()
    (state_dir / "events.jsonl").write_text("")
    for folder in (*tmp_path.parents, tmp_path):
        if folder.is_relative_to("/tmp/") and folder != Path("/tmp"):
            folder.chmod(0o755)
    for file in state_dir.iterdir():
        file.chmod(0o600)
    folders = ["--state-dir", str(state_dir), *(["--run-dir", str(run_dir)] if words[0] != "events" else [])]
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c"]
    command += ["from site_agent.cli import main; main()", *words, *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.endswith("; run as root\n")
