"""How the doctor's report looks where it is not a terminal's: whole, without blanks that trail, each line to paste once."""

from __future__ import annotations

import pytest

from site_agent.doctor import view
from site_agent.doctor.examination import Examination
from site_agent.doctor.finding import Finding, Severity

LOAD = "SWANCTL_DIR=/run/x swanctl --load-conns"


def finding(name: str, severity: Severity, *mend: str) -> Finding:
    return Finding(id=name, severity=severity, seen="seen " * 60, why="because " * 30, mend=mend)


REPORT = Examination(
    pids=(7,), uncertain=(8,), gateway="", unseen=(),
    findings=(
        finding("first", Severity.WRONG, "echo x", LOAD),
        finding("second", Severity.RISKY, "echo y", LOAD),
        finding("third", Severity.RISKY, "echo x"),
        *(finding("fine", Severity.OK) for _ in range(3)),
        finding("third", Severity.OK),
        finding("good", Severity.OK),
    ),
)  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    view.show(REPORT)
    return capsys.readouterr().out.splitlines()


def test_each_line_is_printed_once_but_loading_follows_each_change(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    said = shown(capsys)
    assert [line for line in said if "$ " in line and line.startswith("    ")] == [
        "    $ echo x", f"    $ {LOAD}", "    $ echo y", f"    $ {LOAD}",
    ]  # fmt: skip
    assert "    the lines above mend it, too" in said


def test_as_many_are_counted_as_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys)
    assert "Nothing to mend: fine, good" in said and said[-1] == "1 wrong, 2 risky, 0 note, 2 ok"


@pytest.mark.parametrize("columns", [None, 60, 200])
def test_no_blank_trails_and_nothing_is_broken_without_a_terminal(
    columns: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
        monkeypatch.setattr(view.os, "get_terminal_size", lambda _: (_ for _ in ()).throw(OSError("no terminal")))
    else:
        monkeypatch.setenv("COLUMNS", str(columns))
    said = shown(capsys)
    assert not [line for line in said if line != line.rstrip()]
    longest = max(map(len, said))
    assert longest > 250 if columns is None else longest <= columns
