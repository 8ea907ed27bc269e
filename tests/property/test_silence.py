"""Nothing that packets can do makes charon look hung: that needs silence on both ways and no sign of load at all."""

from __future__ import annotations

import dataclasses

from hypothesis import example, given
from hypothesis import strategies as st

from anycast.model import Status
from anycast.reasons import Reason
from site_agent.checks.silence import (
    BUSY_SHARE,
    CALM_QUEUE,
    CALM_SHARE,
    LATE_LIMIT_S,
    NEVER_WAIT,
    ROUND_S,
    ROUNDS,
    Gauge,
    Round,
    Said,
    judge,
    together,
)
from site_agent.render.strongswan import PLUGINS

OURS = frozenset(PLUGINS) | {"charon"}


def gauge(at: float, **figures: object) -> Gauge:
    return dataclasses.replace(
        Gauge(at=at, cpu_s=1.0, drops=7, stalled_s=(5.0, 0.0, 2.0), runnable=0.0),
        **figures,  # type: ignore[arg-type]
    )


def hung(at: float) -> Round:
    """One round of a charon that hangs on a calm machine."""
    return Round(vici=Said.NOTHING, ike=Said.NOTHING, before=gauge(at), after=gauge(at + ROUND_S + 0.01))


HUNG = [hung(100.0 + number) for number in range(ROUNDS)]


def run(rounds: list[Round], plugins: frozenset[str] | None = OURS) -> list[tuple[Status, Reason]]:
    """What is said as the rounds come, until something is."""
    for number in range(1, len(rounds) + 1):
        finding = judge(rounds[:number], plugins)
        if finding is not None:
            return [(finding.status, finding.reason)]
    return []


def test_a_hung_charon_on_a_calm_machine_is_a_fact_and_not_before_enough_rounds() -> None:
    assert run(HUNG) == [(Status.FAILING, Reason.CHARON_SILENT)]
    assert run(HUNG[:-1]) == []


GAUGES = st.builds(
    Gauge,
    at=st.floats(0, 3),
    cpu_s=st.floats(0, 3),
    drops=st.integers(0, 2),
    stalled_s=st.one_of(st.just(()), st.tuples(st.floats(0, 3), st.floats(0, 3)), st.tuples(st.floats(0, 3))),
    runnable=st.floats(0, 8),
)
ANY_ROUND = st.builds(Round, vici=st.sampled_from(Said), ike=st.sampled_from(Said), before=GAUGES, after=GAUGES)


def shows_load(seen: Round) -> bool:
    """Written down anew, from the specification and not from the code."""
    length = seen.after.at - seen.before.at
    waited = [late - early for early, late in zip(seen.before.stalled_s, seen.after.stalled_s, strict=False)]
    return (
        not 0 < length <= ROUND_S + LATE_LIMIT_S
        or not 0 <= seen.after.cpu_s - seen.before.cpu_s < BUSY_SHARE * length
        or seen.after.drops != seen.before.drops
        or any(not 0 <= late < CALM_SHARE * length for late in waited)
        or len(seen.before.stalled_s) != len(seen.after.stalled_s)
        or (not waited and max(seen.before.runnable, seen.after.runnable) >= CALM_QUEUE)
    )


@given(st.integers(0, ROUNDS - 1), ANY_ROUND, st.sampled_from([OURS, None, OURS | {"eap-radius"}]))
@example(0, dataclasses.replace(HUNG[0], after=gauge(101.0, cpu_s=1.06)), OURS)
@example(1, dataclasses.replace(HUNG[1], after=gauge(102.0, drops=8)), OURS)
@example(2, dataclasses.replace(HUNG[2], after=gauge(103.0, stalled_s=(5.0, 0.0, 2.6))), OURS)
@example(3, dataclasses.replace(HUNG[3], after=gauge(105.0)), OURS)
@example(3, dataclasses.replace(HUNG[3], ike=Said.UNCLEAR), OURS)
def test_one_round_with_a_sign_of_load_or_life_is_enough_to_save_it(
    place: int, other: Round, plugins: frozenset[str] | None
) -> None:
    rounds = [*HUNG[:place], other, *HUNG[place + 1 :]]
    answered = (other.vici, other.ike) != (Said.NOTHING, Said.NOTHING)
    if answered or shows_load(other) or plugins != OURS:
        assert (Status.FAILING, Reason.CHARON_SILENT) not in run(rounds, plugins)
    else:
        assert run(rounds, plugins) == [(Status.FAILING, Reason.CHARON_SILENT)]


@given(st.lists(ANY_ROUND, min_size=1, max_size=ROUNDS))
def test_every_run_of_rounds_ends_and_every_answer_is_life(rounds: list[Round]) -> None:
    said = run(rounds)
    assert said or len(rounds) < ROUNDS
    if Said.ANSWER in (rounds[0].vici, rounds[0].ike):
        assert said == [(Status.PASSING, Reason.HEALTHY)]


@given(ANY_ROUND)
def test_a_charon_that_works_is_not_hung_so_packets_cannot_prolong_an_earlier_finding(seen: Round) -> None:
    after = dataclasses.replace(seen.after, at=seen.before.at + ROUND_S, cpu_s=seen.before.cpu_s + 0.06)
    busy = dataclasses.replace(seen, after=after)
    assert run([busy]) == [(Status.PASSING, Reason.HEALTHY)]


def test_plugins_that_ask_somebody_else_are_not_believed() -> None:
    assert not NEVER_WAIT & {
        "eap-radius",
        "curl",
        "unbound",
        "sql",
        "updown",
        "dhcp",
        "soup",
        "ldap",
        "xauth-pam",
        "ext-auth",
    }
    assert run(HUNG, OURS | {"eap-radius"}) == [(Status.UNKNOWN, Reason.VICI_SILENT)]
    assert run(HUNG, None) == [(Status.UNKNOWN, Reason.VICI_SILENT)]


def test_several_ends_are_silent_only_together() -> None:
    assert together([Said.NOTHING, Said.NOTHING]) is Said.NOTHING
    assert together([Said.NOTHING, Said.ANSWER]) is Said.ANSWER
    assert together([Said.NOTHING, Said.UNCLEAR]) is Said.UNCLEAR, "one cookie is enough not to know"
    assert together([]) is Said.UNCLEAR
    assert together([Said.UNHEARD, Said.NOTHING]) is Said.NOTHING, "one end that was heard before is enough"
    assert together([Said.UNHEARD, Said.UNHEARD]) is Said.UNHEARD
    assert together([Said.UNHEARD, Said.UNCLEAR]) is Said.UNCLEAR


@given(st.integers(0, ROUNDS - 1))
def test_silence_where_nothing_was_ever_heard_makes_no_fact(place: int) -> None:
    deaf = [dataclasses.replace(one, ike=Said.UNHEARD) if number == place else one for number, one in enumerate(HUNG)]
    assert run(deaf) == [(Status.UNKNOWN, Reason.VICI_SILENT)]
