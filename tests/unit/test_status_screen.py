"""What gateways send does not steer the terminal of who looks at the fleet."""

from __future__ import annotations

import io
import json
from http.client import HTTPResponse
from typing import Any, cast

import pytest
from rich.console import Console

from anycast.cli import coordinator_client, rollout
from anycast.cli.coordinator import _one_line, status_view
from anycast.cli.history import history_view
from anycast.cli.plan_table import lines
from anycast.policy.plan import make
from anycast.policy.worst_case import worst_case
from tests.support.contents import made, state_of

STEERS = "\x1b]0;owned\x07\x1b[2Jx\r\n\u202eok"


def found() -> dict[str, Any]:
    report = {"tunnels": 1, "role": "active" + STEERS, "announced": 1, "routes": 2}
    gateway = {"gateway": "fra-gw1", "connected": True, "age_s": 1.0, "report": report}
    site = {"site": "fra", "state": "dark", "why": STEERS, "seen": "seen", "gateways": [gateway]}
    return {
        "fleet": "example", "ledger": STEERS, "sites": [site], "alarms": [STEERS], "rollout": None, "at": 0.0,
        "observers": [{"observer": "o", "fresh": True, "age_s": 1.0, "routers": {STEERS: False}}],
    }  # fmt: skip


def test_nothing_of_a_gateway_steers_an_operators_terminal() -> None:
    console = Console(width=200, force_terminal=False, record=True)
    with console.capture() as shown:
        console.print(status_view(found()))
    for text in (shown.get(), _one_line(found())):
        assert "owned" in text and not [letter for letter in text if not letter.isprintable() and letter != "\n"], text
    assert "\n" not in _one_line(found())


def test_a_site_that_was_not_heard_yet_stands_among_the_others() -> None:
    """A coordinator that has just begun knows its fleet from its store."""
    told = found() | {"unheard": ["ams", "sin"]}
    rows = [line.split() for line in shown(status_view(told)).splitlines()]
    assert [row[:2] for row in rows if row[:1] in (["ams"], ["fra"], ["sin"])] == [
        ["ams", "unknown"], ["fra", "dark"], ["sin", "unknown"],
    ]  # fmt: skip
    assert "1 dark, 2 unknown" in shown(status_view(told))
    assert "ams unknown, fra dark" in _one_line(told)


def steers(text: str) -> list[str]:
    return [letter for letter in text if not letter.isprintable() and letter != "\n"]


def shown(what: Any, width: int = 200) -> str:
    console = Console(width=width, force_terminal=False, record=True)
    with console.capture() as found:
        console.print(what)
    return found.get()


def test_nothing_of_a_slot_that_a_gateway_entered_steers_who_reads_the_history() -> None:
    line = {"seq": 1, "at": 0.0, "who": STEERS, "action": "slot.taken", "reason": STEERS, "body": {"kind": STEERS}}
    text = shown(history_view([line]))
    assert text.count("owned") == 3 and not steers(text), text


def test_a_line_of_history_has_its_moment_on_a_narrow_screen() -> None:
    line = {"seq": 123456, "at": 0.0, "who": "w" * 60, "action": "a" * 60, "reason": "r" * 60, "body": {"kind": "k" * 60}}
    text = shown(history_view([line]), 80)
    assert "123456" in text and "1970-01-01T00:00:00Z" in text, text
    assert "rollout.command " in shown(history_view([line | {"action": "rollout.command"}]), 80)


def test_nothing_of_a_slot_steers_who_plans() -> None:
    state, contents = state_of(made().content, dark={"fra": ("hold", STEERS)})
    wanted = made(sin="drained")
    text = "\n".join(lines(make(state, contents, wanted.content, wanted.documents), worst_case(None, wanted.content, state)))
    assert "owned" in text and not steers(text), text


def test_nothing_of_a_rollout_or_a_refusal_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    told = {"id": "r1", "by": STEERS, "generation": 1, "step": "stopped", "paused": False, "done": 0, "sites": ["fra"]}
    rollout._print(told | {"reason": STEERS, "waits_for": STEERS})
    text = capsys.readouterr().out
    assert "owned" in text and not steers(text), text

    class Response(io.BytesIO):
        status, reason = 409, "Conflict"

    body = json.dumps({"error": STEERS, "problems": [STEERS]}).encode()
    with pytest.raises(coordinator_client.Denied) as denied:
        coordinator_client._read(cast(HTTPResponse, Response(body)))
    assert str(denied.value).count("owned") == 2 and not steers(str(denied.value))
