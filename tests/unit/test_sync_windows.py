"""Inbound windows of two gateways: who tells whom, what is written into which kernel, and when."""

from __future__ import annotations

import pytest

from site_agent.netlink.xfrm_keys import SaKey
from site_agent.sync import windows
from site_agent.sync.numbers_words import PeerConnected, PeerLost, Role, RoleChanged, SaGone
from site_agent.sync.windows import PeerSaw, RefuseUpTo, SaThere, TellSeen, Windows


def key(spi: int) -> SaKey:
    return SaKey(bytes(16) + spi.to_bytes(4) + b"\x32")


KEY, OTHER = key(1), key(2)
NOT_ACTIVE = [Role.BACKUP, Role.PROMOTING]


def made(role: Role, *, seq: int | None = 0, connected: bool = True) -> Windows:
    """With one SA."""
    core = Windows(role)
    if connected:
        core.handle(PeerConnected())
    if seq is not None:
        core.handle(SaThere(key=KEY, seq=seq))
    return core


@pytest.mark.parametrize("role", NOT_ACTIVE)
def test_a_window_goes_forward_only(role: Role) -> None:
    core = made(role)
    assert core.handle(PeerSaw(key=KEY, seq=40)) == [RefuseUpTo(key=KEY, seq=40)]
    assert core.handle(PeerSaw(key=KEY, seq=40)) == core.handle(PeerSaw(key=KEY, seq=39)) == []
    assert core.handle(PeerSaw(key=KEY, seq=41)) == [RefuseUpTo(key=KEY, seq=41)]


@pytest.mark.parametrize("role", NOT_ACTIVE)
def test_what_is_told_before_the_kernel_has_the_sa_is_written_when_it_has(role: Role) -> None:
    core = made(role, seq=None)
    for seq in (7, 9, 8):
        assert core.handle(PeerSaw(key=KEY, seq=seq)) == []
    assert core.handle(SaThere(key=OTHER, seq=0)) == []
    assert core.handle(SaThere(key=KEY, seq=0)) == [RefuseUpTo(key=KEY, seq=9)]
    assert core.handle(SaThere(key=KEY, seq=9)) == core.handle(PeerSaw(key=KEY, seq=9)) == [], "it is there"
    ahead = made(role, seq=None)
    ahead.handle(PeerSaw(key=KEY, seq=7))
    assert ahead.handle(SaThere(key=KEY, seq=7)) == []


@pytest.mark.parametrize("role", NOT_ACTIVE)
def test_a_kernel_that_is_behind_is_written_to_again(role: Role) -> None:
    core = made(role)
    core.handle(PeerSaw(key=KEY, seq=40))
    assert core.handle(SaThere(key=KEY, seq=3)) == [RefuseUpTo(key=KEY, seq=40)], "the write failed; a listing shows it"
    assert core.handle(SaThere(key=KEY, seq=41)) == [], "a number that it accepted itself, as Active before"
    assert core.handle(PeerSaw(key=KEY, seq=41)) == []


def test_an_active_tells_of_each_advance_and_says_nothing_twice() -> None:
    core = made(Role.ACTIVE, seq=None)
    assert core.handle(SaThere(key=KEY, seq=0)) == [], "nothing was received yet"
    assert core.handle(SaThere(key=KEY, seq=1)) == [TellSeen(key=KEY, seq=1)]
    assert core.handle(SaThere(key=OTHER, seq=6)) == [TellSeen(key=OTHER, seq=6)]
    assert core.handle(SaThere(key=KEY, seq=1)) == core.handle(SaThere(key=OTHER, seq=5)) == []
    assert core.handle(SaThere(key=OTHER, seq=6)) == [], "the older word took nothing back"


def test_a_new_session_is_told_everything_and_no_session_nothing() -> None:
    core = made(Role.ACTIVE, seq=1)
    core.handle(SaThere(key=OTHER, seq=0))
    core.handle(PeerLost())
    assert core.handle(SaThere(key=key(3), seq=9)) == []
    assert core.handle(PeerConnected()) == [TellSeen(key=key(3), seq=9), TellSeen(key=KEY, seq=1)]
    assert core.handle(SaThere(key=key(3), seq=9)) == []


@pytest.mark.parametrize("role", NOT_ACTIVE)
def test_who_is_not_active_tells_nothing_until_it_is(role: Role) -> None:
    """Addresses come before the role, so its kernel may have accepted packets already."""
    core = made(role, seq=None, connected=False)
    core.handle(SaThere(key=KEY, seq=5))
    assert core.handle(PeerConnected()) == core.handle(SaThere(key=OTHER, seq=6)) == []
    assert core.handle(RoleChanged(role=Role.ACTIVE)) == [TellSeen(key=KEY, seq=5), TellSeen(key=OTHER, seq=6)]
    assert core.handle(RoleChanged(role=Role.ACTIVE)) == []


def test_a_takeover_tells_only_what_the_peer_does_not_know() -> None:
    core = made(Role.BACKUP, seq=5, connected=False)
    for spi in (2, 3, 4):
        core.handle(SaThere(key=key(spi), seq=5))
    core.handle(PeerConnected())
    for spi, seq in ((1, 5), (2, 6), (3, 4)):
        core.handle(PeerSaw(key=key(spi), seq=seq))
    assert core.handle(RoleChanged(role=Role.ACTIVE)) == [TellSeen(key=key(3), seq=5), TellSeen(key=key(4), seq=5)]


def test_nothing_is_written_into_an_actives_kernel_before_it_is_backup() -> None:
    """A stale peer's word would refuse good packets; what the new Active said meanwhile counts when the role has gone."""
    core = made(Role.ACTIVE, seq=5)
    core.handle(SaThere(key=OTHER, seq=5))
    for one, seq in ((KEY, 9), (OTHER, 4)):
        assert core.handle(PeerSaw(key=one, seq=seq)) == []
    assert core.handle(SaThere(key=KEY, seq=6)) == [TellSeen(key=KEY, seq=6)], "its own count goes on"
    assert core.handle(RoleChanged(role=Role.PROMOTING)) == [], "charon began anew; packets are received"
    assert core.handle(RoleChanged(role=Role.ACTIVE)) == []
    assert core.handle(RoleChanged(role=Role.BACKUP)) == [RefuseUpTo(key=KEY, seq=9)]
    assert core.handle(RoleChanged(role=Role.BACKUP)) == []
    core.handle(RoleChanged(role=Role.ACTIVE))
    core.handle(PeerSaw(key=KEY, seq=2))
    core.handle(RoleChanged(role=Role.PROMOTING))
    assert core.handle(SaThere(key=KEY, seq=3)) == [RefuseUpTo(key=KEY, seq=9)], "an older word took nothing back"
    late = made(Role.ACTIVE, seq=None)
    late.handle(PeerSaw(key=KEY, seq=9))
    assert late.handle(SaThere(key=KEY, seq=0)) == []
    assert late.handle(RoleChanged(role=Role.BACKUP)) == [RefuseUpTo(key=KEY, seq=9)]


@pytest.mark.parametrize("role", NOT_ACTIVE)
def test_an_sa_that_is_gone_leaves_nothing_to_one_with_its_spi(role: Role) -> None:
    core = made(role, seq=None)
    core.handle(PeerSaw(key=KEY, seq=7))
    core.handle(SaGone(key=KEY))
    assert core.handle(SaThere(key=KEY, seq=0)) == []
    core.handle(PeerSaw(key=KEY, seq=7))
    core.handle(SaGone(key=KEY))
    assert core.handle(SaThere(key=KEY, seq=0)) == []
    core.handle(SaThere(key=KEY, seq=3))
    core.handle(SaGone(key=KEY))
    core.handle(SaGone(key=KEY))
    assert core.handle(RoleChanged(role=Role.ACTIVE)) == [], "nor is it told of"


def test_what_is_told_early_is_bounded_and_the_youngest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that both kernels have deleted is told of once more, and no event ever takes it away."""
    monkeypatch.setattr(windows, "MAX_EARLY", 3)
    core = made(Role.BACKUP, seq=None)
    for spi, seq in ((1, 7), (2, 7), (3, 7), (1, 8), (4, 7)):
        core.handle(PeerSaw(key=key(spi), seq=seq))
    written = [core.handle(SaThere(key=key(spi), seq=0)) for spi in (1, 2, 3, 4)]
    assert written == [[RefuseUpTo(key=key(spi), seq=seq)] if seq else [] for spi, seq in ((1, 8), (2, 0), (3, 7), (4, 7))]
