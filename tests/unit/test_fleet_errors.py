"""What a person reads when a fleet file is wrong: tests/errors/CASE.yaml and, word for word, CASE.txt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from anycast.errors import ConfigError
from anycast.fleet.loading import load, loads
from tests.support.documents import TREE

ERRORS = TREE / "tests" / "errors"
CASES = sorted(path.stem for path in ERRORS.glob("*.yaml"))


@pytest.mark.parametrize("case", CASES)
def test_every_problem_is_said_with_its_place(case: str, golden: Callable[[Path, str], None]) -> None:
    source = ERRORS / f"{case}.yaml"
    with pytest.raises(ConfigError) as caught:
        loads(source.read_text(), file=source.name)
    assert all(problem.file == source.name for problem in caught.value.problems)
    golden(ERRORS / f"{case}.txt", f"{caught.value}\n")


@pytest.mark.parametrize("name", ["small", "small-lab"])
def test_the_files_that_the_cases_were_made_of_are_good(name: str) -> None:
    load(TREE / "tests" / "data" / f"{name}.fleet.yaml")


def test_every_case_has_its_text_and_every_text_its_case() -> None:
    assert CASES
    assert {path.stem for path in ERRORS.glob("*.txt")} == set(CASES)


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read: No such file or directory"):
        load(tmp_path / "absent.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("version: 1\nfleet: köln\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml:2:9: not UTF-8"):
        load(latin)
    for text, place in (("version: 1\nfleet: a\0b\n", "2:9"), ("version: 1\nfleet: \ud800\n", "2:8")):
        with pytest.raises(ConfigError, match=f"fleet.yaml:{place}: "):
            loads(text)
