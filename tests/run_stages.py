"""Runs the tests in stages, cheapest first, and closes with one table over all of them.

A stage is either a checker (one command, counted as one test) or pytest with a marker expression. Which tests belong to
which stage is said by their markers (`pyproject.toml`) and by their folder: pytest reads each file that it is given in each
of its processes, and all folders are a dozen seconds of processor time (`test_repo_rules.py` holds tests to their folders).
Tests that only compute share nothing but the processor; they run behind those of `interop`, which wait for processes
most of the time, and give way to them. Those run three at a time, in namespaces and folders of their own; those that
measure fractions of a second run after them, a file to each of two processors, of which they take a fifth; labs run two
at a time, and a lab that several tests share is one `xdist_group`. Labs that probe every millisecond run after them, alone.

What counts is read from pytest's JUnit files, so a stage whose pytest died without one is a failure, and so is a run
that found no test at all. Where CI=true nothing may be skipped. A stage may take twice its budget before it is ended.

What failed runs once more, alone, where that is all in a few files (`FILES_AGAIN`): on a shared machine of two cores a
witness can be late. What then passes is neither hidden nor free: the table counts it as `again`, each is named with
what it said the first time, and `out/test.json` keeps both. A defect that shows itself every time fails twice.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
OUT = TREE / "out"
FILES_AGAIN = 2
NO_TESTS_COLLECTED = 5
"""pytest's exit status when the selection holds no test: no news in one stage, a failure over all of them."""
TYPED = ["anycast", "exabgp/exabgp_bridge", "site-agent/site_agent", "labs/anycast_lab", "benchmarks", "tests/run_stages.py"]


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """One line of the closing table."""

    name: str
    budget_s: int
    command: tuple[str, ...]
    pytest: bool
    """Results come as a JUnit file; otherwise the exit status is the one result."""
    folders: tuple[str, ...] = ()
    """Below `tests/`, where all of its tests are; none: anywhere."""
    long: bool = False
    again: bool = False
    """What failed in at most `FILES_AGAIN` files runs once more."""
    behind: bool = False
    """Runs beside the next stage with whatever processor time that leaves; its output comes when it has ended."""


def pytest_command(junit: Path, *options: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "pytest", f"--junitxml={junit}", *options)


def pytest_stage(name: str, budget_s: int, folders: str, markers: str, *options: str, **how: bool) -> Stage:
    command = pytest_command(OUT / "test" / f"{name}.xml", "-m", markers, *options)
    return Stage(name, budget_s, command, pytest=True, folders=tuple(folders.split()), **how)


STEAL = ("--dist", "worksteal")
"""Who is done takes what another one has not begun: many of these tests wait for processes, some for seconds."""
TWO_FILES = ("-n", "2", "--dist", "loadfile")
TWO_LABS = ("-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder")
"""Groups keep their order, in which those that take longest come first."""
PURE = "unit property sim"
SHORT = "not alone and not lab and not long"
STAGES = (
    Stage("ruff", 10, (sys.executable, "-m", "ruff", "check", "--quiet", "."), pytest=False),
    Stage("mypy", 90, (sys.executable, "-m", "mypy", *TYPED), pytest=False),
    pytest_stage("pure", 900, PURE, SHORT, "-q", "-n", "2", *STEAL, again=True, behind=True),
    pytest_stage("native", 600, "interop", SHORT, "-v", "-n", "3", *STEAL, again=True),
    pytest_stage("alone", 300, "interop", "alone and not long", "-v", *TWO_FILES, again=True),
    pytest_stage("labs", 720, "lab", "lab and not pairs and not containerlab and not long", "-v", *TWO_LABS, again=True),
    pytest_stage("pairs", 540, "lab", "pairs and not long", "-v", again=True),
    # `long=False` puts it into ./test, which it makes longer by ten minutes on a new machine (docs/labs.md).
    pytest_stage("containerlab", 900, "lab", "containerlab and not long", "-v", long=True, again=True),
    pytest_stage("long", 9000, "", "long", "-v", long=True, again=True),
)


@dataclasses.dataclass(slots=True)
class Outcome:
    """What a stage came to."""

    stage: str
    budget_s: int
    took_s: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    again: dict[str, str] = dataclasses.field(default_factory=dict)
    """Passed at the second attempt, and counted in `passed`: test, and what it said at the first."""
    failures: list[str] = dataclasses.field(default_factory=list)
    said: dict[str, str] = dataclasses.field(default_factory=dict)
    """What each failed test said, in its first line."""
    skips: list[str] = dataclasses.field(default_factory=list)
    """Test and reason."""


def node_id(module: str, test: str) -> str:
    """What pytest calls a test that its JUnit file names by module and function. A group's `@name` behind it is xdist's."""
    return f"{module.replace('.', '/')}.py::{re.sub(r'@[^]]*$', '', test)}"


def count(junit: Path, outcome: Outcome) -> set[str]:
    """Add a JUnit file's tests to `outcome`; those that passed. One that errs in its teardown as well failed, once."""
    passed = set()
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        name = node_id(case.get("classname", ""), case.get("name", ""))
        skip, trouble = case.find("skipped"), case.find("failure")
        if trouble is None:
            trouble = case.find("error")
        if trouble is not None:
            outcome.failed += 1
            outcome.failures.append(name)
            outcome.said[name] = trouble.get("message", "").partition("\n")[0]
        elif skip is not None:
            outcome.skipped += 1
            outcome.skips.append(f"{name}: {skip.get('message', '')}")
        else:
            outcome.passed += 1
            passed.add(name)
    return passed


def beside_apparmor(command: Sequence[str]) -> Sequence[str]:
    """The same command below a second mount of the root, where AppArmor enforces profiles.

    Profiles attach by a program's path from the mount namespace's root. Debian's for charon and swanctl are right for the
    machine's own and know Debian's paths only; the tests' daemons have theirs below /run.
    """
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    if not enabled.exists() or enabled.read_text().strip() != "Y":
        return command
    root = OUT / "test" / "root"
    root.mkdir(exist_ok=True)
    script = 'mount --make-rprivate / && mount --rbind / "$0" && exec chroot "$0" env -C "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(root), str(TREE), *command]


_RUNNING: set[subprocess.Popen[bytes]] = set()


def run_command(command: Sequence[str], limit_s: float, behind: Path | None = None) -> int | None:
    """Run in a process group of its own; its exit status, or None where it had to be ended at `limit_s`.

    `behind`: with what others leave of the processor, and its output goes there.
    """
    if behind is None:
        process = subprocess.Popen(beside_apparmor(command), cwd=TREE, process_group=0)
    else:
        niced = ["nice", "-n", "10", *beside_apparmor(command)]
        with behind.open("wb") as log:
            process = subprocess.Popen(niced, cwd=TREE, process_group=0, stdout=log, stderr=subprocess.STDOUT)
    _RUNNING.add(process)
    try:
        return process.wait(limit_s)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        # SIGINT first: fixtures then take their namespaces and labs away.
        for number, patience_s in ((signal.SIGINT, 60), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
                break
        if isinstance(error, KeyboardInterrupt):
            raise
        return None
    finally:
        _RUNNING.discard(process)


def run_stage(stage: Stage, selection: Sequence[str]) -> Outcome:
    print(f"\n=== {stage.name}: budget {stage.budget_s} s{', beside the next one' if stage.behind else ''}", flush=True)
    outcome = Outcome(stage.name, stage.budget_s)
    junit = OUT / "test" / f"{stage.name}.xml"
    junit.unlink(missing_ok=True)
    started = time.monotonic()
    log = OUT / "test" / f"{stage.name}.log" if stage.behind else None
    where = selection or [f"tests/{folder}" for folder in stage.folders]
    status = run_command([*stage.command, *(where if stage.pytest else ())], 2 * stage.budget_s, log)
    outcome.took_s = round(time.monotonic() - started, 1)
    if stage.pytest and junit.exists():
        count(junit, outcome)
    elif status == 0:
        outcome.passed = 1
    expected = (0, NO_TESTS_COLLECTED) if stage.pytest else (0,)
    if status not in expected and outcome.failed == 0:
        outcome.failed = 1
        why = "ended at twice its budget" if status is None else f"exit status {status}"
        outcome.failures.append(f"{stage.name}: {why}")
    elif stage.again and status is not None and outcome.failures and len(files_of(outcome.failures)) <= FILES_AGAIN:
        run_again(stage, outcome)
    return outcome


def files_of(tests: Sequence[str]) -> set[str]:
    return {test.partition("::")[0] for test in tests}


def run_again(stage: Stage, outcome: Outcome) -> None:
    """Give what failed its second attempt, one after the other. Whatever is not seen to pass then stays failed."""
    junit = OUT / "test" / f"{stage.name}-again.xml"
    junit.unlink(missing_ok=True)
    print(f"\n=== {stage.name}, once more: {', '.join(outcome.failures)}", flush=True)
    started = time.monotonic()
    run_command(pytest_command(junit, "-v", *outcome.failures), stage.budget_s)
    outcome.took_s = round(outcome.took_s + time.monotonic() - started, 1)
    if not junit.exists():
        return
    passed = count(junit, Outcome(stage.name, stage.budget_s))
    outcome.again = {name: outcome.said[name] for name in outcome.failures if name in passed}
    outcome.failures = [name for name in outcome.failures if name not in passed]
    outcome.passed += len(outcome.again)
    outcome.failed -= len(outcome.again)


def report(outcomes: Sequence[Outcome]) -> tuple[int, int, int]:
    """Print the table; passed, failed and skipped over all stages."""
    for outcome in outcomes:
        for failure in outcome.failures:
            said = outcome.said.get(failure, "")
            print(f"FAILED {failure}{f': {said}' if said else ''}")
        for skip in outcome.skips:
            print(f"SKIPPED {skip}")
        for test, said in outcome.again.items():
            print(f"PASSED ONLY AT THE SECOND ATTEMPT {test}, first: {said}")
    print(f"\n{'stage':<8} {'budget':>8} {'took':>9} {'passed':>8} {'again':>6} {'failed':>8} {'skipped':>8}")
    for o in outcomes:
        late = "  over budget" if o.took_s > o.budget_s else ""
        counts = f"{o.passed:>8} {len(o.again):>6} {o.failed:>8} {o.skipped:>8}"
        print(f"{o.stage:<8} {o.budget_s:>6} s {o.took_s:>7} s {counts}{late}")
    passed, failed, skipped = zip(*((o.passed, o.failed, o.skipped) for o in outcomes), strict=True)
    return sum(passed), sum(failed), sum(skipped)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./test", description="Runs every test of its tier.")
    parser.add_argument("--long", action="store_true", help="also what repeats or runs long")
    parser.add_argument("--containerlab", action="store_true", help="also one drill under containerlab")
    options, selection = parser.parse_known_args()
    (OUT / "test").mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the stage's group hears of it too
    started = time.time()
    # With a selection only the tests that were asked for; the checkers look at everything anyway.
    wanted = {s.name for s in STAGES if options.long or not s.long} | ({"containerlab"} if options.containerlab else set())
    stages = [s for s in STAGES if s.name in wanted and (s.pytest or not selection)]
    outcomes: list[Outcome] = []
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as background:
            behind: list[tuple[Stage, concurrent.futures.Future[Outcome]]] = []
            for stage in stages:
                if stage.behind:
                    behind.append((stage, background.submit(run_stage, stage, selection)))
                    continue
                try:
                    outcomes.append(run_stage(stage, selection))
                except KeyboardInterrupt:
                    for process in list(_RUNNING):  # what runs behind hears of it, too
                        os.killpg(process.pid, signal.SIGINT)
                    raise
                while behind:
                    before, ended = behind.pop()
                    outcomes.insert(-1, ended.result())
                    print(f"\n=== {before.name}\n{(OUT / 'test' / f'{before.name}.log').read_text()}", flush=True)
            assert not behind, "a stage that runs behind another one is not the last"
    except KeyboardInterrupt:
        print("\ninterrupted")
        return 130
    passed, failed, skipped = report(outcomes)
    result = {
        "started": started,
        "took_s": round(time.time() - started, 1),
        "selection": selection,
        "passed": passed,
        "failed": failed,
        "skipped": skipped,
        "stages": [dataclasses.asdict(o) for o in outcomes],
    }
    (OUT / "test.json").write_text(json.dumps(result, indent=1) + "\n")
    complaints = []
    if sum(o.passed + o.failed + o.skipped for o, s in zip(outcomes, stages, strict=True) if s.pytest) == 0:
        complaints.append("no test was found")
    if skipped and os.environ.get("CI") == "true":
        complaints.append("a test was skipped where CI=true")
    for complaint in complaints:
        print(complaint)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or complaints else 0


if __name__ == "__main__":
    sys.exit(main())
