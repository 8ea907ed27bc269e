"""RFC 9568 section 6.4, row by row: with one path and no seal the virtual router is the standard's."""

from __future__ import annotations

import itertools
from ipaddress import ip_address

import pytest

from anycast.runtime import TimerExpired
from site_agent.vrrp.election import Role
from site_agent.vrrp.router import LINGER_S, Active, Backup, Initialize, VirtualRouter
from site_agent.vrrp.router_words import (
    AddAddresses,
    AdvertReceived,
    AnnounceAddresses,
    Cause,
    HandOver,
    HandoverFailed,
    Parameters,
    PriorityGranted,
    RemoveAddresses,
    RenewAddresses,
    RoleChanged,
    SendAdvert,
    Shutdown,
    UplinkProven,
)
from site_agent.vrrp.seal import Flag, Path

OWN, LOWER, HIGHER = (ip_address(f"198.51.100.{n}") for n in (2, 1, 3))
NEVER = 1e9
SECOND = 100
"""Centiseconds."""


def started(priority: int = 100, *, at: float = 0.0, **parameters: object) -> VirtualRouter:
    router = VirtualRouter(Parameters(primary=OWN, **parameters), now=at)  # type: ignore[arg-type]
    router.handle(PriorityGranted(priority=priority, until=NEVER), at)
    return router


def active(priority: int = 100, **parameters: object) -> tuple[VirtualRouter, float]:
    router = started(priority, **parameters)
    now = router.deadline
    assert now is not None
    for _ in range(10):
        if router.role is Role.ACTIVE:
            return router, now
        router.handle(TimerExpired(), now)
        now = max(now, router.deadline or now) if router.role is Role.BACKUP else now
    raise AssertionError("never became Active")


def heard(
    priority: int, source=HIGHER, *, interval: int = SECOND, path: Path = Path.OUTSIDE, **seal: object
) -> AdvertReceived:
    return AdvertReceived(path=path, source=source, priority=priority, max_advertise_interval=interval, **seal)  # type: ignore[arg-type]


ADVERT = SendAdvert(priority=100, flags=Flag.ACTIVE)
RELEASE = SendAdvert(priority=0, flags=Flag.ACTIVE)


class TestInitialize:
    def test_the_owner_becomes_active_and_sends_and_announces(self) -> None:
        router = VirtualRouter(Parameters(primary=OWN), now=0)
        actions = router.handle(PriorityGranted(priority=255, until=NEVER), 0)
        advert = SendAdvert(priority=255, flags=Flag.ACTIVE)
        assert actions == [advert, AddAddresses(), AnnounceAddresses(), RoleChanged(role=Role.ACTIVE, cause=Cause.OWNER)]

    def test_anybody_else_becomes_backup_with_the_timer_at_active_down_interval(self) -> None:
        router = started(100)
        assert router.state == Backup(
            active_down_timer=3 + 156 / 256, active_adver_interval=SECOND, since=0, presence_timer=0
        )

    def test_nothing_happens_before_the_first_grant(self) -> None:
        router = VirtualRouter(Parameters(primary=OWN), now=0)
        assert router.handle(heard(100), 1) == [] and router.deadline is None and isinstance(router.state, Initialize)

    def test_a_clean_restart_goes_on_as_active_without_a_priority_0(self) -> None:
        router = VirtualRouter(Parameters(primary=OWN), now=0, resume_until=2)
        assert RoleChanged(role=Role.ACTIVE, cause=Cause.RESUMED) in router.handle(PriorityGranted(priority=100, until=9), 1)

    def test_a_restart_that_took_too_long_does_not(self) -> None:
        router = VirtualRouter(Parameters(primary=OWN), now=0, resume_until=2)
        router.handle(PriorityGranted(priority=100, until=9), 2.1)
        assert router.role is Role.BACKUP

    def test_a_restart_beside_an_active_that_serves_does_not(self) -> None:
        router = VirtualRouter(Parameters(primary=OWN), now=0, resume_until=2)
        router.handle(heard(100, LOWER), 0.5)
        actions = router.handle(PriorityGranted(priority=100, until=9), 1)
        assert actions == [RoleChanged(role=Role.BACKUP, cause=Cause.STARTED)] and router.role is Role.BACKUP

    @pytest.mark.parametrize("said", [{"priority": 0, "flags": Flag.ACTIVE}, {"priority": 100, "flags": Flag(0)}])
    def test_a_restart_beside_one_that_does_not_serve_goes_on(self, said: dict[str, object]) -> None:
        router = VirtualRouter(Parameters(primary=OWN, sealed=True, router_id=2), now=0, resume_until=2)
        router.handle(heard(source=LOWER, router_id=1, **said), 0.5)  # type: ignore[arg-type]
        router.handle(PriorityGranted(priority=100, until=9), 1)
        assert router.role is Role.ACTIVE


class TestBackup:
    def test_an_active_serves_until_active_down_interval_after_its_last_advertisement(self) -> None:
        router = started(0, sealed=True, router_id=2)  # unfit itself: Skew_Time is a whole interval
        for at in (1.0, 1.5):
            router.handle(heard(100, LOWER, path=Path.INSIDE, flags=Flag.ACTIVE, router_id=1), at)
            assert router.peer_serves_until() == at + 4
        router.handle(heard(100, LOWER, path=Path.OUTSIDE, flags=Flag(0), router_id=1), 1.8)
        assert router.peer_serves(5.49) and not router.peer_serves(5.5)

    def test_the_active_down_timer_fires(self) -> None:
        router = started(100)
        assert router.handle(TimerExpired(), router.deadline) == [
            ADVERT, AddAddresses(), AnnounceAddresses(), RoleChanged(role=Role.ACTIVE, cause=Cause.PEER_SILENT),
        ]  # fmt: skip
        assert isinstance(router.state, Active) and router.state.adver_timer == 3 + 156 / 256 + 1

    def test_not_before(self) -> None:
        router = started(100)
        assert router.handle(TimerExpired(), 3.6) == []

    def test_shutdown_says_nothing(self) -> None:
        router = started()
        assert router.handle(Shutdown(), 1) == [] and isinstance(router.state, Initialize)

    def test_priority_0_sets_the_timer_to_skew_time(self) -> None:
        router = started(100)
        assert router.handle(heard(0), 1) == []
        assert router.deadline == pytest.approx(1 + 156 / 256)

    def test_an_equal_or_higher_priority_resets_the_timer_and_teaches_the_interval(self) -> None:
        for priority in (100, 101, 255):
            router = started(100)
            assert router.handle(heard(priority, interval=10), 1) == []
            assert router.deadline == pytest.approx(1 + 0.3 + 0.1 * 156 / 256)
            assert isinstance(router.state, Backup) and router.state.active_adver_interval == 10

    def test_a_lower_priority_is_discarded_where_it_preempts(self) -> None:
        router = started(100)
        before = router.deadline
        assert router.handle(heard(99), 1) == []
        assert router.deadline == before
        assert RoleChanged(role=Role.ACTIVE, cause=Cause.PEER_SILENT) in router.handle(TimerExpired(), before)

    def test_a_lower_priority_counts_where_it_does_not(self) -> None:
        router = started(100, preempt=False)
        router.handle(heard(1), 1)
        assert router.deadline == pytest.approx(1 + 3 + 156 / 256)

    def test_preemption_waits_for_its_delay(self) -> None:
        router = started(100, preempt_delay_s=5)
        for second in range(1, 5):
            router.handle(heard(50), second)
        assert router.role is Role.BACKUP
        router.handle(heard(50), 5)
        router.handle(heard(50), 6)
        assert router.handle(TimerExpired(), router.deadline)[-1] == RoleChanged(role=Role.ACTIVE, cause=Cause.PEER_SILENT)

    def test_without_a_priority_it_never_takes_over(self) -> None:
        router = started(0)
        assert router.handle(TimerExpired(), 100) == [] and router.role is Role.BACKUP

    def test_a_late_timer_looks_into_the_socket_first(self) -> None:
        router = started(100)
        assert router.handle(TimerExpired(), 5) == []
        router.handle(heard(100), 5.01)
        assert router.role is Role.BACKUP and router.deadline > 8

    def test_and_takes_over_when_there_was_nothing(self) -> None:
        router = started(100)
        router.handle(TimerExpired(), 5)
        assert router.deadline <= 5.2
        router.handle(TimerExpired(), router.deadline)
        assert router.role is Role.ACTIVE

    def test_a_backup_that_was_frozen_waits_a_whole_interval(self) -> None:
        router = started(100)
        router.handle(TimerExpired(), 60)
        assert router.deadline == pytest.approx(60 + 3 + 156 / 256)


class TestActive:
    def test_the_adver_timer_fires(self) -> None:
        router, now = active()
        assert router.handle(TimerExpired(), now + 0.9999) == [RenewAddresses(), AnnounceAddresses()]
        assert ADVERT in router.handle(TimerExpired(), now + 1)

    def test_shutdown_releases_with_priority_0(self) -> None:
        router, now = active()
        changed = RoleChanged(role=Role.BACKUP, cause=Cause.SHUTDOWN)
        assert router.handle(Shutdown(), now + 0.1) == [RELEASE, RemoveAddresses(), changed]

    def test_priority_0_is_answered_at_once_and_resets_the_adver_timer(self) -> None:
        router, now = active()
        assert ADVERT in router.handle(heard(0), now + 0.5)
        assert isinstance(router.state, Active) and router.state.adver_timer == now + 1.5

    @pytest.mark.parametrize(("priority", "source"), [(101, LOWER), (101, HIGHER), (100, HIGHER), (255, LOWER)])
    def test_a_higher_priority_or_an_equal_one_from_a_higher_address_ends_it(self, priority: int, source) -> None:
        router, now = active()
        changed = RoleChanged(role=Role.BACKUP, cause=Cause.PEER_PREFERRED)
        assert router.handle(heard(priority, source, interval=20), now + 0.1) == [RemoveAddresses(), changed]
        assert router.deadline == pytest.approx(now + 0.1 + 0.6 + 0.2 * 156 / 256)

    @pytest.mark.parametrize(("priority", "source"), [(99, HIGHER), (1, HIGHER), (100, LOWER)])
    def test_anything_less_is_answered_at_once_and_the_neighbours_are_told(self, priority: int, source) -> None:
        router, now = active()
        router.handle(TimerExpired(), now + 0.2)
        assert router.handle(heard(priority, source), now + 0.3) == [ADVERT, AnnounceAddresses()]
        assert router.role is Role.ACTIVE

    def test_a_flood_of_them_is_answered_a_thousand_times_a_second_at_most(self) -> None:
        router, now = active()
        sent = [action for n in range(10_000) for action in router.handle(heard(1), now + n * 1e-5)]
        assert 50 <= sent.count(ADVERT) <= 101 and sent.count(AnnounceAddresses()) == 1

    def test_addresses_are_renewed_three_times_in_their_life(self) -> None:
        router, now = active(address_life_s=1.0)
        renewed = [n for n in range(1, 301) if RenewAddresses() in router.handle(TimerExpired(), now + n / 100)]
        assert len(renewed) in (8, 9) and max(b - a for a, b in itertools.pairwise(renewed)) <= 35

    def test_one_that_was_frozen_longer_than_active_down_interval_is_backup(self) -> None:
        router, now = active()
        changed = RoleChanged(role=Role.BACKUP, cause=Cause.CLOCK_GAP)
        assert router.handle(TimerExpired(), now + 3.7) == [RemoveAddresses(), changed]

    def test_the_end_of_the_grant_releases(self) -> None:
        router, now = active()
        router.handle(PriorityGranted(priority=100, until=now + 0.5), now)
        assert router.handle(TimerExpired(), now + 0.5)[:2] == [RELEASE, RemoveAddresses()]
        assert router.handle(TimerExpired(), now + 50) == [] and router.role is Role.BACKUP

    def test_a_verdict_against_it_releases(self) -> None:
        router, now = active()
        changed = RoleChanged(role=Role.BACKUP, cause=Cause.UNFIT)
        assert router.handle(PriorityGranted(priority=0, until=NEVER), now) == [RELEASE, RemoveAddresses(), changed]

    def test_without_proof_of_its_uplink_and_alone_it_stops(self) -> None:
        router, now = active()
        router.handle(UplinkProven(proven=True), now)
        assert RemoveAddresses() in router.handle(UplinkProven(proven=False), now + 0.1)
        assert router.role is Role.BACKUP


class TestPair:
    """Between two routers of ours: sealed, on three paths."""

    def presence(self, priority: int, path: Path = Path.OUTSIDE, flags: Flag | None = None) -> AdvertReceived:
        return heard(priority, path=path, flags=flags or Flag(0), router_id=7)

    def pair(self, **parameters: object) -> tuple[VirtualRouter, float]:
        return active(sealed=True, router_id=5, preempt=False, **parameters)

    def test_a_backup_says_that_it_is_there(self) -> None:
        router = started(100, sealed=True)
        assert router.deadline == 1.0
        assert router.handle(TimerExpired(), 1.0) == [SendAdvert(priority=100, flags=Flag(0))]
        assert router.deadline == 2.0

    def test_what_a_backup_says_resets_no_timer_of_another(self) -> None:
        router = started(100, sealed=True)
        router.handle(self.presence(200), 1)
        assert isinstance(router.state, Backup) and router.state.active_down_timer == 3 + 156 / 256

    def test_an_active_that_is_heard_on_management_alone_is_never_taken_over_from(self) -> None:
        router = started(100, sealed=True)
        for tenth in range(200):
            router.handle(heard(100, path=Path.MANAGEMENT, interval=10, router_id=7), tenth / 10)
            router.handle(TimerExpired(), tenth / 10 + 0.05)
        assert router.role is Role.BACKUP

    def test_release_is_made_before_it_breaks(self) -> None:
        router, now = self.pair()
        router.handle(self.presence(100), now)
        first = router.handle(PriorityGranted(priority=0, until=NEVER), now + 0.05)
        assert first == [SendAdvert(priority=0, flags=Flag.ACTIVE | Flag.HANDING_OVER)]
        assert RemoveAddresses() not in router.handle(heard(100, flags=Flag.ACTIVE, router_id=7), now + 0.2)
        early = router.handle(TimerExpired(), now + 0.2 + LINGER_S * 0.9)
        assert RemoveAddresses() not in early, "what was on its way would be lost"
        taken = router.handle(TimerExpired(), now + 0.2 + LINGER_S)
        assert taken[:2] == [RemoveAddresses(), RoleChanged(role=Role.BACKUP, cause=Cause.UNFIT)]

    def test_and_breaks_where_nobody_takes_it(self) -> None:
        router, now = self.pair()
        router.handle(PriorityGranted(priority=0, until=NEVER), now)
        end = now + router.active_down_interval()
        seen = [router.handle(TimerExpired(), now + n / 10) for n in range(1, 60)]
        assert any(RemoveAddresses() in actions for actions in seen) and router.role is Role.BACKUP and end < now + 6

    def test_the_other_one_takes_over_without_waiting(self) -> None:
        router = started(100, sealed=True)
        actions = router.handle(heard(0, flags=Flag.ACTIVE | Flag.HANDING_OVER, router_id=7), 0.5)
        assert actions[-1] == RoleChanged(role=Role.ACTIVE, cause=Cause.PEER_RELEASED)

    def test_two_that_release_do_not_answer_each_other_without_end(self) -> None:
        router, now = self.pair()
        router.handle(PriorityGranted(priority=0, until=NEVER), now)
        assert router.handle(heard(0, flags=Flag.ACTIVE, router_id=7), now + 0.01) == []

    def test_a_handover_needs_somebody_who_could(self) -> None:
        router, now = self.pair()
        assert router.handle(HandOver(), now) == [HandoverFailed(detail="the other gateway is silent")]
        router.handle(self.presence(0), now + 0.1)
        assert router.handle(HandOver(), now + 0.2)[0] == HandoverFailed(detail="the other gateway is unfit")

    def test_a_handover_that_nobody_takes_is_taken_back(self) -> None:
        router, now = self.pair()
        router.handle(self.presence(100), now)
        router.handle(HandOver(), now + 0.1)
        seen = [action for n in range(1, 60) for action in router.handle(TimerExpired(), now + 0.1 + n / 10)]
        assert RemoveAddresses() not in seen and router.role is Role.ACTIVE
        assert any(isinstance(action, HandoverFailed) for action in seen)
        assert seen[-5:].count(SendAdvert(priority=0, flags=Flag.ACTIVE | Flag.HANDING_OVER)) == 0

    def test_ties_are_broken_by_router_id_on_every_path(self) -> None:
        router, now = self.pair()
        assert router.handle(heard(100, LOWER, flags=Flag.ACTIVE, router_id=7), now + 0.1)[0] == RemoveAddresses()
        router, now = self.pair()
        router.handle(heard(100, HIGHER, flags=Flag.ACTIVE, router_id=3), now + 0.1)
        assert router.role is Role.ACTIVE

    def test_an_active_without_uplink_gives_way_to_one_that_could_and_to_nobody_else(self) -> None:
        router, now = self.pair()
        router.handle(self.presence(0, Path.INSIDE), now)
        assert RemoveAddresses() not in router.handle(UplinkProven(proven=False), now + 0.1)
        router.handle(self.presence(100, Path.INSIDE), now + 0.2)
        assert isinstance(router.state, Active) and router.state.release is not None
        router.handle(UplinkProven(proven=True), now + 0.3)
        assert router.state.release is None
