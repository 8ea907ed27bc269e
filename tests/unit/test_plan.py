"""What follows from a content before it is signed: `policy/plan.py`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from anycast.content.canonical import encode, hash_of
from anycast.content.content import Content, Intent, decode_content
from anycast.content.envelope import Offer
from anycast.content.record import NOTHING
from anycast.content.state import State, decode_state, in_force, nothing_yet
from anycast.errors import ConfigError, DecodeError, PeerError
from anycast.fleet.compile import compile_fleet
from anycast.fleet.compile_content import compile_content
from anycast.fleet.loading import load, loads
from anycast.policy.acceptance import offer
from anycast.policy.plan import Plan, decode_plan, decode_submission, judge, make, obstacles, submit
from tests.support.contents import (
    ALICE,
    FLEET,
    MALLORY,
    OTHERS,
    SITES,
    TRUSTED,
    Made,
    envelope,
    fleet_text,
    made,
    me,
    revoked,
    state_of,
)
from tests.support.documents import TREE, TWO_SITE
from tests.unit.test_content_budget import without_announcements

FIRST = made()


def planned(wanted: Made, running: Any = FIRST.content, **state: Any) -> Plan:
    known, contents = state_of(running, **state)
    plan = make(known, contents, wanted.content, wanted.documents)
    assert make(known, contents, wanted.content, wanted.documents).text == plan.text, "identical bytes twice"
    assert decode_plan(plan.text.encode()) == plan
    return plan


def applied(plan: Plan) -> Content:
    """What runs everywhere when the plan is through."""
    return decode_content(plan.content)


def test_a_plan_shows_what_follows() -> None:
    tunnels = {"ams": 10, "fra": 200, "lon": 30, "nyc": 40, "sin": None, "tyo": 60}
    seen = {"fra": {"fra-rtr-ipv6": ("2001:db8:a::/56",)}, "sin": {"sin-rtr-ipv6": None}}
    plan = planned(made(fra="drained", sin="degraded"), tunnels=tunnels, seen=seen)
    assert not plan.problems and not plan.empty
    assert [(each.site, each.what, each.before, each.after, each.documents) for each in plan.changes] == [
        ("fra", ("intent", "announcements"), Intent.ANNOUNCED, Intent.DRAINED, ()),
        ("sin", ("intent", "announcements"), Intent.ANNOUNCED, Intent.DEGRADED, ()),
    ]
    rows = {row.site: row for row in plan.announcements}
    assert list(rows) == list(SITES)
    prefix = ("2001:db8:a::/56",)
    assert (rows["fra"].before, rows["fra"].after, rows["fra"].seen) == (prefix, (), prefix)
    assert (rows["sin"].before, rows["sin"].after, rows["sin"].worse_before, rows["sin"].worse_after, rows["sin"].seen) == (
        *(prefix, prefix, False, True),
        None,
    )
    assert [row.site for row in plan.announcements if row.changes] == ["fra", "sin"]
    assert (plan.moves.cut, plan.moves.may_move, plan.moves.unknown, plan.moves.worst) == ({"fra": 200}, {}, ("sin",), 200)
    assert (plan.capacity.total, plan.capacity.tunnels, plan.capacity.uncounted) == (4000, 340, ("sin",))
    assert plan.capacity.worst == ("ams", 3000)
    assert (plan.ledger_before.allowed, plan.ledger_before.dark) == (2, {})
    assert plan.ledger_after.allowed == 2
    assert {site: str(each.why) for site, each in plan.ledger_after.dark.items()} == {"fra": "drained", "sin": "degraded"}


def test_who_comes_back_may_draw_from_everywhere() -> None:
    drained = made(fra="drained")
    plan = planned(made(), drained.content, tunnels={name: 100 for name in SITES} | {"fra": 0})
    assert plan.moves.cut == {}
    assert plan.moves.may_move == {name: 100 for name in SITES if name != "fra"}
    quiet = planned(made(more={"fra": "capacity: 7"}))
    assert (quiet.moves.worst, [each.what for each in quiet.changes]) == (0, [("capacity",)])


def test_tunnels_of_a_mirrored_pair_count_once() -> None:
    state, _ = state_of(FIRST.content, tunnels=100)
    twin = state.gateways["fra-gw1"].model_copy(update={"tunnels": 99})
    assert state.model_copy(update={"gateways": {**state.gateways, "fra-gw2": twin}}).tunnels["fra"] == 100


def test_capacity_with_any_one_site_lost() -> None:
    plan = planned(made(more={"tyo": "capacity: 5000", "ams": "region: eu"}))
    assert plan.capacity.unwritten == ("ams",)
    assert plan.capacity.worst == ("tyo", 4000)


def test_what_is_in_the_ledger_stays_there_and_what_contents_darken_is_recounted() -> None:
    drained = made(fra="drained").content
    dark = {"fra": ("content", "drained"), "sin": ("token", "dns")}
    plan = planned(made(tyo="drained"), drained, dark=dark)
    assert {site: each.why for site, each in plan.ledger_after.dark.items()} == {"sin": "dns", "tyo": "drained"}


@pytest.mark.parametrize("after", [FIRST, made(fra="drained"), made(SITES[:5])], ids=["same", "drain", "fewer"])
def test_right_after_an_apply_there_is_nothing_to_do(after: Made) -> None:
    before = FIRST.content if after is not FIRST and len(after.content.sites) == 6 else made(tyo="drained").content
    plan = planned(after, before)
    assert not plan.problems and not plan.empty
    again = planned(after, applied(plan), generation=2)
    assert again.empty and not again.problems and not again.changes
    assert all(not row.changes for row in again.announcements) and again.moves.worst == 0


def test_a_rollout_that_is_not_through_is_something_to_do() -> None:
    plan = planned(made(fra="drained"))
    content = applied(plan)
    half = {name: content if name in ("ams", "lon") else FIRST.content for name in SITES}
    unfinished = planned(made(fra="drained"), half, generation=2, newest=dict.fromkeys(SITES, content))
    assert not unfinished.empty and not unfinished.problems
    staged = planned(made(fra="drained"), generation=2, newest={"tyo": content})
    assert not staged.empty
    aborted = planned(FIRST, FIRST.content, generation=2, newest=dict.fromkeys(SITES, content))
    assert not aborted.empty, "something else waits everywhere"


def test_a_content_follows_what_is_heard_and_agents_take_it() -> None:
    other = made(after=[FIRST.content], more={"fra": "capacity: 7"})
    running = {name: other.content if name == "tyo" else FIRST.content for name in SITES}
    plan = planned(made(sin="drained"), running, unheard=["tyo"])
    assert applied(plan).after == (hash_of(FIRST.content.text),)
    assert plan.left_behind == ("tyo-gw1",)
    document = plan.documents["fra-gw1"]
    record = offer(NOTHING, me(), TRUSTED, Offer(version=1, envelope=envelope(FIRST.content, 1), document=document).data)
    taken = Offer(version=1, envelope=envelope(plan.content, 2), document=document).data
    assert offer(record.record, me(), TRUSTED, taken).refusal is None


def test_where_nobody_is_heard_nobody_could_take_it() -> None:
    plan = planned(made(fra="drained"), unheard=SITES)
    assert plan.problems == ("no gateway that has a content is heard: nobody could take another",)


# The three famous self-withdrawals (docs/content.md).


def test_an_empty_fleet_file_is_no_fleet() -> None:
    for text in ("", "version: 1\n", fleet_text([])):
        with pytest.raises(ConfigError):
            loads(text)
    empty = FIRST.content.text.replace(encode(json.loads(FIRST.content.text)["sites"]), "{}")
    with pytest.raises(DecodeError):
        decode_content(empty)
    # The layers above bypassed: a program that builds contents by itself.
    plan = make(*state_of(FIRST.content), FIRST.content.model_copy(update={"sites": {}}), {})
    assert plan.problems == (
        "no site attracts by this content; its budget wants 4",
        "ams, fra, lon, nyc, sin, tyo would go dark, and no site attracts all the while; the budget wants 4",
        "nobody would go on announcing 2001:db8:a::/56; a content that names it as retiring has to come before",
    )


def test_a_link_that_makes_all_sites_one_site() -> None:
    with pytest.raises(ConfigError, match="min_sites: 4, and there are 1"):
        loads(fleet_text(["fra"]))
    plan = planned(made(["fra"], budget="{min_sites: 1}"))
    assert plan.problems == (
        "ams, lon, nyc, sin, tyo would go dark, and 1 site attracts all the while; the budget wants 4",
    )
    offline = planned(made(["fra"], budget="{min_sites: 1}", fra="drained"))
    assert len(offline.problems) == 3, "every problem at once"
    swapped = planned(made([*OTHERS, "fra"], budget="{min_sites: 4}"))
    assert swapped.problems == (
        "ams, lon, nyc, sin, tyo would go dark, and 1 site attracts all the while; the budget wants 4",
    ), "new sites are no answer for the old ones"


def test_all_sites_of_a_service_without_prefixes() -> None:
    with pytest.raises(ConfigError, match="has no prefix"):
        loads(fleet_text().replace('  prefixes: {ipv6: "2001:db8:a::/56"}\n', ""))
    for sites in (SITES, SITES[:3]):
        silent = without_announcements(FIRST.content, *sites)
        plan = make(*state_of(FIRST.content), silent, FIRST.documents)
        assert plan.problems and {each.site for each in plan.changes} == set(sites)
        assert all(row.after == () for row in plan.announcements if row.site in sites)


@pytest.mark.parametrize("empty", ["gateways", "contents", "both"])
def test_an_empty_answer_of_the_coordinator_lowers_no_guard(empty: str) -> None:
    state, _ = state_of(FIRST.content)
    data = json.loads(encode(state.model_dump(mode="json")))
    for field in ("gateways", "contents") if empty == "both" else (empty,):
        data[field] = {}
    with pytest.raises(DecodeError):
        decode_state(encode(data).encode())
    for text in (b"", b"{}", b"[]", b"null", encode(data | {"generation": 0, "contents": state.contents}).encode()[:-1]):
        with pytest.raises(DecodeError):
            decode_state(text)


def test_one_shared_health_check_has_its_slots() -> None:
    token = {name: ("token", "dns_wrong") for name in SITES[:2]}
    plan = planned(made(tyo="drained"), dark=token)
    assert plan.problems == (
        "tyo would go dark beside ams, fra, and 3 sites attract all the while; the budget wants 4",
    )
    assert not planned(made(fra="drained"), dark=token).problems, "what is dark already costs nothing more"
    assert not planned(made(more={"tyo": "capacity: 7"}), dark={name: ("token", "dns_wrong") for name in SITES}).problems


def test_what_nobody_sees_counts_as_dark_and_unknown_as_nothing() -> None:
    unseen: dict[str, Any] = {name: {f"{name}-rtr-ipv6": ()} for name in SITES[:2]}
    assert planned(made(tyo="drained"), seen=unseen).problems
    for view in ({"ams-rtr-ipv6": None}, {}, {"ams-rtr-ipv6": ("2001:db8:a::/56",)}, {"ams-rtr-ipv6": (), "x": None}):
        assert not planned(made(tyo="drained"), seen={**unseen, "ams": view}).problems


def test_in_the_middle_of_a_rollout_the_strictest_counts() -> None:
    strict = made(budget="{min_sites: 5}")
    running = {name: strict.content if name == "ams" else FIRST.content for name in SITES}
    assert not planned(made(fra="drained"), running).problems
    plan = planned(made(fra="drained", sin="drained"), running)
    assert "the budget wants 5" in plan.problems[0]
    state, contents = state_of(running)
    merged = in_force(state, contents)
    assert merged is not None and merged.budget.min_sites == 5 and merged.sites == FIRST.content.sites
    drains = made(ams="drained").content
    state, contents = state_of({name: drains if name == "ams" else FIRST.content for name in SITES})
    merged = in_force(state, contents)
    assert merged is not None
    assert {name for name, site in merged.sites.items() if site.intent.dark} == {"ams"}, "each as its own gateways have it"
    assert in_force(nothing_yet(FLEET), {}) is None


def test_a_floor_that_is_lowered_by_what_only_waits_is_not_lowered_yet() -> None:
    lowered = made(after=[FIRST.content], budget="{min_sites: 1}")
    drains = made(budget="{min_sites: 1}", **dict.fromkeys(SITES[:3], "drained"))
    plan = planned(drains, newest=dict.fromkeys(SITES, lowered.content))
    assert plan.problems == ("ams, fra, lon would go dark, and 3 sites attract all the while; the budget wants 4",)
    assert not planned(drains, lowered.content).problems


@pytest.mark.parametrize("first", ["gw1", "gw2"])
def test_where_two_gateways_of_a_site_disagree_it_attracts_by_the_one_that_does(first: str) -> None:
    one = FIRST.content.sites["fra"]
    pair = one.model_copy(update={"gateways": {f"fra-gw{n}": one.gateways["fra-gw1"] for n in (1, 2)}})
    announced = FIRST.content.model_copy(update={"sites": {**FIRST.content.sites, "fra": pair}})
    drained = announced.with_intent("fra", Intent.DRAINED)
    state, contents = state_of({name: drained for name in SITES})
    gateway = state.gateways[f"fra-{first}"].model_copy(update={"active": hash_of(announced.text)})
    contents = {**contents, hash_of(announced.text): announced}
    state = state.model_copy(update={"gateways": {**state.gateways, f"fra-{first}": gateway}})
    merged = in_force(state, contents)
    assert merged is not None and merged.sites["fra"] == pair


def test_what_is_in_force_has_the_strictest_floor_of_each_region_too() -> None:
    eu = dict.fromkeys(SITES[:4], "region: eu\n    capacity: 10")
    more_sites = made(budget="{min_sites: 1, regions: {eu: {min_sites: 3, min_capacity: 5}}}", more=eu).content
    more_capacity = made(budget="{min_sites: 1, regions: {eu: {min_sites: 2, min_capacity: 30}}}", more=eu).content
    state, contents = state_of({name: more_sites if name < "lon" else more_capacity for name in SITES})
    merged = in_force(state, contents)
    assert merged is not None
    assert (merged.budget.regions["eu"].min_sites, merged.budget.regions["eu"].min_capacity) == (3, 30)
    assert merged.budget.retiring == ()
    retiring = made(budget='{min_sites: 4, retiring: ["2001:db8:a::/56"]}').content
    merged = in_force(*state_of({name: retiring if name == "ams" else FIRST.content for name in SITES}))
    assert merged is not None and merged.budget.retiring == (), "what retires for some does not for all"
    merged = in_force(*state_of(retiring))
    assert merged is not None and merged.budget.retiring == ("2001:db8:a::/56",)


def test_it_is_judged_against_what_waits_as_well() -> None:
    waits = made(after=[FIRST.content], budget="{min_sites: 6}")
    plan = planned(made(fra="drained"), newest=dict.fromkeys(SITES, waits.content))
    assert plan.problems == ("fra would go dark, and 5 sites attract all the while; the budget wants 6",)


def test_another_fleets_state() -> None:
    plan = planned(made(fleet="other"))
    assert plan.problems == ("the fleet file is of fleet other, and the coordinator of example",)


def test_the_first_content_has_no_before() -> None:
    first = made()
    plan = make(nothing_yet(FLEET), {}, first.content, first.documents)
    assert not plan.problems and not plan.empty and applied(plan).after == ()
    assert plan.budget_before is None and {each.what for each in plan.changes} == {("new",)}


# Bound to its facts.


def test_a_plan_is_signed_as_it_was_shown_and_the_coordinator_takes_it() -> None:
    state, contents = state_of(FIRST.content)
    plan = planned(made(fra="drained"))
    assert obstacles(plan, state, contents) == ()
    submission = decode_submission(submit(plan, ALICE).data)
    assert (submission.content, submission.plan, submission.documents) == (plan.content, plan.hash, plan.documents)
    assert judge(submission, TRUSTED, state, contents) == ()
    assert judge(submit(plan, MALLORY), TRUSTED, state, contents)[0].startswith("untrusted: ")
    assert judge(submission, revoked(), state, contents)[0].startswith("revoked: ")
    other = submission.model_copy(update={"content": submission.content.replace("drained", "degraded")})
    assert judge(other, TRUSTED, state, contents)[0].startswith("bad_signature: ")
    swapped = submission.model_copy(update={"documents": {**plan.documents, "fra-gw1": plan.documents["sin-gw1"]}})
    assert judge(swapped, TRUSTED, state, contents) == ("of fra-gw1: not the ones that the content names",)
    fewer = submission.model_copy(update={"documents": {}})
    assert judge(fewer, TRUSTED, state, contents)


def test_a_refused_plan_is_never_signed() -> None:
    plan = planned(made(["fra"], budget="{min_sites: 1}"))
    with pytest.raises(PeerError, match="was not signed"):
        submit(plan, ALICE)
    whitewashed = plan.model_copy(update={"problems": ()})
    state, contents = state_of(FIRST.content)
    assert obstacles(whitewashed, state, contents) == plan.problems, "it is judged anew, not believed"
    assert judge(submit(whitewashed, ALICE), TRUSTED, state, contents) == plan.problems, "by the coordinator too"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"generation": 2}, "generation 2 was given out; the plan knew 1"),
        ({"allowed": 1}, "the ledger allows 1 dark; the plan saw 2"),
        ({"dark": {"sin": ("drain", "by bob")}}, "site sin is dark (drain); the plan saw that it is not in the ledger"),
        ({"seen": {"sin": {"sin-rtr-ipv6": ()}}}, "site sin is not seen; that was otherwise for the plan"),
        ({"running": made(tyo="drained").content}, "gateway ams-gw1 runs by "),
        ({"newest": {"ams": made(tyo="drained").content}}, "gateway ams-gw1 runs by "),
        ({"running": made(SITES[:5]).content}, "gateway tyo-gw1 has no content; the plan saw that it runs by "),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_each_fact_that_changed_is_said(change: dict[str, Any], said: str) -> None:
    plan = planned(made(fra="drained"))
    state, contents = state_of(**({"running": FIRST.content} | change))
    assert any(each.startswith(said) for each in obstacles(plan, state, contents)), obstacles(plan, state, contents)
    assert any(each.startswith(said) for each in judge(submit(plan, ALICE), TRUSTED, state, contents))


def test_what_decides_nothing_is_no_fact() -> None:
    plan = planned(made(fra="drained"))
    for change in ({"tunnels": 7}, {"unheard": ["tyo"]}):
        assert obstacles(plan, *state_of(FIRST.content, **change)) == ()


def test_a_plan_that_somebody_changed_is_not_read() -> None:
    plan = planned(made(fra="drained"))
    tree = json.loads(plan.text)
    swapped = tree | {"documents": tree["documents"] | {"fra-gw1": tree["documents"]["sin-gw1"]}}
    with pytest.raises(DecodeError, match="fra-gw1"):
        decode_plan(encode(swapped).encode())
    with pytest.raises(DecodeError, match="requires telepathy"):
        decode_plan(encode(tree | {"requires": ["telepathy"]}).encode())
    assert decode_plan(encode(tree | {"empty": True}).encode()).hash != plan.hash


def test_an_operators_word_on_one_site_is_a_content_like_any() -> None:
    plan = planned(Made(FIRST.content.with_intent("fra", Intent.DRAINED), FIRST.documents))
    assert applied(plan).core == made(fra="drained").content.core
    with pytest.raises(KeyError):
        FIRST.content.with_intent("", Intent.DRAINED)


@pytest.mark.parametrize("fleet", [TWO_SITE, TREE / "labs" / "topologies" / "two-site-pairs.fleet.yaml",
                                   TREE / "labs" / "topologies" / "pair.fleet.yaml"])  # fmt: skip
def test_real_fleets_have_contents_that_their_agents_take(fleet: Any) -> None:
    loaded = load(fleet)
    budget = loads(fleet_text(["fra"], budget="{min_sites: 1}")).budget
    loaded = loaded.model_copy(update={"budget": budget})
    documents = compile_fleet(loaded)
    content = compile_content(loaded, documents)
    assert decode_content(content.text) == content
    assert all(site.attracts for site in content.sites.values())
    trusted = TRUSTED.model_copy(update={"fleet": loaded.fleet})
    for name, document in documents.items():
        data = Offer(version=1, envelope=envelope(content, 1), document=document.canonical().decode()).data
        identity = type(me())(fleet=loaded.fleet, site=document.site, gateway=name)
        answer = offer(NOTHING, identity, trusted, data)
        assert answer.refusal is None, answer.detail


def test_a_state_is_whole_or_refused() -> None:
    state, contents = state_of(FIRST.content)
    assert decode_state(encode(state.model_dump(mode="json")).encode()) == (state, contents)
    (hash_,) = state.contents
    wrong: list[dict[str, Any]] = [
        {"contents": {hash_: made(fra="drained").content.text}},
        {"contents": {"0" * 64: state.contents[hash_]}},
        {"generation": 0},
        {"fleet": "other"},
        {"gateways": {"who": state.gateways["fra-gw1"].model_dump(mode="json")}},
        {"gateways": {"fra-gw1": state.gateways["fra-gw1"].model_dump(mode="json") | {"newest": None}}},
        {"requires": ["telepathy"]},
        {"ledger": {"allowed": -1, "dark": {}}},
    ]
    for each in wrong:
        with pytest.raises(DecodeError):
            decode_state(encode(state.model_dump(mode="json") | each).encode())
    assert isinstance(state, State)
