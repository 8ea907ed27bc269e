"""How the next agent finds the vrrp process of the one before: by a record that works once, for that very process."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from site_agent.procfs import read_stat
from site_agent.vrrp import orphan, wire


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    yield child
    child.kill()
    child.wait()


def record_of(child: subprocess.Popen[bytes]) -> orphan.Record:
    stat = read_stat(child.pid)
    assert stat is not None
    return orphan.Record(
        pid=child.pid, start_ticks=stat.start_ticks, role="active", boot=7, taken={"outside:4:2": [3, 4]}, grace_until_ns=9
    )


def test_it_is_found_once_with_what_it_left(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    path, written = tmp_path / "vrrp.json", record_of(sleeper)
    orphan.write(path, written)
    assert path.stat().st_mode & 0o077 == 0
    found = orphan.take(path)
    assert found is not None and found.lives and found.record == written
    assert not path.exists() and orphan.take(path) is None, "single use"
    found.leave()
    assert sleeper.wait(10) == -wire.LEAVE
    found.kill()
    found.kill()  # once is enough


def test_another_process_of_that_number_is_left_alone(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    path = tmp_path / "vrrp.json"
    orphan.write(path, dataclasses.replace(record_of(sleeper), start_ticks=1))
    found = orphan.take(path)
    assert found is not None and not found.lives
    found.leave()
    found.kill()
    assert sleeper.poll() is None


def test_of_a_process_that_has_ended_what_it_left_is_known_all_the_same(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    path, written = tmp_path / "vrrp.json", record_of(sleeper)
    orphan.write(path, written)
    sleeper.kill()
    sleeper.wait()
    found = orphan.take(path)
    assert found is not None and not found.lives and found.record == written


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"pid": "x"}', json.dumps({"pid": 1 << 80, "start_ticks": 1})])
def test_a_record_that_means_nothing_is_removed(text: str, tmp_path: Path) -> None:
    path = tmp_path / "vrrp.json"
    path.write_text(text)
    assert orphan.take(path) is None
    assert not path.exists()


def test_a_record_of_a_later_version_is_understood(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    path = tmp_path / "vrrp.json"
    path.write_text(json.dumps(dataclasses.asdict(record_of(sleeper)) | {"more": 1}))
    assert orphan.take(path) is not None
