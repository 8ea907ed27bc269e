"""`render --output` writes where nobody else can have laid a trap, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anycast.errors import ConfigError
from site_agent import rendering
from site_agent.installation import RenderedFile
from site_agent.paths import Paths

ETC = Path("/etc/site-agent")
FILES = [
    RenderedFile(path=ETC / "swanctl" / "swanctl.conf", text="public", mode=0o644),
    RenderedFile(path=ETC / "exabgp.conf", text="secret", mode=0o640),
]


def write(output: Path) -> None:
    rendering._write(FILES, Paths(etc_dir=ETC), output)


def test_files_with_keys_are_ours_alone_and_a_second_time_replaces_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        write(out)
        assert (out / "exabgp.conf").read_text() == "secret"
        assert (out / "swanctl" / "swanctl.conf").read_text() == "public"
    assert out.stat().st_mode & 0o777 == 0o700
    assert (out / "exabgp.conf").stat().st_mode & 0o777 == 0o600
    assert (out / "swanctl" / "swanctl.conf").stat().st_mode & 0o777 == 0o644


def test_a_link_or_a_file_that_lies_there_is_replaced_and_never_written_through(tmp_path: Path) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir(mode=0o700)
    victim.write_text("untouched")
    (out / "exabgp.conf").symlink_to(victim)
    (out / "swanctl").mkdir(mode=0o700)
    os.link(victim, out / "swanctl" / "swanctl.conf")
    write(out)
    assert victim.read_text() == "untouched"
    assert not (out / "exabgp.conf").is_symlink()


@pytest.mark.parametrize("what", ["top is writable", "below is writable", "top is a link", "below is a link"])
def test_a_folder_that_is_not_ours_alone_is_refused(tmp_path: Path, what: str) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    bad = out if what.startswith("top") else out / "swanctl"
    if bad != out:
        out.mkdir(mode=0o700)
    if what.endswith("link"):
        bad.symlink_to(elsewhere)
    else:
        bad.mkdir()
        bad.chmod(0o777)
    with pytest.raises(ConfigError) as refused:
        write(out)
    assert "--output" in str(refused.value)
    assert not list(elsewhere.iterdir())
