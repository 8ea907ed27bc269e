"""Records from the kernel's and the peer's bytes: any bytes decode or raise; what is quick says the same as what is slow."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError, PeerError
from site_agent.ike.mirror_view import CharonView
from site_agent.netlink.xfrm_digest import PolicyReader, SaReader
from site_agent.sync import digest_wire
from site_agent.sync.digest_compare import Cause, Finding
from site_agent.sync.digest_table import BUCKETS, RECORD_BYTES, SUM_BYTES, Of
from tests.support.xfrm_bytes import ENDS, attribute, message, policy_payload, sa_payload


@given(st.binary(max_size=900))
def test_any_bytes_give_records_or_raise(data: bytes) -> None:
    for make in (SaReader, PolicyReader):
        for take in ("take", "take_datagram"):
            try:
                getattr(make(ENDS), take)(data)
            except DecodeError:
                continue


@given(st.data())
def test_any_change_of_a_message_gives_records_or_raises(data: st.DataObject) -> None:
    """Readers that have learned shapes."""
    for reader, payload in ((SaReader(ENDS), sa_payload()), (PolicyReader(ENDS), policy_payload())):
        reader.take(payload)
        changed = bytearray(payload)
        for _ in range(data.draw(st.integers(1, 4))):
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        try:
            reader.take(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
        except DecodeError:
            continue


NUMBERS = st.sampled_from([1, 2, 3, 4, 10, 15, 18, 20, 21, 22, 23, 24, 29, 30, 31, 40])
ATTRIBUTES = st.lists(st.tuples(NUMBERS, st.binary(min_size=24, max_size=40)), max_size=6)


@given(st.lists(st.tuples(ATTRIBUTES, st.integers(0, 3), st.booleans()), min_size=1, max_size=8))
def test_a_learned_shape_changes_nothing(drawn: list[tuple[list[tuple[int, bytes]], int, bool]]) -> None:
    """One reader for all messages says what a reader for each says."""
    payloads = [
        sa_payload(spi=number, inbound=inbound, attributes=b"".join(attribute(*each) for each in attributes))
        for number, (attributes, _turn, inbound) in enumerate(drawn, 1)
    ]
    # Each a second time: then its shape is known.
    quick, slow = SaReader(ENDS), list[bytes]()
    for payload in payloads * 2:
        quick.take(payload)
        alone = SaReader(ENDS)
        alone.take(payload)
        slow += alone.records
    assert quick.records == slow


@given(st.lists(st.tuples(ATTRIBUTES, st.integers(0, 3), st.booleans()), min_size=1, max_size=8))
def test_a_learned_shape_of_policies_changes_nothing(drawn: list[tuple[list[tuple[int, bytes]], int, bool]]) -> None:
    payloads = [
        policy_payload(inner=number, direction=direction, template_first=first,
                       attributes=b"".join(attribute(*each) for each in attributes))
        for number, (attributes, direction, first) in enumerate(drawn, 1)
    ]  # fmt: skip
    quick, slow = PolicyReader(ENDS), {}
    for payload in payloads * 2:
        quick.take(payload)
        alone = PolicyReader(ENDS)
        alone.take(payload)
        slow |= alone.records
    assert quick.records == slow


@given(st.binary(min_size=20, max_size=20), st.binary(min_size=4, max_size=4))
def test_no_key_shows_in_a_record(key: bytes, numbers: bytes) -> None:
    plain, other = SaReader(ENDS), SaReader(ENDS)
    plain.take(sa_payload())
    other.take(sa_payload(key=key, numbers=numbers))
    assert plain.records == other.records


@given(st.binary(max_size=400))
def test_any_bytes_of_the_peer_decode_or_raise(data: bytes) -> None:
    try:
        message_ = digest_wire.decode(data)
    except DecodeError:
        return
    assert digest_wire.decode(digest_wire.encode(message_)) == message_


@given(st.sampled_from(Of), st.data())
def test_what_is_told_is_what_is_heard(of: Of, data: st.DataObject) -> None:
    record = st.binary(min_size=RECORD_BYTES[of], max_size=RECORD_BYTES[of])
    number = data.draw(st.integers(0, 0xFFFF_FFFF))
    findings = data.draw(st.lists(st.tuples(record, st.sampled_from(Cause), st.booleans()), max_size=5))
    told = [(Finding(of, each, cause), stands) for each, cause, stands in findings]
    heard = [digest_wire.decode(digest_wire.encode(each)) for each in digest_wire.cut_findings(number, of, told)]
    assert [found for each in heard if isinstance(each, digest_wire.Findings) for found in each.findings] == told
    buckets = data.draw(st.dictionaries(st.integers(0, BUCKETS - 1), st.lists(record, max_size=5), max_size=4))
    joined: dict[int, list[bytes]] = {}
    for each in digest_wire.cut_records(number, of, buckets.items()):
        assert digest_wire.decode(digest_wire.encode(each)) == each
        for piece in each.pieces:
            joined.setdefault(piece.bucket, []).extend(piece.records)
    assert joined == buckets
    sums = digest_wire.Sums(round=number, of=of, entries=3, sums=bytes(BUCKETS * SUM_BYTES))
    assert digest_wire.decode(digest_wire.encode(sums)) == sums


@pytest.mark.parametrize("of", Of)
def test_a_crowded_bucket_is_cut_and_ends_once(of: Of) -> None:
    records = [number.to_bytes(RECORD_BYTES[of]) for number in range(10_000)]
    cut = list(digest_wire.cut_records(1, of, [(5, records), (6, [])]))
    pieces = [piece for each in cut for piece in each.pieces]
    assert len(cut) > 1 and max(len(digest_wire.encode(each)) for each in cut) <= digest_wire.PIECE_BYTES + 100
    assert [record for piece in pieces for record in piece.records] == records
    assert [(piece.bucket, piece.last) for piece in pieces if piece.last] == [(5, True), (6, True)]


HEAD = bytes.fromhex("0000000001")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x01" + HEAD[:4], b"\x06" + HEAD, b"\x02\x09" + HEAD[1:],
        b"\x01" + HEAD + bytes(4 + 8 * 1023),
        b"\x02" + HEAD, b"\x02" + HEAD + b"\x00", b"\x02" + HEAD + b"\x00\x01\x00\x01", b"\x02" + HEAD + b"\x04\x00",
        b"\x02" + HEAD + b"".join(number.to_bytes(2) for number in range(65)),
        b"\x03" + HEAD + b"\x00\x05\x01\x00", b"\x03" + HEAD + b"\x00\x05\x01\x00\x02" + bytes(51),
        b"\x03" + HEAD + b"\x00\x05\x02\x00\x00", b"\x03" + HEAD + b"\x04\x00\x01\x00\x00",
        b"\x04" + HEAD + b"\x01\x01" + bytes(50), b"\x04" + HEAD + b"\x01\x02" + bytes(51),
        b"\x04" + HEAD + b"\x00\x01" + bytes(51), b"\x05" + HEAD + bytes(8),
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        digest_wire.decode(data)


JSON = st.recursive(
    st.none() | st.binary(max_size=8) | st.sampled_from([b"203.0.113.1", b"c1", b"7", b"ESP", b"INSTALLED", b"ESTABLISHED"]),
    lambda inner: st.dictionaries(
        st.sampled_from(["local-host", "remote-host", "remote-port", "uniqueid", "state", "initiator-spi", "responder-spi",
                         "child-sas", "spi-in", "spi-out", "protocol", "reqid", "name", "vpn"]), inner, max_size=14),
    max_leaves=30,
)  # fmt: skip


@given(JSON)
def test_anything_that_charon_says_is_understood_or_refused(event: object) -> None:
    view = CharonView(frozenset({"203.0.113.1"}))
    for said in (event, {"vpn": event}):
        try:
            view.take(said)  # type: ignore[arg-type]
        except PeerError:
            continue


def test_messages_of_other_kinds_are_left_to_others() -> None:
    reader = SaReader(ENDS)
    reader.take_datagram(message(sa_payload(), kind=0x13) + message(struct.pack("=i", 0), kind=3) + message(sa_payload()))
    assert len(reader.records) == 1
