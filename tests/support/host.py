"""A picture of everything that a lab could leave behind on the machine, to be compared before and after."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

Picture = dict[str, object]
VOLATILE = ("fs/dentry-state", "fs/file-nr", "fs/inode-", "fs/aio-nr", "fs/quota", "kernel/random/", "kernel/ns_last_pid",
            "kernel/pty/nr", "kernel/perf_event", "vm/stat_refresh", "net/netfilter/nf_conntrack_count")  # fmt: skip
"""Counters that move by themselves."""
WATCHED = ("/etc", "/opt", "/lib/modules", "/usr/lib/uml", "/usr/lib/systemd", "/dev/net", "/dev/shm", "/run", "/root")
NETWORK = ("ip -j -d addr", "ip -j rule", "ip -j -6 rule", "ip -j route show table all", "ip -j -6 route show table all",
           "ip netns", "tc qdisc show", "ss -Hlntuxp", "nft list ruleset", "ip xfrm state", "ip xfrm policy")  # fmt: skip


def picture() -> Picture:
    """Everything that a lab could leave behind."""
    with contextlib.suppress(ChildProcessError):  # this test is its namespace's init: ended labs are ours to bury
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    seen: Picture = {}
    for path in Path("/proc/sys").rglob("*"):
        name = str(path.relative_to("/proc/sys"))
        if path.is_file() and not name.startswith(VOLATILE):
            with contextlib.suppress(OSError):  # write-only, or of a feature that is switched off
                seen[f"sysctl {name}"] = path.read_bytes()
    for command in NETWORK:
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        seen[command] = (done.returncode, done.stdout)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - nsfs " not in line:  # named namespaces of the real host; ours would be files of our own /run
            seen[f"mount {line.split()[4]}"] = line
    for folder in WATCHED:
        for root, directories, files in os.walk(folder):
            if root == "/root":
                directories.clear()  # somebody works there; only what appears on top is the lab's
            for name in files + directories:
                with contextlib.suppress(FileNotFoundError):
                    status = os.lstat(f"{root}/{name}")
                    seen[f"file {root}/{name}"] = (status.st_mode, status.st_size if name in files else 0)
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                seen[f"process {entry}"] = Path(f"/proc/{entry}/cmdline").read_bytes()
    return seen


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    before = picture()
    yield
    after = picture()
    changed = {k: (before.get(k), after.get(k)) for k in before.keys() | after.keys() if before.get(k) != after.get(k)}
    assert not changed, changed
