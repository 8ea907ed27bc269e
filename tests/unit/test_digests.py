"""Comparing two buckets, and what an Active says of its own freshness."""

from __future__ import annotations

import pytest

from anycast.timer import TimerExpired
from site_agent.sync import digest_words as words
from site_agent.sync.digest_compare import Cause, Extra, Finding, TwoLooks, compare
from site_agent.sync.digest_table import BUCKETS, RECORD_BYTES, SUM_BYTES, Of, Table
from site_agent.sync.digest_wire import Ask, Done, Findings, Records, Sums
from site_agent.sync.digests import AWAY_S, ROUND_S, STALE_S, Digests
from site_agent.sync.numbers_words import PeerConnected, PeerLost, Role, RoleChanged
from tests.support.digest_world import VIP, World

SPI = bytes.fromhex("0000123432")
ONE, OTHER = bytes([198, 51, 100, 1]) + bytes(12), bytes([198, 51, 100, 2]) + bytes(12)


def sa(*, to: bytes = VIP, of: bytes = ONE, ports: bytes = bytes(6), settings: bytes = bytes(8), spi: bytes = SPI) -> bytes:
    return spi + to + of + ports + settings


def policy(to: bytes = ONE, settings: bytes = bytes(8)) -> bytes:
    return b"\x01" + bytes(45) + to + VIP + settings


def ike(remote: bytes = ONE, port: bytes = b"\x01\xf4") -> bytes:
    return bytes(16) + VIP + remote + port


@pytest.mark.parametrize(
    ("of", "theirs", "ours", "cause"),
    [
        (Of.SAS, sa(), None, Cause.MISSING_IN_KERNEL),
        (Of.SAS, sa(), sa(of=OTHER), Cause.ADDRESS),
        (Of.SAS, sa(to=ONE, of=VIP), sa(to=OTHER, of=VIP), Cause.ADDRESS),
        (Of.SAS, sa(), sa(ports=b"\x02" * 6), Cause.PORTS),
        (Of.SAS, sa(), sa(settings=b"\x01" * 8), Cause.SETTINGS),
        (Of.POLICIES, policy(), None, Cause.MISSING_IN_KERNEL),
        (Of.POLICIES, policy(), policy(to=OTHER), Cause.ADDRESS),
        (Of.POLICIES, policy(), policy(settings=b"\x01" * 8), Cause.SETTINGS),
        (Of.IKE_SAS, ike(), None, Cause.MISSING_IN_CHARON),
        (Of.IKE_SAS, ike(), ike(remote=OTHER), Cause.ADDRESS),
        (Of.IKE_SAS, ike(), ike(port=b"\x11\x94"), Cause.PORTS),
        (Of.CHILD_SAS, SPI + bytes(20), None, Cause.MISSING_IN_CHARON),
        (Of.CHILD_SAS, SPI + bytes(20), SPI + bytes(19) + b"\x01", Cause.IKE_SA),
    ],
)
def test_what_differs_has_a_cause_and_is_no_extra(of: Of, theirs: bytes, ours: bytes | None, cause: Cause) -> None:
    same = bytes([9]) * RECORD_BYTES[of]
    assert compare(of, [theirs, same], [same] if ours is None else [ours, same]) == ([Finding(of, theirs, cause)], [])


def test_another_clients_sa_with_the_same_spi_is_extra() -> None:
    theirs, ours = sa(to=ONE, of=VIP), sa(to=OTHER, of=bytes(16))
    findings, extras = compare(Of.SAS, [theirs], [ours])
    assert findings == [Finding(Of.SAS, theirs, Cause.MISSING_IN_KERNEL)]
    assert extras == [Extra(Of.SAS, ours)]


def test_many_with_one_spi_cost_no_square() -> None:
    """Clients choose the SPIs of outbound SAs."""
    theirs = [sa(to=number.to_bytes(16), of=VIP) for number in range(20_000)]
    ours = [sa(to=number.to_bytes(16), of=OTHER) for number in range(20_000, 40_000)]
    findings, extras = compare(Of.SAS, theirs, ours)
    assert len(findings) == len(extras) == 20_000


def test_one_record_that_differs_changes_one_sum() -> None:
    records = [number.to_bytes(4) + bytes(47) for number in range(5000)]
    plain, other = (
        Table(Of.SAS, records).sums(),
        Table(Of.SAS, [*reversed(records[1:]), bytes(3) + b"\x00\x01" + bytes(46)]).sums(),
    )
    differing = [
        place for place in range(BUCKETS) if plain[place * SUM_BYTES :][:SUM_BYTES] != other[place * SUM_BYTES :][:SUM_BYTES]
    ]
    assert differing == [0]
    assert len(plain) == BUCKETS * SUM_BYTES


def test_two_looks_agree_or_begin_anew() -> None:
    looks = TwoLooks[str](3.0)
    assert looks.looked(["a", "b"], 0.0) == set()
    assert looks.looked(["a"], 2.9) == set()
    assert looks.looked(["a", "b"], 3.0) == {"a"}, "b was right in between"
    assert looks.looked(["a", "b"], 6.0) == {"a", "b"}


def pair() -> World:
    world = World(1)
    world.join()
    for _ in range(5):
        world.connect()
    world.run(15.0)
    assert world.active.core.freshness(world.now).unprotected == 0
    return world


def test_what_no_round_has_seen_is_unprotected() -> None:
    world = World(1)
    assert world.active.core.freshness(world.now).of == 0
    for _ in range(5):
        world.connect()
    world.run(2 * ROUND_S)
    alone = world.active.core.freshness(world.now)
    assert (alone.unprotected, alone.of, alone.compared_at) == (10, 10, None), "there is nobody"


def test_what_was_held_is_known_for_a_while_after_the_peer_has_gone() -> None:
    world = pair()
    world.part()
    world.connect()
    world.run(AWAY_S - 1.0)
    assert world.active.core.freshness(world.now).unprotected == 2, "the new one's"
    world.run(2.0)
    gone = world.active.core.freshness(world.now)
    assert (gone.unprotected, gone.of, gone.compared_at) == (12, 12, None)


def test_a_round_counts_for_a_while() -> None:
    world = pair()
    assert world.active.core.freshness(world.now + STALE_S - ROUND_S - 5.0).unprotected == 0
    assert world.active.core.freshness(world.now + STALE_S).unprotected == 10


def test_a_new_session_knows_nothing() -> None:
    world = pair()
    world.active.core.handle(PeerConnected(), world.now)
    assert world.active.core.freshness(world.now).unprotected == 10


def test_causes_are_told_by_name() -> None:
    world = pair()
    world.break_backup("sa")
    world.run(ROUND_S + 1.0)
    assert world.active.core.freshness(world.now).causes == {"missing_in_kernel": 1}
    assert world.active.core.freshness(world.now).unprotected == 1


def test_a_missing_policy_leaves_its_whole_tunnel_unprotected() -> None:
    world = pair()
    world.break_backup("policy")
    world.run(ROUND_S + 1.0)
    assert world.active.core.freshness(world.now).unprotected == 2


SUMS = Sums(round=1, of=Of.SAS, entries=0, sums=bytes(BUCKETS * SUM_BYTES))
DONE = Done(round=1, kernel_seen=True, charon_seen=True, removes_nothing=False, extra_in_kernel=0, extra_in_charon=0)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    "message",
    [SUMS, DONE, Ask(round=1, of=Of.SAS, buckets=(1,)), Records(round=1, of=Of.SAS, pieces=()),
     Findings(round=1, of=Of.SAS, findings=((Finding(Of.SAS, bytes(51), Cause.PORTS), True),))],
)  # fmt: skip
def test_a_word_out_of_turn_changes_nothing(role: Role, message: object) -> None:
    core = Digests(role, now=0.0)
    core.handle(PeerConnected(), 0.0)
    actions = core.handle(words.Heard(message), 1.0)  # type: ignore[arg-type]
    assert actions == ([words.Look()] if role is Role.BACKUP and message is SUMS else [])
    assert core.conflicts == (role is not Role.BACKUP and message is SUMS)


def test_a_bucket_is_told_once_a_round() -> None:
    world = pair()
    active = world.active.core
    world.run(ROUND_S)
    active.handle(TimerExpired(), world.now + ROUND_S)
    sas, policies = world.active.kernel_look()
    told = active.handle(words.Looked(sas=sas, policies=policies, charon=world.active.charon_look()), world.now + ROUND_S)
    (number,) = {action.message.round for action in told if isinstance(action, words.Send)}
    ask = words.Heard(Ask(round=number, of=Of.SAS, buckets=tuple(range(64))))
    assert len(active.handle(ask, world.now + ROUND_S)) == 1
    assert active.handle(ask, world.now + ROUND_S) == []


def test_a_look_is_answered_to_who_asked_for_it() -> None:
    """Also where the role has changed meanwhile."""
    core = Digests(Role.ACTIVE, now=0.0)
    assert core.handle(PeerConnected(), 0.0) == [words.Look()]
    core.handle(RoleChanged(role=Role.BACKUP), 0.1)
    assert core.handle(words.Heard(SUMS), 0.2) == [words.Look()]
    nothing = words.Looked(sas=None, policies=None, charon=None)
    assert core.handle(nothing, 0.3) == [], "the Active's, which nobody needs any more"
    (sent,) = core.handle(nothing, 0.4)
    assert isinstance(sent, words.Send) and isinstance(sent.message, Done)
    assert not sent.message.kernel_seen and not sent.message.charon_seen


def test_no_peer_no_round() -> None:
    world = pair()
    world.active.core.handle(PeerLost(), world.now)
    world.sent.clear()
    world.joined = False
    world.run(5 * ROUND_S)
    assert world.sent == []
