"""`python -m benchmarks.conntrack_side CONFIG`: one gateway's conntrack mirror over the real channel, and nothing else.

Runs in a network namespace. Writes a JSON line for what happens, with CLOCK_MONOTONIC, which all processes share: `up`,
`table` (the whole table has been told and is in the kernel), `compared`, and at the end `counts`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity, Role
from anycast.runtime import boottime
from site_agent.netlink.conntrack import CTA_MARK, shape_of
from site_agent.sync.channel import Channel, Plan
from site_agent.sync.conntrack_filter import MirroredFlows
from site_agent.sync.conntrack_mirror import ConntrackMirror
from site_agent.sync.conntrack_shell import ConntrackShell
from site_agent.sync.conntrack_wire import Type
from site_agent.sync.conntrack_words import Unsent
from site_agent.sync.identity import PinFile
from site_agent.sync.kinds import LARGEST, Kind, Lane
from site_agent.sync.numbers_words import Role as SyncRole
from site_agent.sync.versions import Versions
from site_agent.sync.words import Action, Deliver, Down, Dropped, Submit, Up, WorkedOff

LAG_S = 0.1
"""Bulk waits while so much is on its way already."""


def say(**what: Any) -> None:
    print(json.dumps({"at": time.monotonic(), "cpu": time.process_time(), **what}), flush=True)


class Side:
    def __init__(self, config: dict[str, Any]) -> None:
        me, peer = (Identity(config["fleet"], Role.GATEWAY, config[each]) for each in ("me", "peer"))
        plan = Plan(me=me, peer=peer, own_address=config["own"], peer_address=config["other"])
        state = Path(config["state"])
        state.mkdir(mode=0o700, exist_ok=True)
        versions = Versions(**config["versions"])
        pins = PinFile(state / "peer.pin", peer)
        self.channel = Channel(plan, MachineFolder(Path(config["folder"])), pins, versions, self._owner)
        flows = MirroredFlows(config["prefixes"], config["gateways"])
        self.mirror = ConntrackMirror(flows, SyncRole[config["role"]])
        self.shell = ConntrackShell(self.mirror, self._tell, self._worked_off, self._room)
        self._marks: collections.deque[tuple[int, int]] = collections.deque()
        """Type and first mark of each message that is not worked off."""
        self.lags: list[float] = []
        self._compared = 0

    def _owner(self, action: Action) -> None:
        match action:
            case Deliver(Kind.CONNTRACK, payload, epoch):
                self._marks.append((payload[0], _mark(payload)))
                self.shell.deliver(payload, epoch)
            case Up(resumed, _):
                self.shell.connected(resumed=resumed)
                say(what="up")
            case Dropped(Kind.CONNTRACK):
                self.shell.feed(Unsent())
            case Down():
                say(what="down", detail=action.detail)
            case _:
                pass

    def _tell(self, payload: bytes) -> None:
        self.channel.feed(Submit(Kind.CONNTRACK, payload))

    def _worked_off(self, epoch: int) -> None:
        self.channel.feed(WorkedOff(Lane.BULK, epoch))
        type_, mark = self._marks.popleft()
        if mark:
            self.lags.append((time.monotonic_ns() // 1000 - mark & 0xFFFF_FFFF) / 1e6)
        if type_ == Type.END:
            say(what="table")

    def _room(self) -> bool:
        session = self.channel.session
        return session.room(Lane.BULK) >= LARGEST and session.lag(Lane.BULK, boottime()) < LAG_S

    async def run(self) -> None:
        self.shell.start()
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        loop.add_signal_handler(signal.SIGUSR1, self.lags.clear)
        task = asyncio.create_task(self.channel.run())
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), 0.01)
            if self.mirror.copier.compared != self._compared and self.mirror.copier.comparison is None:
                self._compared = self.mirror.copier.compared
                say(what="compared", differing=self.mirror.copier.differing)
        task.cancel()
        copier, teller = self.mirror.copier, self.mirror.teller
        say(
            what="counts", lags=self.lags, applied=copier.applied, failed=dict(copier.failed), foreign=copier.foreign,
            told=teller.told, events_lost=self.mirror.events_lost, unsent=self.mirror.unsent, rounds=self.mirror.rounds,
            longest_turn_s=self.shell.longest_turn_s, cpu_s=time.process_time(),
        )  # fmt: skip
        self.shell.close()


def _mark(payload: bytes) -> int:
    """Of the first new flow in EVENTS, else 0."""
    if payload[0] != Type.EVENTS or payload[8:12] != b"\x00\x01\x01\x06":
        return 0
    message = payload[4 : 4 + struct.unpack_from("=I", payload, 4)[0]]
    at = shape_of(message).value(CTA_MARK)
    return 0 if at is None else int.from_bytes(message[at : at + 4], "big")


if __name__ == "__main__":
    asyncio.run(Side(json.loads(Path(sys.argv[1]).read_text())).run())
