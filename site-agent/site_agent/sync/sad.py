"""The kernel's SAD as the mirror sees and moves it: clients' SAs, their events, and the numbers written into them.

Only SAs with a VIP at one end are looked at (rule 9). Those that the VIP sends on are `outbound`, the others inbound. What
is needed to write a number later (who the SA is, and the shape of its replay state) is kept from the kernel's own message.
Events and requests are two sockets: what a request changes comes back on the other one as an event, marked as somebody's
own doing, and is news to nobody.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from anycast.errors import DecodeError, KernelError
from site_agent.netlink.messages import NETLINK_XFRM, Message
from site_agent.netlink.xfrm import (
    XFRM_MSG_DELSA,
    XFRM_MSG_EXPIRE,
    XFRM_MSG_FLUSHSA,
    XFRM_MSG_GETSA,
    XFRM_MSG_NEWSA,
    XFRMGRP_EXPIRE,
    XFRMGRP_SA,
)
from site_agent.netlink.xfrm_keys import PackedAddress, SaKey
from site_agent.netlink.xfrm_replay import (
    NLM_F_REPLACE,
    XFRM_MSG_NEWAE,
    XFRM_MSG_UPDSA,
    XFRMGRP_AEVENTS,
    Replay,
    SaState,
    decode_advance,
    decode_expiry,
    decode_sa_state,
    encode_oseq,
    encode_seen_up_to,
)
from site_agent.socket_buffer import enlarge
from site_agent.sync.requests import Requests, drained

BUFFER_BYTES = 32 << 20
"""Of events: 20,000 SAs that appear at once are 15 MB there."""
EVENTS_AT_ONCE = 64
"""Datagrams, before the loop may do something else."""


class Owner(Protocol):
    """Who is told. `outbound_…` and `inbound_…` by the direction as this gateway sees it."""

    def outbound_reported(self, key: SaKey) -> None: ...

    def outbound_advanced(self, key: SaKey, oseq: int) -> None: ...

    def inbound_seen(self, key: SaKey, seq: int) -> None: ...

    def gone(self, key: SaKey, *, outbound: bool) -> None: ...

    def events_lost(self) -> None: ...


class _Shape(NamedTuple):
    """What a NEWAE about an SA needs."""

    head: bytes
    replay: Replay
    esn: bool


class Sad:
    """`readable` is to be called when `fileno` is. `close` when done. Raises KernelError where a socket cannot be had."""

    def __init__(self, ends: Iterable[PackedAddress], requests: Requests) -> None:
        self._ends, self._requests = frozenset(ends), requests
        self._outbound: dict[SaKey, _Shape] = {}
        self._inbound: dict[SaKey, _Shape] = {}
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, NETLINK_XFRM
            )
            enlarge(self._socket, BUFFER_BYTES)
            self._socket.bind((0, XFRMGRP_SA | XFRMGRP_EXPIRE | XFRMGRP_AEVENTS))
        except OSError as exc:
            raise KernelError(exc.errno or errno.EIO, "netlink xfrm events") from exc

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self, owner: Owner, *, everything: bool = False) -> None:
        """Tell `owner` of what has happened. `everything`: until the kernel has no more to tell. Raises KernelError."""
        most = 2**31 if everything else EVENTS_AT_ONCE
        drained(self._socket, lambda message: self._take(message, owner), owner.events_lost, most=most)

    def table(self) -> tuple[list[tuple[SaKey, int]], list[tuple[SaKey, int]]]:
        """All SAs: the outbound ones with the last number sent, the inbound ones with the highest received.

        Raises KernelError, DecodeError.
        """
        outbound: list[tuple[SaKey, int]] = []
        inbound: list[tuple[SaKey, int]] = []
        self._outbound.clear()
        self._inbound.clear()

        def take(message: Message) -> None:
            state = decode_sa_state(message.payload)
            if (found := self._know(state)) is None:
                return
            if found:
                outbound.append((state.key, state.replay.oseq if state.replay else 0))
            else:
                inbound.append((state.key, state.replay.seq if state.replay else 0))

        self._requests.dump(XFRM_MSG_GETSA, take)
        return outbound, inbound

    def place(self, places: Iterable[tuple[SaKey, int]]) -> list[bool]:
        """Make each number the last one sent. Returns whether the kernel has it so. Raises KernelError, DecodeError."""
        return self._write((self._outbound.get(key), encode_oseq, number) for key, number in places)

    def refuse_up_to(self, seen: Iterable[tuple[SaKey, int]]) -> list[bool]:
        """Make each number the highest one received, and all below it received. As `place`."""
        return self._write((self._inbound.get(key), encode_seen_up_to, number) for key, number in seen)

    def delete(self, keys: Iterable[SaKey]) -> None:
        """Outbound ones. What is not there any more may be so. Raises KernelError, DecodeError."""
        shapes = [shape for key in keys if (shape := self._outbound.pop(key, None)) is not None]
        # struct xfrm_usersa_id is the first half of struct xfrm_aevent_id
        self._requests.all([(XFRM_MSG_DELSA, 0, shape.head[:24]) for shape in shapes], missing=True)

    def _write(self, wanted: Iterable[tuple[_Shape | None, Callable[[bytes, Replay, int], bytes], int]]) -> list[bool]:
        requests, indices, done = [], [], []
        for index, (shape, encode, number) in enumerate(wanted):
            done.append(False)
            if shape is None:
                continue
            with contextlib.suppress(OverflowError):
                requests.append((XFRM_MSG_NEWAE, NLM_F_REPLACE, encode(shape.head, shape.replay, number)))
                indices.append(index)
        for index, code in zip(indices, self._requests.ask(requests), strict=True):
            done[index] = code == 0
        return done

    def _know(self, state: SaState) -> bool | None:
        """Keep what is needed of a client's SA. Returns whether it is outbound; None for one that is nobody's of ours."""
        outbound, inbound = state.source in self._ends, state.key[:16] in self._ends
        if not (outbound or inbound) or state.replay is None:
            return None
        shape = _Shape(state.head, state.replay._replace(raw=memoryview(bytes(state.replay.raw))), state.esn)
        (self._outbound if outbound else self._inbound)[state.key] = shape
        return outbound

    def _take(self, message: Message, owner: Owner) -> None:
        match message.kind:
            case kind if kind in (XFRM_MSG_NEWSA, XFRM_MSG_UPDSA):
                state = decode_sa_state(message.payload)
                outbound = self._know(state)
                if outbound:
                    owner.outbound_reported(state.key)
                elif outbound is not None and state.replay is not None:
                    owner.inbound_seen(state.key, state.replay.seq)
            case kind if kind == XFRM_MSG_DELSA:
                self._gone(usersa_id_key(message.payload), owner)
            case kind if kind == XFRM_MSG_EXPIRE:
                expiry = decode_expiry(message.payload)
                if expiry.hard:
                    self._gone(expiry.key, owner)
            case kind if kind == XFRM_MSG_FLUSHSA:
                owner.events_lost()
            case kind if kind == XFRM_MSG_NEWAE:
                self._advanced(message, owner)

    def _gone(self, key: SaKey, owner: Owner) -> None:
        if self._outbound.pop(key, None) is not None:
            owner.gone(key, outbound=True)
        if self._inbound.pop(key, None) is not None:
            owner.gone(key, outbound=False)

    def _advanced(self, message: Message, owner: Owner) -> None:
        advance = decode_advance(message.payload)
        if advance.by_user or advance.replay is None:
            return
        if (shape := self._outbound.get(advance.key)) is not None:
            owner.outbound_advanced(advance.key, decode_advance(message.payload, esn=shape.esn).replay.oseq)  # type: ignore[union-attr]
        elif (shape := self._inbound.get(advance.key)) is not None:
            owner.inbound_seen(advance.key, decode_advance(message.payload, esn=shape.esn).replay.seq)  # type: ignore[union-attr]


def usersa_id_key(payload: memoryview) -> SaKey:
    """Of XFRM_MSG_DELSA, which begins with struct xfrm_usersa_id. Raises DecodeError."""
    if len(payload) < 24:
        raise DecodeError("xfrm_usersa_id", len(payload), "shorter than 24 bytes")
    return SaKey(bytes(payload[:20]) + bytes(payload[22:23]))
