"""What agent and vrrp process hand each other, and the frames for neighbours: bytes worked out by hand, and any bytes."""

from __future__ import annotations

import dataclasses
import json
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError
from site_agent.vrrp import plan, wire
from site_agent.vrrp.late_ticks import LateTicks
from site_agent.vrrp.neighbours import gratuitous_arp, unsolicited_na
from tests.support.vrrp_pair import make_plan

MAC = bytes.fromhex("020000000001")
STATUS = wire.Status(
    role="active", cause="peer_silent", since_ns=1, heard=1, peer="fit", peer_active=False, discarded={"outside:seal": 2},
    late={"count": 1, "worst_ms": 0.1, "p999_ms": 0.1}, faults=[], boot=7, taken={"outside:4:2": [3, 4]}, installed_us=90,
    bfd={"fra-a": {"state": "up", "since_ns": 3}},
)  # fmt: skip
PEER = plan.BfdPeer(
    name="fra-a", local=ip_address("198.51.100.1"), remote=ip_address("198.51.100.14"), interface="eth1",
    desired_min_tx_us=100_000, required_min_rx_us=100_000, detect_mult=3,
)  # fmt: skip
MESSAGES = [
    wire.Grant(priority=100, until_ns=5, uplink=None),
    wire.Grant(priority=0, until_ns=5, uplink=False, attract_until_ns=6),
    wire.HandOver(),
    wire.Grace(until_ns=9),
    wire.Stop(),
    wire.Stop(keep_bfd=True),
    wire.Answer(at_ns=3, until_ns=4, role="backup", peer="fit", peer_active=True),
    wire.Keys(keys={1: b"k" * 32, 2: b"n" * 32}, in_use=2),
    STATUS,
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_read_as_it_was_written(message: wire.Message) -> None:
    assert wire.decode(wire.encode(message)) == message


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(max_size=9), st.lists).map(json.dumps)
       .map(str.encode))  # fmt: skip
def test_anything_else_is_a_decode_error(data: bytes) -> None:
    for decode in (wire.decode, plan.decode):
        with pytest.raises(DecodeError):
            decode(data)


@given(st.sampled_from(MESSAGES), st.data())
def test_a_field_of_another_type_is_a_decode_error(message: wire.Message, data: st.DataObject) -> None:
    fields = json.loads(wire.encode(message))
    names = [field.name for field in dataclasses.fields(message)]
    if not names:
        return
    fields[data.draw(st.sampled_from(names))] = data.draw(st.sampled_from(["1", 1.5, [[]], object.__name__]))
    try:
        again = wire.decode(json.dumps(fields).encode())
    except DecodeError:
        return
    assert isinstance(again, wire.Status | wire.Answer)  # whose texts and lists may be any


@pytest.mark.parametrize(
    "changed",
    [{"keys": {"1": "6b"}}, {"keys": {}}, {"in_use": 3}, {"keys": {"0": "6b" * 32}}, {"keys": {"1": "6b" * 32 + "x"}},
     {"keys": "6b" * 32}, {"keys": {"6b" * 32: 1}}, {"in_use": "6b"}],
    ids=str,
)  # fmt: skip
def test_keys_that_cannot_seal_are_refused_and_not_shown(changed: dict[str, object]) -> None:
    fields = json.loads(wire.encode(wire.Keys(keys={1: b"k" * 32}, in_use=1))) | changed
    with pytest.raises(DecodeError) as caught:
        wire.decode(json.dumps(fields).encode())
    assert "6b6b" not in str(caught.value) or "int()" in str(caught.value)  # an id is no secret
    assert "kkkk" not in repr(wire.Keys(keys={1: b"k" * 32}, in_use=1)) + repr(make_plan(1, keys={1: b"k" * 32}))


def test_the_report_of_a_process_of_before_keys_could_change_is_understood() -> None:
    fields = json.loads(wire.encode(STATUS))
    for name in ("keys", "key_in_use", "peer_keys"):
        del fields[name]
    assert wire.decode(json.dumps(fields).encode()) == STATUS


def test_one_that_knows_nothing_of_bfd_and_one_that_knows_more_are_understood() -> None:
    for message, name, without in ((MESSAGES[1], "attract_until_ns", 0), (STATUS, "bfd", {})):
        fields = json.loads(wire.encode(message))
        assert wire.decode(json.dumps({**fields, "later": 1}).encode()) == message
        del fields[name]
        assert getattr(wire.decode(json.dumps(fields).encode()), name) == without


def test_a_plan_is_read_as_it_was_written() -> None:
    written = make_plan(1, keys={1: b"k" * 32, 7: b"n" * 32}, taken={"outside:4:2": [3, 4]}, boot_after=5)
    assert plan.decode(plan.encode(written)) == written
    only_bfd = make_plan(1, links=(), bfd=(PEER,), bfd_before=STATUS.bfd)
    assert plan.decode(plan.encode(only_bfd)) == only_bfd


@pytest.mark.parametrize(
    "changed",
    [
        {"advertisement_interval": 0},
        {"advertisement_interval": 4096},
        {"keys": {1: b"short"}},
        {"key_in_use": 9},
        {"links": ()},
        {"bfd": (PEER, PEER)},
        {"bfd": (dataclasses.replace(PEER, detect_mult=0),)},
        {"bfd": (dataclasses.replace(PEER, detect_mult=256),)},
        {"bfd": (dataclasses.replace(PEER, desired_min_tx_us=0),)},
        {"bfd": (dataclasses.replace(PEER, required_min_rx_us=2**32),)},
        {"bfd": (dataclasses.replace(PEER, remote=PEER.local),)},
        {"bfd": (dataclasses.replace(PEER, remote=ip_address("2001:db8:1::e")),)},
    ],
    ids=str,
)
def test_a_plan_that_cannot_be_kept_is_refused_without_its_keys(changed: dict[str, object]) -> None:
    written = plan.encode(make_plan(1, **{"keys": {1: b"k" * 32}, **changed}))
    with pytest.raises(DecodeError) as caught:
        plan.decode(written)
    assert b"k".hex() * 4 not in str(caught.value)


def test_the_bytes_of_a_gratuitous_arp() -> None:
    address = ip_address("198.51.100.10")
    body = "0001 0800 06 04 0001" + MAC.hex() + address.packed.hex() + "00" * 6 + address.packed.hex()
    assert gratuitous_arp(address, MAC) == bytes.fromhex("ff" * 6 + MAC.hex() + "0806" + body)


def test_the_bytes_of_an_unsolicited_neighbour_advertisement() -> None:
    address = ip_address("fe80::10")
    frame = unsolicited_na(address, MAC)
    assert frame[:14] == bytes.fromhex("333300000001") + MAC + b"\x86\xdd"
    assert frame[14:22] == bytes.fromhex("60000000 0020 3a ff")
    assert frame[22:54] == address.packed + ip_address("ff02::1").packed
    assert frame[54:56] == b"\x88\0" and frame[58:62] == b"\xa0\0\0\0" and frame[62:78] == address.packed
    assert frame[78:] == b"\x02\x01" + MAC
    summed = frame[22:54] + (32).to_bytes(4, "big") + bytes([0, 0, 0, 58]) + frame[54:]
    assert sum(int.from_bytes(summed[at : at + 2], "big") for at in range(0, len(summed), 2)) % 0xFFFF == 0


@given(st.lists(st.integers(0, 2_000_000).map(lambda us: us / 1000), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_never_below_the_real_one_and_never_above_the_worst(late_ms: list[float], share: float) -> None:
    ticks = LateTicks()
    for value in late_ms:
        ticks.count(value / 1000)
    real = sorted(late_ms)[max(0, -int(-share * len(late_ms) // 1) - 1)]
    assert real <= ticks.quantile_ms(share) * (1 + 1e-9) and ticks.quantile_ms(share) <= max(late_ms) * (1 + 1e-9)
