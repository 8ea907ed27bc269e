"""The coordinator's half: what it grants, in which order it speaks, whom it believes and for how long."""

from __future__ import annotations

import pytest

from anycast.errors import BugError
from anycast.model import Cause, Status
from anycast.policy.floors import Budget, SiteShare
from anycast.policy.ledger import Entry, Kind, Site
from anycast.policy.token_times import FRESH_S, HEARTBEAT_S, SETTLE_S, SPACING_S, WINDOW_S
from anycast.policy.token_words import (
    AgentConnected,
    AgentGone,
    CheckSuspected,
    CheckTrusted,
    Commit,
    ContentChanged,
    EndSlot,
    Halted,
    RenameSlot,
    Reported,
    Send,
    SlotEnding,
    SlotRefused,
    SlotReturned,
    SlotTaken,
    TakeSlot,
)
from anycast.policy.tokens import MAX_ENTRIES_OF_A_SITE
from anycast.reasons import Reason
from anycast.token_wire import Held, Look, Report
from tests.support.token_coordinator import SITES, Coordinator, granted, hold_token, settled


def fails(made: Coordinator, *gateways: str) -> None:
    """A fact: they do not announce."""
    for gateway in gateways:
        made.fields[gateway] = {"announcing": False, "reason": "charon_exited"}
    made.beat(2 * HEARTBEAT_S)


def takes(made: Coordinator, site: str, kind: Kind = Kind.ROLLOUT) -> bool:
    return any(isinstance(each, SlotTaken) for each in made.tell(TakeSlot(kind=kind, site=site, by="rollout r5")))


def test_what_mends_a_site_that_is_dark_by_a_fact_is_not_kept_waiting_by_others_facts() -> None:
    made = settled(min_sites=4)
    fails(made, "fra-gw1", "sin-gw1", "nyc-gw1")
    assert not takes(made, "ams"), "three of two are dark, and this one is not"
    assert not takes(made, "fra", Kind.DRAIN), "it would stay dark when the fact is over"
    assert takes(made, "fra")
    assert takes(made, "sin")
    assert not takes(made, "nyc"), "what mends nobody stops at as many as may be dark"
    made.tell(EndSlot(made.given("fra")[0].id, "cause_gone"))
    made.beat(2 * HEARTBEAT_S)
    assert not takes(made, "nyc"), "not yet"
    made.fields["fra-gw1"] = {"ended": (made.given("fra")[0].id,)}
    made.beat(2 * HEARTBEAT_S)
    assert not made.given("fra") and takes(made, "nyc"), "it was mended"


def test_what_could_darken_somebody_waits_however_dark_the_fleet_is() -> None:
    made = settled(min_sites=4, more=(("fra-gw2", "fra"),))
    fails(made, "fra-gw1", "fra-gw2", "sin-gw1", "nyc-gw1")
    made.silent.add("fra-gw2")
    made.beat(FRESH_S + HEARTBEAT_S)
    assert made.state("fra") is Site.DARK and not takes(made, "fra"), "its other gateway may announce"
    made.silent.clear()
    made.beat(2 * HEARTBEAT_S)
    assert takes(made, "fra")

    made = granted(min_sites=4)
    made.tell(TakeSlot(kind=Kind.DRAIN, site="tyo", by="alice"))
    fails(made, "sin-gw1", "nyc-gw1")
    assert not takes(made, "fra"), "its token ends some day, and then it would announce"
    assert not takes(made, "sin"), "two are dark on purpose, which is all that may be"


def test_a_token_is_written_then_told_to_the_world_then_sent() -> None:
    made = settled()
    made.failing["fra-gw1"] = {"dns"}
    made.beat(WINDOW_S + 3 * HEARTBEAT_S)
    at = next(n for n, action in enumerate(made.log) if isinstance(action, SlotTaken))
    commit, taken, send = made.log[at - 1 : at + 2]
    assert isinstance(commit, Commit) and [entry.id for entry in commit.put] == ["Lx-1"]
    assert taken.decision.cause.reason is Reason.WITHIN_BUDGET
    assert isinstance(send, Send) and send.answer.grant is not None
    grant = send.answer.grant
    assert (grant.id, grant.check, grant.life_ms, grant.dark) == ("Lx-1", "dns", 30_000, ("fra",))


def test_a_renewal_asks_the_store_whether_this_leader_leads() -> None:
    made = granted()
    commit, send = made.report("fra-gw1")
    assert commit == Commit() and send.answer.grant.id == "Lx-1"


def test_a_new_leader_grants_nothing_at_first() -> None:
    made = Coordinator()
    made.failing["fra-gw1"] = {"dns"}
    made.beat(SETTLE_S)
    assert not made.core.ledger.entries and made.refusal("fra") == Reason.LEADER_NEW
    made.tell(TakeSlot(kind=Kind.DRAIN, site="sin", by="alice"))
    assert {event.decision.cause.reason for event in made.of(SlotRefused)} == {Reason.LEADER_NEW}
    made.beat(2 * HEARTBEAT_S)
    assert made.given("fra")


def test_a_leader_whose_store_is_behind_grants_nothing_and_renews_nothing() -> None:
    """What stands runs out, which brings light; what is known to be over is taken back as ever."""
    behind = Cause(reason=Reason.STORE_BEHIND, detail="fra-gw1 runs by generation 5")
    made = granted()
    made.tell(Halted(behind))
    [send] = [each for each in made.report("fra-gw1") if isinstance(each, Send)]
    assert send.answer.grant is None and send.answer.refused == Reason.STORE_BEHIND
    assert send.answer.recalls == (), "it runs out"
    made.failing["sin-gw1"] = {"dns"}
    made.tell(TakeSlot(kind=Kind.DRAIN, site="tyo", by="alice"))
    made.beat(WINDOW_S + SPACING_S)
    assert not made.given("sin") and made.refusal("sin") == Reason.STORE_BEHIND
    assert {event.decision.cause.reason for event in made.of(SlotRefused) if event.site == "tyo"} == {Reason.STORE_BEHIND}
    made.tell(Halted(None))
    made.beat(2 * HEARTBEAT_S)
    assert made.given("sin"), "and it goes on when that is over"


def test_not_before_the_window() -> None:
    made = settled()
    made.failing["fra-gw1"] = {"dns"}
    made.beat(WINDOW_S)
    assert not made.given("fra") and made.refusal("fra") == Reason.CORRELATING
    (refused,) = made.of(SlotRefused)
    assert (refused.site, refused.by) == ("fra", "dns"), "told once"


def test_a_failure_that_went_away_begins_the_window_anew() -> None:
    made = settled()
    for failing in ({"dns"}, set[str](), {"dns"}):
        made.failing["fra-gw1"] = failing
        made.beat(WINDOW_S - 2 * HEARTBEAT_S)
    assert not made.given("fra")


def test_silence_begins_the_window_anew() -> None:
    made = settled()
    made.failing["fra-gw1"] = {"dns"}
    made.beat(WINDOW_S - 2 * HEARTBEAT_S)
    made.silent = {"fra-gw1"}
    made.beat(2 * FRESH_S)
    made.silent = set()
    made.beat(WINDOW_S)
    assert not made.given("fra")


def test_passing_counts_only_when_said_after_the_window() -> None:
    """A fault that all share may stand for as long as the window before the others say so."""
    made = settled()
    made.failing["fra-gw1"] = {"dns"}
    made.beat(WINDOW_S - HEARTBEAT_S)
    made.silent = {f"{site}-gw1" for site in ("ams", "lon", "nyc")}
    made.beat(2 * HEARTBEAT_S)
    assert made.core.standings(made.now - HEARTBEAT_S)["ams"].state is Site.ANNOUNCES, "still heard when it was decided"
    assert not made.given("fra") and made.refusal("fra") == Reason.EVIDENCE_SHORT


@pytest.mark.parametrize(("passing", "enough"), [(2, False), (3, True)])
def test_half_of_the_other_sites_must_pass(passing: int, enough: bool) -> None:
    made = settled(min_sites=1)
    made.failing["fra-gw1"] = {"dns"}
    for site in [site for site in SITES if site != "fra"][passing:]:
        made.fields[f"{site}-gw1"] = {"looks": ()}
    made.beat(WINDOW_S + 3 * HEARTBEAT_S)
    assert bool(made.given("fra")) == enough


def test_an_old_look_passes_nothing() -> None:
    made = settled()
    made.failing["fra-gw1"] = {"dns"}
    old = (Look(check="dns", status=Status.PASSING, reason="x", age_ms=31_000, span_ms=28_000),)
    for site in SITES:
        if site != "fra":
            made.fields[f"{site}-gw1"] = {"looks": old}
    made.beat(2 * WINDOW_S)
    assert not made.given("fra") and made.refusal("fra") == Reason.EVIDENCE_SHORT


def test_two_first_grants_are_spaced() -> None:
    made = granted()
    made.failing["sin-gw1"] = made.failing["tyo-gw1"] = {"dns"}
    made.beat(WINDOW_S + 3 * HEARTBEAT_S)
    first = "sin" if made.given("sin") else "tyo"
    other = "tyo" if first == "sin" else "sin"
    hold_token(made, f"{first}-gw1", "Lx-2")
    assert not made.given(other) and made.refusal(other) == Reason.GRANTS_SPACED
    made.beat(SPACING_S)
    assert made.given(other)


def test_a_suspected_check_is_named_recalled_and_trusted_again_later() -> None:
    made = granted()
    for site in ("ams", "lon", "nyc"):
        made.failing[f"{site}-gw1"] = {"dns"}
    made.beat(2 * HEARTBEAT_S)
    (suspected,) = made.of(CheckSuspected)
    assert suspected == CheckSuspected("dns", ("ams", "fra", "lon", "nyc"))
    assert made.core.suspected(made.now) == ("dns",)
    assert made.given("fra")[0].ending == Reason.CHECK_SUSPECTED
    (recall,) = made.answers["fra-gw1"].recalls
    assert (recall.id, recall.reason) == ("Lx-1", Reason.CHECK_SUSPECTED)
    made.fields["fra-gw1"] = {"ended": ("Lx-1",)}
    made.beat(HEARTBEAT_S)
    made.fields["fra-gw1"] = {}
    made.beat(HEARTBEAT_S)
    assert not made.given("fra") and made.refusal("fra") == Reason.CHECK_SUSPECTED
    made.failing |= {"lon-gw1": set(), "nyc-gw1": set()}
    made.beat(WINDOW_S - HEARTBEAT_S)
    assert not made.of(CheckTrusted) and not made.given("fra"), "for a window after that"
    made.beat(3 * HEARTBEAT_S)
    assert made.of(CheckTrusted) == [CheckTrusted("dns")]
    made.beat(WINDOW_S)
    assert made.given("fra")


@pytest.mark.parametrize(
    ("failing", "passing", "suspected"), [(1, 0, False), (2, 0, True), (2, 1, False), (3, 2, False), (3, 1, True)]
)
def test_who_says_nothing_neither_blames_nor_clears(failing: int, passing: int, suspected: bool) -> None:
    made = settled()
    for n, site in enumerate(SITES):
        if n < failing:
            made.failing[f"{site}-gw1"] = {"dns"}
        elif n >= failing + passing:
            made.fields[f"{site}-gw1"] = {"looks": ()}
    made.beat(2 * HEARTBEAT_S)
    assert bool(made.of(CheckSuspected)) == suspected


def test_a_recall_leaves_at_once_and_not_with_the_next_report() -> None:
    made = granted(min_sites=5)
    made.fields["sin-gw1"] = {"held": (Held(id="hold-1", kind="hold", by="bob"),), "announcing": False}
    actions = made.report("sin-gw1")
    assert [action.gateway for action in actions if isinstance(action, Send)] == ["sin-gw1", "fra-gw1"]
    assert made.answers["fra-gw1"].recalls[0].reason == Reason.BUDGET_SPENT
    assert isinstance(actions[0], Commit) and {entry.id for entry in actions[0].put} == {"hold-1", "Lx-1"}


def test_the_newest_token_gives_way_first() -> None:
    made = granted(min_sites=4)
    made.failing["sin-gw1"] = {"canary"}
    made.beat(WINDOW_S + 3 * HEARTBEAT_S)
    (second,) = made.given("sin")
    made.fields["sin-gw1"] = {"held": (Held(id=second.id, kind="token", by="canary"),), "announcing": False}
    made.beat(HEARTBEAT_S)
    made.fields["tyo-gw1"] = {"announcing": False, "reason": "charon_exited"}
    made.beat(2 * HEARTBEAT_S)
    assert made.given("sin")[0].ending == Reason.BUDGET_SPENT and not made.given("fra")[0].ending


def test_silence_elsewhere_refuses_a_renewal_and_recalls_nothing() -> None:
    made = granted(min_sites=5)
    made.silent = {"tyo-gw1"}
    made.beat(FRESH_S + HEARTBEAT_S)
    assert made.refusal("fra") == Reason.BUDGET_SPENT and made.answers["fra-gw1"].grant is None
    assert not made.given("fra")[0].ending
    made.silent = set()
    made.beat(3 * HEARTBEAT_S)
    assert made.answers["fra-gw1"].grant is not None


def test_a_slot_returns_by_ended_and_announcing_together() -> None:
    made = granted()
    made.failing["fra-gw1"] = set()
    for fields in ({"announcing": True}, {"announcing": False, "ended": ("Lx-1",)}):
        made.fields["fra-gw1"] = fields
        made.beat(HEARTBEAT_S)
        assert made.given("fra") and not made.answers["fra-gw1"].acknowledged
    assert made.answers["fra-gw1"].recalls[0].id == "Lx-1"
    made.fields["fra-gw1"] = {"ended": ("Lx-1",)}
    commit, returned, send = made.report("fra-gw1")
    assert commit == Commit(remove=("Lx-1",)) and isinstance(returned, SlotReturned)
    assert send.answer.acknowledged == ("Lx-1",) and not made.core.ledger.entries


def test_no_time_returns_a_slot() -> None:
    made = granted(min_sites=5)
    made.silent = {"fra-gw1"}
    made.failing["sin-gw1"] = {"dns"}
    made.beat(600.0)
    assert made.given("fra") and not made.given("sin")


def test_what_is_not_in_the_ledger_is_acknowledged_at_once() -> None:
    made = settled()
    made.fields["fra-gw1"] = {"ended": ("L0-3",), "announcing": False}
    made.beat(HEARTBEAT_S)
    assert made.answers["fra-gw1"].acknowledged == ("L0-3",)


def test_a_grant_that_was_lost_is_recalled_when_nobody_wants_it() -> None:
    made = granted()
    made.fields["fra-gw1"], made.failing["fra-gw1"] = {}, set()
    made.beat(HEARTBEAT_S)
    assert made.answers["fra-gw1"].recalls[0].reason == Reason.CAUSE_GONE and made.given("fra")


def test_a_grant_that_was_lost_is_given_again_when_it_is_wanted() -> None:
    made = granted()
    made.fields["fra-gw1"] = {}
    made.beat(HEARTBEAT_S)
    grant = made.answers["fra-gw1"].grant
    assert grant is not None and grant.id == "Lx-1" and len(made.core.ledger.entries) == 1


def test_what_has_begun_to_end_is_never_renewed() -> None:
    made = granted(min_sites=5)
    made.fields["tyo-gw1"] = {"announcing": False, "reason": "charon_exited"}
    made.beat(2 * HEARTBEAT_S)
    made.fields["tyo-gw1"] = {}
    made.beat(2 * HEARTBEAT_S)
    assert made.answers["fra-gw1"].grant is None and made.refusal("fra") == Reason.BUDGET_SPENT
    assert made.answers["fra-gw1"].recalls


def test_a_word_is_as_old_as_the_answer_that_it_quotes() -> None:
    made = settled()
    made.now += FRESH_S + 1.0
    made.report("fra-gw1")
    assert made.state("fra") is Site.UNHEARD, "it may have lain in a buffer"
    made.report("fra-gw1")
    assert made.state("fra") is Site.ANNOUNCES
    made.quotes["sin-gw1"] = 10**6
    made.report("sin-gw1")
    assert made.state("sin") is Site.UNHEARD, "quotes what was never said"


def test_a_report_overtaken_by_a_later_one_is_passed_over() -> None:
    made = settled()
    made.report("fra-gw1")
    seq = made.seq
    assert made.report("fra-gw1", seq=seq, announcing=False) == []
    assert made.state("fra") is Site.ANNOUNCES


def test_an_earlier_connection_is_not_believed() -> None:
    made = settled()
    made.tell(AgentConnected("fra-gw1", 77))
    assert made.state("fra") is Site.UNHEARD
    assert made.report("fra-gw1") == []
    made.quotes.pop("fra-gw1")
    made.report("fra-gw1", session=77)
    made.report("fra-gw1", session=77)
    assert made.state("fra") is Site.ANNOUNCES
    made.tell(AgentGone("fra-gw1", 1))
    made.tell(AgentGone("fra-gw1", 77))
    assert made.state("fra") is Site.ANNOUNCES, "its word grows old by itself"
    made.now += FRESH_S
    assert made.state("fra") is Site.UNHEARD


def test_a_gateway_that_the_fleet_does_not_have_is_not_heard() -> None:
    made = settled()
    made.tell(AgentConnected("bos-gw1", 78))
    assert made.tell(Reported("bos-gw1", 78, Report(seq=1, announcing=True, reason="healthy"))) == []


def test_what_an_older_store_still_has_is_renewed_only_for_who_holds_it() -> None:
    entry = Entry(id="L0-1", kind=Kind.TOKEN, site="fra", gateways=("fra-gw1",), by="dns")
    held = {"held": (Held(id="L0-1", kind="token", by="dns"),), "announcing": False}
    made = Coordinator(entries=(entry,))
    made.failing["fra-gw1"], made.fields["fra-gw1"] = {"dns"}, held
    made.beat(3 * HEARTBEAT_S)
    grant = made.answers["fra-gw1"].grant
    assert grant is not None and grant.id == "L0-1", "also by a new leader: nobody becomes dark by it"
    made = Coordinator(entries=(entry,))
    made.failing["fra-gw1"] = {"dns"}
    made.beat(3 * HEARTBEAT_S)
    assert made.answers["fra-gw1"].grant is None and made.given("fra")[0].ending == Reason.LEADER_NEW


def test_what_a_restored_store_has_lost_is_entered_by_the_holders_word() -> None:
    made = Coordinator()
    made.failing["fra-gw1"] = {"dns"}
    hold_token(made, token="L0-1")
    actions = made.report("fra-gw1")
    assert actions[0] == Commit(put=(Entry(id="L0-1", kind="token", site="fra", gateways=("fra-gw1",), by="dns"),))


def test_what_one_gateway_says_that_it_holds_is_bounded() -> None:
    made = settled()
    for n in range(10):
        made.report("fra-gw1", held=tuple(Held(id=f"x{n}-{i}", kind="drain") for i in range(16)), announcing=False)
    assert len(made.given("fra")) == MAX_ENTRIES_OF_A_SITE


def test_no_gateway_touches_another_sites_entries() -> None:
    made = granted()
    made.report("sin-gw1", held=(Held(id="Lx-1", kind="token"),), ended=("Lx-1",))
    made.report("sin-gw1", ended=("Lx-1",))
    (entry,) = made.given("fra")
    assert entry.gateways == ("fra-gw1",) and not made.given("sin") and not entry.ending


def test_a_hold_is_entered_at_once_and_returns_when_it_is_over() -> None:
    made = Coordinator(min_sites=6)
    made.fields["fra-gw1"] = {"held": (Held(id="hold-1", kind="hold", by="bob", until=60.0),), "announcing": False}
    made.beat(HEARTBEAT_S)
    (entry,) = made.given("fra")
    assert (entry.kind, entry.by, entry.until) == (Kind.HOLD, "bob", 60.0)
    made.tell(EndSlot("hold-1", "not so"))
    assert not made.given("fra")[0].ending, "the operator's own, at the gateway"
    made.fields["fra-gw1"] = {}
    made.beat(HEARTBEAT_S)
    assert not made.given("fra")


def test_a_slot_for_an_operator() -> None:
    made = settled(more=(("fra-gw2", "fra"),))
    commit, taken = made.tell(TakeSlot(kind=Kind.DRAIN, site="fra", by="alice", why="new line card", until=60.0))
    assert commit.put == (taken.entry,)
    assert taken.entry.gateways == ("fra-gw1", "fra-gw2")
    commit, ending, *sends = made.tell(EndSlot(taken.entry.id, "undrain"))
    assert isinstance(ending, SlotEnding) and commit.put == (ending.entry,)
    assert [send.answer.recalls[0].reason for send in sends] == ["undrain", "undrain"]
    made.fields["fra-gw1"] = {"ended": (taken.entry.id,)}
    made.beat(HEARTBEAT_S)
    (entry,) = made.given("fra")
    assert entry.returned == ("fra-gw1",), "the other one may still be dark"
    made.fields["fra-gw2"] = {"ended": (taken.entry.id,)}
    made.beat(HEARTBEAT_S)
    assert not made.given("fra")


@pytest.mark.parametrize("kind", [Kind.TOKEN, Kind.HOLD])
def test_nobody_takes_by_hand_what_gateways_report(kind: Kind) -> None:
    with pytest.raises(BugError):
        settled().tell(TakeSlot(kind=kind, site="fra", by="alice"))


def test_a_gateway_that_left_the_content_holds_nothing() -> None:
    made = settled(more=(("fra-gw2", "fra"),))
    (_, taken) = made.tell(TakeSlot(kind=Kind.DRAIN, site="fra", by="alice"))
    (_, other) = made.tell(TakeSlot(kind=Kind.DRAIN, site="sin", by="alice"))
    made.fields["fra-gw1"] = {"ended": (taken.entry.id,)}
    made.beat(HEARTBEAT_S)
    budget = Budget(min_sites=1, sites=tuple(SiteShare(name=name) for name in SITES if name != "sin"))
    left = {gateway: site for gateway, site in made.gateways.items() if gateway not in ("fra-gw2", "sin-gw1")}
    actions = made.tell(ContentChanged(budget, left))
    assert isinstance(actions[0], Commit) and set(actions[0].remove) == {taken.entry.id, other.entry.id}
    assert not made.core.ledger.entries and "sin" not in made.core.standings(made.now)


def test_a_gateway_of_a_pair_that_passes_ends_the_sites_token() -> None:
    made = settled(more=(("fra-gw2", "fra"),))
    made.failing["fra-gw1"] = made.failing["fra-gw2"] = {"dns"}
    made.beat(WINDOW_S + 4 * HEARTBEAT_S)
    (entry,) = made.given("fra")
    assert set(entry.gateways) == {"fra-gw1", "fra-gw2"}
    for gateway in entry.gateways:
        hold_token(made, gateway, entry.id)
    made.beat(HEARTBEAT_S)
    made.failing["fra-gw2"] = set()
    made.beat(2 * HEARTBEAT_S)
    assert made.given("fra")[0].ending == Reason.CAUSE_GONE


def test_other_words_for_a_slot_are_written_and_keep_it() -> None:
    made = settled()
    made.tell(TakeSlot(kind=Kind.DRAIN, site="fra", by="alice"))
    (before,) = made.core.ledger.of_site("fra")
    renamed = RenameSlot(entry_id=before.id, kind=Kind.MAINTENANCE, by="bob", why="optics", until=7200.0)
    (commit,) = made.tell(renamed)
    (after,) = made.core.ledger.of_site("fra")
    assert commit == Commit(put=(after,))
    assert (after.id, after.gateways, after.kind, after.by, after.why, after.until) == (
        before.id, before.gateways, Kind.MAINTENANCE, "bob", "optics", 7200.0,
    )  # fmt: skip


def test_words_change_nothing_that_ends_or_is_no_operators() -> None:
    made = granted()
    (token,) = made.core.ledger.of_site("fra")
    assert made.tell(RenameSlot(entry_id=token.id, kind=Kind.DRAIN, by="bob")) == []
    assert made.tell(RenameSlot(entry_id="nobody", kind=Kind.DRAIN, by="bob")) == []
    made.tell(TakeSlot(kind=Kind.DRAIN, site="sin", by="alice"))
    (drain,) = made.core.ledger.of_site("sin")
    made.tell(EndSlot(drain.id, "cause_gone"))
    assert made.tell(RenameSlot(entry_id=drain.id, kind=Kind.DEGRADE, by="bob")) == []
    assert made.core.ledger.of_site("fra") == [token] and made.core.ledger.of_site("sin")[0].kind == Kind.DRAIN
