"""Nobody begins an IKE_SA with a charon that cannot give it an address yet: a filter in the kernel, before charon's sockets.

VRRP moves the addresses without asking anybody, and a charon that is not promoted yet hands out no inner addresses. A client
whose handshake gets there in between would be given an IKE_SA without a CHILD_SA (INTERNAL_ADDRESS_FAILURE), and would not
try again. Silence is what helps it: it sends the same packet again (RFC 7296 section 2.1), strongSwan after 4 s and others
sooner. So while the door is closed the kernel throws away, before charon sees it, what asks for a new IKE_SA at the
service's addresses:

    exchange type 34 (IKE_SA_INIT, RFC 7296 section 3.1), not marked as a response
    exchange types 2 and 4 (IKEv1's Identity Protection and Aggressive, RFC 2408 section 3.1)

All else passes: what belongs to an IKE_SA that stands, the operator's other addresses, and whatever comes by the loopback
interface, where the agent asks its own charon (`prober`).

While it is hushed, for the moment of a planned handover, so is every other request of a client's. What the old Active
answered when the new one had closed its ears would have to be adopted (`sync.reunion`), for which the new one stops serving
everybody. The client asks again, and the new one answers. Responses pass.

The filter is classic BPF, on charon's own UDP sockets, of which pidfd_getfd(2) gives a duplicate: Linux 5.6, and
PTRACE_MODE_ATTACH_REALCREDS, which CAP_SYS_PTRACE grants except where Yama forbids it to everybody (ptrace_scope 3). It
stays with the socket when who attached it has ended. A charon that starts has new sockets without one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import socket
import struct
from collections.abc import Callable, Generator, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from anycast.errors import PeerError
from site_agent.ike.prober import IKE_PORT, NAT_PORT
from site_agent.procfs import read_stat
from site_agent.vrrp.socket_filter import attach, detach

LOOPBACK = 1
"""The index of `lo`, in every network namespace (LOOPBACK_IFINDEX, include/net/flow.h)."""
_FILTER = struct.Struct("=HBBI")
_LOAD_WORD, _LOAD_BYTE, _LOAD_LENGTH, _RETURN = 0x20, 0x30, 0x80, 0x06
_JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _JUMP_IF_ANY_BIT = 0x15, 0x35, 0x45
_NETWORK_HEADER = 0xFFF00000
"""SKF_NET_OFF: an offset from the IP header."""
_INTERFACE = 0xFFFFF000 + 8
"""SKF_AD_OFF + SKF_AD_IFINDEX."""
_DESTINATION_AT = {4: 16, 6: 24}
_ALL, _NONE = 0xFFFFFFFF, 0
"""How much of the packet the socket is given."""

_UDP_BYTES, _MARKER_BYTES, _IKE_BYTES = 8, 4, 28
"""The filter's data begins with the UDP header. RFC 3948 section 2.2: four zero bytes before IKE on port 4500."""
_EXCHANGE_AT, _FLAGS_AT = 18, 19
_RESPONSE = 0x20
_IKE_SA_INIT, _IDENTITY_PROTECTION, _AGGRESSIVE = 34, 2, 4

UNCHANGED = "the filter before its IKE sockets cannot be changed"

_PIDFD_GETFD = 438
_libc = ctypes.CDLL(None, use_errno=True)

Address = IPv4Address | IPv6Address


def program(
    version: int, vips: Iterable[Address], *, marked: bool, hushed: bool = False, spared: int = LOOPBACK
) -> bytes:
    """Several ``struct sock_filter`` for a UDP socket of IP `version`: drops what asks for a new IKE_SA at one of `vips`.

    `marked`: on port 4500. `hushed`: every request is dropped. `spared` is the index of the interface that anybody may ask
    by.
    """
    ike = _UDP_BYTES + (_MARKER_BYTES if marked else 0)
    # Each line is `code, operand, then, else`; a jump is to the next line, to what passes, or to the addresses.
    following, passes, asks = "following", "passes", "asks"
    lines = [(_LOAD_LENGTH, 0, following, following), (_JUMP_IF_AT_LEAST, ike + _IKE_BYTES, following, passes)]
    lines += [(_LOAD_WORD, _INTERFACE, following, following), (_JUMP_IF_EQUAL, spared, passes, following)]
    if marked:  # ESP, where the kernel leaves it to charon
        lines += [(_LOAD_WORD, _UDP_BYTES, following, following), (_JUMP_IF_EQUAL, 0, following, passes)]
    if not hushed:
        lines += [
            (_LOAD_BYTE, ike + _EXCHANGE_AT, following, following),
            (_JUMP_IF_EQUAL, _IDENTITY_PROTECTION, asks, following),
            (_JUMP_IF_EQUAL, _AGGRESSIVE, asks, following),
            (_JUMP_IF_EQUAL, _IKE_SA_INIT, following, passes),
        ]
    lines += [
        (_LOAD_BYTE, ike + _FLAGS_AT, following, following),
        (_JUMP_IF_ANY_BIT, _RESPONSE, passes, asks),
        (_RETURN, _ALL, following, following),
    ]
    code = []
    for at, (what, operand, then, otherwise) in enumerate(lines):
        places = {following: 0, passes: len(lines) - 2 - at, asks: len(lines) - 1 - at}
        code.append(_FILTER.pack(what, places[then], places[otherwise], operand))
    for vip in vips:
        if vip.version == version:
            words = struct.unpack(f"!{len(vip.packed) // 4}I", vip.packed)
            for place, word in enumerate(words):
                at = _NETWORK_HEADER + _DESTINATION_AT[version] + 4 * place
                to_next_vip = 2 * (len(words) - place) - 1
                code += [_FILTER.pack(_LOAD_WORD, 0, 0, at), _FILTER.pack(_JUMP_IF_EQUAL, 0, to_next_vip, word)]
            code.append(_FILTER.pack(_RETURN, 0, 0, _NONE))
    code.append(_FILTER.pack(_RETURN, 0, 0, _ALL))
    return b"".join(code)


class Door:
    """Of whichever charon runs. Closing or opening twice changes nothing. No descriptor is kept: one would keep the port
    from the next charon."""

    def __init__(self, charon: Callable[[], str], vips: Iterable[str]) -> None:
        """`charon` gives ``PID START_TICKS``; empty while none runs."""
        self._charon = charon
        self._vips = tuple(ip_address(vip) for vip in vips)

    def close(self) -> int:
        """How many sockets of charon's are closed now: 0 where it has none, yet or any more. Raises PeerError."""
        return self._each(functools.partial(self._filter, hushed=False))

    def hush(self) -> int:
        """How many sockets give charon no request of a client's now. Raises PeerError."""
        return self._each(functools.partial(self._filter, hushed=True))

    def open(self) -> int:
        """How many sockets are open now. Raises PeerError."""
        return self._each(detach)

    def _filter(self, sock: socket.socket, *, hushed: bool) -> None:
        version = 6 if sock.family == socket.AF_INET6 else 4
        attach(sock, program(version, self._vips, marked=sock.getsockname()[1] == NAT_PORT, hushed=hushed))

    def _each(self, work: Callable[[socket.socket], None]) -> int:
        count, identity = 0, self._charon()
        try:
            with contextlib.closing(_ike_sockets(identity)) as sockets:
                for sock in sockets:
                    work(sock)
                    count += 1
        except (FileNotFoundError, ProcessLookupError):
            return 0  # it has ended meanwhile
        except PermissionError as exc:
            raise PeerError("charon", f"{UNCHANGED}, which takes CAP_SYS_PTRACE and a ptrace_scope below 3") from exc
        except OSError as exc:
            raise PeerError("charon", f"{UNCHANGED}: {exc.strerror}") from exc
        except ValueError as exc:
            raise PeerError("charon", f"{UNCHANGED} of a process that is named {identity[:40]!r}") from exc
        return count


def _ike_sockets(charon: str) -> Generator[socket.socket]:
    """Duplicates of its UDP sockets on IKE's ports, each closed when the next is asked for. Raises OSError, ValueError."""
    if not charon:
        return
    pid, start_ticks = (int(word) for word in charon.split())
    pidfd = os.pidfd_open(pid)
    try:
        stat = read_stat(pid)  # after the pidfd: from here on the number is nobody else's
        if stat is None or stat.start_ticks != start_ticks:
            return
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                if not os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:"):
                    continue
                descriptor = _duplicate(pidfd, int(number))
            except FileNotFoundError:  # closed meanwhile
                continue
            with socket.socket(fileno=descriptor) as sock:
                is_udp = sock.type == socket.SOCK_DGRAM and sock.family in (socket.AF_INET, socket.AF_INET6)
                if is_udp and sock.getsockname()[1] in (IKE_PORT, NAT_PORT):
                    yield sock
    finally:
        os.close(pidfd)


def _duplicate(pidfd: int, number: int) -> int:
    """Raises FileNotFoundError where it has been closed, ProcessLookupError where the process has ended, OSError."""
    descriptor = int(_libc.syscall(_PIDFD_GETFD, pidfd, number, 0))
    if descriptor < 0:
        error = ctypes.get_errno()
        if error == errno.EBADF:
            error = errno.ENOENT
        raise OSError(error, os.strerror(error))
    return descriptor
