"""What is known again without being decoded: the long way's verdict, for a good packet and many that are odd."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from site_agent.vrrp import packet, seal
from site_agent.vrrp.familiar import Familiar, familiar
from site_agent.vrrp.packet import Advertisement, DiscardError
from site_agent.vrrp.router_words import AdvertReceived
from site_agent.vrrp.seal import FIELDS_BYTES, Flag, Path, Seal, Stamp, Window, pack_fields

GW4, PEER4 = ip_address("198.51.100.1"), ip_address("198.51.100.2")
KEY = b"k" * 32
ADVERT = packet.encode(
    Advertisement(vrid=51, priority=100, max_advertise_interval=1, addresses=(ip_address("198.51.100.10"),)), PEER4, GW4
)
EVENT = AdvertReceived(path=Path.OUTSIDE, source=PEER4, priority=100, max_advertise_interval=1, router_id=2)
BOOT = 1_700_000_000_000_000_000
ANCILLARY, SENDER = [(41, 52, b"\xff\0\0\0")], ("fe80::2", 112, 0, 3)


def header(ttl: int = 255, first: int = 0x45, number: int = 7) -> bytes:
    return bytes([first, 0xC0, 0, 100]) + number.to_bytes(4, "big") + bytes([ttl, 112, 0, 0]) + PEER4.packed + GW4.packed


def payload(sequence: int, *, flags: int = 1, router_id: int = 2, key: bytes = KEY, boot: int = BOOT) -> bytes:
    said = Seal(flags=Flag(flags), heard=Path.OUTSIDE, router_id=router_id, boot=boot, sequence=sequence)
    return seal.seal(ADVERT, said, PEER4, GW4, 1, key)


def known(v4: bool = True) -> tuple[Familiar, Window]:
    window = Window({2: (BOOT, 1)})
    data = (header() if v4 else b"") + payload(1)
    found = familiar(data, ANCILLARY, SENDER, v4=v4, stamp=Stamp(ADVERT, PEER4, GW4, KEY), event=EVENT)
    assert found is not None
    return found, window


def test_the_next_one_is_known_and_taken_once() -> None:
    for v4 in (True, False):
        found, window = known(v4)
        for sequence in (2, 3, 9):
            data = (header(number=sequence) if v4 else b"") + payload(sequence)
            assert found.repeats(data, list(ANCILLARY), tuple(SENDER), window)
            assert not found.repeats(data, ANCILLARY, SENDER, window), "it was taken before"
        assert window.last == {2: (BOOT, 9)}


ODD: dict[str, Callable[[], bytes]] = {
    "older": lambda: header() + payload(0),
    "an earlier boot": lambda: header() + payload(9, boot=BOOT - 1),
    "routed": lambda: header(ttl=254) + payload(9),
    "options": lambda: header(first=0x46) + payload(9),
    "from elsewhere": lambda: header()[:12] + GW4.packed + GW4.packed + payload(9),
    "another priority": lambda: header() + ADVERT[:2] + b"\x65" + payload(9)[3:],
    "another flag": lambda: header() + payload(9, flags=0),
    "another term": lambda: header() + payload(seal.numbered(1, 9)),
    "another router": lambda: header() + payload(9, router_id=3),
    "another key": lambda: header() + payload(9, key=b"o" * 32),
    "more behind it": lambda: header() + payload(9) + b"\0",
    "cut short": lambda: header() + payload(9)[:-1],
    "no seal": lambda: header() + ADVERT,
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_whatever_is_odd_is_not(odd: Callable[[], bytes]) -> None:
    found, window = known()
    assert not found.repeats(odd(), ANCILLARY, SENDER, window)
    assert window.last == {2: (BOOT, 1)}, "it has changed the window"


def test_ipv6_tells_hop_limit_and_sender_beside_the_packet() -> None:
    found, window = known(v4=False)
    assert not found.repeats(payload(9), [(41, 52, b"\xfe\0\0\0")], SENDER, window)
    assert not found.repeats(payload(9), ANCILLARY, ("fe80::3", 112, 0, 3), window)
    assert found.repeats(payload(9), ANCILLARY, SENDER, window)


@given(st.integers(0, len(header() + payload(9)) - 1), st.integers(1, 255))
def test_no_byte_of_it_can_be_changed(place: int, change: int) -> None:
    if place in range(1, 8) or place in range(9, 12):
        return  # the IP header's own, which the kernel has looked at
    found, window = known()
    data = bytearray(header() + payload(9))
    data[place] ^= change
    assert not found.repeats(bytes(data), ANCILLARY, SENDER, window)


def test_behind_options_nothing_becomes_familiar() -> None:
    data = header(first=0x46) + bytes(4) + ADVERT
    assert familiar(data, [], (), v4=True, stamp=None, event=EVENT) is None


def test_without_a_seal_the_same_bytes_are_enough() -> None:
    found = familiar(header() + ADVERT, [], (), v4=True, stamp=None, event=EVENT)
    assert found is not None and found.repeats(header(number=8) + ADVERT, [], (), Window())
    assert not found.repeats(header(ttl=254) + ADVERT, [], (), Window())


@given(st.binary(min_size=FIELDS_BYTES, max_size=FIELDS_BYTES), st.binary(min_size=32, max_size=32))
def test_a_stamp_is_the_digest(fields: bytes, key: bytes) -> None:
    assert Stamp(ADVERT, PEER4, GW4, key).digest(fields) == seal._digest(key, PEER4, GW4, ADVERT + fields)


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(0, 20)), max_size=40))
def test_packed_and_unpacked_seals_are_taken_alike(history: list[tuple[int, int, int]]) -> None:
    packed, unpacked = Window(), Window()
    for router_id, boot, sequence in history:
        said = Seal(flags=Flag(0), heard=Path(0), router_id=router_id, boot=boot, sequence=sequence)
        taken = packed.take_fields(pack_fields(1, said.flags, said.heard, router_id, boot, sequence))
        try:
            unpacked.take(said)
        except DiscardError:
            assert not taken
        else:
            assert taken
    assert packed.last == unpacked.last
