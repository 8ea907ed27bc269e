"""What lies between sockets and cores of BFD, without sockets: anything may come in, and anything may stand in a record."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from site_agent.bfd.packet import ControlPacket, State, encode
from site_agent.bfd.sessions import BfdSessions
from site_agent.bfd.sockets import Heard
from tests.support.bfd_rig import only_bfd, peers

PEERS = {peer.name: peer for peer in peers()}
PLACES = [(peer.local, peer.interface) for peer in PEERS.values()]
SOURCES = [*(peer.remote for peer in PEERS.values()), ip_address("198.51.100.13")]
UNTIL = 1e6


def sessions(**changed: object) -> BfdSessions:
    made = BfdSessions(only_bfd(**changed), 1.0, lambda: None)
    return made


def packets() -> st.SearchStrategy[bytes]:
    return st.binary(max_size=30) | st.builds(
        lambda state, yours, mine: encode(
            ControlPacket(
                state=state,
                detect_mult=3,
                my_discriminator=mine,
                your_discriminator=yours,
                desired_min_tx=10**6,
                required_min_rx=10**5,
            )
        ),
        st.sampled_from(State),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
    )


@given(
    st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(SOURCES), st.sampled_from([255, 255, 254, -1]), packets()))
)
def test_who_knows_no_discriminator_brings_no_session_up(heard: list[tuple[object, object, int, bytes]]) -> None:
    made, now = sessions(), 1.0
    numbers = {int(one["discriminator"]) for one in made.standing().values()}
    assert len(numbers) == 2 and 0 not in numbers
    made.grant(UNTIL, now)
    for place, source, hops, data in heard:
        now += 0.01
        if not any(number.to_bytes(4, "big") in data for number in numbers):
            made.receive(Heard(place, source, hops, data), now)  # type: ignore[arg-type]
        made.tick(now)
    assert {one["state"] for one in made.standing().values()} <= {"down", "init"}


FIELDS = [*BfdSessions(only_bfd(), 1.0, lambda: None).standing()["v4"]]


@given(
    st.dictionaries(st.sampled_from(FIELDS), st.integers() | st.text(max_size=5) | st.integers(1, 2**16 - 1)), st.booleans()
)
def test_a_record_that_makes_no_sense_is_no_session_to_go_on_with(record: dict[str, int | str], up: bool) -> None:
    peer = PEERS["v4"]
    if up:
        record |= {"state": "up", "local": str(peer.local), "remote": str(peer.remote)}
    made = sessions(bfd_before={"v4": record}, resume_until_ns=int(UNTIL * 1e9))
    assert made.standing() == {"v4": record}, "for whoever comes next"
    made.grant(UNTIL, 2.0)
    standing = made.standing()["v4"]
    assert 0 < int(standing["discriminator"]) < 2**32 and standing["state"] in ("down", "up")
    if standing["state"] == "up":
        assert standing["discriminator"] == int(record["discriminator"])


@pytest.mark.parametrize(
    ("changed", "goes_on"),
    [
        ({}, True),
        ({"state": "init"}, False),
        ({"remote": "198.51.100.13"}, False),
        ({"discriminator": 0}, False),
        ({"discriminator": 2**32}, False),
        ({"remote_discriminator": -1}, False),
        ({"port": 2**16}, False),
        ({"remote_mult": "three"}, False),
    ],
    ids=str,
)
def test_a_session_goes_on_by_a_record_of_that_very_session(changed: dict[str, int | str], goes_on: bool) -> None:
    record = {
        **sessions().standing()["v4"],
        "state": "up", "port": 50000, "discriminator": 7, "remote_discriminator": 9, "remote_mult": 3,
    }  # fmt: skip
    made = sessions(bfd_before={"v4": {**record, **changed}}, resume_until_ns=int(UNTIL * 1e9))
    made.grant(UNTIL, 2.0)
    standing = made.standing()["v4"]
    assert (standing["state"], standing["discriminator"] == 7) == (("up", True) if goes_on else ("down", False))


def test_a_record_is_worth_nothing_without_a_grant_or_after_its_time() -> None:
    record = {**sessions().standing()["v4"], "state": "up", "port": 50000, "discriminator": 7, "remote_mult": 3}
    for granted, until in ((0.0, UNTIL), (UNTIL, 1.5)):
        made = sessions(bfd_before={"v4": record}, resume_until_ns=int(until * 1e9))
        made.grant(granted, 2.0)
        assert made.standing()["v4"]["state"] == "down" and made.standing()["v4"]["discriminator"] != 7
