"""A drain's target that nobody can reach is refused; what nobody knows of it is said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from anycast import link_wire
from anycast.content.content import Content, Intent, Moves
from anycast.content.state import State
from anycast.coordinator import guard
from anycast.coordinator.refusal import Refusal
from anycast.policy.drain_target import DESPITE, Way, way_of
from anycast.policy.rollout import Terms
from tests.support.contents import made, state_of

PREFIX, ADDRESS = "2001:db8:f::/56", "2001:db8:f::1"
MORE = {"sin": f'unicast_prefix: {{ipv6: "{PREFIX}"}}\n    service_address: {{ipv6: "{ADDRESS}"}}'}
RUNNING = made(more=MORE).content
MOVES = Moves(site="sin", to=(ADDRESS,))
DRAINED = RUNNING.with_intent("fra", Intent.DRAINED, MOVES)
MISSING = f"no upstream has {PREFIX} of sin now: clients of fra would be sent to {ADDRESS} without a way"
UNSURE = f"whether sin announces {PREFIX}, the way to {ADDRESS}: not all of its gateways tell"


def state(own: Any, running: Content = RUNNING) -> State:
    found, _ = state_of(running)
    told = found.gateways["sin-gw1"].model_copy(update={"own": own})
    return found.model_copy(update={"gateways": {**found.gateways, "sin-gw1": told}})


@pytest.mark.parametrize(
    ("own", "way"),
    [
        ((PREFIX,), Way()),
        (("2001:db8:c::/64", PREFIX), Way()),
        ((), Way(missing=(MISSING,))),
        (("2001:db8:c::/64", "198.51.100.0/24"), Way(missing=(MISSING,))),
        (None, Way(unsure=(UNSURE,))),
    ],
)
def test_what_the_targets_gateways_announce_decides(own: Any, way: Way) -> None:
    assert way_of(RUNNING, DRAINED, state(own)) == way


def test_of_a_pair_either_gateway_is_enough_and_silence_of_one_is_no_word() -> None:
    site = RUNNING.sites["sin"]
    pair = site.model_copy(update={"gateways": {**site.gateways, "sin-gw2": site.gateways["sin-gw1"]}})
    running = RUNNING.model_copy(update={"sites": {**RUNNING.sites, "sin": pair}})
    drained = running.with_intent("fra", Intent.DRAINED, MOVES)

    def found(one: Any, two: Any) -> Way:
        known = state(one)
        second = known.gateways["sin-gw1"].model_copy(update={"own": two})
        return way_of(running, drained, known.model_copy(update={"gateways": {**known.gateways, "sin-gw2": second}}))

    assert found((), (PREFIX,)) == found((PREFIX,), None) == Way()
    assert found((), None) == found(None, ()) == Way(unsure=(UNSURE,))
    assert found((), ()) == Way(missing=(MISSING,))
    assert way_of(running, drained, state(())) == Way(unsure=(UNSURE,)), "one that was never heard of"


def test_a_way_that_the_fleet_does_not_announce_is_the_operators() -> None:
    plain = made().content
    [said] = way_of(plain, plain.with_intent("fra", Intent.DRAINED, MOVES), state((), plain)).unsure
    assert said.startswith(f"sin has no unicast_prefix around {ADDRESS}, so the way there is your network's")


def test_a_drain_that_is_there_already_is_judged_no_more() -> None:
    again = DRAINED.with_intent("lon", Intent.DRAINED)
    assert way_of(DRAINED, again, state((), DRAINED)) == Way()
    assert way_of(DRAINED, DRAINED.with_intent("lon", Intent.DRAINED, MOVES), state((), DRAINED)).missing
    assert way_of(DRAINED, RUNNING, state((), DRAINED)) == Way(), "an undrain"
    assert way_of(None, DRAINED, state(())).unsure and not way_of(None, DRAINED, state(())).missing


def test_the_coordinator_refuses_it_too_and_history_has_what_was_overridden() -> None:
    with pytest.raises(Refusal) as caught:
        guard.at_submission(RUNNING, DRAINED, state(()), Terms(bake_s=1, despite=True, reason="rack"))
    assert caught.value.problems == (f"{MISSING} ({DESPITE} --reason TEXT does it all the same)",)
    with pytest.raises(Refusal) as caught:
        guard.at_submission(RUNNING, DRAINED, state(()), Terms(bake_s=1, unannounced=True))
    assert caught.value.problems == (guard.NO_REASON,)
    told = guard.at_submission(RUNNING, DRAINED, state(()), Terms(bake_s=1, unannounced=True, reason="our own route"))
    assert (told["way"], told["despite"]) == ([MISSING], DESPITE)
    told = guard.at_submission(RUNNING, DRAINED, state(None), Terms(bake_s=1))
    assert told["way"] == [f"unknown: {UNSURE}"] and "despite" not in told
    assert "way" not in guard.at_submission(RUNNING, DRAINED, state((PREFIX,)), Terms(bake_s=1))


def test_a_report_of_before_this_word_says_nothing_of_it() -> None:
    report = link_wire.Report(
        number=1, document="d", generation=0, serving=True, announced=1, routes=1, role="none", own=(PREFIX,)
    )
    old = json.loads(report.model_dump_json(exclude={"own"}))
    read = link_wire.decode(json.dumps(old).encode())
    assert isinstance(read, link_wire.Report) and read.own is None
    assert link_wire.decode(link_wire.encode(report)[4:]) == report
    for wrong in (["no prefix"], [PREFIX] * 65):
        with pytest.raises(link_wire.DecodeError):
            link_wire.decode(json.dumps({**old, "own": wrong}).encode())
