"""`anycast plan` and `anycast apply`, as an operator or a pipeline types them; their exit statuses are documented."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anycast.cli.plan import PlanExit
from anycast.content.canonical import encode
from anycast.content.content import decode_content
from anycast.content.operators import decode_line
from anycast.content.state import decode_state
from anycast.policy.plan import decode_plan, decode_submission, judge
from tests.support.contents import SITES, TRUSTED, fleet_text, made, state_of
from tests.support.tree import TREE

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    tmp_path.chmod(0o700)

    def typed(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "anycast.cli.main", *map(str, words)]
        environment = {"PYTHONPATH": str(TREE), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "COLUMNS": "200"}
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path, env=environment, umask=0o022
        )

    return typed


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def state_file(path: Path, running: Any, **more: Any) -> Path:
    return write(path, encode(state_of(running, **more)[0].model_dump(mode="json")) + "\n")


def test_from_a_first_plan_to_nothing_to_do(run: Run, tmp_path: Path) -> None:
    fleet = write(tmp_path / "fleet.yaml", fleet_text(fra="drained"))
    first = run("plan", fleet, "-o", "P")
    again = run("plan", fleet, "-o", "Q")
    assert (first.returncode, again.returncode) == (PlanExit.CHANGES, PlanExit.CHANGES), first.stderr
    assert (tmp_path / "P").read_bytes() == (tmp_path / "Q").read_bytes() and first.stdout == again.stdout
    plan = decode_plan((tmp_path / "P").read_bytes())
    assert first.stderr == f"P: plan {plan.hash}\n" and f"plan     {plan.hash}\n" in first.stdout
    line = run("operator", "new", "alice", "--plain").stdout
    signed = run("apply", "P", "--operator", "alice", "-o", "S", "--expect", plan.hash)
    assert signed.returncode == 0, signed.stderr
    submission = decode_submission((tmp_path / "S").read_bytes())
    operators = TRUSTED.trusting(decode_line(line).model_copy(update={"name": "al"}))
    assert judge(submission, operators, *decode_state(encode(_nothing()).encode())) == ()
    now = state_file(tmp_path / "state", decode_content(submission.content))
    done = run("plan", fleet, "--against", now, "-o", "R")
    assert (done.returncode, done.stdout, done.stderr) == (PlanExit.NOTHING, "fleet example: nothing to do\n", "")
    assert not (tmp_path / "R").exists()


def _nothing() -> dict[str, Any]:
    ledger = {"allowed": 0, "dark": {}}
    return {"version": 1, "fleet": "example", "generation": 0, "contents": {}, "gateways": {}, "ledger": ledger}


def test_a_refused_plan_says_everything_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    fleet = write(tmp_path / "fleet.yaml", fleet_text(["fra"], budget="{min_sites: 1}", fra="drained"))
    state = state_file(tmp_path / "state", made().content)
    done = run("plan", fleet, "--against", state, "-o", "P")
    assert done.returncode == PlanExit.REFUSED
    assert done.stderr.splitlines() == [
        "refused: no site attracts by this content; its budget wants 1",
        "refused: ams, fra, lon, nyc, sin, tyo would go dark, and no site attracts all the while; the budget wants 4",
        "refused: nobody would go on announcing 2001:db8:a::/56; a content that names it as retiring has to come before",
    ]
    assert re.search(r"^  tyo +removed +announced +- +tyo-gw1$", done.stdout, re.MULTILINE), "it is shown all the same"
    assert not (tmp_path / "P").exists()


@pytest.mark.parametrize(
    "text", ["", "version: 1\n", fleet_text([]), fleet_text(["fra"]), fleet_text(budget="{min_sites: 0}")]
)
def test_a_fleet_file_that_is_none(run: Run, tmp_path: Path, text: str) -> None:
    fleet = write(tmp_path / "fleet.yaml", text)
    done = run("plan", fleet, "-o", "P")
    assert (done.returncode, done.stdout) == (PlanExit.UNUSABLE, "") and done.stderr
    assert not (tmp_path / "P").exists()


def test_a_fleet_without_a_budget_is_not_planned(run: Run, tmp_path: Path) -> None:
    fleet = write(tmp_path / "fleet.yaml", fleet_text().replace("budget: {min_sites: 4}\n", ""))
    done = run("plan", fleet)
    assert done.returncode == PlanExit.UNUSABLE
    assert done.stderr.startswith(f"{fleet}: budget: is missing, and nothing is planned without one")
    assert run("check", fleet).returncode == 0, "it may run without a coordinator"


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"gateways":{}}', "\x00"])
def test_a_state_that_is_none_is_not_an_empty_fleet(run: Run, tmp_path: Path, text: str) -> None:
    fleet = write(tmp_path / "fleet.yaml", fleet_text(["fra"], budget="{min_sites: 1}"))
    state = write(tmp_path / "state", text)
    done = run("plan", fleet, "--against", state, "-o", "P")
    assert (done.returncode, done.stdout) == (PlanExit.UNUSABLE, "")
    assert done.stderr.startswith(str(state)) and done.stderr.count("\n") == 1
    assert run("plan", fleet, "--against", tmp_path / "gone").returncode == PlanExit.UNUSABLE


def test_what_is_shown_for_programs_is_what_is_shown(run: Run, tmp_path: Path) -> None:
    fleet = write(tmp_path / "fleet.yaml", fleet_text(fra="drained", sin="degraded"))
    dark = {"lon": ("token", "token dns")}
    state = state_file(tmp_path / "state", made().content, dark=dark, tunnels={name: 700 for name in SITES} | {"tyo": None})
    done = run("plan", fleet, "--against", state, "--json")
    assert done.returncode == PlanExit.REFUSED, "two drains beside a token are three"
    shown = json.loads(done.stdout)
    assert shown["moves_worst"] == 1400 and shown["capacity_worst"] == ["ams", 3000]
    assert shown["ledger_after"]["dark"].keys() == {"fra", "sin", "lon"}
    assert shown["problems"] and not shown["empty"]
    eyes = run("plan", fleet, "--against", state).stdout
    assert "tunnels  at most 1400 move\n" in eyes
    assert "lose their site: fra 700, sin 700\n" in eyes
    assert "capacity 4000; without ams, the worst to lose, 3000: 500 TOO FEW; 3500 tunnels now, and nobody knows" in eyes
    assert "budget   4 sites -> 4 sites\n" in eyes
    assert "before: dark 1 of 2 allowed: lon token dns\n" in eyes
    assert "after:  dark 3 of 2 allowed: fra drained, lon token dns, sin degraded\n" in eyes
    assert re.search(r"^  sin +sin-rtr-ipv6 +2001:db8:a::/56 +2001:db8:a::/56 \(worse\) +unknown$", eyes, re.MULTILINE)


def test_apply_signs_only_what_was_reviewed_and_still_holds(run: Run, tmp_path: Path) -> None:
    fleet = write(tmp_path / "fleet.yaml", fleet_text(fra="drained"))
    before = state_file(tmp_path / "before", made().content)
    assert run("plan", fleet, "--against", before, "-o", "P").returncode == PlanExit.CHANGES
    run("operator", "new", "alice", "--plain")
    words = ("apply", "P", "--operator", "alice", "-o", "S")
    other = run(*words, "--against", before, "--expect", "0" * 64)
    assert other.returncode == 1 and "not the one that was reviewed" in other.stderr
    after = state_file(tmp_path / "after", made().content, dark={"sin": ("drain", "by bob"), "tyo": ("token", "dns")})
    changed = run(*words, "--against", after)
    assert changed.returncode == 1
    assert changed.stderr.splitlines() == [
        "refused: site sin is dark (drain); the plan saw that it is not in the ledger",
        "refused: site tyo is dark (token); the plan saw that it is not in the ledger",
        "refused: fra would go dark beside sin, tyo, and 3 sites attract all the while; the budget wants 4",
    ]
    assert run(*words).returncode == 1, "a plan against something is not applied to nothing"
    write(tmp_path / "P", (tmp_path / "P").read_text().replace('"empty":false', '"empty":0'))
    assert run(*words, "--against", before).returncode == 2
    assert run("apply", "gone", "--operator", "alice", "-o", "S").returncode == 2
    assert run("plan", fleet, "--against", before, "-o", "P").returncode == PlanExit.CHANGES
    assert run("apply", "P", "--operator", "bob", "-o", "S", "--against", before).returncode == 2
    assert not (tmp_path / "S").exists()
    assert run(*words, "--against", before).returncode == 0
    assert "PRIVATE" not in (tmp_path / "S").read_text()


def test_the_exit_statuses_are_documented(run: Run) -> None:
    help_ = " ".join(run("plan", "--help").stdout.split())
    documented = (TREE / "docs" / "content.md").read_text()
    said = {"NOTHING": "0 nothing to do", "REFUSED": "1 refused", "UNUSABLE": "2 the fleet file", "CHANGES": "3 there is"}
    said["UNREACHABLE"] = "4 the coordinator does not answer"
    for status in PlanExit:
        assert said[status.name] in help_ and said[status.name].startswith(str(status.value))
        assert f"| {status.value} |" in documented


def test_a_coordinator_that_is_not_there_is_no_plan(run: Run, tmp_path: Path) -> None:
    """3, which says so everywhere else, would be "there is something to do" here."""
    named = "coordinator: {name: coord, addresses: {ipv4: 192.0.2.10}}\n"
    fleet = write(tmp_path / "fleet.yaml", fleet_text() + named)
    done = run("plan", fleet, "-o", "P", "--coordinator", f"unix:{tmp_path / 'nobody'}")
    assert (done.returncode, done.stdout) == (PlanExit.UNREACHABLE, ""), done.stderr
    assert "is `anycast serve` running?" in done.stderr and not (tmp_path / "P").exists()
