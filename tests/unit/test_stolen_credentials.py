"""The table in docs/content.md, row by row: what who stole a key or a coordinator can do, and what not.

A gateway's certificate and a credential have theirs in `tests/interop/test_stolen_access.py`."""

from __future__ import annotations

import json
import re

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from anycast.content.canonical import encode, hash_of
from anycast.content.envelope import LAST_GENERATION, Offer
from anycast.content.record import NOTHING, Record
from anycast.coordinator.access import Caller, Role
from anycast.policy.acceptance import LONGEST_JUMP, Refusal, activate, offer
from anycast.policy.behind import Known, Word, contradiction
from anycast.policy.drain import Drain, DrainCore, Looked, Plan, RouteWord, Seen, Step
from anycast.policy.recovery import Recovered, recover
from anycast.policy.rollout import Version
from tests.support.contents import (
    ALICE,
    FLEET,
    MALLORY,
    SITES,
    TRUSTED,
    Made,
    activation,
    envelope,
    made,
    me,
    offered,
    revoked,
)
from tests.support.tree import TREE


class Agent:
    """One gateway of `site`, and whoever sends to it."""

    def __init__(self, site: str) -> None:
        self.site, self.record, self.generation, self.operators = site, NOTHING, 0, TRUSTED

    def give(self, content: Made, generation: int | None = None) -> Refusal | None:
        """Stage and activate. None: done."""
        number = self.generation + 1 if generation is None else generation
        answer = offer(self.record, me(self.site), self.operators, offered(content, number, self.site))
        if answer.refusal is None:
            word = activation(content.content, number, self.site)
            answer = activate(answer.record, me(self.site), self.operators, word)
        self.record = answer.record
        if answer.refusal is None:
            self.generation = number
        return answer.refusal

    @property
    def dark(self) -> bool:
        record: Record = self.record
        return record.active is None or not record.active.decoded.sites[self.site].attracts


FIRST = made()
DRAINS = made(after=[FIRST.content], fra="drained", lon="drained")
BACK = made(after=[DRAINS.content])
OTHERS = made(after=[BACK.content], sin="drained", tyo="drained")


def fleet(*contents: Made) -> dict[str, Agent]:
    agents = {site: Agent(site) for site in SITES}
    for agent in agents.values():
        for content in contents:
            assert agent.give(content) is None
    return agents


def test_operator_key_changes_every_document() -> None:
    changed = made(after=[FIRST.content], prefix="2001:db8:a::/56", more=dict.fromkeys(SITES, "agent: {stop_limit: 60 s}"))
    agents = fleet(FIRST)
    assert all(agent.give(changed) is None for agent in agents.values())
    active = agents["fra"].record.active
    assert active is not None and active.runs.agent.stop_limit_ms == 60_000


def test_operator_key_darkens_in_one_content_what_the_budget_allows() -> None:
    for size in range(1, 7):
        dark = made(after=[FIRST.content], **dict.fromkeys(SITES[:size], "drained"))
        answers = {agent.give(dark) for agent in fleet(FIRST).values()}
        assert answers == ({None} if size <= 2 else {Refusal.OVER_BUDGET})


def test_operator_key_darkens_the_rest_in_two_contents() -> None:
    lowered = made(after=[FIRST.content], budget="{min_sites: 1}")
    dark = made(after=[lowered.content], budget="{min_sites: 1}", **dict.fromkeys(SITES[1:], "drained"))
    agents = fleet(FIRST, lowered, dark)
    assert [site for site, agent in agents.items() if not agent.dark] == ["ams"]
    last = made(after=[dark.content], budget="{min_sites: 1}", **dict.fromkeys(SITES, "drained"))
    assert {agent.give(last) for agent in agents.values()} == {Refusal.OVER_BUDGET}, "one is always left"


def test_operator_key_ends_with_its_revocation() -> None:
    agents = fleet(FIRST)
    for agent in agents.values():
        agent.operators = revoked()
        assert agent.give(DRAINS) is Refusal.REVOKED
        assert not agent.dark, "and nothing goes dark by it"


def test_coordinator_writes_nothing() -> None:
    agent = Agent("fra")
    assert offer(NOTHING, me(), TRUSTED, offered(FIRST, 1, key=MALLORY)).refusal is Refusal.UNTRUSTED
    for change in ("content", "document"):
        tree = json.loads(offered(FIRST, 1))
        place = tree["envelope"] if change == "content" else tree
        place[change] = place[change].replace("2001:db8:a::/56", "2001:db8:a::/57")
        assert offer(agent.record, me(), TRUSTED, encode(tree).encode()).refusal in (
            Refusal.BAD_SIGNATURE,
            Refusal.WRONG_DOCUMENT,
        )
    assert Agent("fra").give(Made(FIRST.content, FIRST.documents | {"fra-gw1": FIRST.documents["sin-gw1"]})) is (
        Refusal.WRONG_DOCUMENT
    )


def test_coordinator_replays_no_old_content_but_the_one_before() -> None:
    agents = fleet(FIRST, DRAINS, BACK, OTHERS)
    for agent in agents.values():
        assert agent.give(FIRST) is Refusal.OUT_OF_LINE
        assert agent.give(DRAINS) is Refusal.OUT_OF_LINE
        assert agent.give(OTHERS, 2) is Refusal.LOWER_GENERATION
        assert agent.give(BACK) is None


def test_coordinator_mixes_two_contents_only_within_the_budget() -> None:
    """Any sites by the one, any by the other: by returns and by keeping back."""
    for before, after in ((FIRST, DRAINS), (DRAINS, BACK), (BACK, OTHERS)):
        chain = [FIRST, DRAINS, BACK, OTHERS]
        upto = chain[: chain.index(after) + 1]
        for mixture in range(2 ** len(SITES)):
            dark = [
                site
                for i, site in enumerate(SITES)
                if not (after if mixture >> i & 1 else before).content.sites[site].attracts
            ]
            assert len(dark) <= 2
        agents = fleet(*upto)
        for site in SITES[::2]:
            assert agents[site].give(before) is None
        assert sum(agent.dark for agent in agents.values()) <= 2


def test_coordinator_mixes_three_contents_to_two_budgets() -> None:
    agents = fleet(FIRST, DRAINS, BACK)
    for site in ("fra", "lon"):
        assert agents[site].give(DRAINS) is None, "a return"
    for site in ("sin", "tyo"):
        assert agents[site].give(OTHERS) is None, "signed since"
    assert sorted(site for site, agent in agents.items() if agent.dark) == ["fra", "lon", "sin", "tyo"]


def test_coordinator_gives_a_gateway_without_a_record_any_signed_content() -> None:
    assert Agent("fra").give(DRAINS) is None
    assert Agent("fra").give(made(fra="drained", lon="drained", sin="drained")) is Refusal.OVER_BUDGET


def test_coordinator_activates_one_site_a_message() -> None:
    agents = {site: Agent(site) for site in SITES}
    word = activation(FIRST.content, 1, "fra")
    taken = []
    for site, agent in agents.items():
        staged = offer(agent.record, me(site), TRUSTED, offered(FIRST, 1, site)).record
        answer = activate(staged, me(site), TRUSTED, word)
        taken.append(site) if answer.refusal is None else None
        assert answer.refusal in (None, Refusal.NOT_FOR_US)
    assert taken == ["fra"]


def test_coordinator_gives_two_contents_one_number_and_nobody_takes_either() -> None:
    agents = fleet(FIRST)
    agent = agents["fra"]
    assert offer(agent.record, me(), TRUSTED, offered(DRAINS, 2)).refusal is None
    agent.record = offer(agent.record, me(), TRUSTED, offered(DRAINS, 2)).record
    assert agent.give(made(after=[FIRST.content], ams="drained"), 2) is Refusal.FROZEN
    assert agent.give(DRAINS, 2) is Refusal.FROZEN and not agent.dark


def test_coordinator_does_not_use_up_the_numbers() -> None:
    agent = fleet(FIRST)["fra"]
    assert agent.give(DRAINS, LAST_GENERATION) is Refusal.GENERATION_JUMP
    assert agent.give(DRAINS, 1 + LONGEST_JUMP) is None
    assert agent.give(BACK) is None


STORE = Known(generation=2, contents={hash_of(FIRST.content.text)}, given={1: hash_of(FIRST.content.text)})


def lying(content: Made, generation: int) -> dict[str, Word]:
    """fra-gw1 says that it runs by that; everybody else says the truth."""
    first = Version(1, hash_of(FIRST.content.text))
    words = {f"{site}-gw1": Word(site=site, active=first) for site in SITES}
    return words | {"fra-gw1": Word(site="fra", active=Version(generation, hash_of(content.content.text)))}


def handed(content: Made, key: Ed25519PrivateKey = ALICE, document: str = "fra-gw1") -> dict[tuple[str, str], Offer]:
    sealed = envelope(content.content, 9, key)
    offer_ = Offer(version=1, envelope=sealed, document=content.documents[document])
    return {("fra-gw1", sealed.hash): offer_}


def test_gateway_makes_a_coordinator_read_only_until_it_is_left_out() -> None:
    words = lying(DRAINS, 9)
    assert [name for name, word in words.items() if contradiction(word, STORE)] == ["fra-gw1"]
    assert isinstance(recover(STORE, words, {}, TRUSTED, FLEET), tuple), "nothing is taken on its word alone"
    del words["fra-gw1"]
    assert isinstance(recover(STORE, words, {}, TRUSTED, FLEET, left_out=("fra-gw1",)), Recovered)


def test_gateway_hands_a_coordinator_only_what_an_operator_signed() -> None:
    found = recover(STORE, lying(DRAINS, 9), handed(DRAINS), TRUSTED, FLEET)
    assert isinstance(found, Recovered) and list(found.given.values()) == [hash_of(DRAINS.content.text)]
    assert [sorted(each.documents) for each in found.contents.values()] == [["fra-gw1"]], "for itself"
    for had in (handed(DRAINS, MALLORY), handed(DRAINS, document="sin-gw1"), handed(BACK)):
        assert isinstance(recover(STORE, lying(DRAINS, 9), had, TRUSTED, FLEET), tuple)
    for number in (3 + LONGEST_JUMP, LAST_GENERATION):
        assert isinstance(recover(STORE, lying(DRAINS, number), handed(DRAINS), TRUSTED, FLEET), tuple)


def test_observer_delays_a_drain_and_moves_nothing() -> None:
    def after(seen: Seen, route: RouteWord, seconds: int) -> Step:
        plan = Plan(id="d", by="alice", why="optics", to=(), settle_s=10.0)
        core = DrainCore(Drain(plan=plan, step=Step.WITHDRAWING, since=0.0))
        for now in range(seconds):
            core.handle(
                Looked(tunnels=(), route=route, serving=True, active=True, closed=False, seen=seen), float(now)
            )
            assert core.wants.refuse <= (route is RouteWord.NONE)
        return core.drain.step

    assert after(Seen.SEEN, RouteWord.NONE, 3600) is Step.WITHDRAWING, "for as long as it lies"
    assert after(Seen.NOT_SEEN, RouteWord.NONE, 2) is Step.REFUSING, "at once"
    assert after(Seen.UNKNOWN, RouteWord.NONE, 5) is Step.WITHDRAWING
    assert after(Seen.UNKNOWN, RouteWord.NONE, 15) is Step.REFUSING
    for route in (RouteWord.NORMAL, RouteWord.WORSE, RouteWord.UNKNOWN):
        assert after(Seen.NOT_SEEN, route, 3600) is Step.WITHDRAWING
    for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN):
        assert not Caller("outside", Role.OBSERVER).may(role)


def test_each_row_of_the_table_is_one_of_these() -> None:
    text = (TREE / "docs" / "content.md").read_text()
    named = re.findall(r"^\|.*\| `(test_\w+)` \|$", text, re.MULTILINE)
    there = (TREE / "tests" / "interop" / "test_stolen_access.py").read_text()
    tests = [name for name in globals() if name.startswith("test_") and "row" not in name]
    assert sorted(named) == sorted([*tests, *re.findall(r"^def (test_\w+)", there, re.MULTILINE)])
