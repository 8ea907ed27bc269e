"""One gateway's agent: the composition root.

    charon, kernel ──▶ checks ──▶ VerdictCore ──▶ RouteIntent ──▶ RouteHolder ──▶ exabgp_bridge ──▶ upstreams
                                      │            hold, flap         │
                                      └─────────────── events ────────┴──▶ log, metrics

Nothing is decided here. Every part runs as a task of one group: if one of them ends with an error, the agent ends with
it, renews nothing any more, and the lease takes the route away; the service manager starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from importlib import metadata
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
)
from anycast.model import Evidence
from anycast.policy.verdict import Action, VerdictCore, VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime, drive
from site_agent import control, snapshot
from site_agent.announce.exabgp_process import exabgp_spec
from site_agent.announce.route_holder import RouteHolder, routes_of
from site_agent.checks.charon import CharonCheck
from site_agent.checks.child_sas import NAME as SA_STATE
from site_agent.checks.child_sas import ChildSaCheck
from site_agent.checks.machine import load_checks
from site_agent.checks.runner import CheckRunner
from site_agent.checks.vici import ViciCheck
from site_agent.checks.vip import VipCheck
from site_agent.ike.charon_process import Charon
from site_agent.ike.lost_tunnels import LostTunnels
from site_agent.ike.vici_client import ViciClient
from site_agent.life_sign import LifeSign
from site_agent.metrics import Metrics
from site_agent.paths import Paths
from site_agent.record import EventLog
from site_agent.route_intent import RouteIntent
from site_agent.systemd_notify import notify

SNAPSHOT_LIMIT_S = 1.0


class Agent:
    """Make it in the event loop that runs it; `run` once."""

    def __init__(self, document: Document, paths: Paths, *, alarms: tuple[AlarmRaised, ...] = ()) -> None:
        """`alarms` is what went wrong before there was an agent to say so."""
        self._document, self._paths, self._early_alarms = document, paths, alarms
        self._alarms: dict[Reason, str] = {}
        self._instance = secrets.token_hex(8)
        self._log = EventLog(paths.events, max_bytes=document.agent.log_max_bytes, gateway=document.gateway)
        self._metrics = Metrics(self._snapshot_from_thread)
        self._loop = asyncio.get_running_loop()
        self._evidence: asyncio.Queue[Evidence] = asyncio.Queue()
        vips = document.service.vips
        self._lease_s = lease_s = document.lease.duration_ms / 1000
        self._life = LifeSign(lease_s=lease_s, now=boottime())

        vici = ViciClient(str(paths.vici_socket))
        self._charon = Charon(
            etc_dir=paths.etc_dir,
            run_dir=paths.run_dir,
            vips=vips,
            vici=vici,
            on_exit=self._on_charon_exit,
            on_ready=self._on_charon_ready,
            happened=self._happened,
        )
        self._charon_check = CharonCheck(self._charon, stop_limit_s=document.agent.stop_limit_ms / 1000)
        self._vip_check = VipCheck(vips)
        child_sas = ChildSaCheck(vici, vips)
        self._lost_tunnels = LostTunnels(vici, child_sas.lost, self._happened)
        self._runner = CheckRunner(
            [self._charon_check, self._vip_check, child_sas, ViciCheck(vici), *load_checks()],
            self._evidence.put_nowait,
            self._happened,
        )
        self._verdicts = VerdictCore(
            self._runner.classes,
            objectors=frozenset({SA_STATE}),  # it asks charon by VICI, which half-open handshakes can keep busy
            lease_s=lease_s,
            recovery_s=document.agent.recovery_ms / 1000,
            now=boottime(),
        )
        self._holder = RouteHolder(
            instance=self._instance,
            routes=routes_of(document),
            lease_s=lease_s,
            grace_s=document.lease.grace_ms / 1000,
            exabgp=exabgp_spec(config=paths.exabgp_conf, run_dir=paths.run_dir, run_as=document.bgp.run_as),
            socket_path=paths.bridge_socket,
            happened=self._happened,
        )
        self._intent = RouteIntent(
            gateway=document.gateway,
            threshold=document.agent.flap_threshold,
            paths=paths,
            tell=self._holder.verdict,
            happened=self._happened,
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. charon and ExaBGP go on running after that."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, stop.set)
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
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._log.close)
            stack.callback(self._charon.process.release)
            stack.callback(self._lost_tunnels.close)
            self._listen_for_metrics(stack)
            addresses = self._vip_check.watch(lambda: self._runner.look_now(self._vip_check))
            stack.callback(addresses.close)
            answers = {
                "status": self._status,
                "metrics": lambda: {"text": self._metrics.text()},
                "hold": self._intent.hold_changed,
                "flap-clear": self._intent.clear_flap,
            }
            server = await control.serve(self._paths.control_socket, answers)
            stack.callback(server.close)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._charon.run()),
                    group.create_task(self._runner.run()),
                    group.create_task(drive(self._verdicts, self._evidence, self._perform)),
                    group.create_task(self._holder.run()),
                ]
                notify("READY=1")
                await stop.wait()
                await self._leave()
                for task in tasks:
                    task.cancel()

    async def _leave(self) -> None:
        notify("STOPPING=1")
        grace_s = await self._holder.stop()
        self._happened(AgentStopping(reason=Reason.OPERATOR, grace_s=grace_s))

    def _on_charon_exit(self, pid: int, status: int | None) -> None:
        self._runner.found(self._charon_check.exited(pid, status))

    def _on_charon_ready(self) -> None:
        self._runner.look_now()

    def _perform(self, action: Action) -> None:
        if isinstance(action, VerdictReached):
            self._intent.verdict(action)
            notify("WATCHDOG=1")  # alive means: reaches verdicts
            if (sign := self._life.after(action)) is not None:
                self._happened(sign)
            return
        if isinstance(action, ClockGapSeen):
            self._runner.look_now()
        if isinstance(action, EvidenceChanged) and action.check == SA_STATE:
            self._lost_tunnels.sa_state(action.status)
        self._happened(action)

    def _happened(self, event: Event) -> None:
        if isinstance(event, AlarmRaised):
            self._alarms[event.reason] = event.detail
        elif isinstance(event, AlarmCleared):
            self._alarms.pop(event.reason, None)
        self._log.write(event)
        self._metrics.count(event)

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
            classes=self._runner.classes,
            lease=self._holder.lease,
            intent=self._intent,
            routes=routes_of(self._document),
            holders=(self._charon.process, self._holder.process),
        )
        return snapshot.take(parts, now=boottime(), records_dropped=self._log.dropped)

    def _snapshot_from_thread(self) -> dict[str, Any]:
        with contextlib.suppress(RuntimeError):
            if asyncio.get_running_loop() is self._loop:
                return self._status()

        async def ask() -> dict[str, Any]:
            return self._status()

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(SNAPSHOT_LIMIT_S)
