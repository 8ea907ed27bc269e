"""dockerd inside the lab: control groups, the disk with the prepared images, and the daemon itself.

The lab's root is its own and ends with it (`embedded.root`), and so do its network namespaces: what dockerd and containerlab
write to /etc, /run and the network is never the host's. No container has a network of Docker's, so dockerd gets neither a
bridge nor rules.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

from anycast_lab.containerlab import process
from anycast_lab.control.children import Children
from anycast_lab.embedded import syscalls
from anycast_lab.runner import LabError

DISK = "/dev/ubda"
STORE = "/var/lib/docker"
SOCKET = "/run/docker.sock"
LOG = Path("/run/dockerd.log")
ENVIRONMENT = {
    "PATH": "/opt/anycast/.cache/containerlab/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DOCKER_HOST": f"unix://{SOCKET}",
    "NO_COLOR": "1",
    "CLAB_VERSION_CHECK": "disable",
}
START_TIMEOUT = 120.0
"""Seconds; 14 on an idle machine."""
_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")


async def start(children: Children) -> None:
    """Returns when dockerd answers."""
    _control_groups()
    os.makedirs(STORE, exist_ok=True)
    syscalls.mount(DISK, STORE, "ext4")
    argv = [
        "dockerd",
        "--data-root",
        STORE,
        "-H",
        f"unix://{SOCKET}",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
    ]
    argv += ["--ip-forward=false", "--ip-masq=false", "--userland-proxy=false", "--log-level=warn"]
    null, log = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        daemon = children.status(process.spawn(argv, ENVIRONMENT, (null, log, log)))
    finally:
        os.close(null)
        os.close(log)
    end = asyncio.get_running_loop().time() + START_TIMEOUT
    while not os.path.exists(SOCKET):  # a client's start costs a tenth of a second; a look costs nothing
        await asyncio.sleep(0.2)
        _still_there(daemon, end)
    while (await process.run(children, ["docker", "version"], ENVIRONMENT, limit_s=START_TIMEOUT))[0]:
        await asyncio.sleep(0.2)
        _still_there(daemon, end)


def _still_there(daemon: asyncio.Future[int], end: float) -> None:
    if daemon.done() or asyncio.get_running_loop().time() > end:
        lines = LOG.read_text(errors="replace").strip().splitlines()
        raise LabError(f"dockerd does not start: {lines[-1] if lines else 'it said nothing'}")


def _control_groups() -> None:
    """Version 1, as this Docker uses it where there is no systemd."""
    base = "/sys/fs/cgroup"
    syscalls.mount("cgroup", base, "tmpfs", data="mode=0755")
    known = [line.split()[0] for line in Path("/proc/cgroups").read_text().splitlines()[1:]]
    for name in (name for name in _CONTROLLERS if name in known):
        os.mkdir(f"{base}/{name}")
        syscalls.mount("cgroup", f"{base}/{name}", "cgroup", data=name)


def load_modules() -> None:
    """What containers need of the kernel beyond what a lab's nodes need. Missing ones are built in."""
    subprocess.run(["modprobe", "--all", "--quiet", "overlay", "ext4", "veth", "bridge"], check=False)
