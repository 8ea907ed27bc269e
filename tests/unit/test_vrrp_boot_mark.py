"""What orders a gateway's seals over a reboot: later than everything that was ever marked, and marked before it is used."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from site_agent.vrrp import boot_mark

YEAR_NS = 365 * 86_400 * 10**9


def at(monkeypatch: pytest.MonkeyPatch, clock_ns: int) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: clock_ns)


def test_a_boot_with_an_earlier_clock_is_later_than_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, now = str(tmp_path / "vrrp.boot"), time.time_ns()
    at(monkeypatch, now + YEAR_NS)
    assert boot_mark.begin(path, after=0) == (now + YEAR_NS, []), "it once had a future clock"
    at(monkeypatch, 0)
    assert boot_mark.begin(path, after=0) == (now + YEAR_NS + 1, []), "nothing else is known after a reboot"
    assert boot_mark.begin(path, after=now + 2 * YEAR_NS) == (now + 2 * YEAR_NS + 1, [])
    at(monkeypatch, now)
    assert boot_mark.begin(path, after=0) == (now + 2 * YEAR_NS + 2, [])
    assert Path(path).stat().st_mode & 0o077 == 0


def test_it_is_on_the_disk_before_it_is_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(number: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{number}"))
        fsync(number)

    monkeypatch.setattr(os, "fsync", noted)
    boot_mark.begin(str(tmp_path / "vrrp.boot"), after=0)
    assert synced == [str(tmp_path / "vrrp.new"), str(tmp_path)], "the file, then its name"


def test_without_a_disk_it_serves_and_says_what_that_costs(tmp_path: Path) -> None:
    boot, faults = boot_mark.begin(str(tmp_path / "missing" / "vrrp.boot"), after=5)
    assert boot > 5 and "No such file" in faults[0] and "vrrp.boot" in faults[0]


@pytest.mark.parametrize("damaged", [b"", b"soon", b"\xff\xfe"])
def test_a_damaged_mark_is_said_once_and_mended(damaged: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vrrp.boot"
    path.write_bytes(damaged)
    boot, faults = boot_mark.begin(str(path), after=0)
    assert "cannot be read" in faults[0]
    assert boot_mark.begin(str(path), after=0)[1] == [] and int(path.read_text()) > boot


def test_without_a_seal_nothing_is_marked() -> None:
    assert boot_mark.begin("", after=7)[0] > 7
