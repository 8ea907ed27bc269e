"""Puts the files of a document where charon, ExaBGP, nft and sysctl read them. Everything is rendered before anything is
written.

Each file is replaced whole (written beside, then renamed), so a daemon that starts meanwhile reads the old or the new
one. ExaBGP's is read by an ExaBGP first, where it takes the place of another: a file that it refuses never gets that
far, nor does any other.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
from pathlib import Path

from anycast.document import Document
from anycast.errors import ConfigError, KernelError, PeerError, Problem
from site_agent.announce.exabgp_reload import validate
from site_agent.daemon_process import credentials
from site_agent.paths import Paths
from site_agent.render.exabgp import render_exabgp
from site_agent.render.nftables import render_nftables
from site_agent.render.strongswan import FOLDERS, render_strongswan, strongswan_links
from site_agent.render.sysctl import render_sysctl

PUBLIC, SECRET = 0o644, 0o640
"""Modes. A secret file is also readable by the group of who needs it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RenderedFile:
    """One file below `etc_dir`."""

    path: Path
    text: str
    mode: int = PUBLIC
    group: int = -1
    """-1 leaves it root's."""

    def differs(self) -> bool:
        """Is something else installed, or nothing?"""
        try:
            return self.path.read_text() != self.text
        except FileNotFoundError:
            return True


def make_directories(paths: Paths) -> None:
    """Make the three directories. They hold no secret by themselves; the files in them have modes of their own.

    Raises KernelError where they may not be made or written.
    """
    for directory in (paths.run_dir, paths.state_dir, paths.etc_dir):
        try:
            if not directory.is_dir():
                directory.mkdir(parents=True)
                directory.chmod(0o755)  # whatever the umask: ExaBGP's user must get through
        except OSError as exc:
            raise KernelError(exc.errno or 0, f"make {directory}") from exc
        if os.geteuid() != 0 and not os.access(directory, os.W_OK):  # for root that is a broken disk, which is alarmed
            raise KernelError(errno.EACCES, f"write to {directory}")


def rendered_files(document: Document, paths: Paths) -> list[RenderedFile]:
    """Every file of the document; ExaBGP's last, where there is one. Reads the MD5 keys. Raises ConfigError."""
    public = render_strongswan(document, run_dir=paths.run_dir)
    public |= {"sysctl.conf": render_sysctl(document), paths.nftables_conf.name: render_nftables(document)}
    files = [RenderedFile(path=paths.etc_dir / name, text=text) for name, text in public.items()]
    if not document.bgp.neighbors:
        return files
    exabgp = render_exabgp(document, python=sys.executable, socket_path=paths.bridge_socket, md5_keys=_md5_keys(document))
    try:
        _, group = credentials(document.bgp.run_as)
    except KeyError as exc:
        what = f"there is no user {document.bgp.run_as}; `useradd --system --shell /usr/sbin/nologin NAME` makes one"
        raise ConfigError([Problem("bgp.run_as", what)]) from exc
    return [*files, RenderedFile(path=paths.exabgp_conf, text=exabgp, mode=SECRET, group=group)]  # it holds the MD5 keys


def install(document: Document, paths: Paths, *, limit_s: float) -> None:
    """Render and write. Raises ConfigError, having replaced nothing, where the document cannot be rendered or is refused,
    and PeerError, likewise, where ExaBGP has not read its part within `limit_s`."""
    files = rendered_files(document, paths)
    exabgp = next((file for file in files if file.path == paths.exabgp_conf), None)
    if exabgp is not None and exabgp.differs():
        scratch = _write_beside(exabgp)
        try:
            if exabgp.path.exists():
                validate(scratch, limit_s=limit_s)
        except (ConfigError, PeerError):
            scratch.unlink()
            raise
        scratch.replace(exabgp.path)
    for folder in FOLDERS:
        (paths.etc_dir / folder).mkdir(mode=0o755, parents=True, exist_ok=True)
    for file in files:
        if file is not exabgp:
            _write_beside(file).replace(file.path)
    for name, target in strongswan_links(document).items():
        _link(paths.etc_dir / name, target)


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


def _write_beside(file: RenderedFile) -> Path:
    """Write the file's text under another name, with its mode and group. Returns the path."""
    file.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    scratch = file.path.with_name(f".{file.path.name}.new")
    scratch.unlink(missing_ok=True)
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as opened:
        os.fchown(opened.fileno(), -1, file.group)
        os.fchmod(opened.fileno(), file.mode)
        opened.write(file.text)
    return scratch


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    scratch.replace(path)
