"""The lab's own root directory: the host's files underneath, everything the lab writes in memory above them.

A node runs the host's own programs, so it sees the host's file system; but nothing in a lab may change the host. An
overlay gives both: ``lowerdir`` is the host's root (in User Mode Linux the same through hostfs), ``upperdir`` a tmpfs that
ends with the lab. An overlay shows one file system, so other mounts with files of use (a separate /usr or /home) are bound
read-only on top. The checkout is bound at /opt/anycast, because an unprivileged process (ExaBGP's user) must be able to
read the product also when the clone lies below /root.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from anycast_lab.embedded import syscalls
from anycast_lab.embedded.forked import CONSOLE_SCRIPTS

CHECKOUT = Path(__file__).resolve().parents[3]
PRODUCT = Path("/opt/anycast")
PYTHON = PRODUCT / ".venv/bin/python"
COMMANDS = Path("/opt/anycast-commands")
"""The product's commands as the lab's machines have them: those in .venv name the place where the clone really lies, which
a machine does not see when that is below /tmp or /run."""
VARIABLES = "ANYCAST_LAB_VARIABLES"
"""In the lab server's environment: the variables that its topology file names, a JSON object."""
_PRIVATE = ("/proc", "/sys", "/dev", "/run")
"""Not taken from the host: made anew, or in /dev's case bound as it is."""
_PSEUDO = frozenset({
    "proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "mqueue", "debugfs", "tracefs", "bpf", "securityfs",
    "pstore", "configfs", "hugetlbfs", "fusectl", "autofs", "binfmt_misc", "nsfs", "rpc_pipefs",
})  # fmt: skip


def enter(
    checkout: Path, *, links: Mapping[str, str] | None = None, staging: str = "/run", containers: bool = False
) -> None:
    """Make the new root and move into it. The caller is alone in its mount namespace.

    `links` are symbolic links to make in it (path → target). `staging` is a directory that exists on the host; a tmpfs
    covers it, in this mount namespace only. With `containers` the new root is the mount namespace's own: whoever enters a
    container's mount namespace lands at its root, which runc replaces, and not above a directory that became a root.
    """
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    mounts = _useful_mounts()
    syscalls.mount("anycast-lab", staging, "tmpfs", data="mode=0755")
    upper, work, root = (f"{staging}/{name}" for name in ("upper", "work", "root"))
    for directory in (upper, work, root):
        os.mkdir(directory, 0o755)
    syscalls.mount("overlay", root, "overlay", data=f"lowerdir=/,upperdir={upper},workdir={work}")
    for point in mounts:
        if os.path.isdir(root + point):
            syscalls.bind(point, root + point, read_only=True, recursive=False)
    os.makedirs(f"{root}{PRODUCT}", exist_ok=True)
    syscalls.bind(str(checkout), f"{root}{PRODUCT}", read_only=True)
    os.makedirs(f"{root}{COMMANDS}", exist_ok=True)
    for name, target in CONSOLE_SCRIPTS.items():
        module, function = target.split(":")
        command = Path(f"{root}{COMMANDS}", name)
        command.write_text(f"#!{PYTHON}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
        command.chmod(0o755)
    for path, target in (links or {}).items():
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        if os.path.lexists(root + path):
            os.unlink(root + path)
        os.symlink(target, root + path)
    for directory in _PRIVATE:
        os.makedirs(root + directory, exist_ok=True)
    syscalls.mount("proc", f"{root}/proc", "proc")
    syscalls.mount("sysfs", f"{root}/sys", "sysfs", syscalls.MS_RDONLY)
    syscalls.bind("/dev", f"{root}/dev")
    syscalls.mount("tmpfs", f"{root}/run", "tmpfs", data="mode=0755")
    if containers:
        syscalls.pivot_root(root)
        return
    # Not the overlay but what holds it becomes this mount namespace's root, and the overlay our root below it. AppArmor
    # attaches profiles by a program's path from the namespace's root, and Debian's for charon and swanctl know Debian's
    # paths only: they are right for the host's own charon, and no lab's business.
    syscalls.pivot_root(staging)
    os.chroot(f"/{os.path.basename(root)}")
    os.chdir("/")


def _useful_mounts() -> list[str]:
    points = list[str]()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split()[4].encode().decode("unicode_escape")  # blanks are written \040
        private = any(point == p or point.startswith(f"{p}/") for p in _PRIVATE)
        if point != "/" and not private and rest.split()[0] not in _PSEUDO:
            points.append(point)
    return points
