"""No sequence of verdicts, time, restarts, session flaps, stops and kills leaves a route past its lease or grace.

Both real cores against an ExaBGP automaton in virtual time (`tests.support.lease_world`). The world checks after every
step; the property only chooses what happens. A second property says that the lease is not kept by announcing nothing.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.fake_exabgp import MS
from tests.support.lease_world import ROUTES, World

PROCESSES = ("agent", "bridge", "exabgp")
STEPS = st.one_of(
    st.tuples(st.just("advance"), st.integers(1, 1400).map(lambda ms: ms * MS)),
    st.tuples(st.just("advance"), st.sampled_from([3100 * MS, 5000 * MS])),
    st.tuples(st.just("say"), st.sampled_from([True, False, None])),
    st.tuples(st.sampled_from(["stop", "cont", "kill"]), st.sampled_from(PROCESSES)),
    st.tuples(st.just("flap"), st.sampled_from([route.neighbor for route in ROUTES])),
    st.tuples(st.sampled_from(["start_agent", "stop_agent_cleanly"])),
)
Steps = list[tuple[Any, ...]]


def run(steps: Steps) -> World:
    """Let `steps` happen to a world in which both routes are announced. Raises AssertionError where an invariant breaks."""
    world = World()
    world.advance(1000 * MS)
    assert world.upstream == {route.key for route in ROUTES}
    for name, *arguments in steps:
        getattr(world, name)(*arguments)
        world.advance(0)
    return world


QUEUED_WHILE_STOPPED: Steps = [
    # ExaBGP is stopped with an announcement in its pipe, loses its session meanwhile, and reads the pipe after that.
    ("say", False),
    ("advance", 400 * MS),
    ("stop", "exabgp"),
    ("say", True),
    ("kill", "agent"),
    ("flap", ROUTES[0].neighbor),
    ("advance", 300 * MS),
    ("cont", "exabgp"),
    ("advance", 6000 * MS),
]
BRIDGE_KILLED_ALONE: Steps = [("kill", "bridge"), ("say", False), ("advance", 3000 * MS)]
BRIDGE_KILLED_THEN_A_FACT: Steps = [("say", None), ("kill", "bridge"), ("say", False), ("advance", 3000 * MS)]
BRIDGE_AND_AGENT_KILLED: Steps = [("kill", "agent"), ("kill", "bridge"), ("advance", 6000 * MS)]
BRIDGE_STOPPED: Steps = [("stop", "bridge"), ("advance", 6000 * MS)]
ADOPTED_WITH_A_STOPPED_BRIDGE: Steps = [("stop", "bridge"), ("kill", "agent"), ("start_agent",), ("advance", 6000 * MS)]
BRIDGE_STOPPED_WITHOUT_EVIDENCE: Steps = [
    ("stop_agent_cleanly",),
    ("start_agent",),
    ("say", None),
    ("advance", 300 * MS),
    ("stop", "bridge"),
    ("advance", 6000 * MS),
]
EXABGP_STOPPED_AGENT_DEAD: Steps = [("kill", "agent"), ("stop", "exabgp"), ("advance", 2600 * MS)]
GRACE_RUNS_OUT: Steps = [("stop_agent_cleanly",), ("advance", 9000 * MS)]
GRACE_THEN_CRASH: Steps = [
    ("stop_agent_cleanly",),
    ("start_agent",),
    ("say", True),
    ("kill", "agent"),
    ("advance", 9000 * MS),
]
BUFFERED_RENEWAL: Steps = [
    ("stop", "bridge"),
    ("advance", 400 * MS),
    ("kill", "agent"),
    ("advance", 1200 * MS),
    ("cont", "bridge"),
    ("advance", 3000 * MS),
]
FLAP_THEN_SILENCE: Steps = [("flap", ROUTES[0].neighbor), ("say", None), ("advance", 4000 * MS)]
THAW: Steps = [
    ("stop", "agent"),
    ("stop", "exabgp"),
    ("advance", 600 * MS),
    ("stop", "bridge"),
    ("advance", 5000 * MS),
    ("cont", "exabgp"),
    ("cont", "bridge"),
    ("advance", 5000 * MS),
]
CASES = {name.lower(): value for name, value in list(globals().items()) if name.isupper() and isinstance(value, list)}


def holds(steps: Steps) -> None:
    world = run(steps)
    world.recover()
    assert world.upstream == {route.key for route in ROUTES}, "health does not come back"


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=25))
@example(QUEUED_WHILE_STOPPED)
@example(BRIDGE_KILLED_ALONE)
@example(BRIDGE_KILLED_THEN_A_FACT)
@example(BRIDGE_AND_AGENT_KILLED)
@example(BRIDGE_STOPPED)
@example(ADOPTED_WITH_A_STOPPED_BRIDGE)
@example(BRIDGE_STOPPED_WITHOUT_EVIDENCE)
@example(BUFFERED_RENEWAL)
@example(EXABGP_STOPPED_AGENT_DEAD)
@example(GRACE_RUNS_OUT)
@example(GRACE_THEN_CRASH)
@example(FLAP_THEN_SILENCE)
@example(THAW)
def test_no_route_outlives_its_right_and_recovery_brings_it_back(steps: Steps) -> None:
    holds(steps)


@pytest.mark.long
@settings(max_examples=600, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_no_route_outlives_its_right_at_length(steps: Steps) -> None:
    holds(steps)
