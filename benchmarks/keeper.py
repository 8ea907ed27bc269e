"""`python -m benchmarks.keeper NETNS ETC`: holds one machine's namespaces open until its standard input ends.

The mount namespace is the lab's: the host's files under memory, the checkout at /opt/anycast, a /run of its own, so that
nothing the measured daemons write reaches the host. ETC is bound to /etc/anycast. Prints one line when it is ready.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from anycast_lab.embedded import root, syscalls


def main() -> None:
    netns, etc = sys.argv[1:]
    with open(netns, "rb") as namespace:
        syscalls.setns(namespace.fileno(), syscalls.CLONE_NEWNET)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    root.enter(Path(__file__).resolve().parent.parent)
    os.makedirs("/etc/anycast", exist_ok=True)
    syscalls.bind(etc, "/etc/anycast")  # the host's folder, seen through the overlay
    if not os.path.islink("/var/run"):
        syscalls.bind("/run", "/var/run")
    print("ready", flush=True)
    sys.stdin.read()


main()
