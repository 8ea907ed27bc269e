"""ExaBGP 5.0.15 as an automaton: what it does with its helper's commands, as measured with the real one.

It queues by attributes, drops the queue when a session closes, sends what was queued while the session was down at
session-up, and leaves withdrawals out of a session's first batch. `tests/interop/test_exabgp_queue.py` is where the real one
is asked.
"""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from collections.abc import Iterable
from typing import Protocol

MS = 1_000_000
RECONNECT = 250 * MS


class Surroundings(Protocol):
    """What the automaton touches."""

    now: int

    def session_up(self, neighbor: str) -> None: ...

    def upstream_added(self, neighbor: str, prefix: str) -> None: ...

    def upstream_removed(self, neighbor: str, prefix: str) -> None: ...

    def exabgp_wrote(self, line: bytes) -> None: ...


@dataclasses.dataclass
class Peer:
    """One session at ExaBGP."""

    up: bool = False
    up_at: int = 0
    lost: bool = False
    """The upstream has closed it and ExaBGP has not noticed."""
    down_since: int = 0
    first_batch: bool = True
    queue: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    """Attributes to prefix to verb, in order of first use, as `OutgoingRIB._new_attr_af_nlri`."""


class FakeExabgp:
    def __init__(self, world: Surroundings, pid: int, neighbors: Iterable[str]) -> None:
        self.world, self.pid = world, pid
        self.running = True
        self.stopped_at = 0
        self.peers = {n: Peer(up_at=world.now + RECONNECT, down_since=world.now) for n in neighbors}
        self.stdin: deque[bytes] = deque()

    def run(self) -> bool:
        """One turn of its main loop. False when there was nothing to do."""
        busy = False
        for neighbor, peer in self.peers.items():
            if peer.lost:
                peer.lost = peer.up = False
                peer.queue.clear()
                peer.up_at, peer.down_since = self.world.now + RECONNECT, self.world.now
                self._tell_state(neighbor, "down")
                busy = True
            elif not peer.up and self.world.now >= peer.up_at:
                peer.up = peer.first_batch = True
                self.world.session_up(neighbor)
                self._tell_state(neighbor, "up")
                busy = True
            if peer.up and peer.queue:
                self._flush(neighbor, peer)
                busy = True
        if self.stdin:
            self._execute(self.stdin.popleft())
            busy = True
        return busy

    def _flush(self, neighbor: str, peer: Peer) -> None:
        for prefixes in peer.queue.values():
            for prefix, verb in prefixes.items():
                if verb == "announce":
                    self.world.upstream_added(neighbor, prefix)
                elif not peer.first_batch:
                    self.world.upstream_removed(neighbor, prefix)
        peer.queue.clear()
        peer.first_batch = False

    def _execute(self, line: bytes) -> None:
        words = line.decode().split()
        if words == ["version"]:
            self._tell(b"exabgp 5.0.15")
        elif words == ["show", "neighbor", "json"]:
            self._tell(json.dumps([self._described(n, p) for n, p in self.peers.items()]).encode())
        else:
            _, neighbor, verb, _, prefix, *attributes = words
            bucket = self.peers[neighbor].queue.setdefault(" ".join(attributes), {})
            bucket[prefix] = verb
        self._tell(b"done")

    def _described(self, neighbor: str, peer: Peer) -> object:
        return {"peer": {"address": neighbor}, "local": {"as": 64501}, "fsm": "ESTABLISHED" if peer.up else "IDLE"}

    def _tell_state(self, neighbor: str, state: str) -> None:
        body = {"address": {"peer": neighbor}, "asn": {"local": 64501}, "state": state}
        self._tell(json.dumps({"type": "state", "neighbor": body}).encode())

    def _tell(self, line: bytes) -> None:
        self.world.exabgp_wrote(line)
