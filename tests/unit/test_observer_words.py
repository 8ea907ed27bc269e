"""What an observer makes of its routers' words: the lines of a real ExaBGP 5.0.15 beside BIRD 2, and what follows."""

from __future__ import annotations

import itertools
import json

import pydantic
import pytest

from anycast.coordinator import api
from anycast.coordinator.access import Caller, Role
from anycast.coordinator.observations import GOOD_S, Observations, Word
from anycast.errors import DecodeError
from anycast.observer.exabgp_lines import (
    EndOfRib,
    Event,
    PathGone,
    PathHeard,
    SessionDown,
    SessionUp,
    decode_line,
)
from anycast.observer.seen import Sight
from anycast.policy.drain import Seen

PEER, FOUR, SIX = "198.51.100.1", "203.0.113.0/28", "2001:db8:a::/56"
FRA, SIN = 64501, 64502
HEAD = (
    '{ "exabgp": "5.0.0", "time": 1795983407.4478695, "host" : "vm", "pid" : 8740, "ppid" : 8714, "type": "%s",'
    ' "neighbor": { "address": { "local": "192.0.2.200", "peer": "198.51.100.1" }, "asn": { "local": 64496, "peer": 64500 },'
    ' "router-id": "192.0.2.200" , %s } }'
)


def state(word: str) -> bytes:
    return (HEAD % ("state", f'"state": "{word}", "reason": "closing connection"')).encode()


def update(message: str) -> bytes:
    return (HEAD % ("update", f'"direction": "receive", "message": {{ {message} }}')).encode()


ANNOUNCED = update(
    '"update": { "attribute": { "origin": "igp", "as-path": {"0": {"element": "as-sequence", "value": [64500, 64501]}} },'
    ' "announce": { "ipv4 unicast": { "198.51.100.1": [ { "nlri": "203.0.113.0/28", "path-information": "0.0.0.2" } ] } } }'
)
WITHDRAWN = update(
    '"update": { "withdraw": { "ipv4 unicast": [ { "nlri": "203.0.113.0/28", "path-information": "0.0.0.2" } ] } }'
)
BEST = update(
    '"update": { "attribute": { "as-path": {"0": {"element": "as-sequence", "value": [64500, 64501]},'
    ' "1": {"element": "as-set", "value": [64510, 64511]}} },'
    ' "announce": { "ipv6 unicast": { "2001:db8::1": [ { "nlri": "2001:db8:a::/56" } ] } } }'
)


@pytest.mark.parametrize(
    ("line", "events"),
    [
        (state("connected"), []),
        (state("up"), [SessionUp(PEER)]),
        (state("down"), [SessionDown(PEER, "closing connection")]),
        (ANNOUNCED, [PathHeard(PEER, FOUR, "0.0.0.2", FRA)]),
        (WITHDRAWN, [PathGone(PEER, FOUR, "0.0.0.2")]),
        (BEST, [PathHeard(PEER, SIX, None, None)]),  # who of a set it comes from, nobody knows
        (update('"eor": { "afi" : "ipv4", "safi" : "unicast" }'), [EndOfRib(PEER, "ipv4")]),
        (update('"eor": { "afi" : "ipv4", "safi" : "flow" }'), []),
        (b'{ "exabgp": "5.0.0", "type": "notification", "notification": "shutdown" }', []),
    ],
)
def test_what_exabgp_says(line: bytes, events: list[Event]) -> None:
    assert decode_line(line) == events


MEANINGLESS = [b"", b"done", b"[]", b"\xff", state("up")[:-20], b'{"type": "state"}', b'{"type": "update"}']


@pytest.mark.parametrize("line", MEANINGLESS)
def test_what_means_nothing_is_refused(line: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_line(line)


def test_any_part_of_a_line_is_read_or_refused() -> None:
    for whole in (ANNOUNCED, WITHDRAWN, BEST):
        told = json.loads(whole)
        message = told["neighbor"]["message"]["update"]
        for key, value in itertools.product(list(message), (None, 7, "x", [], [7], {"ipv4 unicast": 7})):
            changed = {**told, "neighbor": {**told["neighbor"], "message": {"update": {**message, key: value}}}}
            try:
                decode_line(json.dumps(changed).encode())
            except DecodeError:
                pass


def sight(*events: Event, families: tuple[str, ...] = ("ipv4",), sin: int = SIN) -> dict[str, Seen]:
    made = Sight({PEER: families}, [FOUR, SIX], {"fra": FRA, "sin": sin})
    for event in events:
        made.handle(event)
    return made.sites()


UP, WHOLE = SessionUp(PEER), EndOfRib(PEER, "ipv4")
OF_FRA, OF_SIN = PathHeard(PEER, FOUR, "1", FRA), PathHeard(PEER, FOUR, "2", SIN)
BEST_OF_SIN = PathHeard(PEER, FOUR, None, SIN)


@pytest.mark.parametrize(
    ("events", "fra"),
    [
        ((), Seen.UNKNOWN),
        ((UP,), Seen.UNKNOWN),
        ((UP, WHOLE), Seen.NOT_SEEN),
        ((UP, OF_FRA), Seen.SEEN),
        ((UP, OF_SIN), Seen.UNKNOWN),  # before End-of-RIB more may come
        ((UP, OF_SIN, WHOLE), Seen.NOT_SEEN),
        ((UP, BEST_OF_SIN, WHOLE), Seen.UNKNOWN),  # fra's may stand behind it
        ((UP, PathHeard(PEER, FOUR, "1", None), WHOLE), Seen.UNKNOWN),
        ((UP, OF_FRA, WHOLE, PathGone(PEER, FOUR, "1")), Seen.NOT_SEEN),
        ((UP, OF_FRA, WHOLE, PathGone(PEER, FOUR, "2")), Seen.SEEN),  # another path's
        ((UP, PathHeard(PEER, FOUR, None, FRA), WHOLE, BEST_OF_SIN), Seen.UNKNOWN),  # implicitly withdrawn
        ((UP, OF_FRA, WHOLE, SessionDown(PEER)), Seen.UNKNOWN),
        ((UP, OF_FRA, WHOLE, SessionDown(PEER), SessionUp(PEER)), Seen.UNKNOWN),  # nothing of the old session counts
        ((UP, WHOLE, PathHeard("198.51.100.9", FOUR, "1", FRA)), Seen.NOT_SEEN),  # no router of ours
        ((UP, WHOLE, PathHeard(PEER, "192.0.2.0/24", "1", FRA)), Seen.NOT_SEEN),  # no prefix of the service
    ],
)
def test_a_sites_route_from_outside(events: tuple[Event, ...], fra: Seen) -> None:
    assert sight(*events)["fra"] is fra


def test_every_family_that_the_router_tells_has_to_be_gone() -> None:
    both = ("ipv4", "ipv6")
    assert sight(UP, WHOLE, families=both)["fra"] is Seen.UNKNOWN
    assert sight(UP, WHOLE, EndOfRib(PEER, "ipv6"), families=both)["fra"] is Seen.NOT_SEEN
    assert sight(UP, WHOLE, EndOfRib(PEER, "ipv6"), PathHeard(PEER, SIX, "1", FRA), families=both)["fra"] is Seen.SEEN


def test_sites_with_one_as_number_cannot_be_told_apart() -> None:
    assert sight(UP, OF_FRA, WHOLE, sin=FRA) == {"fra": Seen.UNKNOWN, "sin": Seen.UNKNOWN}
    assert sight(UP, WHOLE, sin=FRA) == {"fra": Seen.NOT_SEEN, "sin": Seen.NOT_SEEN}, "no path is nobody's"


def test_a_lost_exabgp_has_told_nothing() -> None:
    made = Sight({PEER: ("ipv4",)}, [FOUR], {"fra": FRA})
    for event in (UP, OF_FRA, WHOLE):
        made.handle(event)
    assert (made.sites()["fra"], made.up) == (Seen.SEEN, {PEER: True})
    made.lost()
    assert (made.sites()["fra"], made.up) == (Seen.UNKNOWN, {PEER: False})


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ({}, Seen.UNKNOWN),
        ({"a": (0.0, Seen.NOT_SEEN)}, Seen.NOT_SEEN),
        ({"a": (0.0, Seen.SEEN), "b": (0.0, Seen.NOT_SEEN)}, Seen.SEEN),
        ({"a": (0.0, Seen.UNKNOWN), "b": (0.0, Seen.NOT_SEEN)}, Seen.UNKNOWN),
        ({"a": (GOOD_S + 0.1, Seen.SEEN), "b": (0.0, Seen.NOT_SEEN)}, Seen.NOT_SEEN),
        ({"a": (GOOD_S + 0.1, Seen.NOT_SEEN)}, Seen.UNKNOWN),
    ],
)
def test_several_observers(words: dict[str, tuple[float, Seen]], seen: Seen) -> None:
    made = Observations()
    for name, (age_s, word) in words.items():
        made.take(name, Word(at=100.0 - age_s, sites={"fra": word}, routers={}))
    assert made.seen("fra", 100.0) is seen
    assert made.seen("sin", 100.0) is Seen.UNKNOWN, "of a site that nobody spoke of nothing is confirmed"


def test_the_same_word_again_is_no_news_and_is_young() -> None:
    made = Observations()
    assert made.take("a", Word(0.0, {"fra": Seen.SEEN}, {}))
    assert not made.take("a", Word(5.0, {"fra": Seen.SEEN}, {}))
    assert made.take("a", Word(6.0, {"fra": Seen.NOT_SEEN}, {}))
    assert made.seen("fra", 11.0) is Seen.NOT_SEEN


@pytest.mark.parametrize("role", Role)
def test_an_observer_says_what_it_sees_and_may_nothing_else(role: Role) -> None:
    assert Caller("x", role).may(Role.OBSERVER) is (role in (Role.OBSERVER, Role.ADMIN))
    for other in (Role.VIEWER, Role.OPERATOR, Role.ADMIN):
        assert not Caller("x", Role.OBSERVER).may(other)


def test_what_people_are_shown_of_an_observer_is_addresses_and_names() -> None:
    """Whoever stole its credential writes on operators' terminals."""
    told = {"sites": {"fra": "seen"}, "routers": {"192.0.2.1": True, "2001:db8::1": False}}
    assert api.Observation.model_validate({"v": 1, **told}).routers == told["routers"]
    for wrong in ({"routers": {"\x1b[2J": False}}, {"routers": {"fra": False}}, {"sites": {"\x1b[2J": "seen"}}):
        with pytest.raises(pydantic.ValidationError):
            api.Observation.model_validate({"v": 1, **told, **wrong})
