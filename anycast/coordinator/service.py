"""The coordinator's parts put together: store, what the agents say, and what operators ask.

    agents ──▶ Agents ──▶ FleetView ◀── Service ◀── Rest ◀── operators
                 │            ▲            │
                 ├──────▶ EventKeeper ◀────┤
                 │         Rollouts ◀──────┤
                 ├───────▶ Darkness ◀──────┤
                 └───────▶ Behind ◀────────┤  halts both while the store knows less than gateways do
                              └──────────▶ Store (a thread of its own: a disk that hangs keeps nobody waiting who only looks)
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import datetime
import functools
import secrets
import time
from collections.abc import AsyncIterator, Callable
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from anycast.content.state import State
from anycast.coordinator import access, api, behind, contents, darkness, why
from anycast.coordinator.access import Caller
from anycast.coordinator.agents import AgentEvent, Agents, Came, HandedOver, Said, SaidDarkness, SaidEvents, Went
from anycast.coordinator.backup import RESTORED
from anycast.coordinator.behind import Behind, SaidToHave
from anycast.coordinator.darkness import Darkness
from anycast.coordinator.event_keeper import EventKeeper
from anycast.coordinator.event_store import EventStore, Retention
from anycast.coordinator.failures import Failures, SiteFailures, failures
from anycast.coordinator.fleet_view import FleetView
from anycast.coordinator.lease_keeper import LeaseKeeper
from anycast.coordinator.leases import Leases
from anycast.coordinator.observations import Observations, Word
from anycast.coordinator.pager import Pager
from anycast.coordinator.refusal import ReadOnly
from anycast.coordinator.rollouts import Rollouts
from anycast.coordinator.sqlite_file import answered
from anycast.coordinator.store import Body, Deed, Entry, Key, Line, Store
from anycast.coordinator.store_folder import Used
from anycast.coordinator.traffic_log import TrafficLog
from anycast.coordinator.why import Why
from anycast.errors import AnycastError, PeerError
from anycast.operators_file import OperatorsFile
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity
from anycast.policy.content_diff import Difference
from anycast.policy.plan import Submission
from anycast.policy.rollout import Terms
from anycast.policy.token_words import AgentConnected, AgentGone
from anycast.reasons import Reason
from anycast.runtime import boottime
from anycast.trail import Record

WATCH_PACE_S = 0.2
"""Between two words to one that watches: a fleet that starts changes a hundred times a second."""
_T = TypeVar("_T")


class Taken(AnycastError):
    """There is one of that name already."""


class Missing(AnycastError):
    """There is nothing of that name."""


class Service:
    """Use from the event loop's thread: `start`, then `run` until cancelled; `close` when done."""

    def __init__(
        self,
        me: Identity,
        folder: MachineFolder,
        store_path: Path,
        operators_path: Path,
        retention: Retention | None = None,
        page: Path | None = None,
    ) -> None:
        """`retention`: of events, which lie beside the store; None: its defaults. `page`: the program that calls somebody.
        Raises ConfigError where that is none."""
        self.version = metadata.version("anycast-vpn")
        self._me, self._folder, self._store_path, self._retention = me, folder, store_path, retention or Retention()
        self._instance = secrets.token_hex(8)
        self._view, self._traffic, self._observed = FleetView(), TrafficLog(), Observations()
        self._disk = concurrent.futures.ThreadPoolExecutor(1, "store")
        self._news = asyncio.Event()
        self._shown: tuple[asyncio.Event, float, bytes] | None = None
        """Before which news, when, and what was shown."""
        self._told: asyncio.Queue[SaidToHave] = asyncio.Queue()
        self._operators = OperatorsFile(operators_path)
        self._pager = None if page is None else Pager(page, me.fleet, self._pages)
        self._revision = 0
        self.removals = 0
        """Of credentials, since the start."""

    async def start(self, addresses: list[str], port: int) -> None:
        """Open the store, take the lead, and listen for agents. Raises ConfigError, PeerError, OSError."""
        self._used = Used(self._store_path.parent)
        self._store = await self._in_store(lambda: Store(self._store_path, self._me.fleet))
        self._fence = await self._in_store(self._store.lead)
        self._revision = await self._in_store(lambda: self._store.revision)
        kinds = (
            contents.CONTENT, contents.GENERATION, contents.GIVEN, contents.GATEWAY, contents.ROLLOUT, darkness.KIND,
            behind.BEHIND, behind.LEFT_OUT, RESTORED,
        )  # fmt: skip
        kept = {kind: await self._in_store(functools.partial(self._store.read, kind)) for kind in kinds}
        self._agents = Agents(
            self._view,
            self._folder,
            self._me,
            instance=self._instance,
            epoch=self._fence.epoch,
            may_be_at=self._may_be_at,
            happened=self._on_agent,
            seen=lambda site: self._observed.seen(site, boottime()).value,
        )
        self._darkness = Darkness(
            kept[darkness.KIND],
            self._fence.leader,
            write=self._write_slots,
            send=self._agents.answer_darkness,
            strange=self._on_strange,
        )
        self._events = EventKeeper(
            self._store_path.with_name("events.db"), self._me.fleet, self._retention, ask=self._agents.answer
        )
        self._leases = LeaseKeeper(self._store_path.with_name("leases.db"), self._me.fleet)
        self._rollouts = Rollouts(
            self._me.fleet,
            self._view,
            self._traffic,
            self._darkness,
            write=self._write,
            send=self._agents.send,
            offer=self._agents.offer,
            changed=self._changed,
            halted=lambda: self._behind.read_only,
        )
        self._rollouts.start(kept)
        self._behind = Behind(
            kept,
            self._me.fleet,
            self._rollouts,
            self._darkness,
            write=self._write,
            send=self._agents.send,
            changed=self._changed,
        )
        await self._agents.start(addresses, port)

    @property
    def agents_port(self) -> int:
        return self._agents.port

    async def run(self) -> None:
        """Raises where the store fails what decides: whoever goes on might say what is not in it."""
        async with asyncio.TaskGroup() as group:
            parts = (self._agents.keep, self._darkness.run, self._rollouts.run, self._behind.run, self._events.run)
            pager = () if self._pager is None else (self._pager.run,)
            for each in (*parts, self._remember, self._leases.run, *pager):
                group.create_task(each())

    async def close(self) -> None:
        self._agents.close()
        await self._events.close()
        await self._leases.close()
        with contextlib.suppress(PeerError):
            await self._in_store(self._store.close)
        self._disk.shutdown(wait=False)
        self._used.end()

    def status(self) -> api.Status:
        rollout, read_only, now = self._rollouts.rollout, self._behind.read_only, boottime()
        sites = self._view.sites(now)
        return api.Status(
            fleet=self._me.fleet,
            coordinator=self._instance,
            epoch=self._fence.epoch,
            revision=self._revision,
            at=time.time(),
            sites=tuple(
                api.site_status(each, self._observed.seen(each.site, now), self._darkness.words_of(each.site))
                for each in sites
            ),
            unheard=tuple(sorted(self._rollouts.sites - {each.site for each in sites})),
            observers=tuple(api.observer_status(name, word, now) for name, word in self._observed.words().items()),
            ledger=self._darkness.summary(),
            rollout=None if rollout is None else api.rollout_status(rollout, self._rollouts.waits_for, now),
            read_only=read_only,
            alarms=(
                *(each for each in (read_only, self._agents.problem) if each),
                *self._events.alarms,
                *([self._leases.problem] if self._leases.problem else []),
                *([self._pager.problem] if self._pager is not None and self._pager.problem else []),
                *(str(page) for page in self._rollouts.pages),
                *self._darkness.suspects,
                *self._darkness.overdue(time.time()),
            ),
        )

    def _pages(self) -> dict[str, str]:
        """What somebody is called for, by a key that begins with its reason and stays while it stands."""
        rollout, read_only = self._rollouts.rollout, self._behind.read_only
        found = {Reason.STORE_BEHIND.value: read_only} if read_only else {}
        if rollout is not None:
            name = f"rollout {rollout.id}"
            found |= {f"{page.reason} {name} {n}": f"{name}: {page}" for n, page in enumerate(rollout.pages)}
        told = (*self._darkness.suspects, *self._darkness.overdue(time.time()))
        return found | {each.replace(":", "", 1): each for each in told}

    def state(self) -> State:
        """What a plan is made against. Raises ReadOnly where that is known to be out of date."""
        if why := self._behind.read_only:
            raise ReadOnly((why,))
        return self._rollouts.state()

    async def leases(self, days: int) -> Leases:
        """How many inner addresses of each pool were in use."""
        return await self._leases.leases(days)

    async def failures(self) -> Failures:
        """When sites failed, as far back as events are kept. Raises PeerError where they cannot be read."""
        told, longest_s = await self._events.read(lambda events: (events.intents(), events.longest_s))
        found = failures(told)
        return Failures(
            days=longest_s / 86_400, sites=tuple(SiteFailures(site=site, at=tuple(found[site])) for site in sorted(found))
        )

    def documents(self) -> api.Documents:
        return api.Documents(documents=self._rollouts.documents())

    def observed(self, name: str, told: api.Observation) -> None:
        """An observer's word, of now."""
        if self._observed.take(name, Word(boottime(), dict(told.sites), dict(told.routers))):
            self._changed()

    async def submit(self, who: Caller, submission: Submission, terms: Terms) -> api.RolloutStatus:
        """Begin a rollout of what an operator signed. Raises Refusal, ConfigError."""
        operators = await asyncio.to_thread(self._operators.read)
        rollout = await self._rollouts.submit(who, submission, operators, terms)
        return api.rollout_status(rollout, "", boottime())

    async def command(self, who: Caller, word: str, reason: str) -> api.RolloutStatus:
        """``pause``, ``resume``, ``abort``, ``override``. Raises Refusal."""
        return api.rollout_status(await self._rollouts.command(who, word, reason), self._rollouts.waits_for, boottime())

    async def recover(self, who: Caller, wanted: api.Recover) -> api.Recovered:
        """Take what gateways have that the store has not. Raises Refusal, ConfigError."""
        operators = functools.partial(asyncio.to_thread, self._operators.read)
        found, words = await self._behind.recover(who, wanted.reason, wanted.without, operators)
        return api.recovered(found, words)

    async def watch(self, repeat_s: float) -> AsyncIterator[bytes]:
        """The status as JSON now, whenever something changes, and at least every `repeat_s`."""
        while True:
            news = self._news
            yield self._status_text()
            await asyncio.sleep(WATCH_PACE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(repeat_s):
                    await news.wait()

    def _status_text(self) -> bytes:
        """Made once for all that watch: of a thousand agents it takes longer than they may be kept waiting for each."""
        known, now = self._shown, boottime()
        if known is None or known[0] is not self._news or now - known[1] >= WATCH_PACE_S:
            self._shown = known = (self._news, now, self.status().model_dump_json().encode())
        return known[2]

    async def history(self, after: int, limit: int, *, verify: bool) -> tuple[list[Line], int | None, tuple[int, str]]:
        """Lines behind `after`, with `verify` the first one that was tampered with, and number and hash of the last."""

        def read() -> tuple[list[Line], int | None, tuple[int, str]]:
            broken = self._store.first_broken() if verify else None
            return self._store.history(after=after, limit=limit), broken, self._store.last()

        return await self._in_store(read)

    async def diffs(self, lines: list[Line]) -> dict[int, tuple[Difference, ...]]:
        """By its number: what each line that begins a rollout changes."""
        kept = await self._in_store(lambda: self._store.read(contents.ROLLOUT))
        return await asyncio.to_thread(contents.diffs, lines, kept, self._rollouts.contents)

    async def contents(self) -> api.Contents:
        return api.Contents(contents=tuple((await self._content_lines()).values()))

    async def content(self, named: str) -> api.KeptContent:
        """By generation or the beginning of its hash. Raises Missing."""
        lines = await self._content_lines()
        found = [each for each in lines.values() if named.isdecimal() and len(named) < 12 and int(named) in each.generations]
        found += [each for each in lines.values() if len(named) >= 12 and each.hash.startswith(named)]
        if len(found) != 1:
            what = "two contents begin so" if found else "there is no such content"
            raise Missing(f"{named}: {what}; a generation, or 12 digits or more of a hash; GET /v1/contents has all")
        kept = self._rollouts.contents[found[0].hash]
        return api.KeptContent(
            **dict(found[0]), key=kept.signature.key, text=kept.text, documents=dict(kept.documents)
        )

    async def _content_lines(self) -> dict[str, api.ContentLine]:
        """By hash, oldest first."""

        def read() -> tuple[dict[str, Entry], ...]:
            return tuple(self._store.read(kind) for kind in (contents.CONTENT, contents.ROLLOUT, contents.GIVEN))

        texts, rollouts, given = await self._in_store(read)
        generations = contents.generations(rollouts, given)
        running = self._rollouts.running()
        return {
            hash_: api.ContentLine(
                hash=hash_, by=body["by"], at=body["at"], generations=generations.get(hash_, ()),
                gateways=tuple(sorted(name for name, each in running.items() if each == hash_)),
            )
            for hash_, body in sorted(((h, e.body) for h, e in texts.items() if e.body), key=lambda pair: pair[1]["at"])
            if hash_ in self._rollouts.contents
        }  # fmt: skip

    async def why(self, site: str, gateway: str | None, at: float | None) -> Why:
        """What led to the state of a site, or of one of its gateways, at a moment (Unix time; None: now). Raises Missing."""
        moment = datetime.datetime.fromtimestamp(time.time() if at is None else at, datetime.UTC)
        content = self._rollouts.in_force()
        named = set() if content is None or site not in content.sites else set(content.sites[site].gateways)
        named |= {each.gateway for view in self._view.sites(boottime()) if view.site == site for each in view.gateways}

        def read(events: EventStore) -> tuple[dict[str, list[Record]], dict[str, float | None]]:
            names = named | set(events.of_site(site))
            asked = names if gateway is None else names & {gateway}
            kept = {name: events.kept(name) for name in asked}
            return (
                {name: events.until(name, moment.timestamp(), why.RECORDS, why.RECORDS_BEHIND) for name in asked},
                {name: None if each is None else each.forgotten for name, each in kept.items()},
            )

        records, forgotten = await self._events.read(read)
        if not records:
            raise Missing(f"nothing is known of {site if gateway is None else f'a gateway {gateway} of site {site}'}")

        def decided() -> list[Line]:
            changed = contents.changed_by(self._store.read(contents.ROLLOUT))
            lines = self._store.history_until(moment.timestamp(), why.LINES)
            return [line for line in lines if why.concerns(line, site, changed)]

        return why.explain(site, moment, records, forgotten, await self._in_store(decided))

    async def caller(self, name: str, secret: bytes) -> Caller | None:
        """Whose credential that is; None: nobody's."""
        kept = (await self._in_store(lambda: self._store.read(access.KIND))).get(name)
        return access.caller(name, secret, None if kept is None else kept.body)

    async def credentials(self) -> api.Credentials:
        kept = await self._in_store(lambda: self._store.read(access.KIND))
        found = [(name, entry.body) for name, entry in sorted(kept.items()) if entry.body is not None]
        fields = ("role", "sites", "made_at", "made_by")
        return api.Credentials(
            credentials=tuple(api.Credential(name=name, **{key: body[key] for key in fields}) for name, body in found)
        )

    async def add_credential(self, who: Caller, wanted: api.NewCredential) -> api.Secret:
        """Raises Taken where there is one of that name."""
        if wanted.name in await self._in_store(lambda: self._store.read(access.KIND)):
            raise Taken(f"there is a credential {wanted.name} already; remove it first")
        secret = secrets.token_bytes(32)
        sites = None if wanted.sites is None else frozenset(wanted.sites)
        body = access.record(secret, wanted.role, sites, time.time(), who.name)
        await self._decide(
            expected={(access.KIND, wanted.name): 0},
            writes={(access.KIND, wanted.name): body},
            deed=self._deed(who, "access.add", name=wanted.name, role=wanted.role.value, sites=body["sites"]),
        )
        return api.Secret(name=wanted.name, token=access.token(wanted.name, secret))

    async def remove_credential(self, who: Caller, name: str) -> None:
        """Raises Missing where there is none."""
        kept = (await self._in_store(lambda: self._store.read(access.KIND))).get(name)
        if kept is None:
            raise Missing(f"there is no credential {name}")
        await self._decide(
            expected={(access.KIND, name): kept.revision},
            writes={(access.KIND, name): None},
            deed=self._deed(who, "access.remove", name=name),
        )
        self.removals += 1
        self._changed()

    async def _decide(self, *, expected: dict[Key, int], writes: dict[Key, Body | None], deed: Deed) -> None:
        self._revision = await self._in_store(
            lambda: self._store.transact(self._fence, expected=expected, writes=writes, deeds=(deed,))
        )
        self._changed()

    async def _write(self, writes: dict[Key, Body | None], deeds: tuple[Deed, ...]) -> None:
        self._revision = await self._in_store(
            lambda: self._store.transact(self._fence, expected={}, writes=writes, deeds=deeds)
        )

    async def _write_slots(self, writes: dict[Key, Body | None], deeds: tuple[Deed, ...]) -> None:
        await self._write(writes, deeds)
        self._changed()

    def _may_be_at(self, gateway: str, site: str) -> bool:
        return self._rollouts.may_be_at(gateway, site)

    def _on_agent(self, event: AgentEvent) -> None:
        match event:
            case Came(hello=hello, session=session):
                self._darkness.feed(AgentConnected(hello.gateway, session))
                self._events.came(hello, session)
                self._changed()
            case Went(gateway=gateway, site=site, session=session):
                self._darkness.feed(AgentGone(gateway, session))
                self._events.went(gateway, site, session)
                self._changed()
            case Said(hello=hello, report=report, news=news):
                self._traffic.reported(hello.site, hello.gateway, hello.instance, report, boottime())
                self._leases.reported(hello.site, report)
                if news:
                    self._told.put_nowait(
                        SaidToHave(site=hello.site, gateway=hello.gateway, contents=report.contents)
                    )
                    self._changed()
            case SaidDarkness(gateway=gateway, session=session, text=text):
                self._darkness.told(gateway, session, text)
            case HandedOver(gateway=gateway, content=content):
                self._behind.handed_over(gateway, content)
            case SaidEvents(gateway=gateway, session=session, records=records):
                self._events.told(gateway, session, records)

    def _on_strange(self, gateway: str, slots: tuple[str, ...]) -> None:
        site = self._view.site_of(gateway)
        self._told.put_nowait(SaidToHave(site=site, gateway=gateway, strangers=slots))

    async def _remember(self) -> None:
        """What was told while the store was busy with what came before goes there together, in its order."""
        while True:
            told = [await self._told.get()]
            while not self._told.empty():
                told.append(self._told.get_nowait())
            await self._behind.heard(told)

    def _deed(self, who: Caller, action: str, reason: str = "", **body: object) -> Deed:
        return Deed(at=time.time(), who=who.name, action=action, reason=reason, body=body)

    def _changed(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _in_store(self, work: Callable[[], _T]) -> _T:
        """Raises PeerError where the disk does not answer; what it was asked for may happen all the same."""
        return await answered(self._disk, self._store_path, work)
