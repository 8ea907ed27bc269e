"""A lab's operator: a key at one machine, and a list that trusts it at every machine that takes contents."""

from __future__ import annotations

from pathlib import Path

from anycast.cli.operator import open_key
from anycast.content.signature import is_signed, public_of, sign
from anycast.fleet.loading import load
from anycast.operators_file import OperatorsFile
from anycast_lab.machines import operators
from tests.support.documents import TREE

TOPOLOGIES = TREE / "labs" / "topologies"


def made(topology: str, lab_dir: Path) -> set[str]:
    path = TOPOLOGIES / f"{topology}.fleet.yaml"
    fleet = load(path)
    for node in ("coord", *(name for site in fleet.sites.values() for name in site.gateways)):
        (lab_dir / node / "etc").mkdir(parents=True)
    operators.write(fleet, path, lab_dir)
    return {str(found.relative_to(lab_dir)) for found in lab_dir.rglob("*") if found.is_file()}


def test_one_key_and_a_list_at_each_machine(tmp_path: Path) -> None:
    files = made("six-site", tmp_path)
    assert sorted(name for name in files if name.endswith(".key")) == ["coord/etc/operator/alice.key"]
    assert sum(name.endswith("operators.json") for name in files) == 7
    home = tmp_path / "coord" / "etc" / "operator"
    assert (home.stat().st_mode & 0o777, (home / "alice.key").stat().st_mode & 0o777) == (0o700, 0o600)
    key = open_key(home, operators.NAME, None)
    (trusted,) = OperatorsFile(tmp_path / "tyo-gw1" / "etc" / "operators.json").read().operators
    assert trusted.public == public_of(key) and is_signed("x", sign("x", key), trusted.public)
    assert operators.signs(load(TOPOLOGIES / "six-site.fleet.yaml")) == "coord"


def test_a_fleet_that_takes_no_contents_has_no_operator(tmp_path: Path) -> None:
    assert made("two-site", tmp_path) == set()
