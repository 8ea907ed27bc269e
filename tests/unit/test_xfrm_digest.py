"""What enters a record of an SA or a policy, and what does not."""

from __future__ import annotations

import json

import pytest

from anycast.errors import DecodeError
from site_agent.netlink.xfrm_digest import (
    POLICY_ENDS_BYTES,
    POLICY_NAME_BYTES,
    POLICY_RECORD_BYTES,
    SA_ENDS_BYTES,
    SA_NAME_BYTES,
    SA_PORTS_BYTES,
    SA_RECORD_BYTES,
    Owned,
    PolicyReader,
    SaReader,
)
from tests.support.tree import TREE
from tests.support.xfrm_bytes import CLIENT, ENDS, VIP, aead, attribute, message, policy_payload, sa_payload

RECORDED = json.loads((TREE / "tests" / "data" / "xfrm" / "pair.json").read_text())
"""Two real gateways of one pair."""
ELSEWHERE = bytes([192, 0, 2, 9]) + bytes(12)


def sa_record(payload: bytes) -> bytes:
    reader = SaReader(ENDS)
    reader.take(sa_payload(spi=1))  # so that shapes are known
    reader.take(payload)
    return reader.records[-1]


def policy_record(payload: bytes) -> bytes:
    reader = PolicyReader(ENDS)
    reader.take(payload)
    (record,) = reader.records
    return record


def test_an_sa_is_its_names_ends_ports_and_settings() -> None:
    record = sa_record(sa_payload())
    assert len(record) == SA_RECORD_BYTES
    assert record[:SA_NAME_BYTES] == bytes.fromhex("0000123432") + VIP
    assert record[SA_NAME_BYTES:SA_ENDS_BYTES] == CLIENT
    assert record[SA_ENDS_BYTES:SA_PORTS_BYTES] == bytes.fromhex("020004001194")
    assert sa_record(sa_payload(port=None))[SA_ENDS_BYTES:SA_PORTS_BYTES] == bytes(6)


@pytest.mark.parametrize(
    ("change", "begin", "end"),
    [
        ({"spi": 0x1235}, 0, 4),
        ({"client": ELSEWHERE}, SA_NAME_BYTES, SA_ENDS_BYTES),
        ({"port": 1025}, SA_ENDS_BYTES, SA_PORTS_BYTES),
        ({"mode": 0}, SA_PORTS_BYTES, SA_RECORD_BYTES),
        ({"selector": bytes(32) + b"\x07" + bytes(23)}, SA_PORTS_BYTES, SA_RECORD_BYTES),
        ({"flags": 128}, SA_PORTS_BYTES, SA_RECORD_BYTES),
        ({"window": 1024}, SA_PORTS_BYTES, SA_RECORD_BYTES),
    ],
)
def test_what_must_be_equal_shows_where_it_belongs(change: dict[str, object], begin: int, end: int) -> None:
    right, other = sa_record(sa_payload()), sa_record(sa_payload(**change))  # type: ignore[arg-type]
    assert right[:begin] + right[end:] == other[:begin] + other[end:]
    assert right != other


@pytest.mark.parametrize(
    "change", [{"reqid": 8}, {"numbers": b"\x01\x02\x03\x04"}, {"key": bytes(20)}], ids=["reqid", "numbers", "keys"]
)
def test_what_is_each_machines_own_or_secret_does_not(change: dict[str, object]) -> None:
    assert sa_record(sa_payload()) == sa_record(sa_payload(**change))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [21, 22, 24, 29, 30, 31], ids=["mark", "tfcpad", "extra", "set", "set mask", "if_id"])
def test_marks_and_interfaces_are_settings(kind: int) -> None:
    records = {
        sa_record(sa_payload(attributes=aead() + more))
        for more in (b"", attribute(kind, bytes(8)), attribute(kind, b"\x01" * 8))
    }
    assert len(records) == 3
    assert len({record[:SA_PORTS_BYTES] for record in records}) == 1


def test_another_kernels_order_of_attributes_is_the_same() -> None:
    mark, interface = attribute(21, b"\x05" * 8), attribute(31, b"\x06" * 4)
    assert sa_record(sa_payload(attributes=aead() + mark + interface)) == sa_record(
        sa_payload(attributes=interface + aead() + mark)
    )


def test_only_the_first_of_a_shape_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be ten times as slow, and right."""
    walked = []
    walk = SaReader._walk
    monkeypatch.setattr(SaReader, "_walk", lambda *args: (walked.append(args), walk(*args)))
    reader = SaReader(ENDS)
    for spi in range(1, 100):
        reader.take(sa_payload(spi=spi, inbound=spi % 2 == 0, port=spi if spi % 3 else None))
    assert len(reader.records) == 99
    assert len(walked) == 2, "with encapsulation and without"


def test_foreign_sas_and_reserved_spis_do_not_count() -> None:
    reader = SaReader(ENDS)
    for _ in range(2):
        reader.take(sa_payload(vip=ELSEWHERE))
        reader.take(sa_payload(attributes=b""))
    assert reader.records == []


def test_a_datagram_of_many() -> None:
    reader = SaReader(ENDS)
    reader.take_datagram(b"".join(message(sa_payload(spi=spi, inbound=spi % 2 == 0)) for spi in range(1, 100)))
    assert [int.from_bytes(record[:4]) for record in reader.records] == list(range(1, 100))


@pytest.mark.parametrize("kind", [4, 21, 23, 31])
def test_a_value_that_is_too_short_is_refused(kind: int) -> None:
    with pytest.raises(DecodeError):
        SaReader(ENDS).take(sa_payload(attributes=aead() + attribute(kind, b"\x01")))


def test_a_policy_is_its_selector_ends_and_settings() -> None:
    record = policy_record(policy_payload())
    assert len(record) == POLICY_RECORD_BYTES
    assert record[0] == 1 and record[17:33] == (1).to_bytes(16)
    assert record[POLICY_NAME_BYTES:POLICY_ENDS_BYTES] == CLIENT + VIP
    assert policy_record(policy_payload(reqid=8, index=10, ifindex=3)) == record
    assert policy_record(policy_payload(priority=5))[:POLICY_ENDS_BYTES] == record[:POLICY_ENDS_BYTES]
    changed = [
        policy_payload(priority=5), policy_payload(client=ELSEWHERE), policy_payload(direction=0), policy_payload(inner=2),
        policy_payload(attributes=attribute(31, b"\x01" * 4)),
    ]  # fmt: skip
    assert len({record, *map(policy_record, changed)}) == 6


def test_what_only_this_machine_says_of_a_policy_is_kept_aside() -> None:
    reader = PolicyReader(ENDS)
    reader.take_datagram(message(policy_payload(reqid=8, index=88), kind=0x13))
    assert list(reader.records.values()) == [Owned(8, 88)]


def test_gates_sockets_policies_and_foreign_ones_do_not_count() -> None:
    reader = PolicyReader(ENDS)
    for _ in range(2):
        reader.take(policy_payload(template=False, priority=1))
        reader.take(policy_payload(direction=3))
        reader.take(policy_payload(direction=1, client=ELSEWHERE))
    assert {record[POLICY_NAME_BYTES : POLICY_NAME_BYTES + 16] for record in reader.records} == {ELSEWHERE}
    other = PolicyReader(frozenset({CLIENT}))
    other.take(policy_payload(client=ELSEWHERE))
    assert not other.records


def recorded(gateway: str) -> tuple[list[bytes], dict[bytes, Owned]]:
    vip = frozenset({bytes([198, 51, 100, 1]) + bytes(12)})
    sas, policies = SaReader(vip), PolicyReader(vip)
    sas.take_datagram(b"".join(map(bytes.fromhex, RECORDED[gateway]["sas"])))
    policies.take_datagram(b"".join(map(bytes.fromhex, RECORDED[gateway]["policies"])))
    return sorted(sas.records), policies.records


def test_two_real_gateways_of_a_pair_are_equal_in_what_must_be() -> None:
    """And in nothing else: their messages differ."""
    (sas, policies), (other_sas, other_policies) = recorded("active"), recorded("backup")
    assert RECORDED["active"]["sas"] != RECORDED["backup"]["sas"]
    assert RECORDED["active"]["policies"] != RECORDED["backup"]["policies"]
    assert (sas, policies.keys()) == (other_sas, other_policies.keys())
    assert len(sas) == 2 and {record[SA_ENDS_BYTES:SA_PORTS_BYTES].hex() for record in sas} == {"020011941194"}
    assert sorted(record[0] for record in policies) == [0, 1, 2], "sockets' own policies are in the dump, too"
    assert len(RECORDED["active"]["policies"]) > 3
    assert {owned.reqid for owned in policies.values()} == {1}
