"""Which flows are mirrored, and which ones that should be cannot: by the two ends, and by name."""

from __future__ import annotations

import struct
from collections import Counter

import pytest

from anycast_lab.flood.conntrack import NESTED, attribute
from site_agent.netlink.conntrack import gather
from site_agent.netlink.conntrack_columns import Block, Shapes
from site_agent.netlink.conntrack_forms import FLAGS_NEW, copies, nat_of
from site_agent.sync.conntrack_filter import MOST_REMEMBERED, MirroredFlows
from tests.support.conntrack_pair import CLIENT, CLIENT6, POOL, POOL6, SERVER, SERVER6, TCP, TRANSLATED, flow, told

FLOWS = MirroredFlows([POOL, POOL6], ["192.0.2.1", TRANSLATED])


def block_of(*bodies: bytes) -> Block:
    (block,) = Shapes().blocks(gather(b"".join(told(body) for body in bodies)))
    return block


def admitted(*bodies: bytes) -> tuple[int, dict[str, int]]:
    refused: Counter[str] = Counter()
    found = FLOWS.admitted(block_of(*bodies), refused)
    return (0 if found is None else len(found.messages)), dict(refused)


@pytest.mark.parametrize(
    ("source", "target", "count"),
    [
        (CLIENT, SERVER, 1),
        (SERVER, CLIENT, 1),  # a server speaks to a client
        (CLIENT6, SERVER6, 1),
        ("203.0.113.1", SERVER, 0),  # strangers
        (CLIENT, "192.0.2.1", 0),  # with the gateway itself
        (TRANSLATED, CLIENT, 0),
        ("203.0.113.1", TRANSLATED, 0),  # IKE
        ("2001:db8:7::1", SERVER6, 0),
    ],
)
def test_the_two_ends_decide(source: str, target: str, count: int) -> None:
    assert admitted(flow(1, source=source, target=target)) == (count, {})


def test_a_server_behind_a_translated_address_is_an_end_and_the_address_is_none() -> None:
    """From outside to the gateway's own address, which is translated to a server inside: the kernel's entry and its copy."""
    body = flow(1, source="203.0.113.1", target=TRANSLATED, status=0x2E)
    plain, inside = bytes([198, 51, 100, 77]), bytes([192, 0, 2, 9])
    at = body.index(plain, body.index(plain) + 4)  # the reply's source
    block = block_of(body[:at] + inside + body[at + 4 :])
    assert FLOWS.mirrored(block) is None
    (nat,) = nat_of(block)
    (copy,) = Shapes().blocks(gather(bytes(copies(block, nat, FLAGS_NEW))))
    assert FLOWS.mirrored(copy) is None, "the gateway that is told asks the same"


def test_the_gateways_own_protocols_are_nobodys() -> None:
    for protocol in (50, 51, 112):
        body = flow(1, protocol=99)
        assert admitted(body.replace(bytes([5, 0, 1, 0, 99]), bytes([5, 0, 1, 0, protocol]))) == (0, {})
    assert admitted(flow(1, protocol=99))[0] == 1


def test_what_cannot_be_copied_is_refused_by_name() -> None:
    helper = attribute(5 | NESTED, attribute(1, b"sip\0"))
    assert admitted(flow(1, extra=helper)) == (0, {"sip": 1})
    assert admitted(flow(1, source="203.0.113.1", extra=helper)) == (0, {}), "a stranger's is not missed"
    assert admitted(flow(1, status=0xF), flow(2)) == (1, {"expectation": 1})
    offsets = [
        attribute(24 | NESTED, b"".join(attribute(n, struct.pack("!I", value)) for n in (1, 2, 3))) for value in (0, 7)
    ]
    assert admitted(*(flow(1, protocol=TCP, tcp_state=3, extra=each) for each in offsets)) == (1, {"synproxy": 1})


def test_any_number_of_addresses_costs_bounded_memory() -> None:
    flows = MirroredFlows([POOL], [])
    known = flows._known
    known.update({number: 0 for number in range(MOST_REMEMBERED)})
    assert flows.mirrored(block_of(flow(1), flow(2, source="203.0.113.1"))) == [True, False]
    assert len(known) < 10
