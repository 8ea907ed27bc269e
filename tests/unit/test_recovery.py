"""Whether a store is behind, by what a gateway says; and what it takes from gateways: by signature, all problems at once."""

from __future__ import annotations

import re

import pytest

from anycast.content.canonical import hash_of
from anycast.content.envelope import LAST_GENERATION, Envelope, Offer
from anycast.content.operators import Operators
from anycast.policy.acceptance import LONGEST_JUMP
from anycast.policy.behind import Known, Word, contradiction, sentence
from anycast.policy.recovery import ROOM, Recovered, recover, wanted
from anycast.policy.rollout import Version
from tests.support.contents import FLEET, MALLORY, SITES, TRUSTED, Made, envelope, made, revoked

FIRST = made()
SECOND = made(after=(FIRST.content,), fra="drained")
THIRD = made(after=(SECOND.content,))
A, B, C = (hash_of(each.content.text) for each in (FIRST, SECOND, THIRD))
STORE = Known(generation=2, contents={A}, given={1: A, 2: A})


def word(site: str = "fra", *, active: tuple[int, str] | None = None, staged: tuple[int, str] | None = None, **more) -> Word:  # type: ignore[no-untyped-def]
    versions = {name: each and Version(*each) for name, each in (("active", active), ("staged", staged))}
    return Word(site=site, **versions, **more)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (word(), ""),
        (word(active=(1, A)), ""),
        (word(active=(1, A), staged=(2, A)), ""),
        (word(active=(3, B)), "runs by generation 3, .*, and this store has given out 2"),
        (word(active=(1, A), staged=(3, A)), "was sent generation 3"),
        (word(active=(2, B)), "a content that this store does not have"),
        (word(active=(1, A), frozen=2), ""),
        (word(active=(1, A), frozen=3), "was sent two contents under generation 3"),
        (word(active=(1, A), held=("x-1",)), "is dark by x-1, a slot that this store has never given"),
    ],
)
def test_what_a_store_does_not_know_speaks_against_it(said: Word, why: str) -> None:
    assert re.search(why, contradiction(said, STORE)) if why else contradiction(said, STORE) == ""


def test_another_content_under_a_number_of_its_own_speaks_against_it_and_one_it_left_out_does_not() -> None:
    both = Known(generation=1004, contents={A, B}, given={1: A, 2: A, 4: B})
    assert "by this store that number is" in contradiction(word(active=(4, A)), both)
    assert contradiction(word(active=(4, B)), both) == ""
    assert contradiction(word(active=(700, B)), both) == "", "a number that a store before this one may have given"


def test_the_sentence_names_some_and_counts_the_rest() -> None:
    against = {f"{site}-gw1": "runs by generation 3" for site in SITES}
    assert sentence({}) == ""
    assert sentence(against).endswith("lon-gw1 runs by generation 3; and 3 more gateways")


def handed(of: Made, generation: int, *sites: str) -> dict[tuple[str, str], Offer]:
    hash_ = hash_of(of.content.text)
    return {
        (f"{site}-gw1", hash_): Offer(
            version=1, envelope=envelope(of.content, generation), document=of.documents[f"{site}-gw1"]
        )
        for site in sites
    }


def test_contents_are_taken_by_their_signatures_with_everybodys_document() -> None:
    words = {f"{site}-gw1": word(site, active=(3, B)) for site in SITES}
    words["tyo-gw1"] = word("tyo", active=(1, A), staged=(3, B))
    words["sin-gw1"] = word("sin", active=(3, B), staged=(5, C), frozen=9)
    assert len(list(wanted(STORE, words))) == 7
    had = handed(SECOND, 3, *SITES) | handed(THIRD, 5, "sin")
    found = recover(STORE, words, had, TRUSTED, FLEET)
    assert isinstance(found, Recovered), found
    assert found.generation == 9 + ROOM
    assert dict(found.given) == {3: B, 5: C}
    assert {hash_: (each.signed_by, sorted(each.documents)) for hash_, each in found.contents.items()} == {
        B: ("alice", [f"{site}-gw1" for site in SITES]),
        C: ("alice", ["sin-gw1"]),
    }


def test_where_nobody_knows_more_the_numbers_go_on_as_they_were() -> None:
    found = recover(STORE, {"fra-gw1": word(active=(1, A))}, {}, TRUSTED, FLEET)
    assert found == Recovered(generation=2, given={}, contents={})
    found = recover(STORE, {"fra-gw1": word(active=(1, A))}, {}, TRUSTED, FLEET, left_out=("sin-gw1",))
    assert isinstance(found, Recovered) and found.generation == 2 + ROOM, "who is left out may know more"


def test_what_a_revoked_operator_signed_is_known_as_that() -> None:
    words = {"fra-gw1": word(active=(3, B))}
    found = recover(STORE, words, handed(SECOND, 3, "fra"), revoked(), FLEET)
    assert isinstance(found, Recovered)
    assert found.contents[B].signed_by == "alice, revoked since 2026-01-02T00:00:00Z"


def refused(words: dict[str, Word], had: dict[tuple[str, str], Offer], operators: Operators = TRUSTED) -> tuple[str, ...]:
    found = recover(STORE, words, had, operators, FLEET)
    assert isinstance(found, tuple) and found
    return found


def test_two_contents_under_one_number_are_named_wherever_the_other_is() -> None:
    words = {f"{site}-gw1": word(site, active=(3, B)) for site in ("fra", "lon")}
    words["sin-gw1"] = word("sin", staged=(3, C))
    had = handed(SECOND, 3, "fra", "lon") | handed(THIRD, 3, "sin")
    [problem] = refused(words, had)
    assert f"{B[:12]} at fra-gw1, lon-gw1" in problem and f"{C[:12]} at sin-gw1" in problem and "generation 3 is" in problem
    words = {"fra-gw1": word("fra", active=(2, B))}
    [problem] = refused(words, handed(SECOND, 2, "fra"))
    assert f"{A[:12]} at this store" in problem


def forged(**changes: object) -> dict[tuple[str, str], Offer]:
    good = handed(SECOND, 3, "fra")["fra-gw1", B]
    return {("fra-gw1", B): good.model_copy(update=changes)}


@pytest.mark.parametrize(
    ("had", "operators", "said"),
    [
        ({}, TRUSTED, f"fra-gw1 does not hand over content {B[:12]}"),
        (forged(envelope=envelope(SECOND.content, 3, MALLORY)), TRUSTED, "untrusted"),
        (forged(envelope=Envelope(version=1, generation=3, content=SECOND.content.text)), TRUSTED, "unsigned"),
        (forged(envelope=envelope(THIRD.content, 3)), TRUSTED, f"what was handed over is {C[:12]}"),
        (forged(envelope=envelope(SECOND.content, 3).model_copy(update={"content": THIRD.content.text})), TRUSTED, C[:12]),
        (forged(document=SECOND.documents["sin-gw1"]), TRUSTED, "the document of fra-gw1 is not the one that was signed"),
        (handed(SECOND, 3, "fra"), TRUSTED.model_copy(update={"fleet": "other"}), "untrusted"),
    ],
)
def test_what_no_operator_signed_is_not_taken(
    had: dict[tuple[str, str], Offer], operators: Operators, said: str
) -> None:
    [problem] = refused({"fra-gw1": word(active=(3, B))}, had, operators)
    assert said in problem


def test_a_changed_text_under_its_old_signature_is_not_taken() -> None:
    other = hash_of(THIRD.content.text)
    signature = envelope(SECOND.content, 3).signature
    offer = Offer(
        version=1,
        envelope=Envelope(version=1, generation=3, content=THIRD.content.text, signature=signature),
        document=THIRD.documents["fra-gw1"],
    )
    [problem] = refused({"fra-gw1": word(active=(3, other))}, {("fra-gw1", other): offer})
    assert "bad_signature" in problem


def test_a_gateway_at_another_site_hands_over_nothing() -> None:
    [problem] = refused({"fra-gw1": word("sin", active=(3, B))}, handed(SECOND, 3, "fra"))
    assert "it has no gateway fra-gw1 at site sin" in problem


@pytest.mark.parametrize("number", [LONGEST_JUMP + 3, LAST_GENERATION])
def test_a_number_that_no_agent_would_have_taken_is_not_counted_on_from(number: int) -> None:
    [problem] = refused({"fra-gw1": word(active=(number, A))}, {})
    assert f"fra-gw1 names generation {number}, which no coordinator counts up to" in problem


def test_everything_against_it_is_said_at_once() -> None:
    words = {"fra-gw1": word("fra", active=(3, B)), "sin-gw1": word("sin", active=(3, C))}
    found = recover(STORE, words, {}, TRUSTED, FLEET, unheard=("tyo-gw1",))
    assert isinstance(found, tuple) and len(found) == 4, found
    assert found[0] == "tyo-gw1 has not been heard: wait for it, or leave it out"
