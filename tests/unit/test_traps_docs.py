"""docs/traps.md promises a test or a drill for each trap: each that it names is there, and no row is without one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "traps.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| what", "| ---"))]
_TEST = re.compile(r"`(\w+/\w+\.py)::(\w+)`")
_DRILL = re.compile(r"`((?:mirror|red|coordinator|small-mtu|four-site|cgnat)-[a-z0-9-]+)`")


def test_every_test_that_is_named_exists() -> None:
    named = _TEST.findall(PAGE)
    assert len(named) >= len(ROWS)
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / "tests" / file).read_text()]
    assert not missing


def test_every_drill_that_is_named_exists() -> None:
    named = _DRILL.findall(PAGE)
    assert named
    assert not [name for name in named if not (ROOT / "labs" / "drills" / f"{name}.yml").exists()]


def test_every_row_names_what_guards_against_it() -> None:
    assert len(ROWS) >= 20
    assert not [row for row in ROWS if not _TEST.search(row) and not _DRILL.search(row)]
