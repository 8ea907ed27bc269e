"""The shell around `policy/rollout.py`: takes what an operator signed, numbers it, stores, offers, activates, looks.

One rollout at a time. What agents say that they have is stored when it changes, so that a coordinator that was started anew
plans by what was true and not by silence. Each look is at what was heard, at most every `LOOK_S`; what the core leaves is in
the store before anything of it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from anycast.content.canonical import encode, hash_of
from anycast.content.content import Content
from anycast.content.envelope import Activation
from anycast.content.operators import Operators
from anycast.content.state import State, decode_state, in_force
from anycast.coordinator import contents as kept
from anycast.coordinator import guard
from anycast.coordinator.access import Caller
from anycast.coordinator.contents import CONTENT, GATEWAY, GENERATION, GIVEN, LAST, ROLLOUT, Kept
from anycast.coordinator.darkness import Darkness
from anycast.coordinator.fleet_view import FleetView, SiteState
from anycast.coordinator.refusal import ReadOnly, Refusal
from anycast.coordinator.rights import may_override, only_its_sites
from anycast.coordinator.slots import Slots
from anycast.coordinator.store import Body, Deed, Entry, Key
from anycast.coordinator.traffic_log import TrafficLog
from anycast.coordinator.waiting import waits_for
from anycast.link_offer import OfferFrames
from anycast.link_wire import ActivationSent, Message
from anycast.policy import gates
from anycast.policy.behind import Known, Word
from anycast.policy.gates import Counted, Verdict
from anycast.policy.plan import Submission, judge
from anycast.policy.recovery import Recovered, document_of
from anycast.policy.rollout import (
    ENDED,
    Action,
    Activate,
    Command,
    GatewayTold,
    Looked,
    Page,
    Rollout,
    RolloutCore,
    Stage,
    Step,
    Terms,
    Version,
    taken_over,
)
from anycast.policy.worst_case import WorstCase, worst_of_step
from anycast.runtime import boottime
from anycast.timer import TimerExpired

LOOK_S = 0.5
IDLE_LOOK_S = 2.0
"""At the latest; news are looked at once."""
PACE_S = 0.2
"""Between two looks, each of which goes over the whole fleet."""
AGAIN_S = 5.0
"""Before the same offer or activation goes to a gateway once more."""
BAKE_S = 60.0
BASELINE_S = 300.0
OVERTAKEN = "the store was recovered; gateways have later contents"
Write = Callable[[dict[Key, Body | None], tuple[Deed, ...]], Awaitable[None]]


class Rollouts:
    """Use from the event loop's thread: `start`, then `run` until cancelled."""

    def __init__(
        self,
        fleet: str,
        view: FleetView,
        traffic: TrafficLog,
        darkness: Darkness,
        *,
        write: Write,
        send: Callable[[str, Message], bool],
        offer: Callable[[str, OfferFrames, str], bool],
        changed: Callable[[], None],
        halted: Callable[[], str],
    ) -> None:
        """`halted`: why nothing is to be decided now; empty: it may be."""
        self._fleet, self._view, self._traffic = fleet, view, traffic
        self._darkness, self._slots = darkness, Slots(darkness)
        self._write, self._send, self._offer, self._changed, self._halted = write, send, offer, changed, halted
        self._contents: dict[str, Kept] = {}
        self._gateways: dict[str, Entry] = {}
        self._given: dict[int, str] = {}
        self._generation = 0
        self._core: RolloutCore | None = None
        self._before: dict[str, Counted] = {}
        self._sent: dict[tuple[str, str], float] = {}
        self._frames: tuple[Version, OfferFrames] | None = None
        """Of what was offered last."""
        self._news = asyncio.Event()
        self._sites: dict[str, set[str]] = {}
        """Where contents in use say that each gateway is; two while one moves."""
        self._stored: Body | None = None
        """Of the rollout, as it was written last."""
        self._lock = asyncio.Lock()
        self._judged = Verdict.UNKNOWN, ""
        """By the gate, at the last look."""

    def start(self, kept_: Mapping[str, Mapping[str, Entry]]) -> None:
        """What the store has of `CONTENT`, `GENERATION`, `GIVEN`, `GATEWAY` and `ROLLOUT`. Raises DecodeError."""
        self._contents = {key: kept.kept(entry.body) for key, entry in kept_[CONTENT].items() if entry.body is not None}
        # Whoever names a content that is not here says so again (`coordinator/behind.py`).
        self._gateways = {key: entry for key, entry in kept_[GATEWAY].items() if self._knows(entry.body)}
        self._given = {int(key): str(entry.body["hash"]) for key, entry in kept_[GIVEN].items() if entry.body is not None}
        last = kept_[GENERATION].get(LAST)
        self._generation = 0 if last is None or last.body is None else int(last.body["number"])
        rollouts = [kept.rollout_from(entry.body) for entry in kept_[ROLLOUT].values() if entry.body is not None]
        for each, _ in rollouts:
            self._number(each)
        self._slots.recovered = bool(kept_[GIVEN])
        open_ = [each for each in rollouts if each[0].step not in ENDED]
        if open_:
            rollout, self._before = open_[-1]
            self._core = RolloutCore(taken_over(rollout, boottime()))
        elif rollouts:
            self._core = RolloutCore(max(rollouts, key=lambda each: each[0].target.generation)[0])
        self._tell_ledger()

    @property
    def rollout(self) -> Rollout | None:
        """The one under way, or the last."""
        return None if self._core is None else self._core.rollout

    @property
    def _under_way(self) -> bool:
        return self._core is not None and self._core.rollout.step not in ENDED

    @property
    def waits_for(self) -> str:
        """Why the ledger has no slot for it now, or what else keeps it where it is."""
        if self._core is None or self._slots.refused:
            return self._slots.refused
        now = boottime()
        return waits_for(self._core.rollout, lambda: self._told(now), self._judged, now)

    @property
    def pages(self) -> tuple[Page, ...]:
        rollout = self.rollout
        return () if rollout is None else rollout.pages

    @property
    def contents(self) -> Mapping[str, Kept]:
        """Everything that was handed in, by its hash."""
        return self._contents

    def running(self) -> dict[str, str]:
        """The hash of the content that each gateway runs by."""
        bodies = {name: entry.body for name, entry in self._gateways.items() if entry.body is not None}
        told = {name: kept.believed(name, body, "active", self._contents) for name, body in bodies.items()}
        return {name: hash_ for name, hash_ in told.items() if hash_ is not None}

    def state(self) -> State:
        """What a plan reads."""
        heard = {each.gateway: each.report for site in self._view.sites(boottime()) for each in site.gateways if each.fresh}
        darkness = self._darkness
        return kept.state_of(
            self._fleet, self._generation, self._contents, self._gateways, heard, darkness.entries, darkness.allowed
        )

    def in_force(self) -> Content | None:
        """What gateways run by, put together."""
        state = self.state()
        return in_force(state, {hash_: self._contents[hash_].content for hash_ in state.contents})

    @property
    def sites(self) -> set[str]:
        """Those that contents in use name."""
        return {site for sites in self._sites.values() for site in sites}

    def may_be_at(self, gateway: str, site: str) -> bool:
        """Whether a gateway may speak for that site: a content in use says so, or none says anything of the gateway."""
        return site in self._sites.get(gateway, {site})

    def documents(self) -> dict[str, str]:
        """The document of every gateway that runs by a content, as it was signed."""
        found = {}
        for name, entry in self._gateways.items():
            active = None if entry.body is None else kept.believed(name, entry.body, "active", self._contents)
            if active is not None and name in (documents := self._contents[active].documents):
                found[name] = documents[name]
        return found

    def known(self) -> Known:
        """What the store has given out."""
        return Known(generation=self._generation, contents=self._contents.keys(), given=self._given)

    @property
    def gateways(self) -> set[str]:
        """Those that ever said that they have a content."""
        return set(self._gateways)

    async def submit(self, who: Caller, submission: Submission, operators: Operators, terms: Terms) -> Rollout:
        """Number it and begin. Raises Refusal."""
        async with self._lock:
            self._may_decide()
            if self._core is not None and self._under_way:
                raise Refusal((f"rollout {self._core.rollout.id} is under way: {self._core.rollout.step}",))
            state, decoded = decode_state(encode(self.state().model_dump(mode="json")).encode())
            if problems := judge(submission, operators, state, decoded):
                raise Refusal(problems)
            hash_, before = hash_of(submission.content), in_force(state, decoded)
            used = {gateway.active for gateway in state.gateways.values() if gateway.active is not None}
            # To what was recovered without every gateway's document nobody could be returned.
            before_hash = next(iter(used)) if len(used) == 1 and all(self._contents[each].whole for each in used) else None
            id_ = f"r{self._generation + 1}"
            signed = submission.content, submission.signature, submission.documents
            body = kept.content_body(*signed, who.name, time.time())
            new = kept.kept(body)
            guarded = guard.at_submission(before, new.content, state, terms)
            by = _signer(submission, operators) or who.name
            dark = [each.site for each in self._view.sites(boottime()) if each.state is SiteState.DARK]
            first = self._generation + 1
            rollout = kept.rollout_of(id_, by, new.content, hash_, before, before_hash, first, terms, dark)
            rollout = dataclasses.replace(rollout, since=boottime())
            only_its_sites(who, rollout, before, new.content)
            if terms.despite:
                may_override(who)
            said = {"id": id_, "generation": rollout.target.generation, "hash": hash_, "key": submission.signature.key}
            said |= {"blind": True} if terms.blind else {}
            deed = Deed(at=time.time(), who=who.name, action=kept.BEGIN, reason=terms.reason, body={**said, **guarded})
            await self._write(
                {
                    (CONTENT, hash_): body,
                    (GENERATION, LAST): {"v": 1, "number": self._generation + 2},
                    (ROLLOUT, id_): kept.rollout_body(rollout, {}),
                },
                (deed,),
            )
            self._contents[hash_] = new
            self._generation += 2
            self._number(rollout)
            self._core, self._before, self._sent = RolloutCore(rollout), {}, {}
            self._tell_ledger()
        self._news.set()
        self._changed()
        return rollout

    async def command(self, who: Caller, word: str, reason: str = "") -> Rollout:
        """``pause``, ``resume``, ``abort``; ``override`` wants a reason. Raises Refusal where no rollout is under way."""
        async with self._lock:
            self._may_decide()
            if self._core is None or self._core.rollout.step in ENDED:
                raise Refusal(("no rollout is under way",))
            only_its_sites(who, self._core.rollout, *self._contents_of(self._core.rollout))
            said: dict[str, object] = {"id": self._core.rollout.id}
            if word == "override":
                may_override(who)
                said |= guard.at_override(self._worst_of_step(), reason)
            deed = Deed(at=time.time(), who=who.name, action=f"rollout.{word}", reason=reason, body=said)
            await self._write({}, (deed,))
            await self._take(self._core.handle(Command(word, who.name), boottime()), force=True)
            return self._core.rollout

    async def reported(self, told: Mapping[str, Word]) -> None:
        """What gateways say that they have, all of which is known; what is new of it is stored, at once and in one piece: a
        fleet that stages says a thousand things in a second, and a disk that keeps its word takes milliseconds for each."""
        new = {}
        for gateway, word in told.items():
            body, before = kept.versions_body(word.site, word.active, word.staged), self._gateways.get(gateway)
            if before is None or before.body != body:
                new[gateway] = body
        if new:
            await self._write({(GATEWAY, name): body for name, body in new.items()}, ())
            self._gateways |= {name: Entry(0, body) for name, body in new.items()}
            self._tell_ledger()
        if self._under_way:
            self._news.set()

    async def take_over(
        self,
        recovered: Recovered,
        words: Mapping[str, Word],
        without: Collection[str],
        writes: dict[Key, Body | None],
        deed: Deed,
    ) -> None:
        """Know what gateways have, in one transaction with `writes` and `deed`; a rollout under way has been overtaken.

        Those that are left out (`without`) are taken to run by the highest content that others run by: a plan is to go on
        from what operators wanted last, not from what an old store remembers.
        """
        async with self._lock:
            texts = kept.recovered_bodies(recovered, time.time())
            after = self._contents | {hash_: kept.kept(body) for hash_, body in texts.items()}
            told = kept.told_bodies(words, without, after)
            writes = {
                **writes,
                (GENERATION, LAST): {"v": 1, "number": recovered.generation},
                **{(CONTENT, hash_): body for hash_, body in texts.items()},
                **{(GIVEN, str(number)): {"v": 1, "hash": hash_} for number, hash_ in recovered.given.items()},
                **{(GATEWAY, name): body for name, body in told.items()},
            }
            core = self._core
            if core is not None and core.rollout.step not in ENDED:
                ended = dataclasses.replace(core.rollout, step=Step.STOPPED, since=boottime(), reason=OVERTAKEN)
                writes[ROLLOUT, ended.id] = kept.rollout_body(ended, self._before)
                core = RolloutCore(ended)
            await self._write(writes, (deed,))
            self._core, self._stored = core, None
            self._generation = recovered.generation
            self._given |= recovered.given
            self._contents = after
            self._gateways |= {name: Entry(0, body) for name, body in told.items()}
            self._slots.recovered = True
            self._tell_ledger()

    def missing(self, gateway: str, word: Word) -> tuple[str, ...]:
        """Contents of which it has a document that the store has not."""
        found = (each.hash for each in word.versions if each.hash in self._contents)
        return tuple(hash_ for hash_ in found if gateway not in self._contents[hash_].documents)

    async def complete(self, gateway: str, site: str, hash_: str, document: str) -> None:
        """Keep a gateway's document of a content that was recovered without it. Raises DecodeError where it is another."""
        before = self._contents.get(hash_)
        if before is None or gateway in before.documents:
            return
        documents = {**before.documents, gateway: document_of(before.content, gateway, site, document)}
        body = kept.content_body(before.text, before.signature, documents, "recovered", time.time())
        await self._write({(CONTENT, hash_): body}, ())
        self._contents[hash_] = kept.kept(body)

    def _contents_of(self, rollout: Rollout) -> tuple[Content | None, Content]:
        """The one that it would return to, and its own."""
        before = None if rollout.back is None else self._contents[rollout.back.hash].content
        return before, self._contents[rollout.target.hash].content

    def _may_decide(self) -> None:
        if why := self._halted():
            raise ReadOnly((why,))

    def _knows(self, body: Body | None) -> bool:
        told = () if body is None else (kept.version(body["active"]), kept.version(body["staged"]))
        return all(each is None or each.hash in self._contents for each in told)

    def _number(self, rollout: Rollout) -> None:
        for each in (rollout.target, rollout.back):
            if each is not None:
                self._given[each.generation] = each.hash

    def _tell_ledger(self) -> None:
        """Who there is and how much may be dark: what gateways run by, with the sites that are only to run by it yet, or of
        which nothing is known."""
        content, rollout = self.in_force(), self.rollout
        versions = () if rollout is None else (rollout.target, rollout.back)
        known = [self._contents[each.hash].content for each in versions if each is not None and each.hash in self._contents]
        self._sites = {}
        for each in [*known, *([] if content is None else [content])]:
            for name, site in each.sites.items():
                for gateway in site.gateways:
                    self._sites.setdefault(gateway, set()).add(name)
        if rollout is not None and rollout.target.hash in self._contents:
            coming = self._contents[rollout.target.hash].content
            content = coming if content is None else _with_sites(content, coming)
        # A floor counts every site of its content, also those of which no gateway is known yet (a recovered store).
        for hash_ in dict.fromkeys(self.running().values()):
            if content is not None:
                content = _with_sites(content, self._contents[hash_].content)
        self._darkness.content(content)

    async def run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S if self._under_way else IDLE_LOOK_S):
                    await self._news.wait()
            self._news.clear()
            async with self._lock:
                if not self._halted():
                    await self._look()
            await asyncio.sleep(PACE_S)

    async def _look(self) -> None:
        core, running = self._core, self.in_force()
        if core is None:
            await self._slots.keep_dark(running)
            return
        now = boottime()
        returns = core.rollout.back if core.rollout.step is Step.RETURNING else None
        wanted = self._contents[(returns or core.rollout.target).hash].content
        await self._slots.keep(core.rollout, wanted, running, lambda: guard.at_step(self._worst_of_step()))
        await self._slots.keep_dark(running)
        if core.rollout.step in ENDED:
            return
        site = core.rollout.site
        held, refused = frozenset(self._slots.held()), self._slots.refused
        self._judged = verdict, why = self._gate(core.rollout, site, now)
        told = self._told(now)
        looked = Looked(gateways=told, gate=verdict, gate_why=why, held=held, refused=refused)
        await self._take(core.handle(looked, now))
        if (deadline := core.deadline) is not None and now >= deadline:
            await self._take(core.handle(TimerExpired(), now))

    def _told(self, now: float) -> dict[str, GatewayTold]:
        found = {}
        for site in self._view.sites(now):
            for each in site.gateways:
                contents = None if each.report is None else each.report.contents
                found[each.gateway] = GatewayTold(
                    staged=None if contents is None else kept.version_told(contents.staged),
                    active=None if contents is None else kept.version_told(contents.active),
                    announcing=site.state is SiteState.ANNOUNCING,
                    fresh=each.fresh,
                    refused="" if contents is None else contents.refused,
                )
        return found

    def _worst_of_step(self) -> WorstCase:
        """Of the site that is to be changed next."""
        rollout, state = self.rollout, self.state()
        assert rollout is not None
        running = self.in_force()
        return worst_of_step(running, self._contents[rollout.target.hash].content, state, rollout.site)

    def _gate(self, rollout: Rollout, site: str, now: float) -> tuple[Verdict, str]:
        before, began = self._before.get(site, Counted(span_s=0.0)), rollout.since
        unchanged = [name for name in rollout.gateways if name not in rollout.changed]
        others = [
            (self._traffic.baseline(name, began - BASELINE_S, began), self._traffic.counted(name, began, now))
            for name in unchanged
        ]
        judged = gates.judge(before, self._traffic.counted(site, began, now), others)
        return judged.verdict, judged.why

    async def _take(self, actions: list[Action], *, force: bool = False) -> None:
        """Store what the core left, then do what it wants."""
        core = self._core
        assert core is not None
        rollout = core.rollout
        for action in actions:
            if isinstance(action, Activate) and action.site not in self._before:
                now = boottime()
                self._before[action.site] = self._traffic.baseline(action.site, now - BASELINE_S, now)
        body = kept.rollout_body(rollout, self._before)
        before = self._stored
        if force or body != before:
            was = None if before is None else (before["rollout"]["step"], before["rollout"]["at"])
            moved = was != (rollout.step.value, rollout.at)
            said = {"id": rollout.id, "step": rollout.step.value, "site": rollout.site}
            deed = Deed(at=time.time(), who="coordinator", action="rollout.step", reason=rollout.reason, body=said)
            await self._write({(ROLLOUT, rollout.id): body}, (deed,) if moved else ())
            self._stored = body
            self._changed()
        for action in actions:
            await self._perform(action)

    async def _perform(self, action: Action) -> None:
        match action:
            case Stage(version=version, gateways=gateways):
                content = self._contents[version.hash]
                if self._frames is None or self._frames[0] != version:
                    self._frames = version, content.frames(version.generation)
                for gateway in gateways:
                    send = functools.partial(self._offer, gateway, self._frames[1], content.documents[gateway])
                    await self._say(gateway, f"offer {version.generation}", send)
            case Activate(site=site, version=version):
                word = Activation(version=1, site=site, generation=version.generation, hash=version.hash)
                assert self._core is not None
                for gateway in self._core.rollout.gateways[site]:
                    said = ActivationSent(data=word.data.decode())
                    await self._say(gateway, f"activate {version.generation}", functools.partial(self._send, gateway, said))

    async def _say(self, gateway: str, what: str, send: Callable[[], bool]) -> None:
        now = boottime()
        if now - self._sent.get((gateway, what), -AGAIN_S) >= AGAIN_S and send():
            self._sent[gateway, what] = now
            await asyncio.sleep(0)  # it may be megabytes, to a thousand: others are heard in between


def _with_sites(content: Content, more: Content) -> Content:
    """With the sites that only `more` has."""
    if more.sites.keys() <= content.sites.keys():
        return content
    return content.model_copy(update={"sites": {**more.sites, **content.sites}})


def _signer(submission: Submission, operators: Operators) -> str:
    """Whose key has signed it, by the list. `judge` has found it there."""
    names = [each.name for each in operators.operators if each.key == submission.signature.key]
    return names[0] if names else ""
