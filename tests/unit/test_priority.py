"""What the scheduler's group of a process is, also where it has none."""

from __future__ import annotations

import os

import pytest

from site_agent import priority


@pytest.mark.parametrize(
    ("text", "nice"), [("/autogroup-52 nice -10\n", -10), ("/autogroup-4 nice 0\n", 0), ("", None), ("\n", None)]
)
def test_a_process_whose_session_is_older_than_the_groups_is_in_none(text: str, nice: int | None) -> None:
    assert priority.parse_group_nice(text) == nice


def test_to_prefer_a_process_that_is_not_there_or_refuses_is_no_error(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("proc")
    monkeypatch.setattr(priority, "AUTOGROUP", f"{folder}/{{pid}}-is-not-there/autogroup")
    priority.prefer(os.getpid(), os.getpriority(os.PRIO_PROCESS, 0))
    assert priority.group_nice(os.getpid()) is None, "a kernel without groups"
