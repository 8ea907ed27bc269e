"""What crosses between the gateways and between agent and sync process: both ways, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError
from site_agent.netlink.xfrm_keys import SaKey
from site_agent.sync import agent_wire, bodies, ha_wire, kinds, marks_wire
from site_agent.sync import plan as plans
from site_agent.sync.versions import Versions

STATUS = agent_wire.Status(
    role="active", settled=True, connected=False, mismatches=["a"], alarms={"channel_down": "why"}, waiting=1, gaps=2,
    messages={"carried:6": 3}, outbound=4, unconfirmed=5, taken_over=6, retired=7, conflicts=8, tunnels=9, unprotected=10,
    repairs=11, given_up=12, causes={"missing": 13}, removed=14,
    rekeys_waiting={"taken_over": 15}, rekeys_unanswered=16, rekeys_done=17, rekeys_total=18, rekeys_left_s=19,
    rekeys_refused=20, spent=21, at_their_end=22,
)  # fmt: skip
PLAN = plans.Plan(
    fleet="e", gateway="fra-gw1", peer="fra-gw2", rank=0, own_address="192.0.2.65", peer_address="192.0.2.66", port=4517,
    vips=("203.0.113.1", "2001:db8:a::1"), pools=("203.0.113.64/27",), own=("198.51.100.2",),
    connections=("vpn",), vici="/v", fifo="/f", pki="/p",
    pin="/q", versions=Versions(agent="1", charon="", ha=0, generation=3, content="c"),
    swanctl="/s", offers="/o", clients="/c", clients_max_bytes=9, active=True,
)  # fmt: skip


def test_bodies_both_ways() -> None:
    assert bodies.encode_carry(1, 2, b"\x03\x06rest").hex() == "01000000000000000100000000000000020306" + b"rest".hex()
    assert bodies.decode_ha(bodies.encode_carry(1, 2, b"\x03\x06rest")) == bodies.Carried(1, 2, b"\x03\x06rest")
    assert bodies.decode_ha(bodies.encode_have(2**63, 9)) == bodies.Has(2**63, 9)
    key = SaKey(bytes(range(21)))
    for said in (bodies.ASKED, bodies.TOLD):
        (body,) = bodies.encode_marks(said, [(key, 7)])
        assert bodies.decode_marks(body) == (said, [(key, 7)])
    many = list(bodies.encode_marks(bodies.TOLD, [(key, n) for n in range(marks_wire.MAX_RECORDS + 1)]))
    assert [len(bodies.decode_marks(body)[1]) for body in many] == [marks_wire.MAX_RECORDS, 1]


def test_what_is_said_late_both_ways() -> None:
    assert bodies.decode_ha(bodies.encode_late(1, 2, b"\x03\x06rest")) == bodies.Late(1, 2, b"\x03\x06rest")
    assert bodies.encode_settled(1, 0).hex() == "04" + "0000000000000001" + "0000000000000001"
    for late in (0, 7):
        assert bodies.decode_ha(bodies.encode_settled(2**63, late)) == bodies.Settled(late)
    for body in (bodies.encode_late(1, 2, b""), bodies.encode_settled(1, 0) + b"x"):
        with pytest.raises(DecodeError):
            bodies.decode_ha(body)


IKE = bytes(range(16))


@pytest.mark.parametrize(
    ("datagram", "said"),
    [
        ("0303" "0102" f"{IKE.hex()}" "01" "2200000007", ha_wire.Said(3, IKE, True, mid=7)),
        ("0304" "0102" f"{IKE.hex()}" "00" "2200000001", ha_wire.Said(4, IKE, False, mid=1)),
        ("0304" "0102" f"{IKE.hex()}" "00" "22000000", None),
        ("0301" "0102" f"{IKE.hex()}" "00" "0202" + "ff" * 16 + "00", ha_wire.Said(1, IKE, False, replaces=b"\xff" * 16)),
        ("0301" "2402" "0102" f"{IKE.hex()}" "00" "0f0004", ha_wire.Said(1, IKE, False)),
        ("0301" "0102" f"{IKE.hex()}" "00" "0f0004", ha_wire.Said(1, IKE, False)),
        ("0306" "0102" f"{IKE.hex()}" "00" "0e01" "1b01020304", ha_wire.Said(6, IKE, False, began=True)),
        ("0306" "0102" f"{IKE.hex()}" "00" "0e00" "1b01020304", ha_wire.Said(6, IKE, False)),
        ("0305" "0102" f"{IKE.hex()}" "00", ha_wire.Said(5, IKE, False)),
        ("0305" "0102" f"{IKE.hex()}", None),
        ("0305" "0202" f"{IKE.hex()}" "00", None),
        ("030a" "0102" f"{IKE.hex()}" "00", None),
        ("", None),
    ],
)
def test_which_ike_sa_a_message_of_charons_is_about(datagram: str, said: ha_wire.Said | None) -> None:
    assert ha_wire.decode_said(bytes.fromhex(datagram)) == said


@given(st.binary(max_size=64))
def test_any_bytes_are_about_an_ike_sa_or_not(data: bytes) -> None:
    said = ha_wire.decode_said(data)
    assert said is None or len(said.ike) == 16


def test_a_gap_is_told_and_what_a_later_version_tells_is_passed_over() -> None:
    assert bodies.decode_state(bodies.encode_gap(7)) == 7
    assert bodies.decode_state(bodies.encode_gap(1 << 40)) == 0xFFFF_FFFF
    assert bodies.decode_state(b"\x04whatever") is None
    ages = [bodies.Age(bytes([number % 256]) * 16, number) for number in range(bodies.MOST_AGES + 1)]
    assert [age for body in bodies.encode_ages(ages) for age in bodies.decode_state(body) or ()] == ages
    assert max(map(len, bodies.encode_ages(ages))) < kinds.LARGEST
    assert list(bodies.encode_ages([])) == []
    (body,) = bodies.encode_ages([bodies.Age(bytes(16), 1 << 40)])
    assert bodies.decode_state(body) == [bodies.Age(bytes(16), 0xFFFF_FFFF)]
    assert bodies.decode_state(bodies.encode_word(b"word")) == b"word"
    for body in (b"", b"\x01", b"\x01\0\0\0\0\0", b"\x03whatever"):
        with pytest.raises(DecodeError):
            bodies.decode_state(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bodies.encode_have(1, 1)[:-1],
        bodies.encode_have(1, 1) + b"x",
        bodies.encode_have(1, 0),
        bodies.encode_carry(1, 1, b""),
        bodies.encode_carry(1, 1, b"\x03"),
        b"\x05" + bodies.encode_carry(1, 1, b"\x03\x06")[1:],
    ],
)
def test_an_ha_body_that_means_nothing_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        bodies.decode_ha(body)


@given(st.binary(max_size=100))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    for decode in (bodies.decode_ha, bodies.decode_marks, bodies.decode_state, agent_wire.decode, plans.decode):
        try:
            decode(data)
        except DecodeError:
            continue


@pytest.mark.parametrize(
    "message",
    [
        agent_wire.RoleIs(active=True, charon="7 9"),
        agent_wire.Finish(),
        agent_wire.Finished(open=2, took_us=5),
        agent_wire.Ended(name="vpn[1] of a", reason="tunnel_diverged"),
        agent_wire.StepTaken(step="close", took_us=5, detail=""),
        agent_wire.Settled(active=False, took_us=6),
        agent_wire.GivenUp(name="vpn{1} of a", cause="missing", refused=True),
        STATUS,
    ],
)
def test_agent_messages_both_ways(message: agent_wire.Message) -> None:
    assert agent_wire.decode(agent_wire.encode(message)) == message
    later = json.loads(agent_wire.encode(message)) | {"what a later version adds": 1}
    assert agent_wire.decode(json.dumps(later).encode()) == message
    with pytest.raises(DecodeError):
        agent_wire.decode(json.dumps(later | {"v": 2}).encode())


def test_a_field_of_another_type_is_refused() -> None:
    said = json.loads(agent_wire.encode(STATUS))
    for field in set(said) - {"v", "kind"}:
        with pytest.raises(DecodeError):
            agent_wire.decode(json.dumps(said | {field: None}).encode())
    with pytest.raises(DecodeError):
        agent_wire.decode(json.dumps(said | {"waiting": True}).encode())


def test_a_plan_both_ways_and_one_that_is_none() -> None:
    assert plans.decode(plans.encode(PLAN)) == PLAN
    fields = json.loads(plans.encode(PLAN))
    for wrong in ({"v": 2}, {"own_address": "fra-gw1"}, {"vips": ["x"]}, {"pools": ["203.0.113.64/24"]}, {"more": 1}):
        with pytest.raises(DecodeError):
            plans.decode(json.dumps(fields | wrong).encode())
    with pytest.raises(DecodeError):
        plans.decode(json.dumps({k: v for k, v in fields.items() if k != "rank"}).encode())
