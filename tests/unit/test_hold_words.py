"""`site-agent hold` as it is typed: a withdrawal is never refused, and what ends a hold waits for no disk."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from anycast.errors import DecodeError
from anycast.policy import hold
from anycast.policy.hold import LONGEST_S, Clocks, HoldKind
from anycast.reasons import FACTS
from site_agent import control, hold_store
from site_agent.cli import app
from site_agent.paths import Paths


def said_words(*words: str) -> set[str]:
    """What is on a screen so wide that no word is broken."""
    shown = CliRunner().invoke(app, [*words], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"}).output
    return set(re.findall(r"[a-z_]+", shown))


CLOCKS = Clocks(wall=1e9, boot=100.0, boot_id="this")


def folders(base: Path) -> Paths:
    return Paths(run_dir=base / "run", state_dir=base / "state", etc_dir=base / "etc")


def said(paths: Paths, *words: str) -> Any:
    return CliRunner().invoke(
        app, ["hold", *words, "--run-dir", str(paths.run_dir), "--state-dir", str(paths.state_dir)]
    )  # fmt: skip


@given(st.text(st.characters(), max_size=40))
def test_every_reason_that_can_be_typed_can_be_kept(reason: str) -> None:
    made = hold.begin(HoldKind.WITHDRAW, for_s=60, reason=reason, clocks=CLOCKS)
    assert hold.decode(hold.encode(made)) == made
    str(made).encode()


def test_a_reason_that_is_no_text_withdraws(tmp_path: Path) -> None:
    paths = folders(tmp_path)
    answer = said(paths, "withdraw", "--for", "2h", "--reason", "caf\udce9 cut")
    assert (answer.exit_code, answer.exception) == (0, None), answer.output
    found = hold_store.load(paths)
    assert found is not None and found.reason == "caf? cut"


def test_a_withdrawal_that_is_too_long_or_too_short_is_made_to_fit_and_says_so(tmp_path: Path) -> None:
    paths = folders(tmp_path)
    for asked, lasts, told in (("31d", LONGEST_S, "30 days"), ("0s", 1.0, "1 s")):
        answer = said(paths, "withdraw", "--for", asked, "--reason", "fibre")
        assert answer.exit_code == 0, answer.output
        assert f"'{asked}' is not between 1 s and 30 days, so it lasts {told}." in answer.output
        found = hold_store.load(paths)
        assert found is not None and found.duration_s == lasts
    assert said(paths, "announce", "--for", "31d", "--reason", "fibre").exit_code == 2, "that may be refused"


@pytest.mark.parametrize("span", ["banana", "", "2", "-5 min", "2 fortnights", "caf\udce9"])
def test_a_withdrawal_for_a_time_that_cannot_be_read_is_made_and_says_so(tmp_path: Path, span: str) -> None:
    paths = folders(tmp_path)
    answer = said(paths, "withdraw", f"--for={span}", "--reason", "fibre")
    assert (answer.exit_code, answer.exception) == (0, None), answer.output
    assert "is no time span like 90 s, 30 min or 2h, so it lasts 2 h" in answer.stderr
    found = hold_store.load(paths)
    assert found is not None and (found.kind, found.duration_s) == (HoldKind.WITHDRAW, 7200.0)
    refused = said(paths, "announce", f"--for={span}", "--reason", "fibre")
    assert refused.exit_code == 2 and hold_store.load(paths) == found, "that may be refused"


def test_the_agent_hears_of_the_end_before_the_disk_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, in_force_when_told = folders(tmp_path), list[bool]()
    hold_store.store(paths, hold.begin(HoldKind.WITHDRAW, for_s=60, reason="fibre", clocks=hold_store.read_clocks()))

    def ask(*_: Any) -> dict[str, Any]:
        assert paths.hold.exists(), "a disk that hangs would have kept us from getting here"
        found = hold_store.load(paths)
        in_force_when_told.append(found is not None and found.left_s(hold_store.read_clocks()) > 0)
        return {}

    monkeypatch.setattr(control, "ask", ask)
    assert said(paths, "end").exit_code == 0
    assert in_force_when_told == [False]
    assert hold_store.load(paths) is None and not list(paths.run_dir.iterdir())


def test_an_end_that_waited_for_the_disk_takes_nothing_from_a_younger_hold(tmp_path: Path) -> None:
    paths = folders(tmp_path)
    assert hold_store.end_for_this_boot(paths)
    younger = hold.begin(HoldKind.WITHDRAW, for_s=60, reason="again", clocks=hold_store.read_clocks())
    hold_store.store_for_this_boot(paths, younger)
    hold_store.remove(paths)
    assert hold_store.load(paths) == younger


@pytest.mark.parametrize("word", ["healthy", "dns_wrong", "recovering", "nonsense"])
def test_only_a_fact_can_be_despite_of(tmp_path: Path, word: str) -> None:
    paths = folders(tmp_path)
    answer = said(paths, "announce", "--for", "1h", "--reason", "x", "--despite", word)
    assert answer.exit_code == 2 and hold_store.load(paths) is None
    for fact in FACTS:
        assert fact in answer.output


def test_the_help_names_the_facts_and_nothing_else() -> None:
    taken = said_words("hold", "announce", "--help")
    assert not {"healthy", "dns_wrong", "loop_late"} & taken
    assert {str(fact) for fact in FACTS} <= taken


def test_every_fact_is_taken(tmp_path: Path) -> None:
    paths = folders(tmp_path)
    words = [word for fact in FACTS for word in ("--despite", fact.value)]
    assert said(paths, "announce", "--for", "1h", "--reason", "x", *words).exit_code == 0
    found = hold_store.load(paths)
    assert found is not None and set(found.despite) == FACTS


def test_what_cannot_be_held_is_said_once_and_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(hold_store, "_write", refused)
    answer = said(folders(tmp_path), "withdraw", "--for", "1h", "--reason", "x")
    assert answer.exit_code == 1 and answer.stdout == ""
    assert re.fullmatch(r"not held: .*Permission denied; run as root\n", answer.stderr)


def test_a_link_or_a_pipe_is_no_hold(tmp_path: Path) -> None:
    paths = folders(tmp_path)
    paths.state_dir.mkdir()
    os.mkfifo(paths.hold)
    with pytest.raises(DecodeError, match="no regular file"):
        hold_store.load(paths)
    paths.hold.unlink()
    paths.hold.symlink_to("/etc/hostname")
    with pytest.raises(DecodeError):
        hold_store.load(paths)


def test_an_end_without_a_hold_says_so(tmp_path: Path) -> None:
    paths = folders(tmp_path)
    assert "There was no hold." in said(paths, "end").output
    for store in (hold_store.store, hold_store.store_for_this_boot):
        store(paths, hold.begin(HoldKind.WITHDRAW, for_s=60, reason="x", clocks=hold_store.read_clocks()))
        assert "No hold is in force any more." in said(paths, "end").output
