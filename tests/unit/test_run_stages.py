"""`./test` itself: what counts as passed, and that silence, a crash or a hang is never success."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

from tests import run_stages
from tests.run_stages import Outcome, Stage, count, run_stage

JUNIT = """<testsuites><testsuite>
<testcase classname="m" name="good"/>
<testcase classname="m" name="bad"><failure message="x"/></testcase>
<testcase classname="m" name="bad_twice"><failure message="x"/><error message="teardown"/></testcase>
<testcase classname="m" name="err"><error message="setup"/></testcase>
<testcase classname="m" name="skip"><skipped message="no mmdebstrap"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture(autouse=True)
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_stages, "OUT", tmp_path)
    (tmp_path / "test").mkdir()
    return tmp_path


def stage(code: str, *, budget_s: int = 60, is_pytest: bool = False) -> Stage:
    return Stage("s", budget_s, (sys.executable, "-c", code), pytest=is_pytest)


def test_every_test_counts_once(out: Path) -> None:
    (out / "s.xml").write_text(JUNIT)
    outcome = Outcome("s", 1)
    assert count(out / "s.xml", outcome) == {"m.py::good"}
    assert (outcome.passed, outcome.failed, outcome.skipped) == (1, 3, 1)
    assert outcome.failures == ["m.py::bad", "m.py::bad_twice", "m.py::err"]
    assert outcome.skips == ["m.py::skip: no mmdebstrap"]


def test_the_table_says_what_a_failed_test_said_first(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "s.xml").write_text(JUNIT)
    outcome = Outcome("s", 1)
    count(out / "s.xml", outcome)
    run_stages.report([outcome])
    assert "FAILED m.py::bad: x\n" in capsys.readouterr().out


def test_a_checker_is_one_test() -> None:
    assert run_stage(stage(""), []).passed == 1
    outcome = run_stage(stage("raise SystemExit(3)"), [])
    assert (outcome.passed, outcome.failures) == (0, ["s: exit status 3"])


def test_pytest_that_died_without_a_result_is_a_failure() -> None:
    assert run_stage(stage("raise SystemExit(3)", is_pytest=True), []).failed == 1


def test_a_stage_without_a_matching_test_is_neither_good_nor_bad() -> None:
    outcome = run_stage(stage("raise SystemExit(5)", is_pytest=True), [])
    assert (outcome.passed, outcome.failed) == (0, 0)


def test_a_hanging_stage_is_ended_and_is_a_failure() -> None:
    outcome = run_stage(stage("import signal; signal.pause()", budget_s=0), [])
    assert outcome.failures == ["s: ended at twice its budget"]


@pytest.mark.parametrize(
    ("code", "ci", "status"),
    [("raise SystemExit(5)", "", 1), ("JUNIT", "", 0), ("JUNIT", "true", 1)],
    ids=["nothing found", "a skip", "a skip where nothing may be skipped"],
)
def test_exit_status(code: str, ci: str, status: int, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    junit = '<testsuite><testcase name="a"/><testcase name="b"><skipped message="x"/></testcase></testsuite>'
    script = f"open({str(out / 'test/s.xml')!r}, 'w').write({junit!r})" if code == "JUNIT" else code
    monkeypatch.setattr(run_stages, "STAGES", (stage(script, is_pytest=True),))
    monkeypatch.setattr(sys, "argv", ["./test"])
    monkeypatch.setenv("CI", ci)
    assert run_stages.main() == status
    assert (out / "test.json").exists()


FLAKY = """
import pathlib, pytest

def test_bad(): assert False, "always"
def test_good(): pass

@pytest.mark.parametrize("n", ["a/b@c"])
def test_late(n):
    seen = pathlib.Path(__file__).with_name("seen")
    if not seen.exists():
        seen.touch()
        raise AssertionError("too late")
"""


@pytest.mark.parametrize("files", [1, 3])
def test_what_failed_in_few_files_gets_a_second_attempt_that_is_told(
    files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More files are a machine or a product that is broken; `test_bad` fails twice and stays failed."""
    (tmp_path / "pytest.ini").touch()
    for number in range(files):
        folder = tmp_path / f"t{number}"
        folder.mkdir()
        (folder / f"test_flaky{number}.py").write_text(FLAKY)
    monkeypatch.setattr(run_stages, "TREE", tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    command = run_stages.pytest_command(tmp_path / "test/s.xml", "-m", "", "-p", "no:cacheprovider")
    outcome = run_stage(Stage("s", 60, command, pytest=True, again=True), [])
    if files == 1:
        assert outcome.again == {"t0/test_flaky0.py::test_late[a/b@c]": "AssertionError: too late"}
        assert (outcome.passed, outcome.failures) == (2, ["t0/test_flaky0.py::test_bad"])
    else:
        assert (outcome.passed, outcome.failed, outcome.again) == (3, 6, {})


GROUPED = """
import os, pathlib, time, pytest

@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("n", range(4))
def test_grouped(n):
    pathlib.Path(os.environ["PYTEST_XDIST_WORKER"]).touch()
    time.sleep(0.1)

@pytest.mark.parametrize("n", range(4))
def test_other(n):
    time.sleep(0.1)
"""


def test_a_group_of_tests_stays_with_one_worker(tmp_path: Path) -> None:
    """They share a lab. A pytest that pytest-xdist does not fit lets groups fall apart without a word."""
    (tmp_path / "test_labs.py").write_text(GROUPED)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", str(tmp_path / "test_labs.py")]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    subprocess.run(command, cwd=tmp_path, env=clean, check=True, capture_output=True, timeout=60)
    assert len(list(tmp_path.glob("gw?"))) == 1


def test_a_stage_runs_behind_the_next_one_and_its_output_is_not_lost(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one in front waits for what only the one behind does."""
    flag = out / "flag"
    junit = '<testsuite><testcase classname="m" name="a"/></testsuite>'
    waits = f"import pathlib, time\nwhile not pathlib.Path({str(flag)!r}).exists(): time.sleep(0.01)\n"
    writes = f"open({str(out / 'test/NAME.xml')!r}, 'w').write({junit!r})\n"
    back = f"import os, pathlib\npathlib.Path({str(flag)!r}).touch()\nprint('niced', os.nice(0))\n"
    stages = (
        Stage("back", 60, (sys.executable, "-c", back + writes.replace("NAME", "back")), pytest=True, behind=True),
        Stage("front", 60, (sys.executable, "-c", waits + writes.replace("NAME", "front")), pytest=True),
    )
    monkeypatch.setattr(run_stages, "STAGES", stages)
    monkeypatch.setattr(sys, "argv", ["./test"])
    assert run_stages.main() == 0
    said = capsys.readouterr().out
    assert f"niced {min(19, os.nice(0) + 10)}" in said
    assert said.index("back ") < said.rindex("front ") and "2 passed, 0 failed" in said


KINDS = [
    {"unit"}, {"property"}, {"sim"}, {"interop"}, {"interop", "root"}, {"interop", "alone"}, {"interop", "root", "alone"},
    {"lab"}, {"root", "lab"}, {"lab", "pairs"}, {"root", "lab", "pairs"}, {"root", "lab", "containerlab"},
]  # fmt: skip
"""Its folder, and its markers; `lab` is both."""


@pytest.mark.parametrize(
    "markers",
    [kind | lasting for kind in KINDS for lasting in (set(), {"long"})],
    ids=lambda markers: " ".join(sorted(markers)) or "no marker",  # a set's own text differs between two workers
)
def test_each_test_runs_in_one_stage(markers: set[str]) -> None:
    def selects(stage: Stage) -> bool:
        if stage.folders and not markers & set(stage.folders):
            return False
        expression = stage.command[stage.command.index("-m", 3) + 1]
        return Expression.compile(expression).evaluate(lambda marker, **_: marker in markers)

    assert len([stage.name for stage in run_stages.STAGES if stage.pytest and selects(stage)]) == 1


@pytest.mark.parametrize(
    ("options", "ran"),
    [([], ["short"]), (["--containerlab"], ["short", "containerlab"]), (["--long"], ["short", "containerlab", "long"])],
)
def test_what_takes_long_runs_where_it_is_asked_for(
    options: list[str], ran: list[str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writes(name: str) -> tuple[str, ...]:
        junit = '<testsuite><testcase classname="m" name="a"/></testsuite>'
        return (sys.executable, "-c", f"open({str(out / f'test/{name}.xml')!r}, 'w').write({junit!r})")

    names = ("short", "containerlab", "long")
    stages = tuple(Stage(name, 60, writes(name), pytest=True, long=name != "short") for name in names)
    monkeypatch.setattr(run_stages, "STAGES", stages)
    monkeypatch.setattr(sys, "argv", ["./test", *options])
    assert run_stages.main() == 0
    assert [path.stem for path in sorted(out.glob("test/*.xml"), key=lambda p: names.index(p.stem))] == ran
