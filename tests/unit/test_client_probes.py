"""Which probes run at clients, by the families of inner addresses, and where a client is by the addresses that it has."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from anycast.fleet.loading import load
from anycast.fleet.values import Family
from anycast_lab.drills.checks import machine_of
from anycast_lab.drills.witnesses import Probes, Witnesses
from anycast_lab.runner import Completed

TOPOLOGIES = Path(__file__).resolve().parents[2] / "labs" / "topologies"


class Process:
    returncode = None


@dataclasses.dataclass
class Lab:
    """`addresses`: what `ip -4` and `ip -6` show, in their order."""

    lab_dir: Path
    addresses: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    spawned: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    """Client, target, record."""

    async def spawn(self, node: str, argv: Sequence[str], **_options: Any) -> Process:
        self.spawned.append((node, argv[argv.index("--to") + 1], Path(argv[argv.index("--out") + 1]).name))
        return Process()

    async def exec(self, node: str, argv: Sequence[str], **_options: Any) -> Completed:
        shown = [{"addr_info": [{"local": address} for address in self.addresses.get(argv[2], [])]}]
        return Completed(tuple(argv), 0, json.dumps(shown).encode(), b"")


def started(tmp_path: Path, topology: str, inner: tuple[Family, ...]) -> tuple[Probes, Lab]:
    lab, fleet = Lab(tmp_path), load(TOPOLOGIES / f"{topology}.fleet.yaml")
    assert fleet.lab is not None
    for client in fleet.lab.clients:
        (tmp_path / client / "etc" / "out").mkdir(parents=True)
    probes = Probes(lab, Witnesses(lab, fleet), fleet, 20, inner)  # type: ignore[arg-type]
    asyncio.run(probes.start())
    return probes, lab


def test_without_a_word_one_probe_a_client_of_the_first_family(tmp_path: Path) -> None:
    _, lab = started(tmp_path / "a", "dual-stack", ())
    assert lab.spawned == [("four", "192.0.2.10", "probe.json"), ("six", "192.0.2.10", "probe.json")]
    _, lab = started(tmp_path / "b", "ipv6-only", ())
    assert lab.spawned == [("one", "2001:db8:b::10", "probe.json"), ("two", "2001:db8:b::10", "probe.json")]


def test_the_second_family_has_a_name_and_a_record_of_its_own(tmp_path: Path) -> None:
    probes, lab = started(tmp_path, "dual-stack", ("ipv4", "ipv6"))
    assert lab.spawned == [
        ("four", "192.0.2.10", "probe.json"),
        ("four", "2001:db8:b::10", "probe-ipv6.json"),
        ("six", "192.0.2.10", "probe.json"),
        ("six", "2001:db8:b::10", "probe-ipv6.json"),
    ]
    for name, at_ns in (("four", 5), ("six", 6)):
        (tmp_path / name / "etc/out/probe.live").write_text(json.dumps({"last_good_ns": at_ns}))
        (tmp_path / name / "etc/out/probe-ipv6.live").write_text(json.dumps({"last_good_ns": at_ns + 10}))
    assert [probes.last_good_ns(name) for name in ("four", "four ipv6", "six", "six ipv6")] == [5, 15, 6, 16]
    assert probes.all_good_since(4) and not probes.all_good_since(5)
    assert machine_of("six ipv6") == machine_of("six") == "six"


@pytest.mark.parametrize(
    ("addresses", "site"),
    [
        ({"-4": ["198.51.100.66", "203.0.113.65", "203.0.113.97"], "-6": ["2001:db8:c:1::9"]}, "sin"),
        ({"-4": ["198.51.100.66"], "-6": ["2001:db8:c:2::1", "2001:db8:c:1::1", "2001:db8:d::2"]}, "sin"),
        ({"-4": ["198.51.100.66"], "-6": ["2001:db8:d::2"]}, ""),
        ({}, ""),
    ],
)
def test_a_client_is_where_its_youngest_inner_address_is_from(
    tmp_path: Path, addresses: dict[str, list[str]], site: str
) -> None:
    lab, fleet = Lab(tmp_path, addresses), load(TOPOLOGIES / "dual-stack.fleet.yaml")
    assert asyncio.run(Witnesses(lab, fleet).site_of_client("four")) == site  # type: ignore[arg-type]
