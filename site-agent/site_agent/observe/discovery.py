"""What is on this machine: the charon that runs, its control socket, the addresses that clients connect to.

Only looks: /proc, and two questions to charon (`version`, `list-conns`). What may not be looked at becomes a limit, one
sentence that names the privilege that is missing, and is left out; nothing is inferred from not having seen it.

A user without privileges sees the process, the addresses and most counters. charon's socket belongs to root (or to the
group that `charon.group` names), and the kernel shows its SAs only to CAP_NET_ADMIN.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from anycast.errors import KernelError, PeerError
from site_agent.ike.vici_client import Section, ViciClient
from site_agent.procfs import read_file, read_stat

PROGRAMS = frozenset({"charon", "charon-systemd"})
"""Names of strongSwan's daemons that serve clients; charon-cmd and charon-nm are clients themselves."""
DEFAULT_SOCKET = "/run/charon.vici"
CAP_NET_ADMIN = 12
"""Bit number in linux/capability.h."""
ANSWER_LIMIT_S = 3.0
_LISTENING = 0x10000
"""__SO_ACCEPTCON in linux/net.h."""
_SOCKET_LINK = re.compile(r"socket:\[([0-9]+)\]")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What there is to observe."""

    pid: int | None
    """charon's; None where none runs in this network namespace."""
    vici: str | None
    """Path of a control socket that answers us."""
    connections: tuple[str, ...]
    vips: tuple[str, ...]
    guessed: bool
    """The addresses are those that the connections name as their own, not the operator's word."""
    links: tuple[str, ...] = ()
    """Interfaces without which the gateway could not serve, by the operator's word: the one that carries the default route
    may be a management network's."""
    sees_kernel_sas: bool
    limits: tuple[str, ...]
    """What cannot be seen, and what would let us see it. Each hides a fact: with any, health cannot be told."""
    strangers: bool = False
    """`pid` is one of several charons whose network namespace may not be seen: perhaps somebody else's."""


async def discover(*, vici: str | None, vips: Iterable[str], links: Iterable[str] = ()) -> Found:
    """Look around. What is given is the operator's word and is believed. Raises ValueError for no address."""
    named = tuple(str(ip_address(vip)) for vip in vips)
    limits: list[str] = []
    charons = find_charons()
    pids = (*charons.ours, *charons.uncertain)
    pid = next(iter(pids), None)
    strangers = pid is not None and len(pids) > 1 and _network_of(pid) is None
    if strangers:
        limits.append(
            f"{len(pids)} charons run whose network namespace may not be seen, so pid {pid} is perhaps not this machine's: "
            "run as root"
        )
    elif pid is None:
        limits.append("no charon runs in this network namespace (or /proc hides other users' processes: hidepid)")
    elif _network_of(pid) is None:
        limits.append("no CAP_SYS_PTRACE: this charon is only taken to be of our network namespace")
    path = vici or find_vici(pid) or DEFAULT_SOCKET
    local: dict[str, list[str]] = {}
    answers = False
    try:
        local = await local_addresses(ViciClient(path))
        answers = True
    except TimeoutError:
        limits.append(f"{path}: charon does not answer within {ANSWER_LIMIT_S:g} s")
        answers = True  # it is there and silent: that is worth observing
    except PeerError as exc:
        hint = "" if os.geteuid() == 0 else ", which needs root or membership in charon's group (`charon.group`)"
        limits.append(f"{path}: {exc}; connections, SAs, half-open handshakes and a charon that hangs are not seen{hint}")
    guessed = tuple(dict.fromkeys(a for addresses in local.values() for a in addresses if is_service_address(a)))
    if not (named or guessed):
        limits.append(
            "no connection names an address in local_addrs, so neither it, its tunnels nor IKE is watched: give --vip"
        )
    if answers and not local and not any(path in limit for limit in limits):
        limits.append(f"{path}: charon has no connection, so nobody can connect; whether one is missing cannot be seen")
    sees_sas = capable(CAP_NET_ADMIN)
    if not sees_sas:
        limits.append("no CAP_NET_ADMIN: tunnels are not compared with the kernel's SAs")
    return Found(
        pid=pid,
        vici=path if answers else None,
        connections=tuple(local),
        vips=named or guessed,
        guessed=not named,
        links=tuple(links),
        sees_kernel_sas=sees_sas,
        limits=tuple(limits),
        strangers=strangers,
    )


def find_charon() -> int | None:
    """The charon of our network namespace. One whose namespace we may not see is taken for ours."""
    charons = find_charons()
    return next(iter((*charons.ours, *charons.uncertain)), None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Charons:
    """The charons that may be of our network namespace, the smallest pid first. There should be one."""

    ours: tuple[int, ...]
    uncertain: tuple[int, ...]
    """Without CAP_SYS_PTRACE it is not seen whose network namespace these are in: they may be a stranger's."""


def find_charons() -> Charons:
    """All of them but those that are certainly of another network namespace."""
    ours = _network_of("self")
    found: dict[bool, list[int]] = {True: [], False: []}
    for entry in sorted(Path("/proc").iterdir(), key=lambda path: (len(path.name), path.name)):
        if entry.name.isdecimal() and _name_of(entry) in PROGRAMS:
            network = _network_of(entry.name)
            stat = read_stat(int(entry.name)) if network in (None, ours) else None
            if stat is not None and stat.state != "Z" and not stat.exiting:
                found[network is not None].append(int(entry.name))
    return Charons(ours=tuple(found[True]), uncertain=tuple(found[False]))


def find_vici(pid: int | None) -> str | None:
    """The control socket that `pid` listens on; where its files may not be seen, the one that is named like one."""
    try:
        listening = parse_unix_sockets(read_file("/proc/net/unix"))
    except KernelError:
        return None
    theirs = frozenset() if pid is None else _sockets_of(pid)
    likely = sorted(path for path in listening.values() if path.endswith(".vici"))
    return next((path for inode, path in listening.items() if inode in theirs and path in likely), None) or next(
        iter(likely), None
    )


def parse_unix_sockets(data: bytes) -> dict[int, str]:
    """Inode and path of the sockets that listen, of /proc/net/unix. Lines that mean nothing to us are skipped."""
    found = {}
    for line in data.decode(errors="replace").splitlines()[1:]:
        words = line.split(maxsplit=7)
        try:
            if len(words) == 8 and int(words[3], 16) & _LISTENING:
                found[int(words[6])] = words[7]
        except ValueError:
            continue
    return found


async def local_addresses(vici: ViciClient) -> dict[str, list[str]]:
    """Own addresses by connection, as written in charon's configuration. Raises PeerError, TimeoutError."""
    found: dict[str, list[str]] = {}

    def take(section: Section) -> None:
        for name, connection in section.items():
            try:
                found[name] = [address.decode() for address in connection.get("local_addrs", [])]
            except (AttributeError, UnicodeDecodeError) as exc:
                raise PeerError("charon", f"list-conns: cannot be understood: {exc!r}") from exc

    try:
        await vici.stream("list-conns", "list-conn", take, timeout_s=ANSWER_LIMIT_S)
    finally:
        vici.close()
    return found


def is_service_address(text: str) -> bool:
    """Whether `text` is one address that clients can connect to; not %any, a name, a range or a network."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_loopback or address.is_multicast)


def capable(bit: int) -> bool:
    """Whether this process holds a capability now."""
    for line in read_file("/proc/self/status").splitlines():
        if line.startswith(b"CapEff:"):
            return bool(int(line.split()[1], 16) >> bit & 1)
    return False


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text().rstrip("\n")
    except OSError:
        return ""


def _network_of(pid: int | str) -> str | None:
    """Its network namespace; None where that may not be seen, or there is no such process."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None


def _sockets_of(pid: int) -> frozenset[int]:
    inodes = set()
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            if (match := _SOCKET_LINK.fullmatch(os.readlink(entry.path))) is not None:
                inodes.add(int(match[1]))
    except OSError:
        return frozenset()
    return frozenset(inodes)
