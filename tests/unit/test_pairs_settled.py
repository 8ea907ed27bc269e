"""A lab of pairs is up when each site has one Active and the rest Backups; what a kernel holds is read from /proc."""

from __future__ import annotations

import os

import pytest

from anycast.fleet.loading import load
from anycast_lab.drills import pairs, readiness
from tests.support.documents import TREE

FLEET = load(TREE / "labs" / "topologies" / "two-site-pairs.fleet.yaml")
GOOD = {"fra-gw1": "backup", "fra-gw2": "active", "sin-gw1": "active", "sin-gw2": "backup"}

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 198.51.100.0
        /28 link UNICAST
Local:
  +-- 0.0.0.0/0 3 0 5
     +-- 198.51.100.0/28 2 0 2
        |-- 198.51.100.2
           /32 host LOCAL
        |-- 198.51.100.4
           /32 host LOCAL
        |-- 198.51.100.15
           /32 link BROADCAST
"""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, []),
        ({"fra-gw1": "active"}, ["fra: fra-gw1 is active, fra-gw2 is active"]),
        ({"fra-gw2": "backup"}, ["fra: fra-gw1 is backup, fra-gw2 is backup"]),
        ({"sin-gw2": "partly"}, ["sin: sin-gw1 is active, sin-gw2 is partly"]),
        ({"sin-gw2": None}, ["sin: sin-gw1 is active, sin-gw2 is off"]),
    ],
)
def test_one_active_and_a_backup_at_each_site(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None], said: list[str]
) -> None:
    found = {gateway: word for gateway, word in (GOOD | changed).items() if word is not None}
    monkeypatch.setattr(pairs, "roles", lambda runner, fleet: found)
    assert readiness.unsettled(None, FLEET) == said  # type: ignore[arg-type]


def test_a_site_with_one_gateway_has_nothing_to_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "roles", lambda runner, fleet: {})
    fleet = load(TREE / "labs" / "topologies" / "two-site.fleet.yaml")
    assert readiness.unsettled(None, fleet) == []  # type: ignore[arg-type]


def test_only_what_is_the_kernels_own_and_usable_counts() -> None:
    assert list(pairs._ipv4(FIB_TRIE)) == ["198.51.100.2", "198.51.100.4"]
    lines = "fe80000000000000020005fffe000233 02 80 20 80 eth1\n20010db8000100000000000000000004 02 80 00 c0 eth1\n"
    assert list(pairs._ipv6(lines)) == ["fe80::200:5ff:fe00:233"], "the other one is tentative"


def test_the_kernel_of_this_process_is_read() -> None:
    assert "127.0.0.1" in pairs.local_addresses(os.getpid())
