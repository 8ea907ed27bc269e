"""The files of docs/ that are to be copied: good but for what their users must replace, which is what is marked."""

from __future__ import annotations

from pathlib import Path

import pytest

from anycast.errors import ConfigError
from anycast.fleet.compile import compile_fleet
from anycast.fleet.loading import load

DOCS = Path(__file__).resolve().parents[2] / "docs"
LINES = {"fleet-production": 30, "fleet-production-pair": 40, "fleet-pair": 15}
"""How many a person has to read."""


@pytest.mark.parametrize("name", LINES)
def test_what_check_refuses_is_what_is_marked(name: str) -> None:
    skeleton = DOCS / f"{name}.yaml"
    with pytest.raises(ConfigError) as refused:
        load(skeleton)
    problems = refused.value.problems
    assert all("documentation" in problem.what for problem in problems)
    named = {problem.line for problem in problems}
    lines = skeleton.read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if "# yours" in line and not line.startswith("#")}
    unchecked = {number for number, line in enumerate(lines, 1) if "identity:" in line and not line.startswith("#")}
    assert named == marked - unchecked and unchecked < marked
    assert len([line for line in lines if line and not line.startswith("#")]) <= LINES[name]


@pytest.mark.parametrize(
    ("name", "gateways"),
    [
        ("fleet-production", ["fra-gw1"]),
        ("fleet-production-pair", ["fra-gw1", "fra-gw2"]),
        ("fleet-pair", ["gw1", "gw2"]),
    ],
)
def test_without_these_it_is_good(name: str, gateways: list[str], tmp_path: Path) -> None:
    """Where documentation space may stand it has no problem, and each of its gateways a document."""
    lab = tmp_path / "fleet.yaml"
    lab.write_text((DOCS / f"{name}.yaml").read_text().replace("environment: production", "environment: lab"))
    made = compile_fleet(load(lab))
    assert list(made) == gateways
    assert all(document.vip_moves == (name == "fleet-pair") for document in made.values())
