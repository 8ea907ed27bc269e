"""`anycast check` and `anycast compile`, as an operator types them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from anycast.document import Document
from tests.support.documents import TREE, TWO_SITE, document

BAD = TREE / "tests" / "errors" / "durations.yaml"


def anycast(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "anycast.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_check_says_that_a_good_file_is_good() -> None:
    done = anycast("check", TWO_SITE)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{TWO_SITE}: good: 2 sites, 2 gateways\n", "")


def test_check_prints_every_problem_and_ends_with_2() -> None:
    done = anycast("check", BAD)
    assert (done.returncode, done.stdout) == (2, "")
    said = BAD.with_suffix(".txt").read_text().replace("durations.yaml:", f"{BAD}:")
    assert done.stderr == said


def test_compile_writes_one_document_a_gateway(tmp_path: Path) -> None:
    done = anycast("compile", TWO_SITE, "-o", tmp_path / "new" / "folder")
    assert done.returncode == 0, done.stderr
    written = sorted((tmp_path / "new" / "folder").iterdir())
    assert [path.name for path in written] == ["fra-gw1.json", "sin-gw1.json"]
    for path in written:
        read = Document.model_validate_json(path.read_bytes())
        assert read == document(path.stem)
        assert f"{path}  {read.hash}\n" in done.stdout


def test_compile_prints_the_one_that_is_asked_for() -> None:
    done = anycast("compile", TWO_SITE, "--gateway", "sin-gw1")
    assert Document.model_validate_json(done.stdout) == document("sin-gw1")


def test_compile_writes_nothing_of_a_bad_file(tmp_path: Path) -> None:
    assert anycast("compile", BAD, "-o", tmp_path / "out").returncode == 2
    assert not (tmp_path / "out").exists()


def test_compile_says_which_gateways_there_are() -> None:
    done = anycast("compile", TWO_SITE, "-g", "ams-gw1")
    assert (done.returncode, done.stderr) == (2, f"{TWO_SITE}: sites: has no gateway ams-gw1; there are fra-gw1, sin-gw1\n")
