"""Puts the files of a document where charon and ExaBGP read them. Everything is rendered before anything is written.

Each file is replaced whole (written beside, then renamed), so a daemon that starts meanwhile reads the old or the new one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from anycast.document import Document
from anycast.errors import ConfigError, Problem
from site_agent.daemon_process import credentials
from site_agent.paths import Paths
from site_agent.render.exabgp import render_exabgp
from site_agent.render.strongswan import SWANCTL_FOLDERS, render_strongswan, strongswan_links
from site_agent.render.sysctl import render_sysctl


def make_directories(paths: Paths) -> None:
    """Make the three directories. They hold no secret by themselves; the files in them have modes of their own."""
    for directory in (paths.run_dir, paths.state_dir, paths.etc_dir):
        if not directory.is_dir():
            directory.mkdir(parents=True)
            directory.chmod(0o755)  # whatever the umask: ExaBGP's user must get through


def install(document: Document, paths: Paths) -> None:
    """Render and write. Raises ConfigError, having written nothing, where the document cannot be rendered."""
    public = render_strongswan(document, run_dir=paths.run_dir) | {"sysctl.conf": render_sysctl(document)}
    exabgp = render_exabgp(document, python=sys.executable, socket_path=paths.bridge_socket, md5_keys=_md5_keys(document))
    try:
        _, group = credentials(document.bgp.run_as)
    except KeyError as exc:
        raise ConfigError([Problem("bgp.run_as", f"there is no user {document.bgp.run_as}")]) from exc
    for folder in SWANCTL_FOLDERS:
        (paths.etc_dir / "swanctl" / folder).mkdir(mode=0o755, parents=True, exist_ok=True)
    for name, text in public.items():
        _replace(paths.etc_dir / name, text, mode=0o644)
    for name, target in strongswan_links(document).items():
        _link(paths.etc_dir / name, target)
    _replace(paths.exabgp_conf, exabgp, mode=0o640, group=group)  # holds the MD5 keys


def _md5_keys(document: Document) -> dict[str, bytes]:
    keys, problems = {}, []
    for neighbor in document.bgp.neighbors:
        if (path := neighbor.md5_key_file) is not None:
            try:
                keys[path] = Path(path).read_bytes().strip()
            except OSError as exc:
                problems.append(Problem(f"bgp.neighbors.{neighbor.name}", f"{path}: {exc.strerror}"))
    if problems:
        raise ConfigError(problems)
    return keys


def _replace(path: Path, text: str, *, mode: int, group: int = -1) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        os.fchown(file.fileno(), -1, group)
        os.fchmod(file.fileno(), mode)
        file.write(text)
    scratch.replace(path)


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    scratch.replace(path)
