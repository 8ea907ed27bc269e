"""containerlab's own loader, built from labs/tools/go.mod, beside ours: now, not as it was recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from anycast.errors import ConfigError
from anycast_lab.topology import load
from tests.support import containerlab_readings as readings
from tests.support.containerlab_readings import VARIABLES, as_containerlab, plain
from tests.support.topologies import topologies
from tests.support.tree import TREE

pytestmark = [pytest.mark.long, pytest.mark.root]
LABS = TREE / "labs/topologies"


@pytest.fixture(scope="module", autouse=True)
def loader() -> Path:
    if shutil.which("go") is None:
        pytest.skip("no Go: containerlab's loader cannot be built")
    return readings.build()


def test_what_is_recorded_is_what_it_says_now() -> None:
    recorded = json.loads(readings.READINGS.read_text())
    files = [readings.DATA / name for name in recorded if name != "containerlab"]
    assert readings.read(files, readings.DATA) == recorded


def test_the_copies_are_containerlabs(tmp_path: Path) -> None:
    readings.copy(tmp_path)
    for path in readings.TOPOLOGIES.rglob("*"):
        if path.is_file():
            assert path.read_text() == (tmp_path / path.relative_to(readings.TOPOLOGIES)).read_text()


def test_our_topologies_are_read_alike() -> None:
    found = sorted(LABS.glob("*.clab.yml"))
    told = readings.read(found, LABS)
    for path in found:
        assert as_containerlab(load(path), Path("FOLDER")) == plain(told[path.name]), path.name


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=topologies())
def test_whatever_we_read_containerlab_reads_alike(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.clab.yml"
    path.write_text(text)
    try:
        topology = load(path, VARIABLES)
    except ConfigError:
        return
    told = readings.read([path], tmp_path)[path.name]
    assert "error" not in told, f"{told['error']}\n{text}"
    assert as_containerlab(topology, Path("FOLDER")) == plain(told), text
