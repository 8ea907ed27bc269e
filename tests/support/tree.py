"""The project's own files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
BUILD_PRODUCTS = {".git", ".venv", ".cache", "out", "build", "__pycache__"}


def tracked() -> list[Path]:
    """What git tracks; in an unpacked archive, or without git, everything that is not a build product."""
    if (TREE / ".git").exists() and shutil.which("git") is not None:
        # The tests run as root, the clone is perhaps somebody else's.
        command = ["git", "-c", "safe.directory=*", "-C", TREE, "ls-files", "-z"]
        listed = subprocess.run(command, capture_output=True, check=True).stdout
        return [TREE / name for name in os.fsdecode(listed).split("\0") if name and (TREE / name).exists()]
    found = (path for path in TREE.rglob("*") if not BUILD_PRODUCTS & set(path.relative_to(TREE).parts))
    return [path for path in found if path.is_file()]
