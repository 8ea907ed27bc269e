"""What an operator sees of a rollout that goes on: lines, a bar in a terminal. And who ends when nobody reads."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from anycast.cli import coordinator, coordinator_client, progress
from anycast.cli.coordinator_client import Target, Unreachable
from anycast.coordinator import rest

ROLLOUT: dict[str, Any] = {
    "id": "r3", "by": "alice", "generation": 3, "step": "baking", "site": "fra", "done": 0, "sites": ["fra", "sin", "nyc"],
    "changed": ["fra"], "paused": False, "reason": "", "waits_for": "", "for_s": 18.0, "bake_s": 60.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said", "share"),
    [
        ({}, "baking fra, site 1 of 3, 42 s of its 60 s left", 0.1),
        ({"for_s": 90.0}, "baking fra, site 1 of 3, waits for evidence", 0.0),
        ({"step": "staging"}, "staging, 0 of 3 sites", 0.0),
        ({"step": "waiting", "done": 1, "site": "sin", "paused": True}, "waiting sin, site 2 of 3, paused", 1 / 3),
        ({"step": "returning"}, "returning fra", 0.0),
        ({"step": "done", "done": 3}, "done, 3 of 3 sites", 1.0),
        ({"bake_s": 0.0, "for_s": 0.0}, "baking fra, site 1 of 3", 0.0),
    ],
)
def test_how_far_it_is(changes: dict[str, Any], said: str, share: float) -> None:
    rollout = ROLLOUT | changes
    assert progress.headline(rollout) == said
    assert progress.share(rollout) == pytest.approx(share)


def test_an_older_coordinator_does_not_say_how_long_it_bakes() -> None:
    older = {key: value for key, value in ROLLOUT.items() if key not in ("for_s", "bake_s")}
    assert progress.headline(older) == "baking fra, site 1 of 3" and progress.share(older) == 0.0


def told(*rollouts: dict[str, Any], state: str = "announcing", tunnels: int | None = 3) -> list[dict[str, Any]]:
    return [{"rollout": ROLLOUT | each, "sites": [{"site": "fra", "state": state, "tunnels": tunnels}]} for each in rollouts]


def follow(monkeypatch: pytest.MonkeyPatch, *words: Any, dark: str = "", terminal: bool = False) -> tuple[bool, str]:
    """Of what the coordinator says, with its absences."""
    left = list(words)

    def stream(target: Target, path: str) -> Iterator[dict[str, Any]]:
        while left:
            if isinstance(word := left.pop(0), Exception):
                raise word
            yield word

    monkeypatch.setattr(progress, "stream", stream)
    monkeypatch.setattr(progress.time, "sleep", lambda seconds: None)
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100)
    return progress.follow(Target(), "r3", console, dark=dark), out.getvalue()


def test_lines_say_what_happens_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = {"step": "waiting", "done": 1, "site": "sin", "waits_for": "sin: budget_spent"}
    words = [
        *told({"step": "activating"}, {}, {"for_s": 30.0}, waits),
        Unreachable("unix", "no answer"), *told({"step": "done", "done": 3}),
    ]  # fmt: skip
    done, text = follow(monkeypatch, *words)
    assert done and text.splitlines() == [
        "rollout r3: activating fra, site 1 of 3",
        "rollout r3: baking fra, site 1 of 3",
        "rollout r3: waiting sin, site 2 of 3: sin: budget_spent",
        "rollout r3: done, 3 of 3 sites",
    ]


def test_a_reason_that_counts_down_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = [{"step": "waiting", "site": "sin", "waits_for": f"sin: leader_new: for {left} s more"} for left in (12, 11, 9)]
    _, text = follow(monkeypatch, *told(*waits, {"step": "done", "done": 3}))
    assert [line.partition(": ")[2] for line in text.splitlines()] == [
        "waiting sin, site 1 of 3: sin: leader_new: for 12 s more",
        "done, 3 of 3 sites",
    ]


def test_a_terminal_has_the_seconds_and_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    done, text = follow(monkeypatch, *told({}, {"step": "done", "done": 3}), terminal=True)
    assert done and "42 s of its 60 s left" in text and "━" in text


def test_a_drained_site_is_waited_for_until_it_is_dark(monkeypatch: pytest.MonkeyPatch) -> None:
    over = {"step": "done", "done": 3}
    done, text = follow(monkeypatch, *told(over), *told(over, tunnels=1), *told(over, state="dark"), dark="fra")
    assert done and [line.partition(": ")[2] for line in text.splitlines()] == [
        "done, 3 of 3 sites; fra announces still, 3 tunnels",
        "done, 3 of 3 sites; fra announces still, 1 tunnels",
        "done, 3 of 3 sites",
    ]


def test_one_that_was_stopped_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    done, text = follow(monkeypatch, *told({"step": "stopped", "reason": "gate_failed: fra: 0 decrypted"}))
    assert not done and "stopped, 0 of 3 sites: gate_failed: fra: 0 decrypted" in text


def test_a_reader_that_has_gone_ends_a_command_without_a_word(tmp_path: Path) -> None:
    """As `anycast watch | head`."""
    path = tmp_path / "socket"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            status = json.dumps({"at": 0.0, "sites": [], "rollout": None}).encode()
            try:
                while True:
                    connection.sendall(b"event: status\ndata: " + status + b"\n\n")
                    stop.wait(0.05)
            except OSError:
                return  # it has gone

    stop = threading.Event()
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    environment = {**os.environ, "ANYCAST_COORDINATOR": f"unix:{path}"}
    with subprocess.Popen(
        [sys.executable, "-m", "anycast.cli.main", "watch"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert b"no gateway has been heard yet" in process.stdout.readline()
        process.stdout.close()
        assert (process.wait(20), process.stderr.read()) == (1, b"")
    thread.join(5)
    server.close()


def test_a_stream_to_which_nothing_new_comes_outlives_a_watchers_patience() -> None:
    assert 2 * rest.REPEAT_S <= coordinator_client.PATIENCE_S


def test_a_coordinator_that_goes_while_somebody_watches_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its death ends the stream without an error, as a unix socket's end has none."""
    first, second = ({"at": float(n), "sites": [], "rollout": None} for n in (1, 2))
    silent = Unreachable("unix", "no answer")
    lives: list[Any] = [[first], silent, silent, [second], KeyboardInterrupt()]

    def stream(target: Target, path: str) -> Iterator[dict[str, Any]]:
        if isinstance(life := lives.pop(0), BaseException):
            raise life
        yield from life

    monkeypatch.setattr(progress, "stream", stream)
    monkeypatch.setattr(progress.time, "sleep", lambda seconds: None)
    with pytest.raises(KeyboardInterrupt):
        coordinator.watch("unix:there")
    out, err = capsys.readouterr()
    assert [line[:20] for line in out.splitlines()] == ["1970-01-01T00:00:01Z", "1970-01-01T00:00:02Z"]
    assert err.splitlines() == ["unix:there: the coordinator has gone; waiting for it"] * 2


def test_a_watcher_of_nobody_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        coordinator.watch(f"unix:{tmp_path / 'nobody'}")
