"""The lab's cables and their network namespaces, by netlink.

Namespaces have no name: the server holds a descriptor of each, so they end with it. They belong to the server and not to
the node's processes, because a cable must stay plugged into the neighbour while a node is powered off (the kernel deletes
both ends of a veth pair with either end's namespace).

A *mute* cable drops everything while both ends keep carrier: sch_blackhole on both ends' egress. It is part of every
kernel that has queueing disciplines, which neither tc actions (native kernel here) nor nftables (User Mode Linux) are.

Everything here blocks and changes the calling thread's namespace for a moment: call it from a thread of its own (pyroute2's
blocking interface also needs one, because it brings an event loop).
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from anycast.errors import KernelError
from anycast_lab.embedded import syscalls
from anycast_lab.runner import Impairment, LabError
from anycast_lab.topology import Dummy, Endpoint, Link

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_IFF_NOARP = 0x80
_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17


@contextlib.contextmanager
def inside(netns: int) -> Iterator[None]:
    """Sockets made in this block belong to the namespace `netns`."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(netns, syscalls.CLONE_NEWNET)
        yield
    finally:
        syscalls.setns(home, syscalls.CLONE_NEWNET)
        os.close(home)


def new_namespace() -> int:
    """A new network namespace with its loopback up; the descriptor keeps it alive."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        with _netlink("set lo up") as ipr:
            ipr.link("set", index=1, state="up")
        return namespace
    finally:
        syscalls.setns(home, syscalls.CLONE_NEWNET)
        os.close(home)


def connect(link: Link, namespace_a: int, namespace_b: int) -> None:
    """Lay one cable: a veth pair made directly in its two namespaces, both ends down."""
    with _netlink(f"add {link.a} -- {link.b}") as ipr:
        peer = {"net_ns_fd": namespace_b, **_attributes(link.b, link.mtu)}
        ipr.link("add", kind="veth", net_ns_fd=namespace_a, peer=peer, **_attributes(link.a, link.mtu))
    for endpoint, namespace in ((link.a, namespace_a), (link.b, namespace_b)):
        checksums_in_software(endpoint, namespace)


def add_dummy(dummy: Dummy, namespace: int, nowhere: int) -> None:
    """An interface that swallows what is sent; where the kernel has no such device, a cable into the namespace `nowhere`."""
    end = dummy.end
    try:
        with _netlink(f"add dummy {end}") as ipr:
            ipr.link("add", kind="dummy", net_ns_fd=namespace, **_attributes(end, dummy.mtu))
    except KernelError as exc:
        if exc.errno != errno.EOPNOTSUPP:
            raise
        with inside(nowhere), _netlink(f"add {end} -- nowhere") as ipr:
            name = f"d{len(ipr.get_links())}"
            peer = {"net_ns_fd": namespace, **_attributes(end, dummy.mtu)}
            ipr.link("add", ifname=name, kind="veth", mtu=dummy.mtu, peer=peer)
            ipr.link("set", index=ipr.link_lookup(ifname=name)[0], state="up")
        _asks_nobody(end, namespace)
    set_state(end, namespace, up=True)


def nowhere() -> int:
    """A namespace that answers nothing."""
    namespace = new_namespace()
    with inside(namespace):
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    return namespace


def add_bridge(device: str, namespace: int) -> None:
    with inside(namespace), _netlink(f"add bridge {device}") as ipr:
        ipr.link("add", ifname=device, kind="bridge")
        ipr.link("set", index=ipr.link_lookup(ifname=device)[0], state="up")


def plug_in(endpoint: Endpoint, device: str, namespace: int) -> None:
    """Make the cable's end a port of the bridge."""
    with inside(namespace), _netlink(f"make {endpoint} a port of {device}") as ipr:
        ipr.link("set", index=_index(ipr, endpoint), master=ipr.link_lookup(ifname=device)[0])


def set_state(endpoint: Endpoint, namespace: int, *, up: bool) -> None:
    with inside(namespace), _netlink(f"set {endpoint} {'up' if up else 'down'}") as ipr:
        ipr.link("set", index=_index(ipr, endpoint), state="up" if up else "down")


def cut(endpoints: Sequence[Endpoint], namespace: int, stop: Callable[[], None]) -> None:
    """`stop`, and at once every link of the machine down, by one system call each."""
    with inside(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        requests = []
        for endpoint in endpoints:
            name = endpoint.interface.encode()
            flags = struct.unpack("16sh", fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sh", name, 0)))[1]
            requests.append(struct.pack("16sh", name, flags & ~_IFF_UP))
        stop()
        for request in requests:
            fcntl.ioctl(sock, _SIOCSIFFLAGS, request)


def move(endpoint: Endpoint, old: int, new: int) -> None:
    """Take the cable's end to another namespace; the kernel forgets its addresses and routes."""
    with inside(old), _netlink(f"move {endpoint}") as ipr:
        ipr.link("set", index=_index(ipr, endpoint), net_ns_fd=new)


def mute(endpoint: Endpoint, namespace: int) -> None:
    with inside(namespace), _netlink(f"mute {endpoint}") as ipr:
        ipr.tc("replace", "blackhole", _index(ipr, endpoint), handle="b1ac:")


def unmute(endpoint: Endpoint, namespace: int) -> None:
    with inside(namespace), _netlink(f"unmute {endpoint}") as ipr:
        ipr.tc("del", index=_index(ipr, endpoint), handle="b1ac:", root=True)


def isolate(endpoint: Endpoint, namespace: int, *, isolated: bool) -> None:
    """A bridge's port: isolated ones reach every port but each other."""
    with inside(namespace), _netlink(f"isolate {endpoint}") as ipr:
        ipr.brport("set", index=_index(ipr, endpoint), isolated=int(isolated))


def impair(endpoint: Endpoint, namespace: int, impairment: Impairment | None) -> None:
    """Raises LabError where the kernel has no netem."""
    with inside(namespace), _netlink(f"impair {endpoint}") as ipr:
        index = _index(ipr, endpoint)
        if impairment is None:
            try:
                ipr.tc("del", index=index, handle="1:", root=True)
            except NetlinkError as exc:
                if exc.code not in (errno.ENOENT, errno.EINVAL):  # there is none, or there was never any
                    raise
            return
        microseconds = {"delay": round(impairment.delay_ms * 1e3), "jitter": round(impairment.jitter_ms * 1e3)}
        try:
            ipr.tc("replace", "netem", index, handle="1:", limit=10_000, loss=impairment.loss_percent, **microseconds)
        except NetlinkError as exc:
            if exc.code == errno.ENOENT:
                raise LabError(f"{endpoint}: this kernel has no netem (sch_netem); a lab with LAB_KERNEL=uml has") from exc
            raise


def _attributes(endpoint: Endpoint, mtu: int) -> dict[str, Any]:
    return {"ifname": endpoint.interface, "mtu": mtu, **({"address": endpoint.mac} if endpoint.mac else {})}


def _asks_nobody(endpoint: Endpoint, namespace: int) -> None:
    """No ARP and no neighbour discovery, as on a dummy: what has a route there is sent there."""
    with inside(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        name = endpoint.interface.encode()
        flags = struct.unpack("16sh", fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sh", name, 0)))[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh", name, flags | _IFF_NOARP))


def _index(ipr: IPRoute, endpoint: Endpoint) -> int:
    found = ipr.link_lookup(ifname=endpoint.interface)
    if not found:
        raise KernelError(19, f"find {endpoint}")  # ENODEV
    return int(found[0])


@contextlib.contextmanager
def _netlink(what: str) -> Iterator[IPRoute]:
    try:
        with IPRoute() as ipr:
            yield ipr
    except NetlinkError as exc:
        raise KernelError(exc.code, what) from exc


def checksums_in_software(endpoint: Endpoint, namespace: int) -> None:
    """A veth leaves checksums to hardware that does not exist; whoever encrypts or captures would see wrong ones."""
    buffer = array.array("B", struct.pack("II", _ETHTOOL_STXCSUM, 0))  # struct ethtool_value
    address, _ = buffer.buffer_info()
    request = struct.pack("16sP", endpoint.interface.encode(), address)
    with inside(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
        except OSError as exc:
            raise KernelError(exc.errno or 0, f"switch off {endpoint}'s transmit checksums") from exc
