"""Our loader beside containerlab's own (recorded by `tests.support.containerlab_readings`): the same, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anycast.errors import ConfigError
from anycast_lab.topology import load
from tests.support.containerlab_readings import DATA, READINGS, VARIABLES, as_containerlab, plain

RECORDED = json.loads(READINGS.read_text())
FILES = sorted(set(RECORDED) - {"containerlab"})
REFUSED = DATA / "refused.txt"


def refusals(name: str) -> list[str]:
    try:
        load(DATA / name, VARIABLES)
    except ConfigError as exc:
        return [f"{name}:{p.line}: {p.where}: {p.what}" for p in exc.problems]
    return []


@pytest.mark.parametrize("name", FILES)
def test_what_is_read_is_read_as_containerlab_reads_it(name: str) -> None:
    if not refusals(name):
        topology = load(DATA / name, VARIABLES)
        assert as_containerlab(topology, Path("FOLDER", name).parent) == plain(RECORDED[name])


def test_what_is_refused_is_refused_by_name_and_line() -> None:
    """All of it, so that a file which is no longer read is noticed, and nobody has to guess what the lab cannot do."""
    assert "".join(line + "\n" for name in FILES for line in refusals(name)) == REFUSED.read_text()


def test_containerlabs_own_topologies_are_there_and_half_of_what_both_read_has_links() -> None:
    own = [name for name in FILES if name.startswith("topologies/")]
    assert len(own) >= 25
    read = [name for name in FILES if not refusals(name)]
    assert {name for name in FILES if name.startswith("features/")} <= set(read)
    assert sum(bool(RECORDED[name].get("links")) for name in read) >= len(read) / 2
