"""Both ends of the route lease in a world of virtual time: the real cores, an ExaBGP automaton, an upstream that judges.

Processes can be stopped, continued and killed; messages take no time; the world checks after every turn.
"""

from __future__ import annotations

import itertools
from collections import deque

from anycast import lease_wire, runtime
from anycast.lease_wire import FromAgent, FromBridge, Grace, Renew
from anycast.model import Cause, Route
from anycast.policy.verdict import TICKS_PER_LEASE, VerdictReached
from anycast.reasons import Reason
from exabgp_bridge import core as bridge_core
from exabgp_bridge.api import ApiEvent, decode_line, encode_command
from exabgp_bridge.core import AgentConnected, AgentGone, EndExabgp, TellAgent, WriteCommand
from site_agent.announce.holder import (
    BridgeGone,
    ExabgpExited,
    ExabgpStarted,
    KillHolder,
    RouteLease,
    StopRequested,
    TellBridge,
)
from tests.support.fake_exabgp import MS, FakeExabgp

LEASE = 1000 * MS
TICK = LEASE // TICKS_PER_LEASE
GRACE = 3000 * MS
HOLD = 3000 * MS
RESTART = 200 * MS
BOUND = 2 * LEASE + TICK
"""How long after its right has ended a route may stay while somebody is left to end it and something is broken."""

ROUTES = (
    Route(neighbor="198.51.100.1", prefix="203.0.113.0/28", next_hop="198.51.100.2"),
    Route(neighbor="2001:db8:1::1", prefix="2001:db8:a::/56", next_hop="2001:db8:1::2", communities=("64501:1",)),
)
Key = tuple[str, str]


class _BridgeProcess:
    def __init__(self, world: World, pid: int) -> None:
        self.pid, self.running = pid, True
        self.core = bridge_core.Bridge(
            pid=pid, exabgp_pid=world.exabgp_pid, lease_ns=LEASE, grace_ns=GRACE, now_ns=world.now
        )
        self.from_exabgp: deque[ApiEvent] = deque()
        self.from_agent: deque[FromAgent | AgentConnected | AgentGone] = deque()


class _AgentProcess:
    def __init__(self, world: World, instance: str) -> None:
        self.instance, self.running = instance, True
        self.core = RouteLease(
            instance=instance, routes=ROUTES, lease_s=LEASE / 1e9, grace_s=GRACE / 1e9, now=world.now / 1e9
        )
        self.inbox: deque[FromBridge | BridgeGone | ExabgpStarted | ExabgpExited] = deque()


class World:
    """Steps change it, `advance` lets time pass; both check the invariants and raise AssertionError."""

    def __init__(self) -> None:
        self.now = 10_000 * MS
        self._pids = itertools.count(100)
        self._instances = itertools.count(1)
        self.serving: bool | None = True
        self.upstream: set[Key] = set()
        self._right_until: dict[Key, int] = {}
        self._renewed_after_up: dict[str, bool] = {}
        self._exposed_since: int | None = None
        self._bridge_fault_at = self._bridge_started = self.now
        self._next_verdict = self.now
        self._restart_at: int | None = None
        self.exabgp: FakeExabgp | None = None
        self.bridge: _BridgeProcess | None = None
        self.agent: _AgentProcess | None = None
        self.start_agent()
        self._start_exabgp()
        self._settle()

    @property
    def exabgp_pid(self) -> int:
        assert self.exabgp is not None
        return self.exabgp.pid

    # Steps

    def start_agent(self) -> None:
        """A new agent, which adopts what runs."""
        if self.agent is not None:
            return
        self._fault()
        self.agent = _AgentProcess(self, f"run-{next(self._instances)}")
        self._next_verdict = self.now
        if self.exabgp is not None:
            self.agent.inbox.append(ExabgpStarted(pid=self.exabgp.pid, adopted=True))
        elif self._restart_at is None:
            self._restart_at = self.now + RESTART
        self._connect()

    def stop_agent_cleanly(self) -> None:
        if self.agent is not None and self.agent.running:
            self._to_agent(StopRequested())
            self._settle()
            self.kill("agent")

    def kill(self, who: str) -> None:
        self._fault()
        if who == "agent" and self.agent is not None:
            self.agent = None
            self._disconnect()
        elif who == "bridge" and self.bridge is not None:
            self._bridge_fault_at = self.now
            self.bridge = None
            if self.agent is not None:
                self.agent.inbox.append(BridgeGone())
            if self.exabgp is not None:
                self.exabgp.stdin.clear()
        elif who == "exabgp" and self.exabgp is not None:
            self._end_exabgp()

    def stop(self, who: str) -> None:
        process = getattr(self, who)
        if process is not None and process.running:
            self._fault()
            process.running = False
            if who == "bridge":
                self._bridge_fault_at = self.now
            if isinstance(process, FakeExabgp):
                process.stopped_at = self.now

    def cont(self, who: str) -> None:
        process = getattr(self, who)
        if process is not None and not process.running:
            self._fault()
            process.running = True
            if who == "bridge":
                self._bridge_fault_at = self.now

    def flap(self, neighbor: str) -> None:
        """The upstream closes the session."""
        if self.exabgp is not None and self.exabgp.peers[neighbor].up:
            self.exabgp.peers[neighbor].lost = True
            self.upstream = {key for key in self.upstream if key[0] != neighbor}

    def say(self, serving: bool | None) -> None:
        self.serving = serving
        if self.agent is not None and self.agent.running:
            self._verdict()

    def advance(self, duration: int) -> None:
        end = self.now + duration
        while True:
            self._settle()
            if self.now >= end:
                return
            self.now = min(end, *(max(t, self.now + 1) for t in [end, *self._times()]))
            self._timers()

    def recover(self) -> None:
        """End every fault and wait."""
        for who in ("exabgp", "bridge", "agent"):
            self.cont(who)
        self.start_agent()
        self.serving = True
        self.advance(40 * LEASE)

    # Time

    def _times(self) -> list[int]:
        times = []
        if self.bridge is not None and self.bridge.running:
            times.append(self.bridge.core.deadline)
        if self.agent is not None and self.agent.running:
            times.append(self._next_verdict)
            if (deadline := self.agent.core.deadline) is not None:
                times.append(round(deadline * 1e9) + 1)
        if self.exabgp is not None:
            if self.exabgp.running:
                times += [p.up_at for p in self.exabgp.peers.values() if not p.up]
            elif any(p.up and not p.lost for p in self.exabgp.peers.values()):
                times.append(self.exabgp.stopped_at + HOLD)
        if self._restart_at is not None:
            times.append(self._restart_at)
        return times

    def _timers(self) -> None:
        if self.exabgp is not None and not self.exabgp.running and self.now >= self.exabgp.stopped_at + HOLD:
            for neighbor in self.exabgp.peers:
                self.flap(neighbor)
        if self._restart_at is not None and self.now >= self._restart_at:
            self._restart_at = None
            if self.agent is not None and self.exabgp is None:
                self._start_exabgp()
        if self.agent is not None and self.agent.running and self.now >= self._next_verdict:
            self._verdict()

    def _verdict(self) -> None:
        assert self.agent is not None
        self._next_verdict = self.now + TICK
        reason = {True: Reason.HEALTHY, False: Reason.CHARON_EXITED, None: Reason.NO_EVIDENCE_YET}[self.serving]
        self._to_agent(VerdictReached(serving=self.serving is True, causes=(Cause(reason=reason),), at=self.now / 1e9))

    def _settle(self) -> None:
        for _ in range(1000):
            if not self._turn():
                break
        else:
            raise AssertionError("the processes keep each other busy for ever")
        self._check()

    def _turn(self) -> bool:
        busy = False
        if self.exabgp is not None and self.exabgp.running:
            if self.bridge is None:
                self._start_bridge()
                busy = True
            busy = self.exabgp.run() or busy
        bridge = self.bridge
        if bridge is not None and bridge.running:
            if self.now >= bridge.core.deadline:
                busy = True
                self._to_bridge(bridge_core.TimerExpired())
            elif bridge.from_exabgp:
                busy = True
                self._to_bridge(bridge.from_exabgp.popleft())
            elif bridge.from_agent:
                busy = True
                self._to_bridge(bridge.from_agent.popleft())
        agent = self.agent
        if agent is not None and agent.running:
            deadline = agent.core.deadline
            if deadline is not None and self.now / 1e9 >= deadline:
                busy = True
                self._to_agent(runtime.TimerExpired())
            elif agent.inbox:
                busy = True
                self._to_agent(agent.inbox.popleft())
        return busy

    # Processes

    def _start_exabgp(self) -> None:
        self.exabgp = FakeExabgp(self, next(self._pids), sorted({route.neighbor for route in ROUTES}))
        if self.agent is not None:
            self.agent.inbox.append(ExabgpStarted(pid=self.exabgp.pid, adopted=False))
        self._start_bridge()

    def _start_bridge(self) -> None:
        self.bridge = _BridgeProcess(self, next(self._pids))
        self._bridge_started = self.now
        self._to_bridge(bridge_core.TimerExpired())
        self._connect()

    def _end_exabgp(self) -> None:
        assert self.exabgp is not None
        if self.agent is not None:
            self.agent.inbox += [BridgeGone(), ExabgpExited(pid=self.exabgp.pid)]
        self.exabgp = self.bridge = None
        self._fault()
        self._bridge_fault_at = self.now
        self.upstream.clear()
        self._restart_at = self.now + RESTART

    def _connect(self) -> None:
        if self.agent is not None and self.bridge is not None:
            self.bridge.from_agent.append(AgentConnected())

    def _disconnect(self) -> None:
        if self.bridge is not None:
            self.bridge.from_agent.append(AgentGone())

    def _to_bridge(self, event: bridge_core.Input) -> None:
        bridge = self.bridge
        assert bridge is not None
        if isinstance(event, Renew):
            for neighbor in {route.neighbor for route in event.routes}:
                self._renewed_after_up[neighbor] = True
        for action in bridge.core.handle(event, self.now):
            match action:
                case WriteCommand(command) if self.exabgp is not None:
                    self.exabgp.stdin.append(encode_command(command).rstrip(b"\n"))
                case TellAgent(message) if self.agent is not None:
                    self.agent.inbox.append(lease_wire.decode_from_bridge(lease_wire.encode(message)))
                case EndExabgp() if self.exabgp is not None:
                    self._end_exabgp()

    def _to_agent(self, event: object) -> None:
        agent = self.agent
        assert agent is not None
        for action in agent.core.handle(event, self.now / 1e9):  # type: ignore[arg-type]  # each caller's is an Input
            match action:
                case TellBridge(message):
                    self._grant(message)
                    if self.bridge is not None:
                        self.bridge.from_agent.append(lease_wire.decode_from_agent(lease_wire.encode(message)))
                case KillHolder() if self.exabgp is not None:
                    self._end_exabgp()

    # Judgement

    def _grant(self, message: FromAgent) -> None:
        if isinstance(message, Renew):
            asked = {route.key for route in message.routes}
            for route in ROUTES:
                self._right_until[route.key] = message.expires_ns if route.key in asked else self.now
        elif isinstance(message, Grace):
            for key in self.upstream:
                self._right_until[key] = max(self._right_until.get(key, 0), message.expires_ns)

    def session_up(self, neighbor: str) -> None:
        self._renewed_after_up[neighbor] = False

    def upstream_added(self, neighbor: str, prefix: str) -> None:
        assert self.exabgp is not None
        vetoed = self._bridge_fault_at < self.exabgp.peers[neighbor].down_since
        assert self._renewed_after_up[neighbor] or not vetoed, (
            f"{prefix} announced on a session without a renewal that arrived after it came up"
        )
        self.upstream.add((neighbor, prefix))

    def upstream_removed(self, neighbor: str, prefix: str) -> None:
        self.upstream.discard((neighbor, prefix))

    def exabgp_wrote(self, line: bytes) -> None:
        if self.bridge is not None:
            self.bridge.from_exabgp.append(decode_line(line))

    def _fault(self) -> None:
        self._exposed_since = None

    def _check(self) -> None:
        exposed = {key for key in self.upstream if self.now > self._right_until.get(key, 0)}
        holders_run = all(p is not None and p.running for p in (self.bridge, self.exabgp))
        guarded = any(p is not None and p.running for p in (self.bridge, self.agent))
        if not exposed or not guarded:
            self._exposed_since = None
            return
        self._exposed_since = self._exposed_since or self.now
        settled = holders_run and self.now - self._bridge_started > LEASE  # until then it cannot know what it inherited
        limit = 0 if settled else BOUND
        late = self.now - self._exposed_since
        assert late < limit, (
            f"{exposed} is at the upstream {late / MS:.0f} ms after its right ended (limit {limit / MS:.0f})"
        )
