"""What the rendered files need of the operator's own: looked at, explained, and never changed.

Our files lie below one directory and nothing reads them there by itself but what the agent starts. The rest is a line
of the operator's in a file of the operator's (docs/rendering.md). Each finding has the command that mends it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from site_agent.paths import Paths

APPARMOR = ("usr.lib.ipsec.charon", "usr.sbin.swanctl")
CHARON_UNITS = ("strongswan.service", "strongswan-starter.service", "ipsec.service")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One thing that an operator's own file must say."""

    what: str
    met: bool
    why: str
    """One sentence."""
    mend: str
    """The command that makes it so."""


def needs(paths: Paths, root: Path = Path("/")) -> list[Need]:
    """What there is to include on this machine. `root` is where ``/etc`` lies, for tests."""
    return [_sysctl(paths, root), *_nftables(paths, root), *_apparmor(paths, root), *_units(root)]


def _sysctl(paths: Paths, root: Path) -> Need:
    ours = paths.etc_dir / "sysctl.conf"
    there = [path for path in (root / "etc/sysctl.d").glob("*.conf") if path.resolve() == ours.resolve()]
    return Need(
        what=f"/etc/sysctl.d has {ours}",
        met=bool(there),
        why="the agent changes no kernel setting by itself; without this they are lost at the next boot",
        mend=f"ln -s {ours} /etc/sysctl.d/60-site-agent.conf && sysctl -p {ours}",
    )


def _nftables(paths: Paths, root: Path) -> Iterator[Need]:
    text = _words(root / "etc/nftables.conf")
    if "flush ruleset" in text:
        yield Need(
            what=f"/etc/nftables.conf includes {paths.nftables_conf}",
            met=f'include "{paths.nftables_conf}"' in text,
            why="it begins with `flush ruleset`, so its next reload takes our table away",
            mend=f"echo 'include \"{paths.nftables_conf}\"' >> /etc/nftables.conf",
        )


def _apparmor(paths: Paths, root: Path) -> Iterator[Need]:
    for name in APPARMOR:
        if (root / "etc/apparmor.d" / name).exists():
            yield Need(
                what=f"AppArmor's {name} permits {paths.etc_dir}",
                met=f"{paths.etc_dir}/" in _words(root / "etc/apparmor.d/local" / name),
                why="Debian's profile knows Debian's paths only; where AppArmor is on, what we render cannot be read",
                mend=f"cat site-agent/apparmor/{name} >> /etc/apparmor.d/local/{name} && "
                f"apparmor_parser -r /etc/apparmor.d/{name}",
            )


def _units(root: Path) -> Iterator[Need]:
    enabled = {path.name for path in (root / "etc/systemd/system").glob("*.wants/*")}
    for unit in CHARON_UNITS:
        if unit in enabled:
            yield Need(
                what=f"{unit} does not start a second charon",
                met=False,
                why="the agent starts charon; two cannot have IKE's ports. Put your own connections below "
                "swanctl/conf.d of the agent's directory",
                mend=f"systemctl disable --now {unit}",
            )


def _words(path: Path) -> str:
    """The text without comments; empty where there is no such file."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(line.partition("#")[0].strip() for line in lines)
