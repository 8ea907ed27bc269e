"""What gateways send does not steer the terminal of who looks at the fleet."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from anycast.cli.coordinator import _one_line, status_view

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
