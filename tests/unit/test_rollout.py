"""One content over the fleet: one site at a time, with a slot, with evidence; and back, once, where it fails."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from anycast.coordinator import contents
from anycast.policy.gates import Verdict
from anycast.policy.rollout import (
    ACTIVATE_LIMIT_S,
    EVIDENCE_LIMIT_S,
    STAGE_LIMIT_S,
    Action,
    Activate,
    Command,
    GatewayTold,
    Looked,
    Rollout,
    RolloutCore,
    Stage,
    Step,
    Terms,
    Version,
    taken_over,
)
from anycast.reasons import Reason
from anycast.timer import TimerExpired
from tests.support.contents import made

OLD, NEW, BACK = Version(4, "old"), Version(5, "new"), Version(6, "old")
GATEWAYS = {"fra": ("fra-gw1", "fra-gw2"), "sin": ("sin-gw1",), "nyc": ("nyc-gw1",)}
BAKE_S = 120.0


class World:
    """The core, and the fleet as it would be reported."""

    def __init__(self, **changes: Any) -> None:
        known: dict[str, Any] = {"id": "r1", "by": "alice", "target": NEW, "back": BACK, "sites": ("fra", "sin")}
        self.core = RolloutCore(Rollout(**{**known, "gateways": GATEWAYS, "bake_s": BAKE_S, **changes}))
        names = [name for site in GATEWAYS.values() for name in site]
        self.told = {name: GatewayTold(staged=None, active=OLD, announcing=True, fresh=True) for name in names}
        self.now = 0.0

    def set(self, *gateways: str, **changes: Any) -> None:
        for name in gateways:
            self.told[name] = dataclasses.replace(self.told[name], **changes)

    def look(self, *, slot: bool = False, **seen: Any) -> list[Action]:
        """`slot`: the ledger holds one for the site that is to be changed."""
        if slot:
            seen["held"] = frozenset({self.core.rollout.site})
        return self.core.handle(Looked(gateways=dict(self.told), **seen), self.now)

    def expire(self) -> list[Action]:
        assert self.core.deadline is not None
        self.now = self.core.deadline
        return self.core.handle(TimerExpired(), self.now)

    @property
    def step(self) -> Step:
        return self.core.rollout.step

    @property
    def slots(self) -> frozenset[str]:
        return self.core.rollout.slots

    @property
    def pages(self) -> list[Reason]:
        return [page.reason for page in self.core.rollout.pages]

    def to_waiting(self) -> None:
        self.set(*self.told, staged=NEW)
        assert self.look() == []
        assert (self.step, self.slots) == (Step.WAITING, {"fra"})

    def to_baking(self) -> None:
        self.to_waiting()
        assert self.look(slot=True) == [Activate("fra", NEW)]
        self.set("fra-gw1", "fra-gw2", staged=None, active=NEW)
        assert self.look(slot=True) == []
        assert self.step is Step.BAKING


def test_it_goes_from_site_to_site_and_ends() -> None:
    world = World()
    assert world.look() == [Stage(NEW, ("fra-gw1", "fra-gw2", "sin-gw1", "nyc-gw1"))], "everywhere"
    world.set("fra-gw1", "sin-gw1", staged=NEW)
    assert world.look() == [Stage(NEW, ("fra-gw2", "nyc-gw1"))]
    world.to_baking()
    world.now += BAKE_S - 1
    world.look(gate=Verdict.PASSES)
    assert (world.step, world.slots) == (Step.BAKING, {"fra"}), "too early"
    world.now += 1
    world.look(gate=Verdict.PASSES)
    assert (world.step, world.slots) == (Step.WAITING, {"sin"})
    assert world.look() == []
    assert world.look(slot=True) == [Activate("sin", NEW)]
    assert world.look(slot=True) == [Activate("sin", NEW)], "until it says that it runs by it"
    world.set("sin-gw1", active=NEW, staged=None)
    world.look()
    world.now += BAKE_S
    world.look(gate=Verdict.PASSES)
    assert (world.step, world.slots, world.core.deadline) == (Step.DONE, frozenset(), None)


def test_a_site_of_two_is_active_when_both_gateways_are() -> None:
    world = World()
    world.to_waiting()
    world.look(slot=True)
    world.set("fra-gw1", active=NEW)
    assert world.look(slot=True) == [Activate("fra", NEW)]


def test_without_a_slot_it_waits_and_says_why() -> None:
    world = World()
    world.to_waiting()
    assert world.look(refused="dark 2 of 2 allowed") == []
    assert (world.step, world.core.rollout.reason, world.core.deadline) == (Step.WAITING, "dark 2 of 2 allowed", None)


@pytest.mark.parametrize("how", ["gate", "withdrawn", "too late", "no evidence", "abort"])
def test_what_fails_is_returned_once_and_somebody_is_paged(how: str) -> None:
    world = World()
    if how == "too late":
        world.to_waiting()
        world.look(slot=True)
        assert world.core.deadline == ACTIVATE_LIMIT_S
        found = world.expire()
    else:
        world.to_baking()
        match how:
            case "gate":
                found = world.look(gate=Verdict.FAILS, gate_why="0 decrypted, 600 expected")
            case "withdrawn":
                world.set("fra-gw1", "fra-gw2", announcing=False)
                found = world.look()
            case "no evidence":
                assert world.core.deadline == EVIDENCE_LIMIT_S, "no data is not healthy, and takes its time"
                found = world.expire()
            case _:
                found = world.core.handle(Command("abort", "bob"), world.now)
    assert world.pages == ([] if how == "abort" else [Reason.GATE_FAILED])
    assert found == [Stage(BACK, ("fra-gw1", "fra-gw2"))], "without a new slot"
    assert (world.step, world.slots) == (Step.RETURNING, {"fra"})
    world.set("fra-gw1", "fra-gw2", staged=BACK)
    assert world.look() == [Activate("fra", BACK)]
    world.set("fra-gw1", "fra-gw2", active=BACK, staged=None, announcing=False)
    world.look()
    assert (world.step, world.slots) == (Step.STOPPED, frozenset()), "it is back, whether or not it announces by now"
    assert world.look(slot=True) == []


def test_a_return_that_darkens_waits_for_a_slot_like_everything_that_does() -> None:
    """An undrain that is taken back: its slot returned when the site announced, and may be somebody else's by now."""
    world = World(dark_before=("fra",))
    world.to_baking()
    world.now += BAKE_S
    world.look(gate=Verdict.PASSES)
    world.look(slot=True)
    world.set("sin-gw1", staged=None, active=NEW)
    assert world.core.handle(Command("abort", "bob"), world.now) == [Stage(BACK, ("sin-gw1",))], "the other one at once"
    world.set("sin-gw1", active=BACK)
    assert world.look(refused="fra: budget_spent") == [] and world.slots == {"fra", "sin"}
    assert world.look(held=frozenset({"fra"})) == [Stage(BACK, ("fra-gw1", "fra-gw2"))]
    assert world.look(refused="fra: budget_spent") == []
    world.expire()
    assert (world.step, world.pages) == (Step.STOPPED, [Reason.RETURN_FAILED])
    assert "budget_spent" in world.core.rollout.pages[0].detail


def test_a_return_that_fails_is_not_tried_again() -> None:
    world = World()
    world.to_baking()
    world.look(gate=Verdict.FAILS)
    assert world.expire() == []
    assert world.pages == [Reason.GATE_FAILED, Reason.RETURN_FAILED]
    assert world.step is Step.STOPPED
    assert world.look() == []


def test_an_operator_may_go_on_without_evidence_and_not_against_it() -> None:
    for gate, step in ((Verdict.UNKNOWN, Step.WAITING), (Verdict.FAILS, Step.RETURNING)):
        world = World(blind=True)
        world.to_baking()
        world.now += BAKE_S
        world.look(gate=gate)
        assert world.step is step


def test_only_what_it_changed_is_returned_the_last_site_too() -> None:
    world = World()
    world.to_baking()
    world.now += BAKE_S
    world.look(gate=Verdict.PASSES)
    world.look(slot=True)
    found = world.core.handle(Command("abort", "bob"), world.now)
    assert found == [Stage(BACK, ("fra-gw1", "fra-gw2"))]
    assert world.core.rollout.changed == ("fra", "sin"), "an activation that was sent may have arrived"


def test_nothing_is_activated_before_everybody_has_it_and_people_hear_of_that_once() -> None:
    world = World()
    world.set("fra-gw1", "fra-gw2", "sin-gw1", staged=NEW)
    world.look()
    assert world.core.deadline == STAGE_LIMIT_S
    world.expire()
    [page] = world.core.rollout.pages
    assert page.reason is Reason.ROLLOUT_WAITS and "nyc-gw1" in page.detail
    assert world.core.deadline is None
    assert world.look() == [Stage(NEW, ("nyc-gw1",))]


def test_a_site_that_is_not_heard_is_neither_good_nor_bad() -> None:
    world = World()
    world.to_baking()
    world.set("fra-gw1", "fra-gw2", fresh=False)
    world.now += BAKE_S
    assert world.look(gate=Verdict.UNKNOWN) == []
    assert world.step is Step.BAKING


def test_pause_holds_the_next_site_and_not_this_ones_judgement() -> None:
    world = World()
    world.to_baking()
    world.core.handle(Command("pause", "bob"), world.now)
    world.now += BAKE_S
    world.look(gate=Verdict.PASSES)
    assert (world.look(slot=True), world.slots) == ([], frozenset())
    assert world.core.handle(Command("resume", "bob"), world.now) == [Activate("sin", NEW)]


def test_a_resume_activates_nobody_by_a_slot_of_the_site_before() -> None:
    """What it goes on with is the last look, which was at the site before."""
    world = World()
    world.to_baking()
    world.now += BAKE_S
    world.look(gate=Verdict.PASSES, slot=True)
    assert (world.step, world.core.rollout.site) == (Step.WAITING, "sin")
    assert world.core.handle(Command("resume", "bob"), world.now) == []
    assert world.look(slot=True) == [Activate("sin", NEW)]


@pytest.mark.parametrize("step", [Step.ACTIVATING, Step.BAKING, Step.RETURNING])
def test_a_coordinator_that_was_away_for_a_day_hears_the_fleet_before_it_judges(step: Step) -> None:
    left = World(blind=True)
    left.to_baking()
    stored = dataclasses.replace(left.core.rollout, step=step, since=5.0, left=1)
    world = World()
    world.core, world.now, heard = RolloutCore(taken_over(stored, 86_400.0)), 86_400.0, left.told
    world.told = {}
    world.look()
    assert world.core.deadline is not None and world.now < world.core.deadline and not world.pages
    assert world.step is step
    world.told, world.now = heard, world.now + 30.0
    said = world.look()
    if step is Step.RETURNING:
        assert said == [Stage(BACK, ("fra-gw1", "fra-gw2"))], "it goes on"
    else:
        assert world.step is Step.BAKING


def test_a_word_about_the_next_site_means_nothing_while_it_returns() -> None:
    """And does not take the place of why it does."""
    world = World()
    world.to_baking()
    world.look(gate=Verdict.FAILS, gate_why="0 decrypted, 600 expected")
    why = world.core.rollout.reason
    assert "0 decrypted" in why
    for word in ("pause", "resume"):
        world.core.handle(Command(word, "bob"), world.now)
        assert (world.core.rollout.reason, world.core.rollout.paused) == (why, False)


@pytest.mark.parametrize(
    ("before", "dark", "quiet"),
    [
        ({}, ["fra"], {"fra"}),
        (None, ["fra"], {"fra"}),
        ({}, [], set()),
        ({"fra": "drained"}, ["fra"], set()),
        ({"fra": "drained"}, [], set()),
    ],
)
def test_a_site_that_is_dark_by_a_fact_stops_nobody_elses_change(
    before: dict[str, str] | None, dark: list[str], quiet: set[str]
) -> None:
    """One that was drained is to come back by it: there the new content is judged."""
    was = None if before is None else made(**before).content
    wanted = made(after=[] if was is None else [was], more={"fra": "capacity: 7"}).content
    terms = Terms(bake_s=60.0)
    rollout = contents.rollout_of("r1", "alice", wanted, "h", was, None, 1, terms, dark)
    assert set(rollout.quiet) == quiet


def test_a_site_that_announced_nothing_before_is_asked_for_nothing_but_to_run_by_it() -> None:
    world = World(quiet=("fra",))
    world.set("fra-gw1", "fra-gw2", announcing=False)
    world.to_baking()
    world.look()
    assert world.slots == {"sin"}


def test_a_site_for_which_nothing_changes_needs_neither_slot_nor_bake() -> None:
    world = World(same=("fra",))
    world.set(*world.told, staged=NEW)
    assert (world.look(), world.slots) == ([Activate("fra", NEW)], frozenset())
    world.set("fra-gw1", "fra-gw2", staged=None, active=NEW)
    world.look()
    world.look()
    assert (world.step, world.slots) == (Step.WAITING, {"sin"})


def test_where_there_was_nothing_before_people_are_told_that_there_is_no_way_back() -> None:
    world = World(back=None)
    world.to_baking()
    assert world.look(gate=Verdict.FAILS) == []
    assert world.pages == [Reason.GATE_FAILED, Reason.RETURN_FAILED]
    assert world.step is Step.STOPPED


def test_an_old_word_begins_no_bake() -> None:
    """What it said before it fell silent may have been its last."""
    world = World()
    world.to_waiting()
    world.look(slot=True)
    world.set("fra-gw1", "fra-gw2", active=NEW, staged=None, fresh=False)
    assert world.look(slot=True) == [Activate("fra", NEW)]
    assert world.step is Step.ACTIVATING
