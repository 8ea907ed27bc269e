"""`anycast lab new`: whatever shape is asked for, fleet and topology are sound and fit each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from anycast.cli.main import app as anycast
from anycast.fleet.loading import load as load_fleet
from anycast_lab.blank import MOST_UPSTREAMS, SITES
from anycast_lab.cli import app
from anycast_lab.machines import wiring
from anycast_lab.machines.prepare import cables
from anycast_lab.topology import load

SHAPES = [(1, False, 1), (1, True, 2), (3, False, 2), (3, True, 1), (len(SITES), True, MOST_UPSTREAMS)]


def new(folder: Path, *words: str) -> str:
    done = CliRunner().invoke(app, ["new", "mine", *words, "--folder", str(folder)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(("sites", "pairs", "upstreams"), SHAPES)
def test_every_shape_is_a_lab(tmp_path: Path, sites: int, pairs: bool, upstreams: int) -> None:
    new(tmp_path, "--sites", str(sites), "--upstreams", str(upstreams), *(["--pairs"] if pairs else []))
    fleet, topology = load_fleet(tmp_path / "mine.fleet.yaml"), load(tmp_path / "mine.clab.yml")
    assert len(fleet.sites) == sites
    assert all(len(site.gateways) == 1 + pairs and len(site.upstreams) == upstreams for site in fleet.sites.values())
    plans = wiring.plan(fleet, cables(topology))
    assert plans.keys() == topology.nodes.keys()
    addresses = [address for plan in plans.values() for _, address in plan.addresses if address.startswith("198.51.100.")]
    assert len(addresses) == len(set(addresses)), "each outside has one owner"
    assert {link.mtu for link in topology.links} == {1500}
    checked = CliRunner().invoke(anycast(), ["check", str(tmp_path / "mine.fleet.yaml")])
    assert checked.exit_code == 0, checked.output


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    said = new(tmp_path)
    assert "mine.fleet.yaml" in said and "anycast lab up -t" in said
    (tmp_path / "mine.clab.yml").write_text("mine")
    (tmp_path / "mine.fleet.yaml").unlink()
    done = CliRunner().invoke(app, ["new", "mine", "--folder", str(tmp_path)])
    assert done.exit_code != 0 and not (tmp_path / "mine.fleet.yaml").exists()
    assert (tmp_path / "mine.clab.yml").read_text() == "mine"


@pytest.mark.parametrize("words", [["--sites", "9"], ["--sites", "0"], ["--upstreams", "4"], ["--folder", "/no/such"]])
def test_what_documentation_space_has_no_room_for_is_refused(words: list[str]) -> None:
    assert CliRunner().invoke(app, ["new", "mine", *words]).exit_code == 2


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["new", "../mine", "--folder", str(tmp_path)]).exit_code == 2
