"""The VRRP codec against bytes that were worked out by hand from RFC 9568 section 5.2, and against any bytes at all."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from site_agent.vrrp.packet import (
    GROUP_V4,
    GROUP_V6,
    Advertisement,
    Discard,
    DiscardError,
    Interop,
    decode,
    encode,
)
from site_agent.vrrp.seal import MAX_TERM, SEAL_BYTES, Flag, Path, Seal, Window, numbered, seal, unseal

GW4, VIP4, PEER4 = ip_address("198.51.100.2"), ip_address("198.51.100.10"), ip_address("198.51.100.3")
GW6, LL6, VIP6 = ip_address("fe80::2"), ip_address("fe80::10"), ip_address("2001:db8:1::10")
V4 = Advertisement(vrid=51, priority=100, max_advertise_interval=10, addresses=(VIP4,))
V6 = Advertisement(vrid=51, priority=100, max_advertise_interval=10, addresses=(LL6, VIP6))


def test_the_bytes_of_an_ipv4_advertisement() -> None:
    total = 0x3133 + 0x6401 + 0x000A + 0xC633 + 0x640A
    total = (total & 0xFFFF) + (total >> 16)
    expected = bytes.fromhex("31336401000a") + (~total & 0xFFFF).to_bytes(2, "big") + VIP4.packed
    assert encode(V4, GW4, GROUP_V4) == expected


def test_ipv6_counts_its_pseudo_header() -> None:
    data = encode(V6, GW6, GROUP_V6)
    pseudo = GW6.packed + GROUP_V6.packed + len(data).to_bytes(4, "big") + bytes([0, 0, 0, 112])
    whole = pseudo + data
    total = sum(int.from_bytes(whole[i : i + 2], "big") for i in range(0, len(whole), 2))
    assert total % 0xFFFF == 0


@pytest.mark.parametrize("interop", Interop)
@pytest.mark.parametrize(("advert", "source", "group"), [(V4, GW4, GROUP_V4), (V6, GW6, GROUP_V6)])
def test_what_is_encoded_is_decoded(interop: Interop, advert: Advertisement, source, group) -> None:
    data = encode(advert, source, group, interop)
    found, rest = decode(data + b"seal", source, group, 255, interop)
    assert found == advert and bytes(rest) == b"seal"


def test_keepalived_hears_either_ipv4_checksum_and_the_rfc_only_its_own() -> None:
    ours, theirs = encode(V4, GW4, GROUP_V4), encode(V4, GW4, GROUP_V4, Interop.KEEPALIVED)
    assert ours != theirs
    assert (
        decode(ours, GW4, GROUP_V4, 255, Interop.KEEPALIVED)[0] == decode(theirs, GW4, GROUP_V4, 255, Interop.KEEPALIVED)[0]
    )
    with pytest.raises(DiscardError) as caught:
        decode(theirs, GW4, GROUP_V4, 255)
    assert caught.value.cause is Discard.CHECKSUM


def test_keepalived_alone_may_send_ipv6_unicast_with_hop_limit_64() -> None:
    peer = ip_address("fe80::3")
    data = encode(V6, GW6, peer)
    assert decode(data, GW6, peer, 64, Interop.KEEPALIVED)[0] == V6
    for interop, destination in ((Interop.RFC9568, peer), (Interop.KEEPALIVED, GROUP_V6)):
        with pytest.raises(DiscardError) as caught:
            decode(encode(V6, GW6, destination), GW6, destination, 64, interop)
        assert caught.value.cause is Discard.TTL


def resum(data: bytes) -> bytes:
    """`data` with the checksum that fits it."""
    from site_agent.vrrp.packet import checksum

    blank = data[:6] + b"\0\0" + data[8:]
    return data[:6] + checksum(blank, GW4, GROUP_V4, pseudo_header=False).to_bytes(2, "big") + data[8:]


GOOD = encode(V4, GW4, GROUP_V4)


@pytest.mark.parametrize(
    ("data", "ttl", "cause"),
    [
        (GOOD, 254, Discard.TTL),
        (resum(b"\x21" + GOOD[1:]), 255, Discard.VERSION),
        (resum(b"\x32" + GOOD[1:]), 255, Discard.TYPE),
        (GOOD[:6] + b"\0\0" + GOOD[8:], 255, Discard.CHECKSUM),
        (GOOD[:7], 255, Discard.LENGTH),
        (GOOD[:-1], 255, Discard.LENGTH),
        (resum(GOOD[:3] + b"\0" + GOOD[4:8]), 255, Discard.LENGTH),
        (resum(GOOD[:1] + b"\0" + GOOD[2:]), 255, Discard.VRID),
        (resum(GOOD[:4] + b"\0\0" + GOOD[6:]), 255, Discard.INTERVAL),
    ],
)
def test_each_fault_has_a_cause_of_its_own(data: bytes, ttl: int, cause: Discard) -> None:
    with pytest.raises(DiscardError) as caught:
        decode(data, GW4, GROUP_V4, ttl)
    assert caught.value.cause is cause


@given(st.binary(max_size=200), st.sampled_from([(GW4, GROUP_V4), (GW6, GROUP_V6)]), st.sampled_from(Interop))
def test_any_bytes_decode_or_are_discarded(data: bytes, ends, interop: Interop) -> None:
    try:
        advert, rest = decode(data, *ends, 255, interop)
    except DiscardError:
        return
    assert advert.vrid and advert.addresses and bytes(rest) == data[8 + len(advert.addresses) * ends[0].max_prefixlen // 8 :]


KEY, OTHER = b"k" * 32, b"o" * 32
SAID = Seal(flags=Flag.ACTIVE, heard=Path.INSIDE, router_id=0xC6336402, boot=1_700_000_000_000_000_000, sequence=5)


def sealed(said: Seal = SAID, key_id: int = 1, key: bytes = KEY) -> bytes:
    return seal(GOOD, said, GW4, PEER4, key_id, key)


def test_a_seal_is_read_as_it_was_written_with_any_key_of_the_file() -> None:
    data = sealed(key_id=2, key=OTHER)
    assert len(data) == len(GOOD) + SEAL_BYTES
    assert unseal(GOOD, data[len(GOOD) :], GW4, PEER4, {1: KEY, 2: OTHER}) == SAID


@given(st.integers(0, len(GOOD) + SEAL_BYTES - 1), st.integers(1, 255))
def test_no_byte_can_be_changed(place: int, change: int) -> None:
    data = bytearray(sealed())
    data[place] ^= change
    with pytest.raises(DiscardError) as caught:
        unseal(data[: len(GOOD)], data[len(GOOD) :], GW4, PEER4, {1: KEY})
    assert caught.value.cause is Discard.SEAL


def test_nor_can_it_be_sent_on_to_another_path() -> None:
    data = sealed()
    for source, destination in ((GW4, GROUP_V4), (PEER4, GW4)):
        with pytest.raises(DiscardError):
            unseal(GOOD, data[len(GOOD) :], source, destination, {1: KEY})


@given(st.binary(max_size=120))
def test_any_trailer_is_proven_or_discarded(trailer: bytes) -> None:
    with pytest.raises(DiscardError):
        unseal(GOOD, trailer, GW4, PEER4, {1: KEY})


@pytest.mark.parametrize("term", [0, 1, MAX_TERM])
def test_a_term_stands_before_the_sequence_and_an_older_version_reads_one_number(term: int) -> None:
    said = Seal(flags=Flag.ACTIVE, heard=Path(0), router_id=1, boot=1, sequence=numbered(term, 5))
    again = unseal(GOOD, seal(GOOD, said, GW4, PEER4, 1, KEY)[len(GOOD) :], GW4, PEER4, {1: KEY})
    assert again == said and again.term == term
    assert numbered(term, 2**48 - 1) < numbered(term + 1, 0), "a later term is never a replay"


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 20)), max_size=40))
def test_nothing_is_taken_twice_and_nothing_older_than_the_last(history: list[tuple[int, int]]) -> None:
    window, taken = Window(), []
    for boot, sequence in history:
        try:
            window.take(Seal(flags=Flag(0), heard=Path(0), router_id=1, boot=boot, sequence=sequence))
        except DiscardError as discarded:
            assert discarded.cause is Discard.REPLAY
            continue
        taken.append((boot, sequence))
    assert taken == sorted(set(taken))
    for boot, sequence in taken:  # also after a restart that remembered
        with pytest.raises(DiscardError):
            Window(window.last).take(Seal(flags=Flag(0), heard=Path(0), router_id=1, boot=boot, sequence=sequence))


def test_a_record_is_taken_once_also_after_a_restart_that_remembered() -> None:
    window = Window()
    window.take(SAID)
    for again in (window, Window(window.last)):
        with pytest.raises(DiscardError) as caught:
            again.take(SAID)
        assert caught.value.cause is Discard.REPLAY
