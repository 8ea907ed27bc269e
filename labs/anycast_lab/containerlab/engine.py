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
CONTAINERD = "/run/containerd/containerd.sock"
CONTAINERD_CONFIG = Path("/run/containerd.toml")
_CONTAINERD = """\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "/run/containerd/containerd.sock"
"""
"""What dockerd uses of it, and nothing that looks for file systems first."""
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
_CONTROLLERS = ("cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
"""Not `cpu`: this kernel has CONFIG_RT_GROUP_SCHED, with which a new group of it may run nothing in real time, as the
gateways' VRRP does."""


async def start(children: Children) -> None:
    """Returns when dockerd answers."""
    _control_groups()
    os.makedirs(STORE, exist_ok=True)
    syscalls.mount(DISK, STORE, "ext4")
    # Its own containerd dockerd gives 15 s to start, which a busy User Mode Linux exceeds.
    CONTAINERD_CONFIG.write_text(_CONTAINERD)
    await _daemon(children, ["containerd", "--config", str(CONTAINERD_CONFIG)], CONTAINERD)
    argv = ["dockerd", "--data-root", STORE, "-H", f"unix://{SOCKET}", "--containerd", CONTAINERD, "--bridge=none"]
    argv += ["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"]
    await _daemon(children, argv, SOCKET)
    rc, said = await process.run(children, ["docker", "version"], ENVIRONMENT, limit_s=START_TIMEOUT)
    if rc:
        raise LabError(f"dockerd does not answer: {said.strip()}")


async def _daemon(children: Children, argv: list[str], socket: str) -> None:
    """Start a daemon; returns when its socket is there. A look costs nothing, a client's start a tenth of a second."""
    log = Path(f"/run/{argv[0]}.log")
    null, out = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        daemon = children.status(process.spawn(argv, ENVIRONMENT, (null, out, out)))
    finally:
        os.close(null)
        os.close(out)
    end = asyncio.get_running_loop().time() + START_TIMEOUT
    while not os.path.exists(socket):
        if daemon.done() or asyncio.get_running_loop().time() > end:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise LabError(f"{argv[0]} does not start: {lines[-1] if lines else 'it said nothing'}")
        await asyncio.sleep(0.2)


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
