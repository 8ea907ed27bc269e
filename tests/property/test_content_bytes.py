"""One spelling; any bytes mean something or are a DecodeError; a signature is of what is read; an applied plan is empty."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.content.canonical import encode, hash_of
from anycast.content.content import Budget, Content, Floor, Gateway, Intent, Site, decode_content
from anycast.content.envelope import Offer, decode_activation, decode_offer
from anycast.content.operators import decode_line, decode_operators
from anycast.content.record import NOTHING, decode_record
from anycast.content.signature import is_signed, public_of, sign
from anycast.content.state import decode_state
from anycast.errors import DecodeError
from anycast.policy.acceptance import Refusal, activate, offer
from anycast.policy.budget import shortfalls
from anycast.policy.plan import decode_plan, decode_submission, make, submit
from tests.support.contents import ALICE, MALLORY, TRUSTED, activation, envelope, made, me, offered, state_of

NAMES = st.sampled_from(["ams", "fra", "lon", "nyc", "sin"])
PREFIXES = st.lists(st.sampled_from([f"2001:db8:{n:x}::/48" for n in range(1, 6)]), max_size=3, unique=True).map(tuple)
FLOORS = st.builds(Floor, min_sites=st.integers(1, 4), min_capacity=st.none() | st.integers(1, 500))


def site(name: str) -> st.SearchStrategy[Site]:
    gateway = st.builds(
        Gateway,
        document=st.just(hash_of("")),
        announces=st.dictionaries(st.sampled_from(["r1", "r2"]), PREFIXES, max_size=2),
        holds=st.just(()),
    )
    return st.builds(
        Site,
        intent=st.sampled_from(Intent),
        region=st.sampled_from([None, "eu", "us"]),
        capacity=st.none() | st.integers(1, 300),
        gateways=st.sets(st.sampled_from([f"{name}-gw1", f"{name}-gw2"]), min_size=1).flatmap(
            lambda names: st.fixed_dictionaries({each: gateway for each in sorted(names)})
        ),
    )


CONTENTS = st.builds(
    Content,
    version=st.just(1),
    fleet=st.just("example"),
    service=st.just("vpn"),
    after=st.just(()),
    budget=st.builds(
        Budget,
        min_sites=st.integers(1, 4),
        min_capacity=st.none() | st.integers(1, 500),
        regions=st.dictionaries(st.sampled_from(["eu", "us"]), FLOORS),
        retiring=PREFIXES,
    ),
    sites=st.sets(NAMES, min_size=1).flatmap(
        lambda names: st.fixed_dictionaries({each: site(each) for each in sorted(names)})
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
FIRST = made()
STATE, KNOWN = state_of(FIRST.content)
PLAN = make(STATE, KNOWN, made(fra="drained").content, FIRST.documents)
RECORD = offer(NOTHING, me(), TRUSTED, offered(FIRST, 1)).record
READERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "content": (decode_content, FIRST.content.text.encode()),
    "offer": (decode_offer, offered(FIRST, 1)),
    "activation": (decode_activation, activation(FIRST.content, 1)),
    "operators": (decode_operators, TRUSTED.data),
    "record": (decode_record, RECORD.data),
    "state": (decode_state, encode(STATE.model_dump(mode="json")).encode()),
    "plan": (decode_plan, PLAN.text.encode()),
    "submission": (decode_submission, submit(PLAN, ALICE).data),
}


@given(content=CONTENTS)
def test_canonical_bytes_are_stable(content: Content) -> None:
    text = content.text
    assert decode_content(text) == content
    assert decode_content(text.encode()).text == text
    assert encode(json.loads(text)) == text
    shuffled = json.dumps(dict(reversed(json.loads(text).items())))
    assert encode(json.loads(shuffled)) == text
    with pytest.raises(DecodeError):
        decode_content(shuffled)


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_any_bytes_mean_something_or_are_a_decode_error(name: str, data: st.DataObject) -> None:
    read, good = READERS[name]
    at, length = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 40))
    bad = data.draw(
        st.binary(max_size=200)
        | st.just(good[:at] + good[at + length :])
        | st.binary(max_size=8).map(lambda some: good[:at] + some + good[at + len(some) :])
        | JSON.map(lambda value: json.dumps(value).encode())
        | JSON.map(lambda value: encode(value).encode(errors="replace"))
        | st.sampled_from([b"[" * 100_000, b'{"a":1,"a":1}', b"1" * 5000, b"NaN", b'"\\ud800"', b"\xff", b"-0", b"1e999"])
    )
    try:
        read(bad)
    except DecodeError:
        pass
    read(good)


@pytest.mark.parametrize("name", [name for name in READERS if name != "state"])
@given(data=st.data())
def test_any_value_anywhere_too(name: str, data: st.DataObject) -> None:
    """As if a machine of another version, or a stranger, had written a field of its own taste."""
    read, good = READERS[name]
    tree = json.loads(good)
    at = tree
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(JSON)
    try:
        read(encode(tree).encode(errors="replace"))
    except DecodeError:
        pass


@given(text=st.text(max_size=40) | st.text(max_size=44).map(lambda some: f"anycast-operator alice {some}"))
def test_a_public_key_is_one_line(text: str) -> None:
    good = next(iter(TRUSTED.operators)).line
    assert decode_line(good) == next(iter(TRUSTED.operators)) == decode_line(good + "\n")
    try:
        assert decode_line(text).line == text.strip()
    except DecodeError:
        pass


@given(content=CONTENTS, data=st.data())
def test_a_signature_is_of_exactly_what_is_read(content: Content, data: st.DataObject) -> None:
    text = content.text
    signature, public = sign(text, ALICE), public_of(ALICE)
    assert is_signed(text, signature, public)
    assert not is_signed(text, signature, public_of(MALLORY))
    at = data.draw(st.integers(0, len(text) - 1))
    other = text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]
    assert not is_signed(other, signature, public)
    assert not is_signed(text, signature.model_copy(update={"key": "0" * 32}), public)
    assert not is_signed(text, signature.model_copy(update={"value": sign(other, ALICE).value}), public)
    data_ = Offer(version=1, envelope=envelope(text, 1).model_copy(update={"content": other}), document="").data
    assert offer(NOTHING, me(), TRUSTED, data_).refusal is Refusal.BAD_SIGNATURE


@given(messages=st.lists(st.sampled_from([*(good for _, good in READERS.values()), b"", b"{}"]) | st.binary(max_size=50)))
def test_nothing_that_is_sent_raises_or_takes_the_active_content_away(messages: list[bytes]) -> None:
    record = activate(RECORD, me(), TRUSTED, activation(FIRST.content, 1)).record
    for message in messages:
        for take in (offer, activate):
            record = decode_record(take(record, me(), TRUSTED, message).record.data)
            assert record.active is not None and record.active.content == FIRST.content.text


@given(before=CONTENTS, after=CONTENTS)
def test_a_plan_and_then_nothing_to_do(before: Content, after: Content) -> None:
    """Whatever is refused: once it has been applied all the same, there is nothing to do, and nothing more to refuse."""
    plan = make(*state_of(before), after, {})
    assert plan.empty == (before.core == after.core)
    assert plan.empty or plan.changes or before.budget != after.budget
    done = decode_content(plan.content)
    again = make(*state_of(done, generation=2), after, {})
    assert again.empty and not again.changes and again.moves.worst == 0
    assert not any(row.changes for row in again.announcements)
    assert again.problems == shortfalls(None, after)


@given(before=CONTENTS, after=CONTENTS)
def test_what_a_plan_allows_leaves_the_floor_in_every_mixture(before: Content, after: Content) -> None:
    if shortfalls(None, before) or shortfalls(before, after):
        return
    names = sorted(before.sites.keys() | after.sites.keys())
    was = {name: content.attracts for name, content in before.sites.items()}
    will = {name: content.attracts for name, content in after.sites.items()}
    least = min(before.budget.min_sites, after.budget.min_sites)
    for mixture in range(2 ** len(names)):
        lit = [name for i, name in enumerate(names) if (will if mixture >> i & 1 else was).get(name)]
        assert len(lit) >= least
