"""The guard by the worst case: a site that may go dark must not be able to break another one's capacity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from anycast.cli.main import app
from anycast.content.canonical import encode
from anycast.content.content import Content, Intent
from anycast.errors import ConfigError
from anycast.policy.whatif import Verdict, what_if
from anycast.policy.worst_case import MOST_SENTENCES, WorstCase, worst_case, worst_of_step
from tests.support.contents import CAPACITY, SITES, fleet_text, made, state_of

CONTENT = made().content
COUNTED = dict(zip(SITES, (10, 500, 400, 600, 20, 30), strict=True))


def drained(*sites: str, content: Content = CONTENT) -> Content:
    for site in sites:
        content = content.with_intent(site, Intent.DRAINED)
    return content


def other_documents(*sites: str, content: Content = CONTENT) -> Content:
    """Their gateways get something else to run by, and attract as before."""
    changed = {}
    for name in sites:
        site = content.sites[name]
        gateways = {gw: each.model_copy(update={"document": "0" * 64}) for gw, each in site.gateways.items()}
        changed[name] = site.model_copy(update={"gateways": gateways})
    return content.model_copy(update={"sites": {**content.sites, **changed}})


def judged(wanted: Content, tunnels: Any = COUNTED, running: Content = CONTENT, **more: Any) -> WorstCase:
    return worst_case(running, wanted, state_of(running, tunnels=tunnels, **more)[0])


def test_a_drain_names_the_site_the_numbers_and_who_else_would_break() -> None:
    assert judged(drained("fra")).breaks == (
        "fra goes dark: at worst 500 tunnels all land on nyc, which has 600 and a capacity of 1000: 100 too many",
    )
    assert judged(drained("nyc")).breaks == (
        "nyc goes dark: at worst 600 tunnels all land on fra, which has 500 and a capacity of 1000: 100 too many",
    )
    both = judged(drained("fra", "nyc")).breaks
    assert both == (
        "fra, nyc go dark: at worst 1100 tunnels all land on lon, which has 400 and a capacity of 1000: 500 too many;"
        " ams, sin, tyo would break, too",
    )
    assert judged(drained("ams")) == WorstCase() and judged(drained("ams")).verdict is Verdict.HOLDS


def test_a_site_that_is_changed_may_be_dark_for_a_moment_and_beside_those_that_stay_dark() -> None:
    (said,) = judged(other_documents("fra", "ams")).breaks
    assert said.startswith("fra is changed: at worst 500 tunnels all land on nyc")
    beside = judged(other_documents("lon", content=drained("sin"))).breaks
    assert beside == (
        "lon is changed while sin is dark: at worst 420 tunnels all land on nyc, which has 600 and a capacity of 1000:"
        " 20 too many",
    )


def test_numbers_and_words_move_nobody_and_a_site_that_is_dark_has_nobody_to_lose() -> None:
    numbers = made(more=dict.fromkeys(SITES, "region: eu\n    capacity: 601")).content
    assert judged(numbers) == WorstCase()
    assert judged(CONTENT, running=drained("fra")) == WorstCase(), "an undrain"
    assert worst_case(None, CONTENT, state_of(CONTENT)[0]) == WorstCase(), "a first content"


def test_the_capacity_that_counts_is_the_one_of_the_content_that_is_wanted() -> None:
    larger = made(more={"nyc": "capacity: 1100"}).content
    assert judged(drained("fra", content=larger)) == WorstCase()


def test_what_nobody_knows_is_said_and_refuses_nothing() -> None:
    unwritten = made(more={"nyc": ""}).content
    found = judged(drained("fra", content=unwritten), running=unwritten)
    assert (found.breaks, found.unknown, found.verdict) == ((), "nobody wrote a capacity of nyc", Verdict.UNKNOWN)
    found = judged(drained("fra"), {**COUNTED, "fra": None})
    assert (found.breaks, found.unknown) == ((), "nobody counts the tunnels of fra")
    assert judged(drained("fra"), dict.fromkeys(SITES, 0)).verdict is Verdict.HOLDS, "none is a number"
    # nyc has more than its capacity already, and nobody is known to come.
    found = judged(drained("fra"), {**COUNTED, "fra": None, "nyc": 1200})
    assert (found.breaks, found.unknown) == ((), "nobody counts the tunnels of fra")


def test_what_breaks_by_what_is_known_breaks_all_the_same() -> None:
    (said,) = judged(drained("fra", "ams"), {**COUNTED, "ams": None}).breaks
    assert said.startswith("ams, fra go dark: at worst at least 500 tunnels all land on nyc")


def test_who_is_dark_on_purpose_catches_nothing() -> None:
    assert judged(drained("fra"), dark={"nyc": ("drain", "by alice")}) == WorstCase()


def test_a_step_is_judged_by_what_there_is_now() -> None:
    wanted, state = other_documents(*SITES), state_of(CONTENT, tunnels=COUNTED)[0]
    assert worst_of_step(CONTENT, wanted, state, "ams") == WorstCase()
    assert worst_of_step(CONTENT, wanted, state, "fra").breaks == judged(other_documents("fra")).breaks
    at_night = state_of(CONTENT, tunnels=10)[0]
    assert worst_of_step(CONTENT, wanted, at_night, "fra") == WorstCase()
    assert worst_of_step(CONTENT, CONTENT, state, "fra") == WorstCase(), "nothing of it is changed"
    gone = worst_of_step(CONTENT, drained("fra"), state, "fra").breaks
    assert gone == judged(drained("fra")).breaks


def test_of_a_large_fleet_some_steps_are_said_and_the_rest_counted() -> None:
    sites = {f"s{n:03}": CONTENT.sites["fra"] for n in range(60)}
    running = CONTENT.model_copy(update={"sites": sites})
    state, _ = state_of(CONTENT)
    one = next(iter(state.gateways.values()))
    gateways = {f"{name}-gw": one.model_copy(update={"site": name, "tunnels": 600}) for name in sites}
    wanted = other_documents(*sites, content=running)
    found = worst_case(running, wanted, state.model_copy(update={"gateways": gateways})).breaks
    assert len(found) == MOST_SENTENCES + 1 and found[-1] == "50 more steps could be too much for another site"
    assert "land on s001, which" in found[0] and "and 48 more would break, too" in found[0]


@given(
    st.lists(st.none() | st.integers(0, 1500), min_size=6, max_size=6),
    st.sets(st.sampled_from(SITES), min_size=1, max_size=6),
    st.sets(st.sampled_from(SITES), max_size=5),
    st.sets(st.sampled_from(SITES), max_size=2),
)
@settings(max_examples=150)
def test_the_guard_says_what_simulate_says(
    counts: list[int | None], going: set[str], bare: set[str], dark: set[str]
) -> None:
    """One bound, two ways to it: this one is linear in the fleet."""
    content = made(more=dict.fromkeys(bare, "")).content
    state, _ = state_of(content, tunnels=dict(zip(SITES, counts, strict=True)), dark={name: ("drain", "") for name in dark})
    found, bound = worst_case(content, drained(*going, content=content), state), what_if(content, state, going, "drain")
    verdicts = {each.verdict for each in bound.landings} if bound.moves or bound.uncounted else set()
    if bound.moves == 0:
        verdicts -= {Verdict.BREAKS}  # nobody is known to come
    assert bool(found.breaks) == (Verdict.BREAKS in verdicts)
    if not found.breaks and bound.moves:
        assert bool(found.unknown) == bool(bound.uncounted or Verdict.UNKNOWN in verdicts)
    tightest = [each.site for each in bound.landings if each.verdict is Verdict.BREAKS]
    if found.breaks:
        assert f"all land on {tightest[0]}," in found.breaks[0] or bound.landings[0].worst == bound.landings[1].worst
        assert all(name in found.breaks[0] for name in tightest)


def typed(*words: object) -> Any:
    return CliRunner().invoke(app(), list(map(str, words)))


def test_plan_and_apply_refuse_it_and_say_how_to_do_it_all_the_same(tmp_path: Path) -> None:
    state, fleet, plan = tmp_path / "state.json", tmp_path / "fleet.yaml", tmp_path / "P"
    state.write_text(encode(state_of(CONTENT, tunnels=COUNTED)[0].model_dump(mode="json")))
    fleet.write_text(fleet_text(fra="drained"))
    refused = typed("plan", fleet, "--against", state, "-o", plan)
    assert refused.exit_code == 1 and not plan.exists()
    assert "worst    breaks\n         fra goes dark: at worst 500" in refused.output
    assert "refused: fra goes dark: at worst 500 tunnels all land on nyc, which has 600 and a capacity" in refused.output
    assert "100 too many (--despite-worst-case --reason TEXT does it all the same)" in refused.output
    shown = json.loads(typed("plan", fleet, "--against", state, "--json").stdout)["worst_case"]
    assert shown["verdict"] == "breaks" and len(shown["breaks"]) == 1 and shown["unknown"] == ""
    assert typed("plan", fleet, "--against", state, "-o", plan, "--despite-worst-case").exit_code == 3
    words = ("apply", plan, "--against", state, "--operator", "alice", "--dir", tmp_path, "-o", tmp_path / "S")
    again = typed(*words)
    assert again.exit_code == 1 and "refused: fra goes dark" in again.output, "judged anew, and not only by plan"
    silent = typed(*words, "--despite-worst-case")
    assert isinstance(silent.exception, ConfigError) and "wants a reason" in str(silent.exception)
    assert not (tmp_path / "S").exists()


def test_a_plan_says_what_it_does_not_know(tmp_path: Path) -> None:
    state, fleet = tmp_path / "state.json", tmp_path / "fleet.yaml"
    state.write_text(encode(state_of(CONTENT, tunnels={**COUNTED, "nyc": None})[0].model_dump(mode="json")))
    fleet.write_text(fleet_text(fra="drained"))
    said = typed("plan", fleet, "--against", state)
    assert said.exit_code == 3 and "worst    unknown: nobody counts the tunnels of nyc" in said.output
    state.write_text(encode(state_of(CONTENT, tunnels=COUNTED | {"nyc": CAPACITY - 500})[0].model_dump(mode="json")))
    assert "worst    holds\n" in typed("plan", fleet, "--against", state).output
