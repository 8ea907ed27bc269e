"""What is said of sites that go: bounds that hold whatever BGP does, and "unknown" where nobody knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from anycast.cli.main import app
from anycast.cli.simulate import SimulateExit
from anycast.content.canonical import encode
from anycast.errors import ConfigError
from anycast.policy.whatif import Verdict, WhatIf, what_if
from tests.support.contents import CAPACITY, SITES, made, state_of

CONTENT = made().content
DAY_S = 86400


def simulated(*sites: str, tunnels: Any = 100, kind: Any = "drain", content: Any = CONTENT, **more: Any) -> WhatIf:
    state, _ = state_of(content, tunnels=tunnels, **more)
    return what_if(content, state, sites, kind)


def test_all_of_a_sites_tunnels_land_on_each_other_site_in_turn() -> None:
    tunnels = dict(zip(SITES, (10, 500, 400, 600, 20, 30), strict=True))
    found = simulated("fra", tunnels=tunnels)
    assert found.moves == 500
    assert {each.site: each.worst for each in found.landings} == {
        name: 500 + own for name, own in tunnels.items() if name != "fra"
    }
    assert [each.site for each in found.landings if each.verdict is Verdict.BREAKS] == ["nyc"]
    assert found.landings[0].site == "nyc" and found.worst is Verdict.BREAKS and found.best is Verdict.HOLDS


def test_what_is_not_counted_or_not_written_is_unknown_and_never_enough() -> None:
    nobody = simulated("fra", tunnels={**dict.fromkeys(SITES, 10), "fra": None})
    assert nobody.uncounted == ("fra",) and nobody.worst is Verdict.UNKNOWN and nobody.best is Verdict.UNKNOWN
    unwritten = made(more={"sin": ""}).content
    found = simulated("fra", tunnels=10, content=unwritten)
    assert {each.site for each in found.landings if each.verdict is Verdict.UNKNOWN} == {"sin"}
    assert found.worst is Verdict.UNKNOWN


def test_more_than_a_capacity_breaks_even_where_the_rest_is_unknown() -> None:
    found = simulated("fra", "ams", tunnels={**dict.fromkeys(SITES, 10), "fra": CAPACITY + 1, "ams": None})
    assert found.worst is Verdict.BREAKS


def test_what_even_the_best_spread_cannot_carry_breaks() -> None:
    others = dict.fromkeys(SITES, CAPACITY - 10)
    assert simulated("fra", tunnels={**others, "fra": 50}).best is Verdict.HOLDS
    assert simulated("fra", tunnels={**others, "fra": 51}).best is Verdict.BREAKS


def test_sites_that_are_dark_already_catch_nothing() -> None:
    found = simulated("fra", dark={"sin": ("drain", "by alice")})
    assert "sin" not in {each.site for each in found.landings}
    drained = made(tyo="drained").content
    assert "tyo" not in {each.site for each in simulated("fra", content=drained).landings}


def test_the_budget_has_its_say() -> None:
    assert simulated("fra").budget == ()
    assert "budget wants 4" in simulated("fra", "ams", "lon").budget[0]


def test_with_nobody_left_it_breaks() -> None:
    found = simulated(*SITES, kind="fail")
    assert found.landings == () and found.worst is Verdict.BREAKS and found.best is Verdict.BREAKS


def test_what_was_seen_is_counted_with_its_age() -> None:
    def line(action: str, site: str, kind: str, days: int) -> dict[str, Any]:
        return {"action": action, "at": 1e9 - days * DAY_S, "body": {"site": site, "kind": kind}}

    history = [
        line("slot.taken", "fra", "drain", 40),
        line("slot.returned", "fra", "drain", 39),
        line("slot.taken", "fra", "drain", 12),
        line("slot.taken", "fra", "token", 20),
        line("slot.taken", "sin", "drain", 1),
    ]
    state, _ = state_of(CONTENT)
    (seen,) = what_if(CONTENT, state, ["fra"], "drain", history, now=1e9).seen
    assert (seen.times, seen.last_days) == ({"drain": 2, "token": 1}, 12)
    (never,) = what_if(CONTENT, state, ["ams"], "drain", history, now=1e9).seen
    assert (never.times, never.last_days) == ({}, None)


@given(
    st.lists(st.integers(0, 1500), min_size=6, max_size=6),
    st.sets(st.sampled_from(SITES), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60)
def test_whatever_bgp_does_lies_between_the_bounds(counts: list[int], going: set[str], chance: Any) -> None:
    """Each tunnel of a site that goes lands anywhere: where the worst case holds nothing breaks, where the best one breaks
    something does."""
    tunnels = dict(zip(SITES, counts, strict=True))
    found = simulated(*going, tunnels=tunnels)
    left = [name for name in SITES if name not in going]
    carried = {name: tunnels[name] for name in left}
    weights = [chance.random() for _ in left]
    for name in chance.choices(left, weights, k=found.moves):
        carried[name] += 1
    broken = {name for name, count in carried.items() if count > CAPACITY}
    assert broken <= {each.site for each in found.landings if each.verdict is Verdict.BREAKS}
    if found.best is Verdict.BREAKS:
        assert broken


@pytest.fixture
def state_file(tmp_path: Path) -> Path:
    path = tmp_path / "state.json"
    path.write_text(encode(state_of(CONTENT, tunnels={**dict.fromkeys(SITES, 10), "fra": 995})[0].model_dump(mode="json")))
    return path


def typed(*words: object) -> Any:
    return CliRunner().invoke(app(), list(map(str, words)))


def test_as_an_operator_types_it(state_file: Path, tmp_path: Path) -> None:
    history = tmp_path / "history.json"
    history.write_text(json.dumps({"v": 1, "lines": []}))
    said = typed("simulate", "--drain", "fra", "--against", state_file, "--history", history)
    assert said.exit_code == SimulateExit.BREAKS
    assert "fra drained: 995 tunnels move" in said.output and "seen before: fra was never dark on purpose" in said.output
    found = typed("simulate", "--fail", "ams,lon", "--against", state_file, "--json")
    assert found.exit_code == SimulateExit.BREAKS, "fra has 995 already"
    assert json.loads(found.output)["landings"][0]["site"] == "fra"
    for words, what in (
        (("--drain", "par"), "par: no site of the content in force"),
        ((), "either --drain or --fail"),
        (("--drain", "fra", "--fail", "ams"), "either --drain or --fail"),
        (("--drain", "fra", "--history", state_file), "is not what `anycast history --json` prints"),
    ):
        refused = typed("simulate", *words, "--against", state_file)
        assert refused.exit_code != 0 and what in str(refused.exception)


@pytest.mark.parametrize("at", ["1e999", "1" + "0" * 400, "-1", '"x"'])
def test_a_history_of_no_time_is_refused(state_file: Path, tmp_path: Path, at: str) -> None:
    history = tmp_path / "history.json"
    history.write_text('{"lines":[{"action":"slot.taken","at":AT,"body":{"site":"fra"}}]}'.replace("AT", at))
    refused = typed("simulate", "--drain", "fra", "--against", state_file, "--history", history)
    assert isinstance(refused.exception, ConfigError) and "is not what `anycast history" in str(refused.exception)


def test_sites_are_named_with_spaces_around_them_or_not_at_all(state_file: Path) -> None:
    said = typed("simulate", "--drain", " fra , ams", "--against", state_file)
    assert said.exit_code == SimulateExit.BREAKS and said.output.startswith("ams, fra drained")
    for words in ((("--drain", ",")), ("--fail", " , ")):
        refused = typed("simulate", *words, "--against", state_file)
        assert isinstance(refused.exception, ConfigError) and "names no site" in str(refused.exception)
