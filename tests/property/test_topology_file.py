"""Any text is a topology, or a ConfigError whose every problem has a line; never another exception, and never slowly."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anycast.errors import ConfigError
from anycast_lab.topology import Topology, load
from tests.support.containerlab_readings import DATA, VARIABLES
from tests.support.topologies import ANYTHING, topologies

SOURCES = [path.read_text() for path in sorted((DATA / "features").glob("*.clab.yml"))]
BITS = st.sampled_from([
    *("{", "}", "[", "]", ":", "- ", "&a ", "*a", "!!int ", "!x ", "? ", "|", "'", '"', "#", "---\n", "...\n", "\n", "\t"),
    *("<<: ", "no", "~", "\x00", "\x85", "\u2028", "\ufeff", "\\", ", ", "  ", "${", "$A", "{{", "null", "0", "-1"),
    *("9" * 30, "é"),
])  # fmt: skip
SECONDS = 4.0
"""Of the processor, for one file of up to 40 kB; most take 10 ms."""


BY_CHANCE = ("taken already", "in a circle", "stands at the level", "is not among topology.nodes")
LAUGHS = (
    "a: &a ["
    + "x," * 9
    + "]\n"
    + "".join(f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in itertools.pairwise("abcdefghi"))
)


def outcome(path: Path, text: str) -> Topology | list[str]:
    path.write_text(text, encoding="utf-8", newline="")
    began = time.process_time()
    try:
        return load(path, VARIABLES)
    except ConfigError as exc:
        assert exc.problems
        assert all(problem.line >= 1 and problem.column >= 1 and problem.what for problem in exc.problems), exc
        return [str(problem) for problem in exc.problems]
    finally:
        assert time.process_time() - began < SECONDS


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("topology")
    for name in ("words.env", "more.env"):
        (folder / name).write_bytes((DATA / "features" / name).read_bytes())
    return folder / "t.clab.yml"


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=topologies(strange=True) | st.builds(yaml.safe_dump, ANYTHING))
def test_documents_from_the_schema(path: Path, text: str) -> None:
    outcome(path, text)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_files_with_a_slip(path: Path, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(SOURCES))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 12))
        text = text[:start] + data.draw(BITS) + text[end:]
    outcome(path, text)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=topologies())
def test_sound_documents_are_refused_for_few_reasons(path: Path, text: str) -> None:
    """Those that a drawing meets by chance: else the other tests would show little."""
    result = outcome(path, text)
    if isinstance(result, list):
        assert all(any(words in line for words in BY_CHANCE) for line in result), text


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 20_000,
        "- " * 5_000,
        "x: &x [*x]",
        "name: t\ntopology: &t {nodes: {a: {kind: linux}}, links: [{endpoints: ['a:e1', 'a:e2'], vars: &v {x: *v}}]}",
        LAUGHS,
        "name: t\ntopology: {nodes: {" + ",".join(f"n{i}: {{kind: linux}}" for i in range(2_000)) + "}}",
        "\x01",
        "",
        "${" * 10_000,
    ],
    ids=["brackets", "dashes", "itself", "vars of itself", "laughs", "many nodes", "control", "empty", "dollars"],
)  # fmt: skip
def test_files_made_to_hurt(path: Path, text: str) -> None:
    outcome(path, text)
