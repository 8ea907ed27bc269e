"""Asks one's own charon, over UDP, what it must refuse, and waits for the answer without blocking anybody.

Theory of operation
-------------------
Each end is a port (500, 4500) at an address of the service. The question's *source* is that address, too: as long as the
machine has it, question and answer stay on the loopback path, and if it just went to another machine, that machine would
answer to itself. So no other machine's charon can ever answer for ours. Where the machine does not have the address (a
Backup), the question goes to the loopback address of the same family: charon's sockets take any, and a charon that knows
no connection for loopback refuses as well (measured).

charon counts the handshakes that wait for a worker as half-open, and from the fourth of one source its receiver answers
COOKIE while all workers may hang. So a question without an answer is not asked again: the next look waits on the same
one. Only after `ASK_AGAIN_S` it counts as lost, as a flood's overflowing buffer loses it. And a cookie is brought back
once, with the same question, as a client does: then a worker answers, or is silent, and the COOKIE has shown that the way
there is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from anycast.errors import DecodeError
from anycast.runtime import boottime
from site_agent.ike.probe_message import NONCE_BYTES, SPI_BYTES, Kind, decode_answer, encode_question

IKE_PORT, NAT_PORT = 500, 4500
PORTS = (IKE_PORT, NAT_PORT)
ASK_AGAIN_S = 10.0
"""Longer than `charon_answers` needs: in a hang it is over before a second question of the same source waits."""
LONGEST_ANSWER = 4096

Address = IPv4Address | IPv6Address


class Outcome(enum.StrEnum):
    """What became of one question."""

    WORKER = "worker"
    """A worker thread refused it, as it must."""
    COOKIE = "cookie"
    """It wants another one than the one it gave."""
    SILENT = "silent"
    """No answer yet, or none but a COOKIE, which was brought back."""
    NOBODY = "nobody"
    """No socket takes it, or the kernel would not send it: charon does not listen there, or a firewall refuses."""


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One end and what became of the question to it."""

    address: str
    """That was asked: the service's, or loopback's."""
    port: int
    outcome: Outcome
    latency_s: float | None = None
    """From the question to the worker's answer."""
    heard_at: float | None = None
    """CLOCK_BOOTTIME of the last question to this end that a worker answered; None where none ever did."""

    cookie: bool = False
    """The receiver thread wanted a cookie for this question, whatever followed."""

    @property
    def end(self) -> str:
        """``203.0.113.1 port 500``."""
        return f"{self.address} port {self.port}"


class Prober:
    """Use from the event loop's thread. Several may ask at a time: they wait on the same questions."""

    def __init__(self, vips: Iterable[str], addresses: Callable[[], Awaitable[frozenset[Address]]]) -> None:
        """`addresses` gives what the machine has now."""
        self._vips = tuple(ip_address(vip) for vip in vips)
        self._addresses = addresses
        self._waiting: dict[tuple[str, int], _Question] = {}
        self._heard_at: dict[tuple[str, int], float] = {}

    async def ask(self, timeout_s: float) -> Sequence[Asked]:
        """Ask every end at once. Raises KernelError, DecodeError where the machine's addresses cannot be read."""
        own = await self._addresses()
        ends = [(str(_own_end(vip, own)), port) for vip in self._vips for port in PORTS]
        for gone in self._waiting.keys() - set(ends):
            self._waiting.pop(gone).close()
        questions = {end: self._question(*end) for end in ends}
        answers = [question.answer for question in questions.values() if question is not None]
        if answers:
            await asyncio.wait(answers, timeout=timeout_s)
        for end, question in questions.items():
            self._hear(end, question)
        return [
            dataclasses.replace(_asked(*end, question), heard_at=self._heard_at.get(end))
            for end, question in questions.items()
        ]

    def heard_since(self, began: float) -> frozenset[tuple[str, int]]:
        """Address and port of the ends that a worker has answered at since then (CLOCK_BOOTTIME)."""
        return frozenset(end for end, at in self._heard_at.items() if at >= began)

    def was_heard(self, ends: Iterable[tuple[str, int]], at: float) -> None:
        """Somebody before us was answered there, at that time or later."""
        for end in ends:
            self._heard_at[end] = max(at, self._heard_at.get(end, at))

    def close(self) -> None:
        """Wait for nothing any more."""
        for question in self._waiting.values():
            question.close()
        self._waiting.clear()

    def _hear(self, end: tuple[str, int], question: _Question | None) -> None:
        if question is not None and question.answer.done() and question.answer.result()[0] is Outcome.WORKER:
            self._heard_at[end] = question.sent_at

    def _question(self, address: str, port: int) -> _Question | None:
        """The one that waits, or a new one; None where the kernel would not send it."""
        waiting = self._waiting.pop((address, port), None)
        self._hear((address, port), waiting)  # also an answer that came between two looks
        if waiting is not None and (waiting.answer.done() or boottime() - waiting.sent_at > ASK_AGAIN_S):
            waiting.close()
            waiting = None
        if waiting is None:
            try:
                waiting = _Question(address, port)
            except OSError:  # ECONNREFUSED, EPERM of a firewall, an address that just went
                return None
        self._waiting[address, port] = waiting
        return waiting


async def answers(address: str, timeout_s: float) -> bool:
    """Whether a charon's worker answers at `address` of another machine, asked once at port 500."""
    try:
        question = _Question(address, IKE_PORT, here=False)
    except OSError:  # no route
        return False
    try:
        await asyncio.wait([question.answer], timeout=timeout_s)
        return question.answer.done() and question.answer.result()[0] is Outcome.WORKER
    finally:
        question.close()


class _Question:
    """Sent when it is made, which raises OSError. `answer` is done when there is one."""

    def __init__(self, address: str, port: int, *, here: bool = True) -> None:
        """`here`: the address is this machine's, and what is asked leaves from it."""
        self._spi, self._nonce, self._marked = os.urandom(SPI_BYTES), os.urandom(NONCE_BYTES), port == NAT_PORT
        self.cookie = b""
        """The one that was brought back."""
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[tuple[Outcome, float]] = self._loop.create_future()
        """What it is, and how many seconds after the question it came."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if here:
                self._sock.bind((address, 0))
            self._sock.connect((address, port))
            self.sent_at = boottime()
            self._ask()
        except OSError:
            self._sock.close()
            raise
        self._loop.add_reader(self._sock, self._readable)

    def _ask(self) -> None:
        self._sock.send(encode_question(self._spi, self._nonce, marked=self._marked, cookie=self.cookie))

    def close(self) -> None:
        """Listen for no answer any more; whoever waits for it learns that there is none."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()
        if not self.answer.done():
            self.answer.set_result((Outcome.SILENT, boottime() - self.sent_at))

    def _readable(self) -> None:
        try:
            data = self._sock.recv(LONGEST_ANSWER)
        except BlockingIOError:
            return
        except OSError:  # ICMP port unreachable
            self._answered(Outcome.NOBODY)
            return
        with contextlib.suppress(DecodeError):
            answer = decode_answer(data, self._spi, marked=self._marked)
            if answer is None:
                return
            if answer.kind is not Kind.COOKIE:
                self._answered(Outcome.WORKER)
            elif self.cookie:
                self._answered(Outcome.COOKIE)
            else:
                self.cookie = answer.cookie
                try:
                    self._ask()
                except OSError:
                    self._answered(Outcome.NOBODY)

    def _answered(self, outcome: Outcome) -> None:
        if not self.answer.done():
            self.answer.set_result((outcome, boottime() - self.sent_at))
        self.close()


def _asked(address: str, port: int, question: _Question | None) -> Asked:
    if question is None:
        return Asked(address, port, Outcome.NOBODY)
    wanted = bool(question.cookie)
    if not question.answer.done():
        return Asked(address, port, Outcome.SILENT, cookie=wanted)
    outcome, latency_s = question.answer.result()
    return Asked(address, port, outcome, latency_s if outcome is Outcome.WORKER else None, cookie=wanted)


def _own_end(vip: Address, own: frozenset[Address]) -> Address:
    if vip in own:
        return vip
    return IPv4Address("127.0.0.1") if vip.version == 4 else IPv6Address("::1")
