"""Where what containerlab needs lies, and whether it is there."""

from __future__ import annotations

import hashlib
from pathlib import Path

from anycast_lab.embedded.root import CHECKOUT
from anycast_lab.runner import LabError

CACHE = CHECKOUT / ".cache/containerlab"
BINARY = CACHE / "bin/containerlab"
DISK = CACHE / "images.ext4"
"""The store of a dockerd with the labs' images in it, for User Mode Linux."""

STAMP = CACHE / "images.stamp"
_RUN_IN_CONTAINERS = (
    "pyproject.toml", "requirements.txt", "anycast", "site-agent", "exabgp",
    "labs/anycast_lab/drills", "labs/anycast_lab/flood", "labs/images",
)  # fmt: skip


MODULES = Path("/proc/modules")


def not_natively(*, esp: bool) -> str:
    """What is said to who asks for this machine's own kernel. `esp`: whether it has that."""
    lacks = [] if esp else ["no ESP"]
    lacks += [] if MODULES.exists() else [f"no {MODULES}, which containerlab opens"]
    why = f"; this machine's own kernel has {' and '.join(lacks)}" if lacks else ""
    return f"the containerlab runner has User Mode Linux only, without LAB_KERNEL=native and for drills that run there{why}"


def sources_hash() -> str:
    """Changes with everything of ours that runs in a container."""
    digest = hashlib.sha256()
    for name in _RUN_IN_CONTAINERS:
        path = CHECKOUT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc" and not any(part.endswith(".egg-info") for part in file.parts):
                digest.update(str(file.relative_to(CHECKOUT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def is_current() -> bool:
    """Whether the disk was made of the sources as they are now."""
    return DISK.exists() and STAMP.exists() and STAMP.read_text() == sources_hash()


def disk() -> Path:
    """`DISK`. Raises LabError with what has to be done first."""
    missing = []
    if not BINARY.exists():
        missing.append("`sudo labs/containerlab install` builds containerlab (one to five minutes)")
    if not DISK.exists():
        missing.append("`sudo labs/images/build --disk` makes the images (five minutes)")
    if missing:
        raise LabError(f"the containerlab runner is not prepared: {'; '.join(missing)}")
    return DISK
