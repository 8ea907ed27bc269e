"""A coordinator that ends before it has answered: what was asked may have been done, or not, and both are said."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast.cli.coordinator_client import Target, Unreachable, ask


@pytest.fixture
def hangs_up(tmp_path: Path) -> Iterator[Target]:
    """Reads one request and closes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        listener.settimeout(10)

        def serve() -> None:
            connection, _ = listener.accept()
            connection.recv(4096)
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield Target(f"unix:{tmp_path}/sock", None, None)
        thread.join()


def test_a_decision_may_have_been_taken(hangs_up: Target) -> None:
    with pytest.raises(Unreachable, match="it may have done what it was asked for: see `anycast history`"):
        ask(hangs_up, "POST", "/v1/rollouts", {})


def test_a_question_is_asked_again(hangs_up: Target) -> None:
    with pytest.raises(Unreachable, match="is `anycast serve` running"):
        ask(hangs_up, "GET", "/v1/status")


def test_nobody_there_has_done_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="is `anycast serve` running"):
        ask(Target(f"unix:{tmp_path}/sock", None, None), "POST", "/v1/rollouts", {})
