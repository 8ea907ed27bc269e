"""Rule 5 row by row: what a gateway's own verdict and the other gateway make of the route."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.events import SiteVerdictChanged
from anycast.model import Cause
from anycast.policy.site import Action, SiteCore, VrrpHeard
from anycast.policy.verdict import VerdictReached
from anycast.reasons import FACTS, Reason

LEASE_S = 1.0
TICK_S = LEASE_S / 6


def own(at: float, *against: Reason) -> VerdictReached:
    causes = against or (Reason.HEALTHY,)
    return VerdictReached(serving=not against, causes=tuple(Cause(reason=reason) for reason in causes), at=at)


def heard(at: float, role: str, peer: str, *, active: bool = False) -> VrrpHeard:
    return VrrpHeard(at=at, role=role, peer=peer, peer_active=active)


def core(*, paired: bool = True) -> SiteCore:
    return SiteCore(lease_s=LEASE_S, paired=paired)


def said(actions: list[Action]) -> VerdictReached | None:
    verdicts = [action for action in actions if isinstance(action, VerdictReached)]
    return verdicts[-1] if verdicts else None


def words(verdict: VerdictReached | None) -> list[Reason]:
    assert verdict is not None
    return [cause.reason for cause in verdict.causes]


def test_with_one_gateway_the_site_verdict_is_the_gateway_verdict() -> None:
    site = core(paired=False)
    for verdict in (own(0), own(1, Reason.CHARON_EXITED), own(2, Reason.NO_EVIDENCE_YET)):
        assert said(site.gateway(verdict)) is verdict
    site.heard(heard(2, "backup", "fit", active=True))
    assert said(site.gateway(own(2.1, Reason.LINK_DOWN))) == own(2.1, Reason.LINK_DOWN), "nobody else is believed"


def test_a_backup_that_cannot_serve_announces_while_the_active_says_that_it_does() -> None:
    site = core()
    site.heard(heard(0.0, "backup", "fit", active=True))
    verdict = said(site.gateway(own(0.1, Reason.CHARON_EXITED)))
    assert verdict is not None and verdict.serving and words(verdict) == [Reason.PEER_SERVES]
    assert "charon_exited" in verdict.causes[0].detail, "why it is not the gateway itself is told, too"
    assert verdict.at == 0.1, "the lease is renewed from a look at this gateway"


def test_silence_of_the_active_for_a_lease_ends_that() -> None:
    site = core()
    site.heard(heard(0.0, "backup", "fit", active=True))
    assert said(site.gateway(own(LEASE_S - 0.01, Reason.CHARON_EXITED))).serving  # type: ignore[union-attr]
    verdict = said(site.gateway(own(LEASE_S, Reason.CHARON_EXITED)))
    assert words(verdict) == [Reason.CHARON_EXITED, Reason.PEER_SILENT], "its own fact comes first, as the log's word"
    assert not verdict.serving  # type: ignore[union-attr]


def test_an_unfit_gateway_never_doubts_an_active_that_it_is_told_of_three_times_a_lease() -> None:
    site = core()
    for n in range(200):
        now = n * LEASE_S / 6
        if n % 2 == 0:  # acted on at once, and heard after the tick that asked for it
            actions = site.gateway(own(now, Reason.CHARON_EXITED))
            actions += site.heard(heard(now, "backup", "fit", active=True))
        else:
            actions = site.gateway(own(now, Reason.CHARON_EXITED))
        assert not n or not any(isinstance(action, SiteVerdictChanged) and not action.serving for action in actions), now
        assert site.verdict is not None and site.verdict.serving, now


def test_a_successor_that_has_heard_nobody_yet_does_not_know_better_for_a_lease() -> None:
    site = core()
    site.heard(heard(0.0, "backup", "fit", active=True))
    site.gateway(own(0.1, Reason.CHARON_EXITED))
    new = dataclasses.replace(heard(0.2, "backup", "silent"), listening=True)
    assert site.heard(new) == [] and said(site.gateway(own(0.3, Reason.CHARON_EXITED))).serving  # type: ignore[union-attr]
    site.heard(dataclasses.replace(new, at=0.9))
    verdict = said(site.gateway(own(LEASE_S, Reason.CHARON_EXITED)))
    assert not verdict.serving, "what its predecessor heard lasts no longer"  # type: ignore[union-attr]
    site.heard(heard(1.1, "backup", "fit", active=True))
    assert not said(site.heard(heard(1.2, "backup", "silent"))).serving, "and who has listened is believed"  # type: ignore[union-attr]


@pytest.mark.parametrize("listening", [True, False])
def test_an_agent_that_has_just_begun_decides_nothing_against_the_route_before_it_has_listened(listening: bool) -> None:
    site = core()
    if listening:
        site.heard(dataclasses.replace(heard(5.0, "backup", "silent"), listening=True))
    verdict = said(site.gateway(own(5.1, Reason.CHARON_EXITED)))
    assert words(verdict) == [Reason.NO_EVIDENCE_YET] and not verdict.serving  # type: ignore[union-attr]
    assert words(said(site.gateway(own(5.1 + LEASE_S, Reason.CHARON_EXITED)))) == [Reason.CHARON_EXITED, Reason.PEER_SILENT]
    site = core()
    site.gateway(own(5.1, Reason.CHARON_EXITED))
    verdict = said(site.heard(heard(5.2, "backup", "unfit")))
    assert words(verdict) == [Reason.CHARON_EXITED, Reason.PEER_UNFIT], "what is heard meanwhile decides at once"


def test_the_actives_word_that_it_serves_no_more_ends_it_at_once() -> None:
    site = core()
    site.heard(heard(0.0, "backup", "fit", active=True))
    site.gateway(own(0.1, Reason.CHARON_EXITED))
    actions = site.heard(heard(0.15, "backup", "unfit"))
    assert words(said(actions)) == [Reason.CHARON_EXITED, Reason.PEER_UNFIT], "no tick is waited for"
    assert any(isinstance(action, SiteVerdictChanged) and not action.serving for action in actions)


def test_an_active_that_becomes_unfit_announces_on_while_the_other_one_takes_over() -> None:
    site = core()
    site.gateway(own(0.0))
    site.heard(heard(0.05, "active", "fit"))
    assert words(said(site.gateway(own(0.1, Reason.CHARON_EXITED)))) == [Reason.PEER_TAKES_OVER]
    assert words(said(site.heard(heard(0.12, "backup", "fit", active=True)))) == [Reason.PEER_SERVES]


def test_one_that_nobody_takes_over_from_withdraws_within_a_lease() -> None:
    site = core()
    site.gateway(own(0.0))
    site.heard(heard(0.05, "active", "fit"))
    at = 0.1
    while said(site.gateway(own(at, Reason.CHARON_EXITED))).serving:  # type: ignore[union-attr]
        at += TICK_S
        assert at <= 0.1 + LEASE_S + TICK_S
        site.heard(heard(at, "backup", "fit"))  # it says that it could, and does nothing
    assert at > 0.1


@pytest.mark.parametrize("peer", ["unfit", "silent"])
def test_an_active_without_anybody_who_could_withdraws_at_once(peer: str) -> None:
    site = core()
    site.gateway(own(0.0))
    site.heard(heard(0.05, "active", peer))
    assert not said(site.gateway(own(0.1, Reason.LINK_DOWN))).serving  # type: ignore[union-attr]


def test_addresses_that_nobody_holds_end_the_route_however_well_both_could_serve() -> None:
    site, limit_s = SiteCore(lease_s=LEASE_S, paired=True, unheld_s=15.0), 15.0
    assert words(said(site.gateway(own(0.0)))) == [Reason.HEALTHY], "a start waits for the virtual router"
    for at in (5.0, 14.9):
        site.heard(heard(at, "backup", "fit"))
        assert words(said(site.gateway(own(at)))) == [Reason.HEALTHY], "a takeover takes its time"
    site.heard(heard(limit_s, "backup", "fit"))
    assert words(said(site.gateway(own(limit_s)))) == [Reason.ADDRESS_UNHELD]
    assert words(said(site.gateway(own(limit_s + 0.1, Reason.LINK_DOWN)))) == [Reason.LINK_DOWN, Reason.ADDRESS_UNHELD]
    assert words(said(site.heard(heard(16.0, "active", "fit")))) != [Reason.ADDRESS_UNHELD], "somebody has them again"
    assert words(said(site.gateway(own(16.1)))) == [Reason.HEALTHY]


def test_an_active_anywhere_holds_them_and_a_process_that_is_gone_does_not() -> None:
    site = SiteCore(lease_s=LEASE_S, paired=True, unheld_s=15.0)
    for at in range(40):
        site.heard(heard(at, "backup", "fit", active=True))
        assert words(said(site.gateway(own(at)))) == [Reason.HEALTHY]
    silent = [words(said(site.gateway(own(39 + after)))) for after in (1.0, 14.0, 16.0)]
    assert silent == [[Reason.HEALTHY], [Reason.HEALTHY], [Reason.ADDRESS_UNHELD]]


def test_one_gateway_alone_has_no_such_addresses() -> None:
    site = SiteCore(lease_s=LEASE_S, paired=False, unheld_s=15.0)
    assert [words(said(site.gateway(own(at)))) for at in (0.0, 100.0)] == [[Reason.HEALTHY]] * 2


def test_what_a_predecessor_left_is_not_ended_by_one_that_has_seen_nothing_yet() -> None:
    assert words(said(core().gateway(own(0.0, Reason.NO_EVIDENCE_YET)))) == [Reason.NO_EVIDENCE_YET], (
        "another word would be a reason to withdraw"
    )


def test_what_lay_in_a_buffer_while_the_agent_was_stopped_is_not_believed() -> None:
    site = core()
    site.gateway(own(0.0))
    site.heard(heard(0.05, "backup", "fit", active=True))
    assert not said(site.gateway(own(10.0, Reason.CLOCK_GAP))).serving  # type: ignore[union-attr]
    site.heard(heard(0.9, "backup", "fit", active=True))  # read now, said then
    assert not said(site.gateway(own(10.1, Reason.CLOCK_GAP))).serving  # type: ignore[union-attr]


STEPS = st.lists(
    st.tuples(
        st.floats(0.0, 0.4),
        st.one_of(
            st.none(),
            st.sampled_from(sorted(FACTS)),
            st.tuples(st.sampled_from(["active", "backup"]), st.sampled_from(["fit", "unfit", "silent"]), st.booleans()),
        ),
    ),
    max_size=40,
)


@given(STEPS)
def test_the_route_follows_rule_5_whatever_happens(steps: list[tuple[float, object]]) -> None:
    """Never withdrawn while this gateway serves or a fresh Active that serves is heard; never announced beyond a lease after
    neither holds any more."""
    site, now = core(), 0.0
    verdict = own(now)
    site.gateway(verdict)
    last: VrrpHeard | None = None
    hopeless_since: float | None = None
    for after, what in steps:
        now += after
        if isinstance(what, tuple):
            role, peer, active = what
            last = heard(now, role, peer, active=active)
            site.heard(last)
        if isinstance(what, tuple):
            verdict = dataclasses.replace(verdict, at=now)
        else:
            verdict = own(now) if what is None else own(now, Reason(str(what)))
        site.gateway(verdict)
        fresh = last if last is not None and now - last.at < LEASE_S else None
        if verdict.serving or (fresh is not None and fresh.peer_active):
            assert site.verdict is not None and site.verdict.serving
            hopeless_since = None
        else:
            hopeless_since = now if hopeless_since is None else hopeless_since
            if now - hopeless_since >= LEASE_S or fresh is None or fresh.peer != "fit":
                assert site.verdict is not None and not site.verdict.serving
