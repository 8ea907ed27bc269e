"""One gateway's agent: the composition root.

    charon, kernel ──▶ checks ──▶ VerdictCore ──▶ SiteVerdict ──▶ RouteIntent ──▶ RouteHolder ──▶ exabgp_bridge ──▶ upstreams
                                      │            │      ▲       hold, flap         │
                                      │        vrrp process                          │
                                      └──────────────────── events ──────────────────┴──▶ log, metrics

Nothing is decided here. What the lease needs runs as tasks of one group: if one of them ends with an error, the agent ends
with it, renews nothing any more, and the lease takes the route away; the service manager starts it again. What the lease
does not need (canary, hook, counters, repair, what is only shown) stands behind a bulkhead and ends nothing but itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import signal
import time
from importlib import metadata
from ipaddress import ip_address
from typing import Any

from anycast.document import Document
from anycast.errors import KernelError
from anycast.events import (
    AgentStarted,
    AgentStopping,
    AlarmCleared,
    AlarmRaised,
    ClockGapSeen,
    Event,
    EvidenceChanged,
    HolderStarted,
    SessionChanged,
    VrrpStateChanged,
)
from anycast.link_wire import ContentsTold, Report
from anycast.model import Evidence, Route
from anycast.policy.drain import Seen
from anycast.policy.protection import Protection
from anycast.policy.verdict import Action, VerdictCore, VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime, drive
from site_agent import control, priority, snapshot
from site_agent.alarms.hook import alarm_hook
from site_agent.announce.exabgp_process import exabgp_spec
from site_agent.announce.no_route import NoRoute
from site_agent.announce.route_holder import RouteHolder
from site_agent.announce.routes import Looks, own_routes_of, routes_of, word_of
from site_agent.apply import apply
from site_agent.bulkhead import Bulkhead
from site_agent.canary.process import Canary
from site_agent.checks.canary import CanaryCheck
from site_agent.checks.charon import CharonCheck
from site_agent.checks.charon_answers import CharonAnswersCheck
from site_agent.checks.child_sas import NAME as SA_STATE
from site_agent.checks.child_sas import PARTIAL as SA_STATE_PARTIAL
from site_agent.checks.child_sas import ChildSaCheck
from site_agent.checks.ike_probe import IkeProbeCheck
from site_agent.checks.links import LinksCheck
from site_agent.checks.machine import load_checks
from site_agent.checks.packet_filter import PacketFilterCheck
from site_agent.checks.runner import CheckRunner
from site_agent.checks.shared import shared_checks
from site_agent.checks.silence import NAME as CHARON_ANSWERS
from site_agent.checks.too_big import TooBigCheck
from site_agent.checks.upstreams import UpstreamsCheck
from site_agent.checks.vici import ViciCheck
from site_agent.checks.vip import VipCheck, present_addresses
from site_agent.coordination import Coordination
from site_agent.drainer import Around, Drainer
from site_agent.event_spool import EventSpool
from site_agent.fleet_report import report_of
from site_agent.handover import hand_over
from site_agent.ike.charon_process import Charon
from site_agent.ike.door import Door
from site_agent.ike.lost_tunnels import LostTunnels
from site_agent.ike.pool_counts import PoolCounts
from site_agent.ike.pool_keeper import OfferRecord
from site_agent.ike.prober import Prober
from site_agent.ike.redirector import Redirector
from site_agent.ike.rekey_queue import Stopped
from site_agent.ike.rekeyer import CharonRekeyer, Rekeyer
from site_agent.ike.vici_client import ViciClient
from site_agent.life_sign import LifeSign
from site_agent.metrics import Metrics
from site_agent.paths import Paths
from site_agent.punctuality import Punctuality
from site_agent.record import EventLog
from site_agent.route_intent import RouteIntent
from site_agent.site_verdict import SiteVerdict
from site_agent.sync.supervisor import Supervisor as SyncSupervisor
from site_agent.systemd_notify import notify

SNAPSHOT_LIMIT_S = 1.0


class Agent:
    """Make it in the event loop that runs it; `run` once."""

    def __init__(self, document: Document, paths: Paths, *, alarms: tuple[AlarmRaised, ...] = ()) -> None:
        """`alarms` is what went wrong before there was an agent to say so."""
        self._document, self._paths, self._early_alarms = document, paths, alarms
        self._alarms: dict[Reason, str] = {}
        self._routes_by: tuple[bool, bool, Looks | None] | None = None
        """What the routes that the lease knows were made of."""
        self._fleet: Coordination | None = None
        self._stop = asyncio.Event()
        self.again = False
        """A content was activated that has another document: a new agent is to run by it."""
        self._instance = secrets.token_hex(8)
        self._metrics = Metrics(self._snapshot_from_thread)
        self._loop = asyncio.get_running_loop()
        self._spool = EventSpool(paths.events, document.gateway, self._instance, self._events_made)
        self._log = EventLog(
            paths.events,
            max_bytes=document.agent.log_max_bytes,
            gateway=document.gateway,
            stream=self._instance,
            made=None if document.coordinator is None else self._spool.take,
        )
        self._hook = alarm_hook(document, self._instance, self._happened)
        self._around_hook = Bulkhead("alarm_hook", self._happened)
        self._around_metrics = Bulkhead("metrics", self._happened)
        self._around_repair = Bulkhead("lost_tunnels", self._happened)
        self._around_canary = Bulkhead("canary", self._happened)
        self._around_display = Bulkhead("display", self._happened)
        self._around_sync = Bulkhead("sync", self._happened)
        self._around_drain = Bulkhead("drain", self._happened)
        self._around_counts = Bulkhead("pool_counts", self._happened)
        self._evidence: asyncio.Queue[Evidence] = asyncio.Queue()
        vips, ends = document.service.vips, document.service.ends
        self._has_own = bool(own_routes_of(document))
        self._lease_s = lease_s = document.lease.duration_ms / 1000
        self._protection = Protection()
        self._life = LifeSign(lease_s=lease_s, now=boottime())
        self._punctuality = Punctuality(lease_s=lease_s)

        vici = ViciClient(str(paths.vici_socket))
        self._charon = Charon(
            etc_dir=paths.etc_dir,
            run_dir=paths.run_dir,
            vips=ends,
            vici=vici,
            on_exit=self._on_charon_exit,
            on_ready=self._on_charon_ready,
            happened=self._happened,
            offers=None if document.sync is None else OfferRecord(paths.offers),
        )
        self._charon_check = CharonCheck(self._charon, stop_limit_s=document.agent.stop_limit_ms / 1000)
        # VIPs that move between two gateways are the virtual router's to look after: only the Active has them.
        self._own_vips = () if document.vip_moves else (VipCheck(vips),)
        self._links_check = LinksCheck((document.uplink.name, document.inside.name))
        self._canary = Canary(document, etc_dir=paths.etc_dir) if document.service.checks.canary else None
        self._rekeyer = Rekeyer(ViciClient(vici.path), ViciClient(vici.path))
        self._child_sas_check = ChildSaCheck(
            vici,
            ends,
            rekeyer=CharonRekeyer(vici, self._rekeyer, lambda: self._sync),
            happened=self._happened,
            rendered=frozenset({document.service.name}),
            canary=self._canary.identity if self._canary else None,
        )
        self._lost_tunnels = LostTunnels(vici, self._child_sas_check.lost, self._happened, self._around_repair)
        self._too_big = TooBigCheck(map(ip_address, ends))
        self._prober = Prober(vips, present_addresses)
        self._upstreams = UpstreamsCheck(document.bgp.neighbors, lambda: self._holder.lease.sessions)
        self._packet_filter = PacketFilterCheck(paths.nftables_conf, document)
        self._runner = CheckRunner(
            [
                *(self._charon_check, *self._own_vips, self._links_check, self._child_sas_check),
                CharonAnswersCheck(self._charon, vici.path, self._prober, record=paths.charon_heard),
                ViciCheck(vici, (document.service.name,)),
                IkeProbeCheck(self._prober),
                *(*load_checks(), self._too_big),
                self._packet_filter,
                *shared_checks(document, self._upstreams, lambda: self._site.bfd),
                *([CanaryCheck(self._canary, document, active=lambda: self._site.active)] if self._canary else []),
            ],
            self._looked,
            self._happened,
            document.agent.timings,
        )
        self._verdicts = VerdictCore(
            self._runner.classes,
            objectors=frozenset({SA_STATE, CHARON_ANSWERS}),  # they ask charon, which half-open handshakes can keep busy
            lease_s=lease_s,
            recovery_s=document.agent.recovery_ms / 1000,
            now=boottime(),
        )
        self._holder = (
            RouteHolder(
                instance=self._instance,
                routes=routes_of(document),
                own=own_routes_of(document),
                lease_s=lease_s,
                grace_s=document.lease.grace_ms / 1000,
                exabgp=exabgp_spec(config=paths.exabgp_conf, run_dir=paths.run_dir, run_as=document.bgp.run_as),
                socket_path=paths.bridge_socket,
                happened=self._happened,
            )
            if document.bgp.neighbors
            else NoRoute()
        )
        self._intent = RouteIntent(
            gateway=document.gateway,
            threshold=document.agent.flap_threshold,
            paths=paths,
            tell=self._tell_lease,
            happened=self._happened,
            drained=lambda: self._drainer.says,
        )
        self._drainer = Drainer(
            paths,
            Around(
                redirector=Redirector(vici, ends, canary=self._canary.identity if self._canary else None),
                door=Door(lambda: self._charon.identity, ends),
                route=lambda plan: word_of(self._holder.lease.announced, document, plan, knows=self._holder.lease.knows),
                serving=lambda: (site := self._site.reached) is not None and self._intent.held(site).serving,
                active=lambda: self._site.active,
                kept_closed=lambda: self._sync is not None and not self._site.active,
                changed=self._drain_changed,
                seen=lambda: Seen.UNKNOWN if self._fleet is None else self._fleet.seen,
            ),
            self._happened,
        )
        self._sync = None if document.sync is None else SyncSupervisor(document, paths, happened=self._happened)
        self._pool_counts = PoolCounts(ViciClient(vici.path), {each.name: each.prefix for each in document.service.pools})
        if document.coordinator is not None:
            self._fleet = Coordination(
                document,
                paths,
                {name: timing.fall * timing.interval_s + timing.timeout_s for name, timing in self._runner.timings.items()},
                instance=self._instance,
                events=self._spool,
                report=self._report,
                announced=self._announced_whole,
                knows=lambda: not document.bgp.neighbors or self._holder.lease.knows,
                hold=lambda: self._intent.describe()["hold"],
                withdrawn_by=lambda: self._intent.withdrawn_by,
                peer_agrees=lambda: self._sync is not None and self._sync.agrees,
                follow=self._drainer.follow,
                begin_anew=self._begin_anew,
                happened=self._happened,
            )
        self._site = SiteVerdict(document, paths, held=self._intent.held, tell=self._site_reached, happened=self._happened)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. charon and ExaBGP go on running after that."""
        priority.prefer(os.getpid(), priority.HOLDS_THE_LEASE)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        version, pid = metadata.version("anycast-vpn"), os.getpid()
        self._happened(
            AgentStarted(
                instance=self._instance,
                version=version,
                document=self._document.hash,
                pid=pid,
                lease_s=self._lease_s,
            )
        )
        for alarm in self._early_alarms:
            self._happened(alarm)
        self._intent.start()
        self._drainer.start()
        if self._fleet is not None:
            self._fleet.start()
        self._tell_routes()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._log.close)
            stack.callback(self._charon.process.release)
            stack.callback(self._lost_tunnels.close)
            stack.callback(self._prober.close)
            stack.callback(self._too_big.close)
            self._listen_for_metrics(stack)
            for check in (*self._own_vips, self._links_check, self._child_sas_check):
                stack.callback(check.watch(functools.partial(self._runner.look_now, check)).close)
            answers: control.Answers = {
                "status": self._status,
                "metrics": lambda: {"text": self._metrics.text()},
                "hold": functools.partial(self._intent.hold_changed, self._site.give_way),
                "flap-clear": self._intent.clear_flap,
                "apply": self._apply,
                "handover": functools.partial(hand_over, self._site, self._sync),
                "vrrp-restart": self._site.restart,
                "drain": self._begin_drain,
                "drain-abort": self._drainer.abort,
                "drain-foresee": self._drainer.foresee,
            }
            server = await control.serve(self._paths.control_socket, answers)
            stack.callback(server.close)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._charon.run()),
                    group.create_task(self._runner.run()),
                    group.create_task(drive(self._verdicts, self._evidence, self._perform)),
                    group.create_task(self._holder.run()),
                    group.create_task(self._around_repair.keep(self._rekeyer.run)),
                    group.create_task(self._site.run()),
                    *([group.create_task(self._around_sync.keep(self._sync.run))] if self._sync else []),
                    *([group.create_task(self._around_canary.keep(self._canary.run))] if self._canary else []),
                    *([group.create_task(self._fleet.run())] if self._fleet else []),
                    *([] if self._sync else [group.create_task(self._around_counts.keep(self._pool_counts.run))]),
                    group.create_task(self._around_hook.keep(self._hook.run)),
                    group.create_task(self._around_drain.keep(self._drainer.run)),
                ]
                notify("READY=1")
                await self._stop.wait()
                await self._leave()
                for task in tasks:
                    task.cancel()

    async def _leave(self) -> None:
        notify("STOPPING=1")
        self._site.stop(self._document.lease.grace_ms / 1000)
        grace_s = await self._holder.stop()
        self._happened(AgentStopping(reason=Reason.OPERATOR, grace_s=grace_s))
        await self._around_hook.once(self._hook.leave)

    async def _apply(self) -> dict[str, Any]:
        answer = await apply(self._charon, self._packet_filter, self._holder, self._site.supervisor)
        self._runner.look_now(self._packet_filter)
        return answer

    def _on_charon_exit(self, pid: int, status: int | None) -> None:
        self._runner.found(self._charon_check.exited(pid, status))
        self._around_repair.call(self._rekeyer.feed, Stopped())

    def _on_charon_ready(self) -> None:
        self._runner.look_now()

    def _perform(self, action: Action) -> None:
        if isinstance(action, VerdictReached):
            self._site.verdict(action)
            self._tell_sync_the_role()
            notify("WATCHDOG=1")  # alive means: reaches verdicts
            site = self._site.reached or action
            if (sign := self._around_display.call(self._life.after, site)) is not None:
                self._happened(sign)
            if late := self._around_display.call(self._punctuality.after, action.at, time.thread_time()):
                self._happened(late)
            return
        if isinstance(action, ClockGapSeen):
            self._runner.look_now()
        if isinstance(action, EvidenceChanged) and action.check in (SA_STATE, SA_STATE_PARTIAL):
            self._around_repair.call(self._lost_tunnels.state_changed, action.check, action.status)
        self._happened(action)
        if isinstance(action, EvidenceChanged) and (news := self._around_display.call(self._protection.take, action)):
            self._happened(news)

    def _happened(self, event: Event) -> None:
        if isinstance(event, AlarmRaised):
            self._alarms[event.reason] = event.detail
        elif isinstance(event, AlarmCleared):
            self._alarms.pop(event.reason, None)
        elif isinstance(event, SessionChanged):
            self._runner.look_now(self._upstreams)
        elif isinstance(event, VrrpStateChanged):
            self._tell_sync_the_role()
            self._tell_routes()
        elif isinstance(event, HolderStarted) and event.name == self._charon.process.spec.name:
            self._tell_sync_the_role()
        self._log.write(event)
        self._around_metrics.call(self._metrics.count, event)
        self._around_hook.call(self._hook.take, event)
        if self._fleet is not None:
            self._fleet.changed()

    def _events_made(self) -> None:
        if self._fleet is not None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed: its last words are on the disk
                self._loop.call_soon_threadsafe(self._fleet.news)

    def _tell_sync_the_role(self) -> None:
        if self._sync is not None:
            self._around_sync.call(self._sync.charon, self._charon.identity)
            self._around_sync.call(self._sync.role, self._site.active)

    @property
    def _worse(self) -> Looks | None:
        """How the route is to look worse outside: by a drain here, or by the content in force."""
        return self._drainer.worse or (None if self._fleet is None else self._fleet.worse)

    def _routes(self) -> tuple[Route, ...]:
        """What is announced while serving, which may depend on the role."""
        worse = None if self._intent.announce_held else self._worse
        return routes_of(self._document, active=self._site.active, worse=worse)

    def _own_routes(self) -> tuple[Route, ...]:
        """The site's own, which no drain moves."""
        return own_routes_of(self._document, active=self._site.active)

    async def _begin_drain(self) -> dict[str, Any]:
        if not self._document.bgp.neighbors:
            return {"error": "this site speaks no BGP: there is no route to drain; `handover` moves the other gateway in"}
        return await self._drainer.begin()

    def _drain_changed(self) -> None:
        self._tell_routes()
        self._intent.drain_changed()

    def _tell_lease(self, verdict: VerdictReached) -> None:
        self._tell_routes()  # a hold that began or ended changes them, and is known by now
        self._holder.verdict(verdict, self._intent.own)

    def _tell_routes(self) -> None:
        by = (self._site.active, self._intent.announce_held, self._worse)
        if by != self._routes_by:
            self._routes_by = by
            self._holder.announce(self._routes(), self._own_routes())

    def _listen_for_metrics(self, stack: contextlib.AsyncExitStack) -> None:
        try:
            stack.callback(self._metrics.listen(self._document.agent.metrics_listen))
        except KernelError as exc:  # nobody's route depends on being watched
            self._happened(AlarmRaised(reason=Reason.METRICS_UNAVAILABLE, detail=str(exc)))

    def _status(self) -> dict[str, Any]:
        parts = snapshot.Parts(
            document=self._document,
            instance=self._instance,
            verdicts=self._verdicts,
            alarms=self._alarms | dict(self._verdicts.alarms),
            runner=self._runner,
            lease=self._holder.lease,
            intent=self._intent,
            drainer=self._drainer,
            site=self._site,
            sync=self._sync,
            fleet=self._fleet,
            hook=self._hook,
            protection=self._protection,
            routes=self._routes(),
            own_routes=self._own_routes(),
            holders=tuple(process for process in (self._charon.process, self._holder.process) if process is not None),
        )
        return snapshot.take(parts, now=boottime(), records_dropped=self._log.dropped)

    def _report(self, number: int, contents: ContentsTold) -> Report:
        sas = self._child_sas_check
        looked = sas.tunnels is not None
        return report_of(
            self._status(),
            number=number,
            tunnels=sas.tunnels,
            decrypted=sas.traffic.decrypted if looked else None,
            encrypted=sas.traffic.encrypted if looked else None,
            established=sas.traffic.established if looked else None,
            contents=contents,
            leased=self._sync.pools if self._sync else self._pool_counts.in_use,
        )

    def _looked(self, seen: Evidence) -> None:
        self._evidence.put_nowait(seen)
        if self._fleet is not None:
            self._fleet.looked(seen)

    def _site_reached(self, verdict: VerdictReached) -> None:
        service = own = verdict
        if self._fleet is not None:
            service, own = self._fleet.passed(verdict), self._fleet.passed_own(verdict)
        self._intent.verdict(service, own if self._has_own else None)

    def _announced_whole(self) -> bool:
        """Every route is out, and none is worse than it could be."""
        routes = self._routes()
        return bool(routes) and self._worse is None and set(routes) <= set(self._holder.lease.announced)

    def _begin_anew(self) -> None:
        self.again = True
        self._stop.set()

    def _snapshot_from_thread(self) -> dict[str, Any]:
        with contextlib.suppress(RuntimeError):
            if asyncio.get_running_loop() is self._loop:
                return self._status()

        async def ask() -> dict[str, Any]:
            return self._status()

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(SNAPSHOT_LIMIT_S)
