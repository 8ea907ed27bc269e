"""Where the canary lives: namespaces that this process makes, furnishes, and then becomes charon in.

Started by the agent as a program of its own (``python -I -S cage.py FD``), it needs the standard library only, and nothing
of it is left in memory once charon runs. FD is a SOCK_SEQPACKET socket to the agent, one JSON object a packet:

    agent → cage   {uid, gid, interface_batch, strongswan_conf, charon}
    cage → agent   {made: {user_namespace}}    the namespaces stand; the agent writes the id maps and lays the cable
    agent → cage   {wired: true}
    cage → agent   {ready: {esp, run}} and two descriptors: raw sockets for ICMP and ICMPv6 in the network namespace
    cage → agent   {failed: "..."}             at any point; the process ends

The namespaces have no name and no holder but this process, so the kernel removes them, with the cable and every SA and
address in them, when it ends; and it ends with the agent, however that ends (PR_SET_PDEATHSIG). Nothing can be left behind.

A user namespace makes charon's root somebody without any right on the machine: its only user is an unprivileged one outside,
so it can read no secret of root's. Where there is none to be had (in a chroot, or where the machine forbids them) a
privileged agent gets the other two namespaces all the same; charon then keeps three capabilities, but root's files.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from typing import Any

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x0002_0000, 0x1000_0000, 0x4000_0000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 1 << 18
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
KEPT_CAPABILITIES = frozenset({0, 10, 12})
"""CAP_CHOWN (the control socket), CAP_NET_BIND_SERVICE (IKE's ports), CAP_NET_ADMIN (SAs, addresses): linux/capability.h."""
MOST_CAPABILITIES = 64
PACKET = 64 * 1024
IP = "/sbin/ip"
ESP_PROBE = (
    *("xfrm", "state", "add", "src", "192.0.2.1", "dst", "192.0.2.2", "proto", "esp", "spi", "0x100", "mode", "tunnel"),
    *("aead", "rfc4106(gcm(aes))", "0x" + "00" * 20, "128"),
)
"""An SA that no packet ever meets: only ESP itself can make it."""

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    agent = socket.socket(fileno=int(sys.argv[1]))
    try:
        order = json.loads(agent.recv(PACKET))
        environment = furnish(agent, order)
        charon = str(order["charon"])
        os.execve(charon, [charon], environment)
    except (OSError, ValueError, KeyError) as exc:
        agent.send(json.dumps({"failed": str(exc)}).encode())
        sys.exit(1)


def furnish(agent: socket.socket, order: dict[str, Any]) -> dict[str, str]:
    """Everything before charon. Returns its environment."""
    os.setgroups([])
    user_namespace = unshare_what_may_be()
    agent.send(json.dumps({"made": {"user_namespace": user_namespace}}).encode())
    if not json.loads(agent.recv(PACKET) or b"{}").get("wired"):
        raise OSError(0, "the agent went away")
    if user_namespace:  # 0 means the unprivileged user outside, by the map that the agent wrote
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    # charon's pid file has its place compiled in, and another charon's may be there.
    run = os.path.realpath("/var/run")
    _mount(None, "/", None, MS_REC | MS_PRIVATE, None)
    _mount("canary", run, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755,size=4m")
    for name, text in (("strongswan.conf", order["strongswan_conf"]), ("ip.batch", order["interface_batch"])):
        with open(f"{run}/{name}", "w") as file:
            file.write(text)
    if (status := _run(f"{run}/ip.out", "-batch", f"{run}/ip.batch")) != 0:
        with open(f"{run}/ip.out") as file:
            raise OSError(0, f"ip ended with {status}: {' '.join(file.read().split())}")
    esp = _run(f"{run}/ip.out", *ESP_PROBE) == 0
    if esp:
        _run(f"{run}/ip.out", "xfrm", "state", "flush")
    sockets = [
        socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        for family, protocol in ((socket.AF_INET, socket.IPPROTO_ICMP), (socket.AF_INET6, socket.IPPROTO_ICMPV6))
    ]
    give_up_privileges()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # Only now: had the agent ended before the line above, this would say so.
    socket.send_fds(agent, [json.dumps({"ready": {"esp": esp, "run": run}}).encode()], [s.fileno() for s in sockets])
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "STRONGSWAN_CONF": f"{run}/strongswan.conf"}


def unshare_what_may_be() -> bool:
    """Whether that included a user namespace."""
    try:
        _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET), "unshare")
    except OSError as refused:
        try:
            _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare")
        except OSError:
            raise OSError(refused.errno, f"no user namespace for the canary: {refused.strerror}") from refused
        return False
    return True


def give_up_privileges() -> None:
    """What charon, started by exec, will have at most."""
    for capability in range(MOST_CAPABILITIES):
        if capability not in KEPT_CAPABILITIES and _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # EINVAL: past the last one that this kernel knows
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def _run(output: str, *words: str) -> int:
    log = (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    pid = os.posix_spawn(IP, [IP, *words], {}, file_actions=[log, (os.POSIX_SPAWN_DUP2, 1, 2)])
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None) -> None:
    encoded = [text.encode() if text is not None else None for text in (source, target, fstype, data)]
    _check(_libc.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]), f"mount {target}")


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def _check(result: int, call: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
