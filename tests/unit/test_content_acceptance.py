"""What an agent takes from a coordinator, and what it refuses by which word: `policy/acceptance.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from anycast.content.canonical import encode, hash_of
from anycast.content.envelope import LAST_GENERATION, Offer
from anycast.content.operators import Operators, none_yet
from anycast.content.record import NOTHING, Record, decode_record
from anycast.content.signature import sign
from anycast.document import Document
from anycast.policy.acceptance import LONGEST_JUMP, Answer, Identity, Refusal, activate, offer
from anycast.reasons import Reason
from tests.support.contents import (
    ALICE,
    MALLORY,
    SITES,
    TRUSTED,
    Made,
    activation,
    envelope,
    kept,
    made,
    me,
    offered,
    revoked,
)

FIRST = made()
DRAINED = made(after=[FIRST.content], sin="drained")
BACK = made(after=[DRAINED.content])


def stage(record: Record, what: Made, generation: int, operators: Operators = TRUSTED, **changes: Any) -> Answer:
    data = offered(what, generation)
    for path, value in changes.items():
        tree = json.loads(data)
        at = tree
        *way, last = path.split("__")
        for step in way:
            at = at[step]
        at[last] = value(at[last]) if callable(value) else value
        data = encode(tree).encode()
    answer = offer(record, me(), operators, data)
    assert answer.refusal is None or answer.refusal is Refusal.FROZEN or answer.record is record
    return answer


def run_by(record: Record, what: Made, generation: int) -> Record:
    staged = stage(record, what, generation)
    assert staged.refusal is None, staged.detail
    answer = activate(staged.record, me(), TRUSTED, activation(what.content, generation))
    assert answer.refusal is None and answer.reason is None, answer.detail
    return answer.record


RUNNING = run_by(NOTHING, FIRST, 7)


def refusal(answer: Answer) -> Refusal | None:
    assert (answer.refusal is None) == (answer.reason is None)
    assert answer.refusal is None or answer.detail.startswith(str(answer.refusal))
    return answer.refusal


def test_stage_then_activate() -> None:
    staged = stage(RUNNING, DRAINED, 8)
    assert (refusal(staged), kept(staged.record)) == (
        None,
        {"active": (7, hash_of(FIRST.content.text)), "previous": None, "staged": (8, hash_of(DRAINED.content.text))},
    )
    active = activate(staged.record, me(), TRUSTED, activation(DRAINED.content, 8))
    assert (refusal(active), kept(active.record)) == (
        None,
        {"active": (8, hash_of(DRAINED.content.text)), "previous": (7, hash_of(FIRST.content.text)), "staged": None},
    )


def test_the_document_runs_under_the_generation_that_the_coordinator_gave() -> None:
    assert RUNNING.active is not None
    signed = Document.model_validate_json(FIRST.documents["fra-gw1"])
    assert signed.generation == 0
    assert RUNNING.active.runs == signed.model_copy(update={"generation": 7})


def test_the_same_thing_twice_is_fine() -> None:
    staged = stage(RUNNING, DRAINED, 8).record
    again = stage(staged, DRAINED, 8)
    assert refusal(again) is None and again.record is staged
    assert refusal(stage(staged, FIRST, 7)) is None, "also what is active, while something newer waits"
    word = activation(DRAINED.content, 8)
    active = activate(staged, me(), TRUSTED, word).record
    again = activate(active, me(), TRUSTED, word)
    assert refusal(again) is None and again.record is active


def test_nobody_signed_it() -> None:
    assert refusal(stage(RUNNING, DRAINED, 8, envelope__signature=None)) is Refusal.UNSIGNED


def test_somebody_else_signed_it() -> None:
    data = offered(DRAINED, 8, key=MALLORY)
    assert refusal(offer(RUNNING, me(), TRUSTED, data)) is Refusal.UNTRUSTED
    assert refusal(stage(RUNNING, DRAINED, 8, none_yet("example"))) is Refusal.UNTRUSTED, "nobody is trusted yet"
    alices = sign(DRAINED.content.text, ALICE).key
    forged = sign(DRAINED.content.text, MALLORY).model_dump() | {"key": alices}
    assert refusal(stage(RUNNING, DRAINED, 8, envelope__signature=forged)) is Refusal.BAD_SIGNATURE


def test_who_signed_it_is_not_trusted_any_more() -> None:
    assert refusal(stage(RUNNING, DRAINED, 8, revoked())) is Refusal.REVOKED
    staged = stage(RUNNING, DRAINED, 8).record
    late = activate(staged, me(), revoked(), activation(DRAINED.content, 8))
    assert refusal(late) is Refusal.REVOKED and late.record is staged, "nor what was staged before the revocation"
    again = activate(RUNNING, me(), revoked(), activation(FIRST.content, 7))
    assert refusal(again) is None, "what is active stays: a revocation darkens nothing"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"drained"', '"announced"'),
        lambda text: text.replace('"min_sites":4', '"min_sites":1'),
        lambda text: text + " ",
        lambda text: text[:-1] + ',"x":1}',
    ],
)
def test_not_one_byte_differs_from_what_was_signed(change: Callable[[str], str]) -> None:
    assert refusal(stage(RUNNING, DRAINED, 8, envelope__content=change)) is Refusal.BAD_SIGNATURE


def test_another_fleets() -> None:
    other = made(fleet="other", after=[FIRST.content])
    assert refusal(stage(RUNNING, other, 8)) is Refusal.FOREIGN, "signed by an operator of both"
    theirs = TRUSTED.model_copy(update={"fleet": "other"})
    assert refusal(stage(RUNNING, DRAINED, 8, theirs)) is Refusal.UNTRUSTED, "another fleet's list is no list"


@pytest.mark.parametrize("generation", [1, 6])
def test_a_lower_generation(generation: int) -> None:
    assert refusal(stage(RUNNING, DRAINED, generation)) is Refusal.LOWER_GENERATION
    staged = stage(RUNNING, DRAINED, 8).record
    assert refusal(stage(staged, BACK, 8 - generation)) is Refusal.LOWER_GENERATION


def test_the_numbers_cannot_be_used_up() -> None:
    assert refusal(stage(RUNNING, DRAINED, 7 + LONGEST_JUMP + 1)) is Refusal.GENERATION_JUMP
    assert refusal(stage(RUNNING, DRAINED, 7 + LONGEST_JUMP)) is None
    assert refusal(stage(RUNNING, DRAINED, 8, envelope__generation=LAST_GENERATION + 1)) is Refusal.MALFORMED
    assert LAST_GENERATION // LONGEST_JUMP > 2**30


def test_two_contents_under_one_generation_freeze_both_until_a_higher_one() -> None:
    other = made(after=[FIRST.content], tyo="drained")
    staged = stage(RUNNING, DRAINED, 8).record
    split = stage(staged, other, 8)
    assert (split.refusal, split.reason) == (Refusal.FROZEN, Reason.GENERATION_SPLIT)
    frozen = decode_record(split.record.data)
    assert kept(frozen) == {"active": kept(RUNNING)["active"], "previous": None, "staged": None}, "what is active stays"
    for each in (DRAINED, other, made(after=[FIRST.content], lon="drained")):
        assert refusal(stage(frozen, each, 8)) is Refusal.FROZEN
        assert refusal(activate(frozen, me(), TRUSTED, activation(each.content, 8))) is Refusal.FROZEN
        assert refusal(stage(frozen, each, 7)) is Refusal.LOWER_GENERATION
    thawed = stage(frozen, other, 9)
    assert refusal(thawed) is None and thawed.record.frozen is None
    assert run_by(frozen, other, 9).active is not None


def test_a_second_content_under_the_active_generation_freezes_too() -> None:
    split = stage(RUNNING, DRAINED, 7)
    assert (split.refusal, split.reason) == (Refusal.FROZEN, Reason.GENERATION_SPLIT)
    assert kept(split.record) == kept(RUNNING)
    assert refusal(stage(split.record, DRAINED, 7)) is Refusal.FROZEN
    assert refusal(stage(split.record, DRAINED, 8)) is None


def test_what_nobody_signed_freezes_nothing() -> None:
    staged = stage(RUNNING, DRAINED, 8).record
    garbage = offer(staged, me(), TRUSTED, offered(made(after=[FIRST.content], tyo="drained"), 8, key=MALLORY))
    assert refusal(garbage) is Refusal.UNTRUSTED and garbage.record is staged


def test_it_has_to_follow_what_was_taken_last() -> None:
    assert refusal(stage(RUNNING, BACK, 8)) is Refusal.OUT_OF_LINE, "planned against a drain that is not here"
    assert refusal(stage(RUNNING, made(tyo="drained"), 8)) is Refusal.OUT_OF_LINE, "what follows nothing is a first one"
    staged = stage(RUNNING, DRAINED, 8).record
    assert refusal(stage(staged, BACK, 9)) is None, "what is staged counts, so one that was away is given all in order"
    assert refusal(stage(staged, made(after=[FIRST.content], tyo="drained"), 9)) is Refusal.OUT_OF_LINE
    either = made(after=[FIRST.content, DRAINED.content], tyo="drained")
    assert refusal(stage(RUNNING, either, 9)) is None is refusal(stage(staged, either, 9))


def test_the_first_content_of_a_gateway_may_be_any() -> None:
    assert refusal(stage(NOTHING, BACK, 12)) is None


def test_a_return_is_old_content_under_a_new_generation() -> None:
    drained = run_by(RUNNING, DRAINED, 8)
    returned = run_by(drained, FIRST, 9)
    assert kept(returned)["active"] == (9, hash_of(FIRST.content.text))
    staged = stage(drained, BACK, 9).record
    assert refusal(stage(staged, DRAINED, 10)) is None, "or to what is active, before what is staged is activated"
    assert refusal(stage(staged, BACK, 10)) is None, "or the same numbered anew"
    older = run_by(drained, BACK, 9)
    assert refusal(stage(older, FIRST, 10)) is Refusal.OUT_OF_LINE, "further back an operator signs anew"


def test_beyond_the_budget_by_itself() -> None:
    dark = made(after=[FIRST.content], **dict.fromkeys(SITES[:3], "drained"))
    answer = stage(RUNNING, dark, 8)
    assert refusal(answer) is Refusal.OVER_BUDGET
    assert "3 sites attract" in answer.detail
    assert refusal(stage(NOTHING, dark, 8)) is Refusal.OVER_BUDGET, "a first content too"


def test_beyond_the_budget_by_the_sites_that_are_known_here() -> None:
    left = made(["fra"], after=[FIRST.content], budget="{min_sites: 1}")
    assert refusal(stage(NOTHING, left, 1)) is None, "by itself nothing is wrong with it"
    answer = stage(RUNNING, left, 8)
    assert refusal(answer) is Refusal.OVER_BUDGET
    assert "ams, lon, nyc, sin, tyo would go dark, and 1 site attracts" in answer.detail
    swapped = made(after=[DRAINED.content], ams="drained", tyo="drained")
    staged = stage(RUNNING, DRAINED, 8).record
    assert refusal(stage(staged, swapped, 9)) is Refusal.OVER_BUDGET, "sin comes back as late as a coordinator likes"


def test_not_for_this_gateway() -> None:
    without = made([name for name in SITES if name != "fra"], after=[FIRST.content])
    data = Offer(version=1, envelope=envelope(without.content, 8), document=FIRST.documents["fra-gw1"]).data
    assert refusal(offer(RUNNING, me(), TRUSTED, data)) is Refusal.NOT_FOR_US
    elsewhere = Identity(fleet="example", site="sin", gateway="fra-gw1")
    assert refusal(offer(NOTHING, elsewhere, TRUSTED, offered(FIRST, 1))) is Refusal.NOT_FOR_US


def test_a_document_that_was_not_signed() -> None:
    assert refusal(stage(RUNNING, DRAINED, 8, document=DRAINED.documents["sin-gw1"])) is Refusal.WRONG_DOCUMENT
    loose = DRAINED.documents["fra-gw1"].replace('"stop_limit_ms":1000', '"stop_limit_ms":60000')
    assert loose != DRAINED.documents["fra-gw1"]
    assert refusal(stage(RUNNING, DRAINED, 8, document=loose)) is Refusal.WRONG_DOCUMENT
    staged = stage(RUNNING, DRAINED, 8).record
    assert refusal(stage(staged, DRAINED, 8, document=loose)) is Refusal.WRONG_DOCUMENT, "nor under a content that is here"


def signed_with(document: dict[str, Any] | str) -> Made:
    """A content whose operator signed this as the document of fra-gw1."""
    text = document if isinstance(document, str) else encode(document)
    tree = json.loads(DRAINED.content.text)
    tree["sites"]["fra"]["gateways"]["fra-gw1"]["document"] = hash_of(text)
    content = type(DRAINED.content).model_validate_json(encode(tree))
    return Made(content, {"fra-gw1": text})


@pytest.mark.parametrize(
    "change",
    [
        {"gateway": "sin-gw1"},
        {"site": "sin"},
        {"fleet": "other"},
        {"generation": 3},
        {"requires": ["telepathy"]},
        {"lease": None},
    ],
    ids=str,
)
def test_a_document_that_was_signed_by_mistake(change: dict[str, Any]) -> None:
    document = json.loads(DRAINED.documents["fra-gw1"])
    assert refusal(stage(RUNNING, signed_with(document), 8)) is None
    assert refusal(stage(RUNNING, signed_with(document | change), 8)) is Refusal.WRONG_DOCUMENT


def test_a_document_that_announces_less_than_the_content_says() -> None:
    document = json.loads(DRAINED.documents["fra-gw1"])
    silent = document | {"bgp": document["bgp"] | {"neighbors": []}}
    assert refusal(stage(RUNNING, signed_with(silent), 8)) is Refusal.WRONG_DOCUMENT
    other = json.loads(DRAINED.documents["fra-gw1"])
    other["bgp"]["neighbors"][0]["announces"] = ["2001:db8:a::/57"]
    assert refusal(stage(RUNNING, signed_with(other), 8)) is Refusal.WRONG_DOCUMENT


def test_an_activation_names_one_site_one_generation_one_hash() -> None:
    staged = stage(RUNNING, DRAINED, 8).record

    def word(**changes: Any) -> Refusal | None:
        data = json.loads(activation(DRAINED.content, 8)) | changes
        answer = activate(staged, me(), TRUSTED, encode(data).encode())
        assert answer.refusal is None or answer.record is staged
        return refusal(answer)

    assert word() is None
    assert word(site="sin") is Refusal.NOT_FOR_US
    for several in (["fra", "sin"], "*", "", None, {"fra": True}):
        assert word(site=several) is Refusal.MALFORMED
    assert word(generation=9) is Refusal.NOT_STAGED
    assert word(hash=hash_of(BACK.content.text)) is Refusal.NOT_STAGED
    assert word(requires=["haste"]) is Refusal.MALFORMED
    assert word(version=2) is Refusal.MALFORMED
    assert word(word="unknown optional fields are ignored") is None
    nothing = activate(RUNNING, me(), TRUSTED, activation(DRAINED.content, 8))
    assert refusal(nothing) is Refusal.NOT_STAGED


def test_requires_is_obeyed_and_unknown_fields_are_not_minded() -> None:
    for path in ("requires", "envelope__requires"):
        assert refusal(stage(RUNNING, DRAINED, 8, **{path: ["telepathy"]})) is Refusal.MALFORMED
    tree = json.loads(DRAINED.content.text)
    for change, expected in (({"requires": ["telepathy"]}, Refusal.MALFORMED), ({"colour": "green"}, None)):
        text = encode(tree | change)
        data = Offer(version=1, envelope=envelope(text, 8), document=DRAINED.documents["fra-gw1"]).data
        answer = offer(RUNNING, me(), TRUSTED, data)
        assert refusal(answer) is expected
    assert answer.record.staged is not None and answer.record.staged.content == text, "kept byte for byte"
