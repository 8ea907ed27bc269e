"""Any bytes decode or raise DecodeError; what was encoded decodes to itself; no route text can become a second command."""

from __future__ import annotations

import dataclasses
import ipaddress
import json

from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError
from anycast.lease_wire import (
    MAX_PACKET,
    MAX_PREPEND,
    Ack,
    Grace,
    Hello,
    Query,
    Renew,
    Report,
    Session,
    decode_from_agent,
    decode_from_bridge,
    encode,
)
from anycast.model import Route, SessionState
from anycast.reasons import Reason
from exabgp_bridge.api import Announce, ApiStream, NeedData, Withdraw, decode_line, decode_neighbors, encode_command

NUMBERS = st.integers(0, 2**63 - 1)
NAMES = st.from_regex(r"\A[A-Za-z0-9._-]{1,64}\Z")
PARTS = st.integers(0, 0xFFFF)
WORDS = st.integers(0, 0xFFFF_FFFF)


@st.composite
def routes(draw: st.DrawFn) -> Route:
    addresses = draw(st.sampled_from([st.ip_addresses(v=4), st.ip_addresses(v=6)]))
    prefix = ipaddress.ip_network((draw(addresses), draw(st.integers(0, 32))), strict=False)
    return Route(
        neighbor=str(draw(st.ip_addresses())),
        prefix=str(prefix),
        next_hop=str(draw(addresses)),
        communities=tuple(draw(st.lists(st.builds("{}:{}".format, PARTS, PARTS), max_size=3))),
        large_communities=tuple(draw(st.lists(st.builds("{}:{}:{}".format, WORDS, WORDS, WORDS), max_size=3))),
        local_pref=draw(st.none() | WORDS),
        med=draw(st.none() | st.integers(0, 2**32 - 1)),
        prepend=draw(st.integers(0, MAX_PREPEND)),
    )


ROUTES = st.lists(routes(), max_size=4, unique_by=lambda route: route.key).map(tuple)
SESSIONS = st.lists(
    st.builds(Session, neighbor=st.ip_addresses().map(str), state=st.sampled_from(SessionState)), max_size=3
).map(tuple)
REASONS = st.sampled_from(Reason)
FROM_AGENT = st.one_of(
    st.builds(Renew, seq=NUMBERS, instance=NAMES, expires_ns=NUMBERS, reason=REASONS, routes=ROUTES, candidates=ROUTES),
    st.builds(Grace, seq=NUMBERS, instance=NAMES, expires_ns=NUMBERS),
    st.builds(Query, seq=NUMBERS),
)
FROM_BRIDGE = st.one_of(
    st.builds(
        Hello,
        pid=st.integers(1, 2**22),
        exabgp_pid=st.integers(1, 2**22),
        exabgp_version=NAMES,
        announced=ROUTES,
        sessions=SESSIONS,
        grace_ns=NUMBERS,
    ),
    st.builds(Ack, seq=NUMBERS, announced=ROUTES, exabgp_answered_ns=NUMBERS, sessions=SESSIONS),
    st.builds(Report, cause=REASONS, announced=ROUTES, exabgp_answered_ns=NUMBERS, sessions=SESSIONS),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


@given(FROM_AGENT)
def test_agents_messages_survive_the_wire(message: Renew | Grace | Query) -> None:
    assert decode_from_agent(encode(message)) == message


@given(FROM_BRIDGE)
def test_bridges_messages_survive_the_wire(message: Hello | Ack | Report) -> None:
    assert decode_from_bridge(encode(message)) == message


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_packet_decodes_or_raises(packet: bytes) -> None:
    for decode in (decode_from_agent, decode_from_bridge):
        try:
            decode(packet)
        except DecodeError:
            pass


@given(FROM_AGENT | FROM_BRIDGE, st.data())
def test_a_damaged_message_decodes_or_raises(message: Renew | Hello, data: st.DataObject) -> None:
    body = json.loads(encode(message))
    field = data.draw(st.sampled_from(sorted(body)))
    value = data.draw(JSON)
    if isinstance(body[field], list) and body[field] and data.draw(st.booleans()):
        item = body[field][0]
        item[data.draw(st.sampled_from(sorted(item)))] = value
    else:
        body[field] = value
    packet = json.dumps(body).encode()
    for decode in (decode_from_agent, decode_from_bridge):
        try:
            decode(packet)
        except DecodeError:
            pass


def test_too_long_and_deeply_nested_packets_are_refused() -> None:
    for packet in (b" " * (MAX_PACKET + 1), b"[" * MAX_PACKET):
        try:
            decode_from_agent(packet)
        except DecodeError:
            continue
        raise AssertionError("accepted")


@given(routes(), st.integers(1, 2**32 - 1))
def test_a_command_is_one_ascii_line_of_known_words(route: Route, asn: int) -> None:
    known = {"neighbor", "announce", "withdraw", "route", "next-hop", "med", "community", "as-path", "[", "]"}
    known |= {"large-community", "local-preference"}
    announce, withdraw = (encode_command(kind(route, asn)) for kind in (Announce, Withdraw))
    assert announce.replace(b" announce ", b" withdraw ", 1) == withdraw, "a withdrawal repeats the attributes"
    for line in (announce, withdraw):
        assert line.endswith(b"\n") and line.count(b"\n") == 1
        words = line.decode("ascii").split()
        assert all(word in known or set(word) <= set("0123456789abcdef.:/") for word in words)


@given(routes(), st.sampled_from(["neighbor", "prefix", "next_hop"]), st.text(max_size=30))
def test_free_text_never_becomes_a_command(route: Route, field: str, text: str) -> None:
    for hostile in (text, getattr(route, field) + text, f"fe80::1%{text}", f"{getattr(route, field)}\nshutdown"):
        changed = dataclasses.replace(route, **{field: hostile})  # type: ignore[arg-type]
        try:
            line = encode_command(Announce(changed, 64501))
        except ValueError:
            continue
        assert line.count(b"\n") == 1 and b"shutdown" not in line


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=20))
def test_any_stream_decodes_or_raises_and_pieces_do_not_matter(data: bytes, cuts: list[int]) -> None:
    whole, pieces = ApiStream(), ApiStream()
    whole.receive_data(data)
    expected = drained(whole)
    got: list[object] = []
    rest = data
    for cut in [*cuts, len(data)]:
        piece, rest = rest[:cut], rest[cut:]
        pieces.receive_data(piece)
        if not got or got[-1] is not DecodeError:
            got += drained(pieces)
    assert got == expected


def drained(stream: ApiStream) -> list[object]:
    events: list[object] = []
    try:
        while not isinstance(event := stream.next_event(), NeedData):
            events.append(event)
    except DecodeError:
        events.append(DecodeError)
    return events


@given(
    JSON
    | st.fixed_dictionaries(
        {
            "type": st.just("state"),
            "neighbor": st.fixed_dictionaries(
                {
                    "address": st.fixed_dictionaries({"peer": JSON | st.ip_addresses().map(str)}),
                    "asn": st.fixed_dictionaries({"local": JSON | st.integers()}),
                    "state": JSON | st.sampled_from(SessionState),
                }
            ),
        }
    )
)
def test_any_json_is_an_event_a_table_or_an_error(value: object) -> None:
    text = json.dumps(value)
    for decode in (lambda: decode_line(text.encode()), lambda: decode_neighbors(text)):
        try:
            decode()
        except DecodeError:
            pass
