"""A daemon of ours: its logs stay short, and one that could not be recorded does not run on unknown to everybody."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from anycast.errors import PeerError
from anycast.events import Event
from site_agent import daemon_process
from site_agent.daemon_process import DetachedProcess, ProcessSpec, keep_running
from site_agent.procfs import read_stat


def spec(folder: Path, script: str, record: Path | None = None) -> ProcessSpec:
    return ProcessSpec(
        name="daemon",
        argv=("/bin/sh", "-c", script),
        env={"PATH": "/usr/bin:/bin"},
        record=record or folder / "daemon.pid",
        log=folder / "daemon.out",
        own_log=folder / "daemon.log",
    )


def in_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(10):
            await test()

    asyncio.run(limited())


def test_a_log_that_strangers_write_is_kept_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_process, "LOG_KEPT_BYTES", 1000)
    monkeypatch.setattr(daemon_process, "LOG_LOOK_S", 0.01)
    log, old = tmp_path / "daemon.log", tmp_path / "daemon.log.1"

    async def test() -> None:
        process = DetachedProcess(
            spec(tmp_path, f"exec >>{log}; while :; do echo received packet; sleep 0.001; done"), lambda *_: None
        )
        events: list[Event] = []
        task = asyncio.create_task(keep_running(process, happened=events.append))
        while not old.exists():
            await asyncio.sleep(0.01)
        old.unlink()
        while not old.exists():  # once more: the daemon's own descriptor goes on at the new end
            await asyncio.sleep(0.01)
        assert b"\0" not in log.read_bytes(), "appended, not written behind a hole"
        assert {path.stat().st_mode & 0o777 for path in (log, old, tmp_path / "daemon.out")} == {0o640}
        await process.stop()
        task.cancel()

    in_loop(test)


def test_a_daemon_that_cannot_be_recorded_is_ended(tmp_path: Path) -> None:
    async def test() -> None:
        process = DetachedProcess(
            spec(tmp_path, "echo $$; exec sleep 60", record=tmp_path / "missing" / "daemon.pid"), lambda *_: None
        )
        with pytest.raises(PeerError, match="cannot be recorded"):
            process.start()
        assert not process.running
        said = (tmp_path / "daemon.out").read_text().split()
        assert all((stat := read_stat(int(pid))) is None or stat.parent != os.getpid() for pid in said)

    in_loop(test)
