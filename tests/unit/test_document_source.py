"""Which document an agent runs by, where nothing can be read: a sentence with the file's name, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from anycast.errors import ConfigError
from site_agent.document_source import choose
from site_agent.paths import Paths


def test_a_state_folder_that_cannot_be_looked_into_is_named(tmp_path: Path) -> None:
    """A name that no file system takes stands for a folder that the user may not enter: root, who tests, may enter all."""
    paths = Paths(run_dir=tmp_path, state_dir=tmp_path / ("x" * 300), etc_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"document\.json.*cannot be looked for \(File name too long\); .* runs as root"):
        choose(paths, fleet=None, document=None, gateway=None)


def test_without_any_document_the_ways_to_give_one_are_named(tmp_path: Path) -> None:
    paths = Paths(run_dir=tmp_path, state_dir=tmp_path, etc_dir=tmp_path)
    with pytest.raises(ConfigError, match="give --fleet or --document"):
        choose(paths, fleet=None, document=None, gateway=None)
