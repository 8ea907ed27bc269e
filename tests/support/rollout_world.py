"""A `token_world` whose coordinators roll contents out: drains, degradations, changes, returns, and the ledger with them.

The cores and `Slots` are the real ones; around them is a shell of a coordinator's rollouts (`coordinator/rollouts.py`: it
stores before it performs, and whoever leads next goes on from what is stored) and of an agent's contents. What one
connection carries down arrives in order, as by TCP; all else is as bad as in `token_world`. Who looks is `rollout_checker`.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from anycast.content.canonical import hash_of
from anycast.content.content import Content, Intent
from anycast.content.state import GatewayState, State, in_force
from anycast.coordinator.contents import rollout_of
from anycast.coordinator.slots import Slots
from anycast.model import Cause
from anycast.policy import token_words as words
from anycast.policy.budget import shortfalls
from anycast.policy.floors import budget_of
from anycast.policy.gates import Verdict
from anycast.policy.ledger import Entry
from anycast.policy.rollout import (
    ENDED,
    Action,
    Activate,
    Command,
    GatewayTold,
    Looked,
    Rollout,
    RolloutCore,
    Stage,
    Step,
    Terms,
    Version,
    taken_over,
)
from anycast.reasons import Reason
from anycast.timer import TimerExpired
from tests.support.rollout_base import at_once, base_content
from tests.support.token_world import Clock, Leader, Node, World

LOOK_S = 1.0
FRESH_S = 6.0
AGAIN_S = 5.0
COUNTED = ("begun", "refused", "activated", "dark_returns", "waited", "stopped", "done", "recovered", "return_failed")
NOTHING = Version(0, "")
FIRST = 1
"""Generation that everybody runs by when a history begins."""


@dataclasses.dataclass(slots=True)
class Gateway(Node):
    """A gateway that runs by contents. They lie on its disk: a kill takes nothing of them."""

    active: Version = NOTHING
    staged: Version | None = None
    pending: tuple[Version, int] | None = None
    """An activation that waits for the disk, and the connection that it came over."""
    told: int = 0


@dataclasses.dataclass(slots=True)
class Decisions:
    """What a coordinator's store has beside the ledger."""

    generation: int = FIRST
    rollout: Rollout | None = None
    running: dict[str, Version] = dataclasses.field(default_factory=dict)
    restored: bool = False
    """Nothing is decided until somebody recovers it."""
    recovered: bool = False


class Fenced(Exception):
    """This leader's write was refused, or it died with it."""


class Desk:
    """`Darkness` as `Slots` uses it, without waiting."""

    def __init__(self, world: RolloutWorld, leader: Leader) -> None:
        self._world, self._leader = world, leader

    @property
    def entries(self) -> list[Entry]:
        return list(self._leader.core.ledger.entries.values())

    async def take(self, wanted: words.TakeSlot) -> Entry | Cause:
        before = {entry.id for entry in self.entries}
        self.feed(wanted)
        new = [entry for entry in self.entries if entry.id not in before and entry.site == wanted.site]
        return new[0] if new else Cause(reason=Reason.BUDGET_SPENT)

    def feed(self, event: Any) -> None:
        self._world.operate(self._leader, event)
        if self._leader.dead:
            raise Fenced

    def end(self, entry_id: str, reason: str) -> None:
        self.feed(words.EndSlot(entry_id, reason))


@dataclasses.dataclass(slots=True)
class Shell:
    """One leader's rollouts."""

    slots: Slots
    decisions: Decisions
    core: RolloutCore | None
    heard: dict[str, tuple[int, float, GatewayTold]] = dataclasses.field(default_factory=dict)
    """By gateway: the number of its last word, when it came, and the word."""
    sent: dict[tuple[str, Version, bool], float] = dataclasses.field(default_factory=dict)


class RolloutWorld(World):
    node_type = Gateway
    nodes: dict[str, Gateway]  # type: ignore[assignment]

    def __init__(self, seed: int, *, sites: int = 5, min_sites: int = 3, pairs: int = 1) -> None:
        self.contents: dict[str, Content] = {}
        self.weakest = min_sites
        """The lowest floor that any content has had."""
        self.decisions = Decisions()
        self.shells: dict[str, Shell] = {}
        self.kept: list[tuple[Any, Decisions]] = []
        self.lost: dict[str, Entry] = {}
        """Slots that stood when their store was replaced."""
        self.broken: set[tuple[str, str]] = set()
        """(hash, site): announces no more by that content."""
        self.mute: set[tuple[str, str]] = set()
        """Announces, and its clients are lost: only the gate sees it."""
        self.backs: set[Version] = set()
        self.orders: dict[int, tuple[str, int, Version]] = {}
        """Activations under way: gateway, connection, what."""
        self.crash_at_step = ""
        """``before`` or ``after``: the next write of a rollout is its coordinator's last."""
        self.slow_disks = False
        self.counts = dict.fromkeys(COUNTED, 0)
        self.on_activated: Callable[[Gateway, Version, Version], None] = lambda node, before, after: None
        self._down_at: dict[tuple[str, int], float] = {}
        self._downwards: tuple[str, int] | None = None
        self._merged: dict[tuple[tuple[str, str], ...], Content] = {}
        first = self.known(base_content(sites, pairs, min_sites))
        super().__init__(seed, sites=sites, min_sites=min_sites, pairs=pairs)
        for node in self.nodes.values():
            node.active = Version(FIRST, first)
            self._route(node)
        self.decisions.running = {name: node.active for name, node in self.nodes.items()}

    def known(self, content: Content) -> str:
        hash_ = hash_of(content.text)
        self.contents[hash_] = content
        self.weakest = min(self.weakest, content.budget.min_sites)
        return hash_

    # Gateways.

    def content_of(self, node: Gateway) -> Content:
        return self.contents[node.active.hash]

    def intent(self, node: Gateway) -> Intent:
        return Intent.ANNOUNCED if not node.active.hash else self.content_of(node).sites[node.site].intent

    def _announces(self, node: Node) -> bool:
        assert isinstance(node, Gateway)
        late = node.pending is not None and node.pending[1] != node.session
        return node.announced and self.intent(node) is Intent.ANNOUNCED and not late

    def _lets(self, node: Node) -> bool:
        assert isinstance(node, Gateway)
        return self.intent(node) is not Intent.DRAINED and (node.active.hash, node.site) not in self.broken

    def _disorder(self, waiting: list[Any]) -> None:
        """What a connection carries keeps its order."""

    def _tell(self, node: Node, event: Any) -> None:
        assert isinstance(node, Gateway)
        if isinstance(event, Order):
            self._on_order(node, event)
            return
        if isinstance(event, words.Answered) and node.pending is not None and node.holder is not None:
            recalls = tuple(each for each in event.answer.recalls if each.id == node.holder.token)
            event = words.Answered(event.session, event.answer.model_copy(update={"recalls": recalls}))
        super()._tell(node, event)

    def _on_order(self, node: Gateway, order: Order) -> None:
        if node.holder is None or order.session != node.session or order.session == 0:
            return
        if node.paused:
            node.inbox.append(order)
        elif not order.activate:
            highest = max(each.generation for each in (node.active, node.staged) if each is not None)
            if order.version.generation > highest:
                node.staged = order.version
        elif node.staged == order.version and node.pending is None:
            node.pending = order.version, order.session
            runs, delay = node.runs, self.random.uniform(0, 20.0) if self.slow_disks else 0.0
            self._later(delay, lambda: self._on_disk(node, order.version, runs))
        self._tell_contents(node)

    def _on_disk(self, node: Gateway, version: Version, runs: int) -> None:
        """Also while the process is stopped: then it finds it there. One that was killed meanwhile has not written it."""
        if node.runs != runs or node.holder is None:
            return
        if node.paused:
            self._later(1.0, lambda: self._on_disk(node, version, runs))
            return
        node.pending = None
        if node.staged != version:
            return
        before, node.active, node.staged = node.active, version, None
        self.counts["activated"] += 1
        self.on_activated(node, before, version)
        new, old = self.contents[version.hash], self.contents[before.hash]
        if new.sites[node.site].capacity != old.sites[node.site].capacity:
            self.start(node)  # another document: a new agent in place, whose predecessor's grace keeps the route
        assert node.holder is not None
        node.holder.budget = budget_of(new)
        self._tell(node, self._stand(node))
        self._tell_contents(node)

    def start(self, node: Node) -> None:
        assert isinstance(node, Gateway)
        node.pending = None
        super().start(node)
        if node.active.hash:
            assert node.holder is not None
            node.holder.budget = budget_of(self.content_of(node))

    def _stands(self, node: Node) -> None:
        super()._stands(node)
        assert isinstance(node, Gateway)
        self._tell_contents(node)

    def _tell_contents(self, node: Gateway) -> None:
        if node.holder is None or node.paused or not node.session:
            return
        node.told += 1
        number, key = node.told, node.leader
        told = GatewayTold(staged=node.staged, active=node.active, announcing=node.announced, fresh=True)

        def arrive() -> None:
            if (leader := self._leader(key)) is not None and not leader.paused:
                self._on_told(leader, node.name, number, told)

        self._carry(node.name, key, arrive)

    # The network.

    def _down(
        self, gateway: str, session: int, leader: Leader, arrive: Callable[[], None], lost: Callable[[], None]
    ) -> None:
        self._downwards = gateway, session
        self._carry(gateway, leader.key, arrive, lost)
        self._downwards = None

    def _send_answer(self, leader: Leader, gateway: str, session: int, answer: Any) -> None:
        self._downwards = gateway, session
        super()._send_answer(leader, gateway, session, answer)
        self._downwards = None

    def _later(self, delay: float, what: Callable[[], None]) -> None:
        if (way := self._downwards) is not None:
            due = max(self.now + delay, self._down_at.get(way, 0.0) + 1e-6)
            self._down_at[way], delay = due, due - self.now
        super()._later(delay, what)

    def _order_drain(self, leader: Leader, entry: Entry) -> None:
        """By a content here, and not by the slot."""

    # Coordinators.

    def _leader_clock(self) -> Clock:
        """All of them run on one machine: how long a step has taken is told by its clock."""
        return Clock(-1000.0)

    def lead(self) -> Leader:
        leader = super().lead()
        decisions = self.decisions
        now = leader.clock.read(self.now)
        core = None if decisions.rollout is None else RolloutCore(taken_over(decisions.rollout, now))
        shell = Shell(Slots(Desk(self, leader)), decisions, core)  # type: ignore[arg-type]
        shell.slots.recovered = decisions.recovered
        self.shells[leader.key] = shell
        if decisions.restored:
            self._give(leader, words.Halted(Cause(reason=Reason.STORE_BEHIND)))
        if decisions.running:
            self._tell_ledger(leader, shell)
        self._later(LOOK_S, lambda: self._look_at_rollout(leader))
        return leader

    def backup(self) -> None:
        super().backup()
        self.kept.append((self.backups[-1], copy.copy(self.decisions)))
        self.kept[-1][1].running = dict(self.decisions.running)

    def restore(self) -> None:
        """Under whoever is running, whose next write is refused."""
        if self.kept:
            self.lost |= self.store.entries
            old, decisions = self.random.choice(self.kept)
            self.store.leader, self.store.entries = f"restored at {self.now}", dict(old.entries)
            self.decisions = dataclasses.replace(decisions, running=dict(decisions.running), restored=True)

    def recover(self, leader: Leader) -> bool:
        """An operator's word: take what gateways have. Refused while one was not heard."""
        shell, now = self.shells[leader.key], leader.clock.read(self.now)
        fresh = {name: told for name, (_, at, told) in shell.heard.items() if now - at <= FRESH_S}
        if not shell.decisions.restored or leader.dead or leader.paused or fresh.keys() != self.nodes.keys():
            return False
        had = [each for told in fresh.values() for each in (told.active, told.staged) if each is not None]
        decisions = shell.decisions
        decisions.generation = max(each.generation for each in had) + 1000
        decisions.running = {name: told.active for name, told in fresh.items() if told.active is not None}
        if shell.core is not None and shell.core.rollout.step not in ENDED:
            shell.core = RolloutCore(dataclasses.replace(shell.core.rollout, step=Step.STOPPED))
            decisions.rollout = shell.core.rollout
        decisions.restored, decisions.recovered, shell.slots.recovered = False, True, True
        self.counts["recovered"] += 1
        self._give(leader, words.Halted(None))
        self._tell_ledger(leader, shell)
        return True

    def submit(self, leader: Leader, content: Content, *, bake_s: float = 10.0, blind: bool = False) -> bool:
        """What an operator signed; whether its rollout has begun."""
        shell = self.shells[leader.key]
        if leader.dead or leader.paused or shell.decisions.restored:
            return False
        before = self._in_force(shell)
        under_way = shell.core is not None and shell.core.rollout.step not in ENDED
        ledger = {entry.site for entry in leader.core.ledger.entries.values()}
        dark_now = {name for name, site in before.sites.items() if site.intent.dark}
        nothing = all(self.contents[each.hash] == content for each in shell.decisions.running.values())
        if under_way or nothing or shortfalls(before, content, ledger | dark_now):
            self.counts["refused"] += 1
            return False
        used = {each.hash for each in shell.decisions.running.values()}
        first = shell.decisions.generation + 1
        hash_, told = self.known(content), self._told(leader, shell)
        silent = [
            site for site, nodes in self.of_site.items()
            if all(each is not None and each.fresh and not each.announcing for n in nodes for each in [told.get(n.name)])
        ]  # fmt: skip
        rollout = rollout_of(
            f"r{first}", "alice", content, hash_, before, next(iter(used)) if len(used) == 1 else None, first,
            Terms(bake_s=bake_s, blind=blind), silent,
        )  # fmt: skip
        if self.store.leader != leader.key:
            leader.dead = True
            return False
        shell.decisions.generation += 2
        shell.core = RolloutCore(dataclasses.replace(rollout, since=leader.clock.read(self.now)))
        shell.decisions.rollout = shell.core.rollout
        if rollout.back is not None:
            self.backs.add(rollout.back)
        self.counts["begun"] += 1
        self._tell_ledger(leader, shell)
        return True

    def command(self, leader: Leader, word: str) -> None:
        shell = self.shells[leader.key]
        if leader.dead or leader.paused or shell.core is None or shell.decisions.restored:
            return
        try:
            self._take(leader, shell, shell.core.handle(Command(word, "bob"), leader.clock.read(self.now)))
        except Fenced:
            leader.dead = True

    def _on_told(self, leader: Leader, gateway: str, number: int, told: GatewayTold) -> None:
        shell = self.shells[leader.key]
        if number <= shell.heard.get(gateway, (0,))[0]:
            return
        shell.heard[gateway] = number, leader.clock.read(self.now), told
        if not shell.decisions.restored and told.active is not None and shell.decisions.running.get(gateway) != told.active:
            if self.store.leader != leader.key:
                leader.dead = True
                return
            shell.decisions.running[gateway] = told.active
            self._tell_ledger(leader, shell)

    def _tell_ledger(self, leader: Leader, shell: Shell) -> None:
        self._give(leader, words.ContentChanged(budget_of(self._in_force(shell)), self.sites_of))

    def _in_force(self, shell: Shell) -> Content:
        running = tuple((name, version.hash) for name, version in sorted(shell.decisions.running.items()))
        if running not in self._merged:
            gateways = {
                name: GatewayState.model_construct(site=self.sites_of[name], active=hash_) for name, hash_ in running
            }
            content = in_force(State.model_construct(gateways=gateways), self.contents)
            assert content is not None
            self._merged[running] = content
        return self._merged[running]

    def _told(self, leader: Leader, shell: Shell) -> dict[str, GatewayTold]:
        now, found = leader.clock.read(self.now), {}
        for name, (_, at, told) in shell.heard.items():
            found[name] = dataclasses.replace(told, fresh=now - at <= FRESH_S)
        for nodes in self.of_site.values():
            mine = [node.name for node in nodes if node.name in found]
            announcing = any(found[name].announcing and found[name].fresh for name in mine)
            found |= {name: dataclasses.replace(found[name], announcing=announcing) for name in mine}
        return found

    def _look_at_rollout(self, leader: Leader) -> None:
        """`Rollouts._look`."""
        shell = self.shells[leader.key]
        if leader.dead:
            return
        self._later(LOOK_S, lambda: self._look_at_rollout(leader))
        if leader.paused or shell.decisions.restored:
            return
        try:
            self._go_on(leader, shell)
        except Fenced:
            leader.dead = True

    def _go_on(self, leader: Leader, shell: Shell) -> None:
        core, running = shell.core, self._in_force(shell)
        if core is None:
            at_once(shell.slots.keep_dark(running))
            return
        now = leader.clock.read(self.now)
        returns = core.rollout.back if core.rollout.step is Step.RETURNING else None
        wanted = self.contents[(returns or core.rollout.target).hash]
        at_once(shell.slots.keep(core.rollout, wanted, running))
        at_once(shell.slots.keep_dark(running))
        if core.rollout.step in ENDED:
            return
        self.counts["waited"] += bool(shell.slots.refused)
        looked = Looked(
            gateways=self._told(leader, shell), gate=self._gate(core.rollout), gate_why="as simulated",
            held=frozenset(shell.slots.held()), refused=shell.slots.refused,
        )  # fmt: skip
        self._take(leader, shell, core.handle(looked, now))
        if (deadline := core.deadline) is not None and now >= deadline:
            self._take(leader, shell, core.handle(TimerExpired(), now))

    def _gate(self, rollout: Rollout) -> Verdict:
        if (rollout.target.hash, rollout.site) in self.mute:
            return Verdict.FAILS
        return Verdict.UNKNOWN if self.random.random() < 0.2 else Verdict.PASSES

    def _take(self, leader: Leader, shell: Shell, actions: list[Action]) -> None:
        """Store what the core left, then do what it wants."""
        assert shell.core is not None
        rollout = shell.core.rollout
        if rollout != shell.decisions.rollout:
            crash, self.crash_at_step = self.crash_at_step, ""
            if self.store.leader != leader.key or crash == "before":
                raise Fenced
            shell.decisions.rollout = rollout
            self.counts["done"] += rollout.step is Step.DONE
            self.counts["stopped"] += rollout.step is Step.STOPPED
            self.counts["return_failed"] += any(page.reason is Reason.RETURN_FAILED for page in rollout.pages)
            if crash:
                raise Fenced
        for action in actions:
            match action:
                case Stage(version, names):
                    self._say(leader, shell, names, version, activate=False)
                case Activate(site, version):
                    self._say(leader, shell, rollout.gateways[site], version, activate=True)

    def _say(self, leader: Leader, shell: Shell, names: tuple[str, ...], version: Version, *, activate: bool) -> None:
        now = leader.clock.read(self.now)
        for name in names:
            session = leader.core.heard.session(name)
            if session is None or now - shell.sent.get((name, version, activate), -AGAIN_S) < AGAIN_S:
                continue
            shell.sent[name, version, activate] = now
            number, node, order = next(self._order), self.nodes[name], Order(session, version, activate)
            if activate:
                self.orders[number] = name, session, version

            def arrive(node: Gateway = node, order: Order = order, number: int = number) -> None:
                self._tell(node, order)
                self.orders.pop(number, None)

            self._down(name, session, leader, arrive, functools.partial(self._forget, number))

    def _forget(self, number: int) -> None:
        self.orders.pop(number, None)


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """An offer, or an activation, as it comes over one connection."""

    session: int
    version: Version
    activate: bool
