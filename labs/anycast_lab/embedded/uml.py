"""User Mode Linux: a kernel with ESP as an ordinary process, for machines whose own kernel has none.

It boots on the host's root file system through hostfs, read-only; `uml_init` makes the lab's root of it and becomes the lab
server, exactly as on the native kernel. The serial line ``ssl0`` is the way to the relay beside it. Debian ships the
modules without an index below /lib/modules; the index is made in the checkout's ``.cache``, not on the host.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from anycast_lab.embedded.uml_init import END
from anycast_lab.runner import LabError

MODULES = Path("/usr/lib/uml/modules")
MEMORY = "2048M"
MEMORY_WITH_DISK = "4096M"
"""Containers share no page of their interpreters, as the embedded runner's nodes do."""
VARIABLES_FILE = "variables.json"
"""In the lab's run directory: `root.VARIABLES` for the server."""


def module_tree(checkout: Path) -> Path:
    """A directory to stand for /lib/modules/VERSION inside: links to Debian's modules and an index made here."""
    versions = sorted(entry.name for entry in MODULES.iterdir()) if MODULES.is_dir() else []
    if not versions or shutil.which("linux.uml") is None:
        raise LabError("this kernel has no ESP, and the package `user-mode-linux` is not installed (install/apt-packages)")
    version = versions[-1]
    tree = checkout / ".cache/uml/lib/modules" / version
    if not (tree / "modules.dep").exists():
        tree.mkdir(parents=True, exist_ok=True)
        for name in ("kernel", "modules.order", "modules.builtin", "modules.builtin.modinfo"):
            (tree / name).unlink(missing_ok=True)
            (tree / name).symlink_to(MODULES / version / name)
        subprocess.run(["depmod", "-b", checkout / ".cache/uml", version], check=True)
    return tree


def command(checkout: Path, run_dir: Path, modules: Path, server: list[str], serial: int, disk: Path | None) -> list[str]:
    """`serial` is the inherited descriptor of the relay's end of the line. What is written to `disk` ends with the lab."""
    command = [
        "linux.uml", "umid=lab", f"uml_dir={run_dir}/uml/",
        *([f"mem={MEMORY}"] if disk is None else [f"mem={MEMORY_WITH_DISK}", f"ubd0={run_dir}/disk,{disk}"]),
        "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro",
        "con=null", "con0=null,fd:1", f"ssl0=fd:{serial},fd:{serial}", "quiet",
        f"init={sys.executable}", "--", "-m", "anycast_lab.embedded.uml_init", str(checkout), str(modules),
        str(run_dir / VARIABLES_FILE), *server, END,
    ]  # fmt: skip
    for word in command:
        if any(map(str.isspace, word)):
            raise LabError(f"User Mode Linux cannot be told of a path with a blank: {word}")
    return command


def environment() -> dict[str, str]:
    """TMPDIR is where the guest's memory lives; a file of 2 GiB belongs in memory."""
    return {"PATH": os.environ["PATH"], "HOME": "/", "TMPDIR": "/dev/shm"}
