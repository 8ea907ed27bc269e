"""Sites with their agents' token holders, coordinators with one store, a network between them, on a virtual clock. One seed.

Real time is `World.now`. Each machine has a CLOCK_BOOTTIME of its own, which stands still while it is frozen as a paused
virtual machine, and goes on while its process is stopped. Messages are lost, late and out of order, each by itself, which is
worse than TCP. Connections are set up at once, or not: a handshake needs both ends alive. Who looks is `token_checker`.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

from anycast.model import Cause, Evidence, EvidenceClass, Status
from anycast.policy import token_words as words
from anycast.policy.floors import Budget, SiteShare
from anycast.policy.ledger import Entry, Kind, Ledger
from anycast.policy.token_holder import TokenHolder, darkened
from anycast.policy.tokens import Tokens
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.timer import TimerExpired
from anycast.token_wire import Answer, Grant, Held

LOOK_S = 5.0
STANDS_S = 2.0
SPANS = {"dns": 28.0, "canary": 20.0}


class Clock:
    """One machine's CLOCK_BOOTTIME."""

    def __init__(self, offset: float) -> None:
        self._lag, self._frozen_at = offset, None

    def read(self, now: float) -> float:
        return (self._frozen_at if self._frozen_at is not None else now) - self._lag

    def freeze(self, now: float) -> None:
        self._frozen_at = now

    def thaw(self, now: float) -> None:
        if self._frozen_at is not None:
            self._lag, self._frozen_at = self._lag + now - self._frozen_at, None


@dataclasses.dataclass(slots=True)
class Node:
    """One gateway with its agent."""

    name: str
    site: str
    clock: Clock
    holder: TokenHolder | None = None
    """None: the agent is dead; then its lease has lapsed, and it announces nothing."""
    paused: bool = False
    inbox: list[Any] = dataclasses.field(default_factory=list)
    fact: bool = True
    failing: set[str] = dataclasses.field(default_factory=set)
    seen: dict[str, bool] = dataclasses.field(default_factory=dict)
    """What its checks last told the agent: failing or not."""
    hold: str = ""
    drained: dict[str, None] = dataclasses.field(default_factory=dict)
    void: set[str] = dataclasses.field(default_factory=set)
    session: int = 0
    leader: str = ""
    answered_at: float = 0.0
    wake: int = 0
    due: float = 0.0
    announced: bool = False
    token_dark: bool = False
    """The route is withdrawn because of a token; a process that is stopped leaves it so."""
    asked: dict[tuple[int, int], float] = dataclasses.field(default_factory=dict)
    """Own clock when each report was sent, by session and number."""
    granted_ask: float = float("-inf")
    """The last of those whose grant has arrived."""
    runs: int = 0


@dataclasses.dataclass(slots=True)
class Store:
    leader: str = ""
    entries: dict[str, Entry] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class Leader:
    key: str
    core: Tokens
    clock: Clock
    paused: bool = False
    dead: bool = False
    inbox: list[Any] = dataclasses.field(default_factory=list)


class World:
    """Call `run` with a span; change what goes wrong in between. `watch` is called after everything that happened."""

    node_type: type[Node] = Node

    def __init__(self, seed: int, *, sites: int = 6, min_sites: int = 2, pairs: int = 2) -> None:
        self.random = random.Random(seed)
        self.seed, self.now = seed, 0.0
        self.names = [f"s{n}" for n in range(sites)]
        self.budget = Budget(min_sites=min_sites, sites=tuple(SiteShare(name=name) for name in self.names))
        self.loss, self.delay_s, self.least_delay_s = 0.0, 0.1, 0.001
        self.reconnect_s = 6.0
        """An agent that got no answer for so long tries another coordinator."""
        self.harsh = 1.0
        """How much likelier the ordinary is than the rare: 1 as weighted, 0 all alike."""
        self.cut: set[tuple[str, str]] = set()
        """(gateway, leader's key or ``*``): nothing passes either way."""
        self.store = Store()
        self.backups: list[Store] = []
        self.leaders: list[Leader] = []
        self.crash_at_commit = ""
        """``before`` or ``after``: the next commit's leader dies there."""
        self.flying: dict[int, tuple[str, int, Grant, int]] = {}
        """Grants under way: gateway, session, the grant, which report it answers."""
        self.buffered: dict[str, list[int]] = {}
        """Of these, those that have arrived where nobody runs."""
        self.grants: list[tuple[float, str, str]] = []
        """First grants and slots given: when, the site, the kind."""
        self.events: list[Any] = []
        self.touched = False
        self.watch: Callable[[], None] = lambda: None
        self.on_given: Callable[[str], None] = lambda site: None
        self._order, self._sessions = itertools.count(), itertools.count(1)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self.nodes: dict[str, Node] = {}
        for n, site in enumerate(self.names):
            for g in range(2 if n < pairs else 1):
                name = f"{site}-gw{g + 1}"
                self.nodes[name] = self.node_type(name, site, Clock(-self.random.uniform(0, 1e6)))
        self.of_site = {site: [node for node in self.nodes.values() if node.site == site] for site in self.names}
        self.sites_of = {name: node.site for name, node in self.nodes.items()}
        self.lead()
        for node in self.nodes.values():
            self.start(node)
            self._later(self.random.uniform(0, LOOK_S), lambda node=node: self._look(node))
            self._later(self.random.uniform(0, STANDS_S), lambda node=node: self._stands(node))

    def run(self, span: float) -> None:
        end, stood = self.now + span, 0
        while self._due and self._due[0][0] <= end:
            before, (self.now, _, what) = self.now, heapq.heappop(self._due)
            stood = stood + 1 if self.now == before else 0
            assert stood < 10_000, f"seed {self.seed}: time stands still at {self.now} s"
            what()
            if self.touched:
                self.touched = False
                self.watch()
        self.now = end
        self.watch()

    def _later(self, delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + delay, next(self._order), what))

    # Gateways.

    def start(self, node: Node) -> None:
        """A new run of the agent. What it was drained by lies on its disk; nothing else does."""
        node.runs += 1
        node.holder = TokenHolder(self.budget, node.site, SPANS, now=node.clock.read(self.now))
        node.inbox.clear()
        node.paused, node.session, node.leader, node.seen, node.asked = False, 0, "", {}, {}
        self._tell(node, self._stand(node))

    def kill(self, node: Node) -> None:
        node.holder, node.announced, node.token_dark, self.touched = None, False, False, True
        node.session, node.inbox = 0, []

    def pause(self, node: Node, *, frozen: bool = False) -> None:
        node.paused = True
        self.touched = True
        if frozen:
            node.clock.freeze(self.now)

    def resume(self, node: Node) -> None:
        node.clock.thaw(self.now)
        if node.paused:
            node.paused = False
            waiting, node.inbox = node.inbox, []
            self._disorder(waiting)
            for event in [*waiting, TimerExpired()]:
                self._tell(node, event)
            for number in self.buffered.pop(node.name, ()):
                self.flying.pop(number, None)

    def _disorder(self, waiting: list[Any]) -> None:
        """What waited while a process was stopped, worse than TCP would have it."""
        self.random.shuffle(waiting)

    def set_fact(self, node: Node, good: bool) -> None:
        node.fact = good
        self._tell(node, self._stand(node))

    def set_hold(self, node: Node, on: bool) -> None:
        node.hold = f"hold-{node.name}-{round(self.now * 1000)}" if on else ""
        self._tell(node, self._stand(node))

    def _stand(self, node: Node) -> words.RouteStands:
        held = [Held(id=entry_id, kind=Kind.DRAIN) for entry_id in node.drained]
        held += [Held(id=node.hold, kind=Kind.HOLD)] if node.hold else []
        reason = Reason.HEALTHY if node.fact else Reason.CHARON_EXITED
        return words.RouteStands(serving=node.fact, announcing=self._announces(node), reason=reason, held=tuple(held))

    def _announces(self, node: Node) -> bool:
        """As the agent tells the ledger."""
        return node.announced

    def _lets(self, node: Node) -> bool:
        """Nothing else that the agent goes by has the route withdrawn."""
        return True

    def _look(self, node: Node) -> None:
        self._later(LOOK_S, lambda: self._look(node))
        for check in SPANS:
            failing = check in node.failing
            look = Evidence(
                check=check,
                evidence_class=EvidenceClass.SHARED,
                status=Status.FAILING if failing else Status.PASSING,
                reason=Reason.DNS_WRONG if failing else Reason.HEALTHY,
                at=node.clock.read(self.now),
            )
            self._tell(node, look)

    def _stands(self, node: Node) -> None:
        self._later(STANDS_S, lambda: self._stands(node))
        if node.holder is not None and not node.paused:
            if node.session == 0 or self.now - node.answered_at > self.reconnect_s:
                self._connect(node)
            self._tell(node, self._stand(node))

    def _connect(self, node: Node) -> None:
        up = [leader for leader in self.leaders if not (leader.dead or leader.paused or self._is_cut(node.name, leader.key))]
        node.answered_at = self.now
        if node.session:
            if self.random.random() < 0.5 and (old := self._leader(node.leader)) is not None:
                self._give(old, words.AgentGone(node.name, node.session))
            session, node.session = node.session, 0
            self._tell(node, words.CoordinatorGone(session))
        if up:
            leader = self.random.choice(up)
            node.session, node.leader = next(self._sessions), leader.key
            self._give(leader, words.AgentConnected(node.name, node.session))
            self._tell(node, words.CoordinatorConnected(node.session))

    def _tell(self, node: Node, event: Any) -> None:
        """One input of the agent, at once or when it is running again."""
        if node.holder is None:
            return
        if node.paused:
            if isinstance(event, words.Answered):  # everything else is read anew
                node.inbox.append(event)
            return
        if isinstance(event, Evidence):
            node.seen[event.check] = event.status is Status.FAILING
        if isinstance(event, words.Answered) and (grant := event.answer.grant) is not None and event.session == node.session:
            asked = node.asked.get((event.session, event.answer.to), float("-inf"))
            if grant.life_ms:
                node.granted_ask = max(node.granted_ask, asked)
        clock = node.clock.read(self.now)
        for action in node.holder.handle(event, clock):
            match action:
                case words.SendReport():
                    node.asked[action.session, action.report.seq] = clock
                    self._send_report(node, action)
                case words.EndWanted():
                    node.drained.pop(action.entry_id, None)
                    node.void.add(action.entry_id)
                    self._later(0.0, lambda ended=action.entry_id: self._ended(node, ended))
                case words.TokenBegan() | words.TokenEnded():
                    self.events.append(action)
        self._route(node)
        if (due := max(0.0, node.holder.deadline - clock) + self.now) != node.due:
            node.due, node.wake = due, node.wake + 1
            self._later(due - self.now, lambda wake=node.wake: self._timer(node, wake))

    def _ended(self, node: Node, entry_id: str) -> None:
        self._tell(node, self._stand(node))
        self._tell(node, words.SlotEnded(entry_id))

    def _timer(self, node: Node, wake: int) -> None:
        if node.wake == wake:
            node.due = 0.0
            self._tell(node, TimerExpired())

    def _route(self, node: Node) -> None:
        """As verdict, hold and lease make it, in no time."""
        self.touched = True
        assert node.holder is not None
        clock = node.clock.read(self.now)
        verdict = VerdictReached(serving=node.fact, causes=(Cause(reason=Reason.HEALTHY),), at=clock)
        dark = node.holder.dark(clock)
        node.token_dark = dark is not None
        announced = darkened(verdict, dark).serving and not node.hold and not node.drained and self._lets(node)
        if announced != node.announced:
            node.announced = announced
            self._later(0.0, lambda: self._tell(node, self._stand(node)))

    # The network.

    def _is_cut(self, gateway: str, key: str) -> bool:
        return bool({(gateway, "*"), (gateway, key), ("*", key)} & self.cut)

    def _carry(self, gateway: str, key: str, arrive: Callable[[], None], lost: Callable[[], None] = lambda: None) -> None:
        def arrives() -> None:
            if self._is_cut(gateway, key):
                lost()
            else:
                arrive()

        if self._is_cut(gateway, key) or self.random.random() < self.loss:
            lost()
        else:
            self._later(self.random.uniform(self.least_delay_s, self.delay_s), arrives)

    def _leader(self, key: str) -> Leader | None:
        return next((leader for leader in self.leaders if leader.key == key and not leader.dead), None)

    def _send_report(self, node: Node, action: words.SendReport) -> None:
        told, key = words.Reported(node.name, action.session, action.report), node.leader

        def arrive() -> None:
            if (leader := self._leader(key)) is not None:
                self._give(leader, told)

        self._carry(node.name, key, arrive)

    def _send_answer(self, leader: Leader, gateway: str, session: int, answer: Answer) -> None:
        number, node = next(self._order), self.nodes[gateway]
        if answer.grant is not None:
            self.flying[number] = gateway, session, answer.grant, answer.to

        def arrive() -> None:
            if session == node.session and node.holder is not None:
                node.answered_at = self.now
            self._tell(node, words.Answered(session, answer))
            if node.paused:
                self.buffered.setdefault(gateway, []).append(number)
            else:
                self.flying.pop(number, None)

        self._carry(gateway, leader.key, arrive, lambda: self.flying.pop(number, None))

    # Coordinators.

    def _leader_clock(self) -> Clock:
        return Clock(-self.random.uniform(0, 1e6))

    def lead(self) -> Leader:
        """A new leader takes the store. Who led before does not know yet."""
        key = f"L{len(self.leaders)}x{self.random.getrandbits(32):08x}"
        self.store.leader = key
        clock = self._leader_clock()
        ledger = Ledger(self.budget, self.store.entries.values())
        leader = Leader(key, Tokens(ledger, self.sites_of, leader=key, now=clock.read(self.now)), clock)
        self.leaders.append(leader)
        return leader

    def backup(self) -> None:
        self.backups.append(Store(self.store.leader, dict(self.store.entries)))

    def restore(self) -> None:
        """An old store takes the place of the one in use, under whoever is running."""
        if self.backups:
            old = self.random.choice(self.backups)
            self.store.leader, self.store.entries = old.leader, dict(old.entries)

    def operate(self, leader: Leader, event: words.TakeSlot | words.EndSlot) -> None:
        self._give(leader, event)

    def pause_leader(self, leader: Leader) -> None:
        leader.paused = True

    def resume_leader(self, leader: Leader) -> None:
        leader.paused = False
        waiting, leader.inbox = leader.inbox, []
        for event in waiting:
            self._give(leader, event)

    def _give(self, leader: Leader, event: Any) -> None:
        if leader.dead:
            return
        if leader.paused:
            leader.inbox.append(event)
            return
        for action in leader.core.handle(event, leader.clock.read(self.now)):
            if not self._perform(leader, action):
                leader.dead = True
                return

    def _perform(self, leader: Leader, action: Any) -> bool:
        match action:
            case words.Commit():
                if self.crash_at_commit == "before" or self.store.leader != leader.key:
                    self.crash_at_commit = ""
                    return False
                for entry_id in action.remove:
                    self.store.entries.pop(entry_id, None)
                self.store.entries.update({entry.id: entry for entry in action.put})
                if self.crash_at_commit:
                    self.crash_at_commit = ""
                    return False
            case words.Send():
                self._send_answer(leader, action.gateway, action.session, action.answer)
            case words.SlotTaken() if action.entry.id.startswith(leader.key):
                self.grants.append((self.now, action.entry.site, action.entry.kind))
                self.on_given(action.entry.site)
                if action.entry.kind != Kind.TOKEN:
                    self._order_drain(leader, action.entry)
            case _:
                self.events.append(action)
        return True

    def _order_drain(self, leader: Leader, entry: Entry) -> None:
        """The rest of a drain, in one step: bound to the connection, as a token is."""
        for gateway in entry.gateways:
            node = self.nodes[gateway]
            session = node.session if node.leader == leader.key else 0

            def arrive(node: Node = node, session: int = session) -> None:
                if session != node.session or session == 0 or node.holder is None or node.paused:
                    return
                if entry.id not in node.void and entry.id not in node.holder.ended:
                    node.drained[entry.id] = None
                    self._tell(node, self._stand(node))

            self._carry(gateway, leader.key, arrive)
