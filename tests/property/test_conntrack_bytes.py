"""Connection tracking messages: any bytes decode or raise, and many at once are what each would be alone."""

from __future__ import annotations

import socket
import struct
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError
from site_agent.netlink.conntrack import gather
from site_agent.netlink.conntrack_columns import Shapes
from site_agent.netlink.conntrack_forms import FLAGS_NEW, copies, deletions, nat_of, records, refreshes, remaining, update_of
from site_agent.sync import conntrack_wire as wire
from site_agent.sync.conntrack_filter import MirroredFlows
from site_agent.sync.conntrack_mirror import ConntrackMirror
from site_agent.sync.conntrack_wire import Type
from site_agent.sync.conntrack_words import Applied, Connected, Dumped, Heard, Told
from site_agent.sync.numbers_words import Role
from tests.support.conntrack_pair import CLIENT6, POOL, POOL6, SERVER6, TCP, UDP, flow, told

ALL = MirroredFlows([POOL, POOL6], [])


@st.composite
def flows(draw: st.DrawFn) -> bytes:
    six = draw(st.booleans())
    protocol = draw(st.sampled_from([UDP, TCP]))
    return flow(
        draw(st.integers(1, 65_534)), **({"source": CLIENT6, "target": SERVER6} if six else {}), protocol=protocol,
        timeout=draw(st.integers(0, 2**32 - 1)), status=draw(st.integers(0, 255)), mark=draw(st.integers(0, 2**32 - 1)),
        zone=draw(st.integers(0, 9)), tcp_state=draw(st.integers(0, 14)),
    )  # fmt: skip


def use(data: bytes) -> None:
    """Everything that is ever done with a message."""
    for block in Shapes().blocks(gather(data)):
        admitted = ALL.admitted(block, Counter())
        for part in (block, admitted):
            if part is None:
                continue
            for made in (copies(part, 0, FLAGS_NEW), copies(part, 0x30, FLAGS_NEW), deletions(part), refreshes(part)):
                assert len(made) % len(part.messages) == 0
            records(part)
            remaining(part)
            nat_of(part)


@given(st.binary(max_size=400))
def test_any_bytes_decode_or_raise(data: bytes) -> None:
    try:
        use(data)
        wire.decode(data)
    except DecodeError:
        pass


@given(flows(), st.data())
def test_a_real_message_with_any_bytes_changed_decodes_or_raises(body: bytes, data: st.DataObject) -> None:
    message = bytearray(told(body) * 2)
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        use(bytes(message))
    except DecodeError:
        pass


@given(st.sampled_from(list(Role)), st.sampled_from(list(Type)), st.binary(max_size=300), st.lists(flows(), max_size=3))
def test_a_mirror_survives_whatever_peer_and_kernel_say(role: Role, type_: Type, data: bytes, bodies: list[bytes]) -> None:
    mirror = ConntrackMirror(ALL, role)
    real = b"".join(told(body, flags=FLAGS_NEW) for body in bodies)
    inputs = [
        Connected(False, True), Told(bytes([type_, 1, 1, 0]) + data), Told(data),
        Told(bytes([type_, 0, 0, 0]) + real + data),
        Heard(data), Heard(real), Dumped(data), Dumped(real + data), Applied([(9, 2), (0, 17)]),
    ]  # fmt: skip
    for event in inputs:
        for action in mirror.handle(event, 1.0):
            assert action


@given(st.lists(flows(), min_size=1, max_size=12), st.sampled_from([0, 0x10, 0x20, 0x30]))
def test_many_at_once_are_what_each_is_alone(bodies: list[bytes], nat: int) -> None:
    messages = [told(body) for body in bodies]
    together: dict[int, tuple[bytes, bytes, bytes]] = {}
    shapes = Shapes()
    assert list(shapes.blocks(gather(b"".join(messages)))), "each shape is known now"
    for block in shapes.blocks(gather(b"".join(messages))):
        made = [bytes(copies(block, nat, FLAGS_NEW)), bytes(deletions(block)), bytes(records(block)[0])]
        for at, index in enumerate(block.indices):
            one, two, three = (each[at * (n := len(each) // len(block.indices)) : (at + 1) * n] for each in made)
            together[index] = one, two, three
    assert sorted(together) == list(range(len(messages)))
    for index, message in enumerate(messages):
        (block,) = Shapes().blocks(gather(message))
        alone = bytes(copies(block, nat, FLAGS_NEW)), bytes(deletions(block)), bytes(records(block)[0])
        assert together[index] == alone


def attributes(message: bytes) -> dict[int, bytes]:
    """A walk of its own: type and value of each."""
    found, at = {}, 20
    while at < len(message):
        length, type_ = struct.unpack_from("=HH", message, at)
        found[type_ & 0x3FFF] = message[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


@given(flows(), st.sampled_from([0, 0x10, 0x20, 0x30]))
def test_what_a_copy_has(body: bytes, nat: int) -> None:
    message = told(body)
    (block,) = Shapes().blocks(gather(message))
    copy = bytes(copies(block, nat, FLAGS_NEW))
    before, after = attributes(message), attributes(copy)
    assert struct.unpack_from("=IHH", copy) == (len(copy), 0x100, 0x601)
    assert after[1] == before[1] and after.get(8) == before.get(8) and after.get(18) == before.get(18)
    was, now = (int.from_bytes(each[7], "big") for each in (before, after))
    assert was <= now < was + 256 and now >= 255, "at least 255 s, and less than 256 s more than the flow's own"
    assert int.from_bytes(after[3], "big") == int.from_bytes(before[3], "big") & 6 | 8
    assert (6 in after) == bool(nat & 0x10) and (13 in after) == bool(nat & 0x20)
    assert attributes(update_of(copy, 1)).keys() == after.keys() - {6, 13}, "a change tells no translation"


@given(st.integers(1, 65_534), st.binary(min_size=4, max_size=4))
def test_a_translation_is_told_by_what_the_reply_shows(port: int, address: bytes) -> None:
    plain = told(flow(port))
    at = plain.index(socket.inet_aton("192.0.2.2"), 72)  # the reply's destination
    message = plain[:at] + address + plain[at + 4 :]
    (block,) = Shapes().blocks(gather(message))
    copy = attributes(bytes(copies(block, 0x10, FLAGS_NEW)))
    assert copy[6][4:8] == address and copy[6][16:18] == struct.pack("!H", port)
    assert copy[2] == attributes(plain)[2], "the reply as if nothing were translated"


@given(st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=1, max_size=9, unique_by=lambda each: each[0]))
def test_a_digest_depends_on_no_order_and_on_each_value(ports: list[tuple[int, bool]]) -> None:
    from site_agent.sync.conntrack_digest import Sums

    def of(bodies: list[bytes]) -> Sums:
        sums = Sums()
        for block in Shapes().blocks(gather(b"".join(told(body) for body in bodies))):
            sums.add(block)
        return sums

    bodies = [flow(port, mark=port * (1 + marked)) for port, marked in ports]
    one = of(bodies)
    assert not one.differing(of(bodies[::-1]).values)
    for changed in (dict(mark=1000), dict(status=0x1E), dict(zone=3), dict(timeout=5)):
        other = of([flow(ports[0][0], **{"mark": ports[0][0] * (1 + ports[0][1]), **changed}), *bodies[1:]])  # type: ignore[arg-type]
        assert bool(one.differing(other.values)) == ("timeout" not in changed), changed
