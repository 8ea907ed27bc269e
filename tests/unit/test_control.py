"""The control socket answers what it is asked, changes nothing, and drops whoever does not speak its language."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError, PeerError
from site_agent import control


def served(path: Path, ask: Callable[[], Any]) -> Any:
    """What `ask` gives, called in a thread beside a server."""

    async def run() -> Any:
        server = await control.serve(path, {"status": lambda: {"gateway": "fra-gw1"}})
        try:
            return await asyncio.to_thread(ask)
        finally:
            server.close()

    return asyncio.run(run())


def test_an_answer_carries_its_version(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    assert served(path, lambda: control.ask(path, "status")) == {"v": 1, "gateway": "fra-gw1"}


def test_only_its_own_user_may_open_it(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    assert served(path, lambda: stat.S_IMODE(path.stat().st_mode)) == 0o600


def test_an_unknown_question_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with pytest.raises(PeerError, match="unknown question 'withdraw'"):
        served(path, lambda: control.ask(path, "withdraw"))


def test_nobody_there_is_said_as_such(tmp_path: Path) -> None:
    with pytest.raises(control.NobodyAnswers, match=r"nobody listens on .*/absent.sock; `systemctl start site-agent`"):
        control.ask(tmp_path / "absent.sock", "status")


def test_who_may_not_ask_is_told_to_be_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr("socket.socket.connect", refused)
    with pytest.raises(PeerError, match=r"control.sock may not be opened; run as root") as caught:
        control.ask(tmp_path / "control.sock", "status")
    assert not isinstance(caught.value, control.NobodyAnswers), "it may well live"


def test_a_socket_left_behind_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    served(path, lambda: None)
    assert served(path, lambda: control.ask(path, "status"))["gateway"] == "fra-gw1"


@given(
    st.one_of(st.binary(max_size=80), st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
)
def test_any_bytes_are_a_question_or_refused(line: bytes) -> None:
    try:
        assert isinstance(control.decode_question(line), str)
    except DecodeError:
        pass


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"v": 2, "ask": "status"}', '{"ask": "status"}', '{"v": 1, "ask": 7}', "\xff"]
)
def test_what_is_no_question(line: str) -> None:
    with pytest.raises(DecodeError):
        control.decode_question(line.encode("latin-1"))
