"""`site-agent observe` beside an agent's state: a hold and a flap penalty that lie there are shown, and a hold counts."""

from __future__ import annotations

import asyncio
import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from anycast.policy import hold
from anycast.policy.hold import HoldKind
from anycast.reasons import Reason
from site_agent import hold_store, standing
from site_agent.observe import view
from site_agent.observe.discovery import Found
from site_agent.observe.observer import Observer
from site_agent.paths import Paths

NOTHING = Found(pid=None, vici=None, connections=(), vips=(), links=(), guessed=True, sees_kernel_sas=False, limits=())


def account(paths: Paths) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        return Observer(NOTHING, standing=standing.read(paths)).account()

    return asyncio.run(main())


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(run_dir=tmp_path / "run", state_dir=tmp_path / "state")
    for folder in (made.run_dir, made.state_dir):
        folder.mkdir()
    return made


def test_on_somebody_elses_gateway_there_is_neither(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    found = account(paths)
    assert (found["hold"], found["flap"], found["hold_unreadable"]) == (None, None, "")
    view.show_account(found)
    assert "hold" not in (said := capsys.readouterr().out)
    assert "Flap" not in said


def test_a_hold_is_shown_and_decides_what_an_agent_would_do(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    made = hold.begin(HoldKind.WITHDRAW, for_s=600, reason="fibre works", clocks=hold_store.read_clocks())
    hold_store.store(paths, made)
    found = account(paths)
    assert found["would"] == "stay_withdrawn"
    assert found["causes"][0]["reason"] is Reason.OPERATOR
    view.show_account(found)
    said = capsys.readouterr().out
    assert "under it an agent would stay withdrawn" in said
    assert "fibre works" in said
    ended = hold.begin(HoldKind.WITHDRAW, for_s=-1, reason="over", clocks=hold_store.read_clocks())
    hold_store.store(paths, ended)
    assert account(paths)["hold"] is None


def test_a_torn_hold_is_said_to_mean_nothing(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    paths.hold.write_bytes(b"{")
    view.show_account(account(paths))
    assert "hold_unreadable" in capsys.readouterr().out


def test_the_penalty_that_an_agent_left_is_shown_decayed(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    when = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=15)
    record = {"event": "RouteIntentChanged", "at": when.isoformat(), "announce": False, "penalty": 12_000}
    paths.events.write_text(json.dumps(record) + "\n")
    found = account(paths)
    assert 5_950 < found["flap"]["penalty"] <= 6_000
    assert found["flap"]["left_s"] > 200, "above 5,000 the next withdrawal would pass the threshold"
    view.show_account(found)
    assert "a return would wait for" in capsys.readouterr().out
