"""Whose file a hold may be: only root can give it to somebody else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anycast.errors import DecodeError
from anycast.policy import hold
from anycast.policy.hold import HoldKind
from site_agent import hold_store, standing
from site_agent.paths import Paths


@pytest.mark.root
@pytest.mark.parametrize("what", ["file", "folder"])
@pytest.mark.parametrize("how", ["owner", "mode"])
def test_a_hold_that_somebody_else_could_have_written_is_not_believed(tmp_path: Path, what: str, how: str) -> None:
    paths = Paths(run_dir=tmp_path / "run", state_dir=tmp_path / "state", etc_dir=tmp_path / "etc")
    hold_store.store(paths, hold.begin(HoldKind.WITHDRAW, for_s=60, reason="x", clocks=hold_store.read_clocks()))
    assert hold_store.load(paths) is not None
    place = paths.hold if what == "file" else paths.hold.parent
    if how == "owner":
        os.chown(place, 65534, 65534)
    else:
        place.chmod(0o777)
    with pytest.raises(DecodeError, match="not believed"):
        hold_store.load(paths)
    assert "not believed" in standing.read(paths).unreadable, "so the agent raises hold_unreadable"
