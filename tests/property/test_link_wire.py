"""The link between agent and coordinator: any bytes decode or raise DecodeError, and what is encoded is read back."""

from __future__ import annotations

import base64
import json
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anycast import link_wire
from anycast.content.canonical import LARGEST
from anycast.content.envelope import Envelope, Offer, decode_offer
from anycast.content.signature import Signature
from anycast.errors import DecodeError
from anycast.link_offer import PACKED, OfferFrames, unpacked
from anycast.link_wire import CauseTold, ContentHad, ContentWanted, Hello, HoldTold, OfferPacked, OfferSent, Report

words = st.text(max_size=128)
texts = st.text(max_size=512)
reports = st.builds(
    Report,
    number=st.integers(0, 2**53),
    document=words,
    generation=st.integers(0, 2**53),
    serving=st.booleans(),
    announced=st.integers(0, 1000),
    routes=st.integers(0, 1000),
    causes=st.lists(st.builds(CauseTold, reason=words, check=words, detail=texts), max_size=16).map(tuple),
    role=st.sampled_from(["active", "backup", "none"]),
    hold=st.none() | st.builds(HoldTold, kind=st.sampled_from(["withdraw", "announce"]), reason=texts, left_s=st.just(1.5)),
    tunnels=st.none() | st.integers(0, 10**6),
    shared=st.dictionaries(words, words, max_size=8),
    alarms=st.dictionaries(words, texts, max_size=8),
)


@given(reports)
def test_a_report_is_read_as_it_was_written(report: Report) -> None:
    frame = link_wire.encode(report)
    assert link_wire.length(frame[:4]) == len(frame) - 4
    assert link_wire.decode(frame[4:]) == report


@given(words, st.none() | st.text(max_size=2000))
def test_a_content_that_is_handed_over_is_read_as_it_was_written(hash_: str, data: str | None) -> None:
    for message in (ContentWanted(hash=hash_), ContentHad(hash=hash_, data=data)):
        assert link_wire.decode(link_wire.encode(message)[4:]) == message


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "number", "role", "x"]), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_decode_or_raise(data: bytes) -> None:
    try:
        link_wire.decode(data)
    except DecodeError:
        pass


def test_the_largest_report_that_the_model_allows_fits() -> None:
    wide = "\U0001f512" * 512
    word = "\U0001f512" * 128
    causes = tuple(CauseTold(reason=word, check=word, detail=wide) for _ in range(16))
    alarms = {f"{word[:125]}{n:03}": wide for n in range(64)}
    shared = {f"{word[:125]}{n:03}": "unknown" for n in range(64)}
    leased = {f"{n:043}": link_wire.MOST_LEASED for n in range(64)}
    report = Report(
        number=1, document=word, generation=1, serving=False, announced=0, routes=0, causes=causes, role="none",
        alarms=alarms, shared=shared, leased=leased, hold=HoldTold(kind="withdraw", reason=wide, left_s=1),
    )  # fmt: skip
    assert len(link_wire.encode(report)) <= link_wire.LONGEST_FRAME + 4


def test_what_is_unknown_is_ignored_or_refused_as_its_sender_wants() -> None:
    known = {"kind": "hello", "protocols": [1, 9], "fleet": "f", "site": "s", "gateway": "g", "agent": "2", "instance": "i",
             "boot": "b"}  # fmt: skip
    hello = link_wire.decode(json.dumps({**known, "colour": "blue"}).encode())
    assert isinstance(hello, Hello)
    assert link_wire.protocol_of(hello) == 1
    assert link_wire.decode(b'{"kind": "something_newer", "x": 1}') is None
    for change, field in (({"requires": ["flight"]}, "requires"), ({"protocols": [8, 9]}, "protocols")):
        changed = link_wire.decode(json.dumps({**known, **change}).encode())
        assert isinstance(changed, Hello)
        with pytest.raises(DecodeError) as caught:
            link_wire.protocol_of(changed)
        assert caught.value.field == field
    for head in (b"\x00\x00\x00\x01", b"\xff\xff\xff\xff", b"\x00\x04\x00\x01"):
        with pytest.raises(DecodeError):
            link_wire.length(head)


@given(st.text(max_size=200), st.text(max_size=200), st.integers(1, 2**63 - 1))
def test_an_offer_arrives_the_same_whole_and_packed(content: str, document: str, generation: int) -> None:
    """Whatever stands in its texts: the one is spelt by hand, the other put together by the reader."""
    signature = Signature(key="0" * 32, value="AA==")
    envelope = Envelope(version=1, generation=generation, content=content, signature=signature)
    frames, offer = OfferFrames(envelope), Offer(version=1, envelope=envelope, document=document)
    whole, packed = (link_wire.decode(frames.frame(document, takes)[4:]) for takes in ((), ("newer", PACKED)))
    assert isinstance(whole, OfferSent) and isinstance(packed, OfferPacked)
    assert whole.data.encode() == unpacked(packed) == offer.data
    assert decode_offer(offer.data) == offer


def packed(data: bytes, cut: int) -> str:
    return base64.b64encode(zlib.compress(data)[: -cut or None]).decode()


any_text = st.text(st.characters(exclude_categories=()), max_size=64)
"""Also what JSON can name and UTF-8 cannot: half a character."""


@given(any_text | st.builds(packed, st.binary(max_size=64), st.integers(0, 8)), any_text)
@example(packed(b"{}", 0), "\ud800")
def test_what_is_packed_badly_is_refused_and_never_more_than_may_be(envelope: str, document: str) -> None:
    sent = link_wire.decode(json.dumps({"kind": "offer_packed", "envelope": envelope, "document": document}).encode())
    assert isinstance(sent, OfferPacked)
    try:
        assert isinstance(unpacked(sent), bytes)
    except DecodeError:
        pass


@given(st.binary(max_size=link_wire.HEAD))
def test_any_head_is_an_offer_or_passed_over_or_refused(head: bytes) -> None:
    try:
        link_wire.is_long_offer(head)
    except DecodeError:
        pass


def test_a_frame_is_long_only_if_its_head_says_that_it_is_an_offer() -> None:
    envelope = Envelope(version=1, generation=1, content="x", signature=Signature(key="0" * 32, value="AA=="))
    frames = OfferFrames(envelope)
    ours = [frames.frame("{}", takes)[4:] for takes in ((), (PACKED,))]
    ours.append(link_wire.encode(OfferSent(data="x"))[4:])
    assert all(link_wire.is_long_offer(frame[: link_wire.HEAD]) for frame in ours)
    assert not link_wire.is_long_offer(b'{ "kind" : "something_newer", "x":')
    none = (b'{"data":"x","kind":"offer"}', b'{"kind":"ack","number":1', b'{"kind":"welcome",', b"[[[[", b'{"kind":"offer')
    for head in none:
        with pytest.raises(DecodeError, match="256 KiB"):
            link_wire.is_long_offer(head)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = base64.b64encode(zlib.compress(b" " * (LARGEST + 1))).decode()
    assert len(bomb) < link_wire.LONGEST_FRAME
    with pytest.raises(DecodeError, match="32 MiB"):
        unpacked(OfferPacked(envelope=bomb, document="{}"))
