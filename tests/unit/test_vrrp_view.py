"""The virtual router on a screen: what a word means, whom one hears, what a takeover cost."""

from __future__ import annotations

from typing import Any

import pytest

from anycast.reasons import Reason
from site_agent.vrrp import view
from site_agent.vrrp.router_words import Cause
from site_agent.vrrp.seal import Path

ALONE: dict[str, Any] = {
    "peer_gateway": "fra-gw2", "peer": "silent", "peer_active": False, "heard": 0, "installed_us": 120, "silent_us": 361_000,
}  # fmt: skip


@pytest.mark.parametrize("cause", [*Cause, Reason.VRRP_SILENT, Reason.VRRP_EXITED])
def test_every_cause_has_a_meaning(cause: str) -> None:
    assert view.why(str(cause)).startswith(f"{cause}: ")


def test_an_unknown_cause_of_a_later_version_is_shown_as_it_is() -> None:
    assert view.why("bored") == "bored"


@pytest.mark.parametrize("path", [path for path in Path if path.value])
def test_paths_have_the_names_of_their_bits(path: Path) -> None:
    assert view.heard_on(path.value) == (path.name or "").lower()


def test_who_is_heard_and_what_it_says() -> None:
    assert view.peer(ALONE) == "fra-gw2 is not heard"
    fit = ALONE | {"peer": "fit", "heard": 5}
    assert view.peer(fit) == "fra-gw2 is Backup, could serve, heard outside, management"
    assert view.peer(fit | {"peer_active": True, "peer": "unfit"}).startswith("fra-gw2 is Active, could not serve")
    assert view.peer(ALONE | {"peer_gateway": None}) == "the other router is not heard"


def test_the_cost_is_silence_and_installing() -> None:
    assert view.cost(ALONE) == "nobody heard as Active for 361 ms, then addresses in the kernel 0.1 ms after the decision"
    assert view.cost(ALONE | {"silent_us": 0}).startswith("no silence before it")
