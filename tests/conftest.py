"""Options that several tests share."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

# A busy machine is no broken rule: what an example costs is measured elsewhere.
hypothesis.settings.register_profile("anycast", deadline=None)
hypothesis.settings.load_profile("anycast")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="rewrite golden files; then read the diff")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Compare a text with the file that says what it should be. `--update` writes the file instead."""

    def compare(path: Path, text: str) -> None:
        if request.config.getoption("--update"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return
        assert path.exists(), f"{path} does not exist; make it with --update and read it"
        diff = difflib.unified_diff(path.read_text().splitlines(), text.splitlines(), str(path), "made now", lineterm="")
        lines = list(diff)
        assert not lines, "\n".join(lines)

    return compare
