"""What the virtual router adds to RFC 9568: grants, addresses that the kernel refuses or takes, ties, and owners."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from anycast.runtime import TimerExpired
from site_agent.vrrp.election import Role
from site_agent.vrrp.packet import Discard
from site_agent.vrrp.router import Active, Backup, Initialize, VirtualRouter
from site_agent.vrrp.router_words import (
    AddAddresses,
    AddressesRefused,
    AnnounceAddresses,
    Cause,
    HandOver,
    Parameters,
    PriorityGranted,
    RemoveAddresses,
    RoleChanged,
    SendAdvert,
    UplinkProven,
)
from site_agent.vrrp.seal import Flag, Path
from tests.unit.test_vrrp_router import ADVERT, NEVER, OWN, RELEASE, active, heard, started


def pair(**parameters: object) -> tuple[VirtualRouter, float]:
    return active(sealed=True, router_id=5, preempt=False, **parameters)


def test_a_grant_that_lay_in_a_buffer_grants_nothing() -> None:
    router = VirtualRouter(Parameters(primary=OWN), now=0, resume_until=10)
    assert router.handle(PriorityGranted(priority=100, until=0.9), 1) == [] and isinstance(router.state, Initialize)
    router, now = active()
    router.handle(PriorityGranted(priority=100, until=now + 0.5), now)
    late = router.handle(PriorityGranted(priority=100, until=now + 0.4), now + 0.5)
    assert late[:2] == [RELEASE, RemoveAddresses()]


def test_addresses_that_the_kernel_took_are_put_back_and_announced() -> None:
    router, now = active()
    assert router.handle(TimerExpired(), now + 1.5)[:2] == [AddAddresses(), AnnounceAddresses()]
    assert router.role is Role.ACTIVE


def test_refused_addresses_are_not_claimed_and_not_tried_at_once() -> None:
    router, now = active(advertisement_interval=1)
    changed = RoleChanged(role=Role.BACKUP, cause=Cause.ADDRESSES_REFUSED)
    assert router.handle(AddressesRefused(), now) == [RELEASE, RemoveAddresses(), changed]
    for hundredth in range(1, 100):
        router.handle(TimerExpired(), now + hundredth / 100)
        assert router.role is Role.BACKUP
    assert router.deadline == now + 1.0
    for hundredth in range(100, 110):
        router.handle(TimerExpired(), now + hundredth / 100)
    assert router.role is Role.ACTIVE


def test_while_refused_it_says_that_it_could_not_serve() -> None:
    router = started(100, sealed=True)
    router.handle(AddressesRefused(), 0.5)
    assert router.handle(TimerExpired(), 1.0) == [SendAdvert(priority=0, flags=Flag(0))]


def test_a_release_is_kept_no_longer_than_an_address_lives_and_is_repeated() -> None:
    router, now = pair()
    router.handle(PriorityGranted(priority=0, until=NEVER), now)
    seen = [router.handle(TimerExpired(), now + tenth / 10) for tenth in range(1, 11)]
    sent = sum(SendAdvert(priority=0, flags=Flag.ACTIVE | Flag.HANDING_OVER) in actions for actions in seen)
    assert sent >= 8 and RemoveAddresses() in seen[-1] and router.role is Role.BACKUP


def test_who_takes_over_from_a_release_has_the_addresses_before_it_says_so() -> None:
    router = started(100, sealed=True)
    actions = router.handle(heard(0, flags=Flag.ACTIVE | Flag.HANDING_OVER, router_id=7), 0.5)
    assert actions[:3] == [AddAddresses(settled=True), AnnounceAddresses(), ADVERT]


def test_ties_are_broken_by_addresses_of_the_same_family() -> None:
    peer, own = ip_address("fe80::3"), ip_address("fe80::2")
    for mine, theirs, role in ((own, peer, Role.BACKUP), (peer, own, Role.ACTIVE)):
        router, now = active()
        router.handle(heard(100, theirs, local=mine), now + 0.1)
        assert router.role is role


def test_an_owner_yields_to_nobody() -> None:
    router = VirtualRouter(Parameters(primary=OWN), now=0)
    router.handle(PriorityGranted(priority=255, until=NEVER), 0)
    assert router.handle(heard(255), 0.01) == [] and router.role is Role.ACTIVE
    assert router.discarded == {(Path.OUTSIDE, Discard.OWNER): 1}


def test_a_backup_without_uplink_takes_nothing_that_is_offered() -> None:
    router = started(0, sealed=True)
    assert RemoveAddresses() not in router.handle(heard(0, flags=Flag.ACTIVE, router_id=7), 0.5)
    assert isinstance(router.state, Backup)


def test_a_handover_back_in_time_keeps_everything() -> None:
    router, now = pair()
    router.handle(heard(100, flags=Flag(0), router_id=7), now)
    router.handle(HandOver(), now + 0.1)
    assert isinstance(router.state, Active) and router.state.release is not None
    assert router.state.release.until == pytest.approx(now + 1.1)


@pytest.mark.parametrize("path", [Path.INSIDE, Path.MANAGEMENT])
def test_silence_on_one_path_is_not_silence_on_another_that_speaks_less_often(path: Path) -> None:
    router = started(100, sealed=True, advertisement_interval=10)
    router.handle(heard(100, path=path, interval=100, router_id=7), 0.01)
    router.handle(heard(100, path=Path.OUTSIDE, interval=10, router_id=7), 0.02)
    for hundredth in range(3, 360):
        router.handle(TimerExpired(), hundredth / 100)
        assert router.role is Role.BACKUP, f"at {hundredth / 100} s"
    for hundredth in range(360, 500):
        router.handle(TimerExpired(), hundredth / 100)
    assert router.role is Role.ACTIVE


def test_an_active_without_uplink_offers_nothing_to_who_could_not_serve() -> None:
    router, now = pair()
    router.handle(heard(0, flags=Flag(0), router_id=7), now)
    router.handle(UplinkProven(proven=False), now + 0.1)
    assert isinstance(router.state, Active) and router.state.release is None


def test_who_gives_way_announces_nothing() -> None:
    """The other one may have announced the addresses already, and neighbours believe the last."""
    router, at = active(advertisement_interval=10, sealed=True)
    router.handle(heard(100, interval=10, flags=Flag(0), router_id=9), at + 0.05)
    assert AnnounceAddresses() not in router.handle(HandOver(), at + 0.09)
    for after in (0.1, 0.11, 0.12):
        assert AnnounceAddresses() not in router.handle(TimerExpired(), at + after)
        assert router.deadline is None or router.deadline > at + after, "it would turn without end"
    router.handle(heard(100, interval=10, router_id=9), at + 0.13)
    assert AnnounceAddresses() not in router.handle(TimerExpired(), at + 0.14)


def test_a_backup_answers_its_actives_tick_and_speaks_by_itself_where_none_comes() -> None:
    router = started(100, advertisement_interval=10, sealed=True)
    presence = SendAdvert(priority=100, flags=Flag(0))
    assert router.handle(TimerExpired(), 0.0) == [], "it has said so with its first grant"
    tick = heard(100, interval=10, router_id=9)
    assert router.handle(tick, 0.04) == [], "it has spoken a moment ago"
    for n in range(1, 5):
        assert router.handle(tick, 0.0 + 0.1 * n) == [presence]
        assert router.handle(tick, 0.0 + 0.1 * n + 0.01) == [], "once an interval, however often it is spoken to"
        assert router.handle(TimerExpired(), 0.1 * n + 0.09) == []
    assert router.handle(TimerExpired(), 0.4 + 0.125) == [presence]
    assert router.handle(TimerExpired(), 0.4 + 0.225) == [presence], "on its own again, every interval"


def test_a_clean_restart_keeps_its_term_which_the_backup_knows() -> None:
    """Else the one before it, met in a split, would come first."""
    router = VirtualRouter(Parameters(primary=OWN, router_id=1, sealed=True), now=0.0, resume_until=1.0)
    backups = heard(100, flags=Flag(0), router_id=7, term=5)
    router.handle(backups, 0.1)
    router.handle(PriorityGranted(priority=100, until=NEVER), 0.2)
    assert (router.role, router.term) == (Role.ACTIVE, 5)
    other = VirtualRouter(Parameters(primary=OWN, router_id=1, sealed=True), now=0.0, resume_until=1.0)
    other.handle(PriorityGranted(priority=100, until=NEVER), 0.1)
    assert (other.role, other.term) == (Role.ACTIVE, 1)
    other.handle(backups, 0.2)
    assert (other.role, other.term) == (Role.ACTIVE, 5), "also where it hears it later"
    other.handle(heard(200, router_id=7, term=4), 0.3)
    assert other.role is Role.ACTIVE, "an earlier one, whatever its priority"
    other.handle(heard(1, router_id=7, term=6), 0.4)
    assert (other.role, other.term) == (Role.BACKUP, 6)
