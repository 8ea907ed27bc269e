"""What the labs' container images are made of: one list of Debian packages a role, our wheel, how a container starts. Pure.

`build` makes them with mmdebstrap, labs/images/Dockerfile with a registry; both read ``labs/images/ROLE.packages``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

IMAGES = Path(__file__).resolve().parents[2] / "images"
ROLES = ("gateway", "router", "client")
PATH = "/opt/anycast/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CHANGES = (f"ENV PATH={PATH}", "ENV LANG=C.UTF-8", 'ENTRYPOINT ["tini", "--"]', 'CMD ["/opt/boot-container"]')
"""`docker import --change`; the Dockerfile ends with the same."""
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/lintian/*")
_IDENTITY = ("/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/hostname", "/etc/resolv.conf")


def tag(role: str) -> str:
    """As the topologies name it."""
    return f"anycast/{role}:lab"


def packages(text: str) -> list[str]:
    """The names in a list; what follows `#` says why."""
    return [word for line in text.splitlines() for word in line.partition("#")[0].split()]


def mmdebstrap(names: Sequence[str], suite: str, output: Path, sources: Sequence[str]) -> list[str]:
    """The command that makes a role's Debian as a tar; `install_product` then adds what is ours."""
    words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(names)}"]
    words += [f"--dpkgopt=path-exclude={path}" for path in _EXCLUDED]
    # A machine's identity is not an image's.
    words.append(f"--customize-hook=rm -f {' '.join(f'$1{path}' for path in _IDENTITY)}")
    return [*words, suite, str(output), *sources]


def install_product(role: str, root: Path) -> list[str]:
    """The command that installs our wheel in an unpacked root with `wheels` and the two scripts below its /opt."""
    script = f"sh /opt/install-product /opt/wheels {role} && rm -r /opt/wheels /opt/install-product"
    return ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "chroot", str(root), "sh", "-c", script]
