"""keepalived as the other router: both roles, takeover and release in both directions, and it never has a complaint.

The cases meet each pair of values of family, destination, interval and checksum at least once, each value at least twice.
Debian 12's keepalived (2.2.7) does not know `v3_checksum_as_v2`; there a router of ours that keeps to RFC 9568 stands in for
it, which sends the same bytes.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from site_agent.vrrp.packet import Interop
from tests.support.keepalived import Keepalived
from tests.support.namespace import in_namespace
from tests.support.vrrp_pair import Lan, Process, addresses, ip, wait

pytestmark = [pytest.mark.root, pytest.mark.alone]

LOADED_S = 0.5
"""What a busy machine and a new process may cost beside the protocol's own time."""
CASES = {
    "ipv4-unicast-1s": (4, False, 100, False),
    "ipv4-multicast-10ms": (4, True, 1, False),
    "ipv6-unicast-10ms": (6, False, 1, False),
    "ipv6-multicast-1s": (6, True, 100, False),
    "ipv4-unicast-10ms-as-v2": (4, False, 1, True),
    "ipv4-multicast-1s-as-v2": (4, True, 100, True),
}


@functools.cache
def knows_as_v2() -> bool:
    return b"v3_checksum_as_v2" in Path(shutil.which("keepalived") or "/usr/sbin/keepalived").read_bytes()


class StandIn:
    """A router of ours that speaks as keepalived with `v3_checksum_as_v2` does."""

    def __init__(self, lan: Lan, family: int, multicast: bool, interval: int) -> None:
        self._process = lan.start(2, families=(family,), multicast=multicast, interval=interval)

    @property
    def state(self) -> str:
        status = self._process.status
        assert status is not None
        return "MASTER" if status.role == "active" else "BACKUP"

    def wait(self, state: str, within: float = 10.0) -> None:
        wait(lambda: self.state == state, f"the stand-in is {state}", within)

    def complaints(self) -> list[str]:
        assert self._process.status is not None
        return list(self._process.status.discarded)

    def end(self) -> None:
        self._process.child.terminate()
        self._process.ended()

    def kill(self) -> None:
        self._process.child.kill()
        self._process.ended()


Other = Keepalived | StandIn


def converse(family: int, multicast: bool, interval: int, as_v2: bool) -> None:
    interval_s, down_s, skew_s = interval / 100, 3.61 * interval / 100, 0.61 * interval / 100
    interop = Interop.KEEPALIVED_AS_V2 if as_v2 else Interop.KEEPALIVED
    complaints: list[str] = []
    with Lan() as lan, tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as cleanup:

        def ours() -> Process:
            return lan.start(1, families=(family,), multicast=multicast, interval=interval, interop=interop)

        def theirs() -> Other:
            for address, entry in addresses(2).items():  # what a killed keepalived left
                if address not in standing[2] and not entry.get("dynamic"):
                    ip(f"-n gw2 addr del {address}/{entry['prefixlen']} dev eth1")
            more = "v3_checksum_as_v2" if as_v2 else ""
            found: Other = (
                StandIn(lan, family, multicast, interval)
                if as_v2 and not knows_as_v2()
                else Keepalived(2, Path(folder), family=family, multicast=multicast, interval_s=interval_s, more=more)
            )
            cleanup.callback(lambda: complaints.extend(found.complaints()))
            return found

        def one_only(active: Callable[[], bool], intervals: int) -> None:
            """`active` stays true, and the two never hold the addresses both."""
            end = time.monotonic() + intervals * interval_s
            while time.monotonic() < end:
                assert active()
                assert len([n for n in (1, 2) if addresses(n).keys() - standing[n]]) <= 1

        def timed(what: Callable[[], None], limit_s: float) -> None:
            began = time.monotonic()
            what()
            assert time.monotonic() - began < limit_s + LOADED_S

        standing = {n: set(addresses(n)) for n in (1, 2)}
        other = theirs()
        other.wait("MASTER")
        mine = ours()
        mine.wait("hears it", lambda status: status.peer_active)
        one_only(lambda: other.state == "MASTER" and mine.status is not None and mine.status.role == "backup", 10)

        other.end()  # priority 0
        timed(lambda: mine.role("active") and None, skew_s)
        other = theirs()
        other.wait("BACKUP")
        one_only(lambda: other.state == "BACKUP" and mine.status is not None and mine.status.role == "active", 10)
        assert mine.status is not None and mine.status.discarded == {}

        mine.child.terminate()  # priority 0
        timed(lambda: other.wait("MASTER"), skew_s)
        mine = ours()
        mine.wait("hears it", lambda status: status.peer_active)

        other.kill()
        timed(lambda: mine.role("active") and None, down_s)
        other = theirs()
        other.wait("BACKUP")
        if isinstance(other, StandIn):
            wait(lambda: other._process.status and other._process.status.peer_active, "it hears us")

        mine.child.kill()
        timed(lambda: other.wait("MASTER"), down_s)
        other.end()
        for process in lan.processes:
            assert process.status is None or process.status.discarded == {}, process.status
    assert complaints == []


def _case(name: str) -> Callable[[], None]:
    def test() -> None:
        converse(*CASES[name])

    test.__name__ = test.__qualname__ = f"test_{name.replace('-', '_')}"
    return in_namespace(test)


# Each state lasts ten intervals: at 1 s a case takes half a minute.
NAMES = [pytest.param(name, marks=pytest.mark.long if "-1s" in name else ()) for name in CASES]


@pytest.mark.root
@pytest.mark.parametrize("name", NAMES)
def test_both_roles_takeover_and_release_in_both_directions(name: str) -> None:
    _case(name)()


@in_namespace
def test_a_router_that_keeps_to_the_rfc_is_refused_by_it() -> None:
    """Why `interop: keepalived` exists; and the test above would notice if it changed nothing."""
    with Lan() as lan, tempfile.TemporaryDirectory() as folder:
        lan.start(1, families=(4,)).role("active")
        other = Keepalived(2, Path(folder), family=4, multicast=False, interval_s=0.1)
        wait(other.complaints, "a complaint")
        other.wait("MASTER")  # beside us
        assert any("checksum" in line for line in other.complaints())
        other.end()
