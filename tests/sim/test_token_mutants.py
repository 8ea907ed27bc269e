"""Each rule of ledger and tokens is needed: with it broken, a history, a named case or a table fails."""

from __future__ import annotations

import functools
import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from anycast.model import Cause
from anycast.policy import heard, token_holder, tokens
from anycast.policy.heard import Heard
from anycast.policy.ledger import Ledger
from anycast.policy.token_holder import TokenHolder
from anycast.policy.tokens import Tokens
from anycast.reasons import Reason
from tests.sim import test_token_cases as cases
from tests.sim import test_token_histories as sim
from tests.support import token_world
from tests.support.token_world import World
from tests.unit import test_token_holder as agent
from tests.unit import test_tokens as coordinator

Found = Callable[[], None]
part = functools.partial
TOKEN = Cause(reason=Reason.TOKEN, check="dns")


def history(seed: int) -> Found:
    """One of the histories in which anything happens: what the checker alone finds."""
    return part(sim.test_whatever_happens, seed)


MUTANTS: dict[str, tuple[object, str, str, str, Found]] = {
    # No more sites are dark than may be.
    "silence does not count": (Ledger, "dark", "is not Site.ANNOUNCES", "is Site.DARK", history(4)),
    "hard failures do not count": (Ledger, "dark", "is not Site.ANNOUNCES", "is Site.UNHEARD", history(1)),
    "entries do not count": (
        Ledger, "dark", "{entry.site for entry in self._entries.values()}", "set()",
        cases.test_g_the_slot_returns_when_both_have_said_so),
    "a first grant needs no slot": (
        Tokens, "_decide_first", "return self.ledger.may_darken(site, self.standings(now))",
        "return Decision(granted=True, cause=Cause(reason=Reason.WITHIN_BUDGET), dark=frozenset({site}))",
        cases.test_e_a_restored_store_and_a_holder_that_is_paused),
    "a renewal needs no slot": (
        Tokens, "_judge", "if not decision.granted:", "if False:",
        coordinator.test_silence_elsewhere_refuses_a_renewal_and_recalls_nothing),
    "what a store lost is not entered": (
        Tokens, "_adopt", "entry is None and len", "False and len", cases.test_e_a_restored_store_knows_again_who_is_dark),
    "the store asks nobody for a key": (
        World, "_perform", "or self.store.leader != leader.key", "", cases.test_d_who_led_before_is_refused_by_the_store),
    "said before it is written": (
        Tokens, "handle", "return [*actions, *self._events, *sends]", "return [*self._events, *sends, *actions]",
        coordinator.test_a_token_is_written_then_told_to_the_world_then_sent),
    "a new leader grants at once": (
        Tokens, "_new", "if left_s > 0", "if False", coordinator.test_a_new_leader_grants_nothing_at_first),
    "an older store's token is renewed for anybody": (
        Tokens, "_judge", "token.id not in self._vouched", "False",
        cases.test_e_a_token_that_an_old_store_still_has_is_not_renewed_for_who_does_not_hold_it),
    "a report is fresh when it comes": (
        Heard, "take", "max(voice.as_of, voice.sent.get(report.quotes, -math.inf))", "now",
        coordinator.test_a_word_is_as_old_as_the_answer_that_it_quotes),
    "an old report is read": (
        Heard, "take", "report.seq <= voice.report.seq", "False",
        coordinator.test_a_report_overtaken_by_a_later_one_is_passed_over),
    "an old connection is believed": (
        Heard, "take", "voice.session != session or", "", coordinator.test_an_earlier_connection_is_not_believed),
    "a slot returns though nobody said that it ended": (
        Tokens, "_take_back", "over = entry.id in report.ended or entry.kind == Kind.HOLD", "over = True",
        coordinator.test_a_grant_that_was_lost_is_given_again_when_it_is_wanted),
    "a slot returns though the site does not announce": (
        Tokens, "_take_back", "over and report.announcing and", "over and",
        cases.test_a_fact_waits_for_no_token_and_a_token_brings_no_fact_back),
    "a slot returns by the first gateway's word": (
        Tokens, "_take_back", "set(entry.gateways) <= set(entry.returned)", "True",
        cases.test_g_the_slot_returns_when_both_have_said_so),
    "what was asked on an older connection is good": (
        TokenHolder, "handle", "self._session, self._quotes = event.session, 0\n                self._asked.clear()",
        "self._session, self._quotes = event.session, 0",
        part(agent.test_a_new_connection_makes_every_earlier_request_void, False)),
    "an older connection's answers are heard": (
        TokenHolder, "handle", "event.session == self._session and event.answer.n", "event.answer.n",
        part(agent.test_a_new_connection_makes_every_earlier_request_void, True)),
    "answers out of order are taken": (
        TokenHolder, "handle", "and event.answer.n > self._quotes", "", agent.test_answers_out_of_order_are_passed_over),
    "the holder does not look at its own document": (
        TokenHolder, "_on_grant", "{*grant.dark, self._site}", "()",
        agent.test_more_than_its_own_document_allows_is_refused),
    # None for longer than promised.
    "a token counts from when it comes": (
        TokenHolder, "_on_grant", "until := asked_at + min", "until := now + min", history(2)),
    "a token does not end": (
        TokenHolder, "_on_grant", "_Token(grant.id, grant.check, until)", "_Token(grant.id, grant.check, until + 1e9)",
        cases.test_without_any_coordinator_tokens_end),
    "a timer that is late prolongs a token": (
        TokenHolder, "dark", "now >= token.until or now - self._ticked > GAP_S", "False",
        agent.test_it_announces_on_time_though_nobody_calls),
    "a token outlives a gap": (
        TokenHolder, "handle", "> GAP_S", "> 1e9", agent.test_a_gap_loses_token_evidence_and_requests),
    "a token outlives its cause": (
        TokenHolder, "_on_evidence", "seen.status is not Status.FAILING:", "False:", history(0)),
    "a recall is not heard": (
        TokenHolder, "_on_answer", "if recall.id in self._ended:", "if True:",
        cases.test_f_hard_failures_afterwards_bring_the_token_sites_back),
    "a recall waits for the next report": (
        Tokens, "_end", "self._push.update", "set().update",
        coordinator.test_a_recall_leaves_at_once_and_not_with_the_next_report),
    "what cannot be used is not given back": (
        TokenHolder, "_unused", "self._ended[token] = None", "pass",
        cases.test_a_a_token_that_comes_too_late_is_not_used_and_its_slot_returns),
    "the end is said once": (
        TokenHolder, "_on_answer", "for entry_id in answer.acknowledged:", "for entry_id in tuple(self._ended):",
        agent.test_ended_is_said_until_it_is_acknowledged_and_nothing_asked_for_meanwhile),
    "hard failures bring nobody back": (
        Tokens, "_on_report", "self._pull_back(now)", "pass",
        cases.test_f_hard_failures_afterwards_bring_the_token_sites_back),
    # Facts.
    "a token's end brings a fact back": (
        token_holder, "darkened", "        return verdict\n", "        return dataclasses.replace(verdict, serving=True)\n",
        history(0)),
    "a token hides a fact": (
        token_holder, "darkened", "dark is None or not verdict.serving", "dark is None",
        part(agent.test_no_token_holds_a_fact_back_and_none_brings_one_back, False, TOKEN)),
    # Whose fault it is.
    "nobody else has to pass": (
        Tokens, "_decide_first", "2 * passing < len(others)", "False",
        cases.test_without_half_of_the_others_nobody_goes_dark),
    "passing counts whenever it was said": (
        Tokens, "_decide_first", "and look.as_of >= since + window", "",
        coordinator.test_passing_counts_only_when_said_after_the_window),
    "no correlation window": (
        Tokens, "_decide_first", "since + window", "since", coordinator.test_not_before_the_window),
    "a slow check is not waited for": (
        Tokens, "_decide_first", "max(WINDOW_S, *(look.span_s for look in looks.values()))", "WINDOW_S",
        cases.test_a_slow_check_is_waited_for),
    "grants are not spaced": (
        Tokens, "_decide_first", "now - self._granted_at < SPACING_S", "False", cases.test_grants_are_spaced),
    "nothing is ever suspected": (
        Tokens, "_suspect", "len(failing) >= 2 and", "False and",
        cases.test_what_reaches_one_site_after_another_is_blamed_when_it_has_reached_most),
    "suspicion takes nothing back": (
        Tokens, "_suspect", "self._end(entry, Reason.CHECK_SUSPECTED)", "pass",
        cases.test_a_suspected_check_gives_the_sites_back_at_once),
    "suspicion ends with its cause": (
        Tokens, "_suspect", ">= WINDOW_S", ">= 0.0",
        coordinator.test_a_suspected_check_is_named_recalled_and_trusted_again_later),
    "one gateway of two makes a site fail": (
        heard, "site_look", "and status is not Status.PASSING", "",
        part(cases.test_g_a_site_with_a_gateway_that_passes_is_not_failing, 1)),
    "the oldest token gives way": (
        Tokens, "_pull_back", "standing.pop()", "standing.pop(0)", coordinator.test_the_newest_token_gives_way_first),
    "what has begun to end is renewed": (
        Tokens, "_judge", "if token.ending:", "if False:", coordinator.test_what_has_begun_to_end_is_never_renewed),
    "what nobody wants stays": (
        Tokens, "_on_report", "self._end(entry, Reason.CAUSE_GONE)", "pass",
        coordinator.test_a_grant_that_was_lost_is_recalled_when_nobody_wants_it),
}  # fmt: skip
"""By what is broken: where, what stands there, what takes its place, and who finds it."""


@pytest.mark.parametrize("name", MUTANTS)
def test_each_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, function, right, wrong, found = MUTANTS[name]
    source = textwrap.dedent(inspect.getsource(getattr(where, function)))
    right, wrong = (text.replace("\n        ", "\n    ") if inspect.isclass(where) else text for text in (right, wrong))
    assert source.count(right) >= 1, "a rule has moved: move its mutant too"
    module: Any = where if inspect.ismodule(where) else sys.modules[where.__module__]
    made: dict[str, Any] = {}
    exec(compile(source.replace(right, wrong), name, "exec"), vars(module), made)
    monkeypatch.setattr(where, function, made[function])
    if inspect.ismodule(where):
        for user in (token_world, tokens, agent):
            if hasattr(user, function):
                monkeypatch.setattr(user, function, made[function])
    with pytest.raises((AssertionError, KeyError, IndexError, StopIteration, ValueError)):
        found()
