"""Run one drill on a lab that is up: break, watch, heal, judge.

A drill starts from health (it waits for it) and leaves health behind, so that any drill may follow any other. The fault
is the first step that is not a wait; its time is the report's zero.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from anycast.fleet.compile import compile_gateway
from anycast.fleet.schema import Fleet
from anycast.runtime import boottime_ns
from anycast_lab.drills import (
    alarm_wait,
    around,
    canaries,
    client_steps,
    coordinator_faults,
    coordinator_steps,
    coordinators,
    kernel_faults,
    measured,
    mirror_checks,
    mirror_steps,
    operator,
    pair_checks,
    pair_faults,
    pair_steps,
    processes,
    readiness,
    whys,
)
from anycast_lab.drills import drill as d
from anycast_lab.drills import kernel_steps as steps
from anycast_lab.drills import tunnel_steps as tunnels
from anycast_lab.drills.checks import Observation, judge, with_packets
from anycast_lab.drills.client_sites import ClientSites
from anycast_lab.drills.coordinator_checks import Answer
from anycast_lab.drills.mirror_watch import MirrorWatch
from anycast_lab.drills.moments import Moments
from anycast_lab.drills.path_steps import Connect, Fetch, PathStep, UnmuteFamily
from anycast_lab.drills.path_watch import PathWatch
from anycast_lab.drills.report import Checked, Report, story
from anycast_lab.drills.screens import SCREENS, ScreensSeen
from anycast_lab.drills.site_watch import SiteWatch, names_a_role, peer_of, resolve
from anycast_lab.drills.strain import Strain
from anycast_lab.drills.stuck_vici import StuckVici
from anycast_lab.drills.tunnel_faults import TunnelFaults
from anycast_lab.drills.witnesses import Probes, Witnesses, gap_moments
from anycast_lab.runner import LabError, Progress, Runner

START_AGENT = ("site-agent", "run", "--detach", "--fleet", "/etc/anycast/fleet.yaml")
_HEALS = (
    *(d.Thaw, d.PowerOn, d.AddVips, steps.LinkUp, steps.UnmuteClients),
    *(d.StartAgent, d.StartClients, d.DnsRight, d.SessionUp, d.CanaryRight, d.FlapClear),
    *(d.EndFlood, d.EmptyConntrack, d.FreeVici, UnmuteFamily),
    *(pair_steps.ContinueAll, pair_steps.UnmuteLink, pair_steps.Join, pair_steps.StartDaemons, *coordinator_steps.HEALS),
)


async def run_drill(runner: Runner, fleet: Fleet, drill: d.Drill, limits: dict[str, d.Limit], progress: Progress) -> Report:
    """Run `drill` and report. Raises LabError when the lab is not healthy to begin with."""
    if drill.kernel == "native" and runner.kernel != "native":
        raise LabError(f"{drill.drill} asserts milliseconds, which this kernel cannot give; set LAB_KERNEL=native")
    if names_a_role(drill.victim):  # which gateway that is, is known only while all is well
        await readiness.ready(runner, fleet, Witnesses(runner, fleet), None, limits["lab_ready"].on(runner.kernel) / 1e3)
        drill = drill.model_copy(update={"victim": resolve(runner, fleet, drill.victim)})
        progress(f"{drill.drill}: the victim is {drill.victim}")
    return await _DrillRun(runner, fleet, drill, limits, progress).run()


class _DrillRun:
    def __init__(self, runner: Runner, fleet: Fleet, drill: d.Drill, limits: dict[str, d.Limit], progress: Progress) -> None:
        self._runner, self._fleet, self._drill, self._limits, self._progress = runner, fleet, drill, limits, progress
        self._witnesses = Witnesses(runner, fleet)
        self._probes = Probes(runner, self._witnesses, fleet, drill.probe_ms, drill.probe_inner)
        self._vici = StuckVici(runner, drill.victim)
        self._strain = Strain(runner, self._witnesses, fleet, drill.victim)
        self._peer = peer_of(fleet, drill.victim) if drill.victim in runner.topology.nodes else ""
        known = drill.victim in runner.topology.nodes
        self._site = SiteWatch(runner, fleet, drill.victim, foreign=drill.foreign) if drill.watches_site and known else None
        self._mirror = MirrorWatch(runner, fleet, drill.victim) if drill.watches_tunnels and known else None
        self._client_sites = ClientSites(runner, fleet, self._witnesses) if drill.watches_clients else None
        self._paths = PathWatch(runner, fleet, drill.victim, self._witnesses) if drill.watches_paths else None
        moments = Moments(runner, fleet, drill.victim, self._peer, self._probes, self._note)
        self._tunnels = None
        if (mirror := self._mirror) is not None:
            self._tunnels = TunnelFaults(runner, fleet, drill.victim, self._peer, mirror.crowd, progress, moments)
        self._fault_ns = self._heal_ns = self._fault_boot_ns = 0
        self._failed_waits, self._screens = list[Checked](), list[ScreensSeen]()
        self._child_sas: int | None = None
        self._sites_before, self._sites_after, self._answers = dict[str, str](), dict[str, str](), dict[str, Answer]()
        self._right_fleet: bytes | None = None
        self._watch = coordinators.FleetWatch(runner, fleet, self._witnesses.moments)

    async def run(self) -> Report:
        drill, runner = self._drill, self._runner
        if drill.kernel == "esp" and not runner.esp:
            raise LabError(f"{drill.drill} needs ESP, which this kernel does not have; set LAB_KERNEL=uml")
        if drill.victim not in runner.topology.nodes:
            raise LabError(f"{drill.drill}: the topology has no node {drill.victim}")
        checked, records = list[Checked](), dict[str, dict[str, Any]]()
        seen: Observation | None = None
        try:
            seen = await self._break_and_watch()
        except LabError as error:  # a drill that could not be carried out is red, and the next one may still be run
            checked.append(Checked("every step of the drill could be taken", str(error), "no obstacle", False))
        finally:
            await self._watch.close()
            if self._client_sites is not None:
                await self._client_sites.close()
            await self._strain.close()
            await self._vici.close()
            if self._tunnels is not None:
                await self._tunnels.close()
            if self._site is not None:
                await self._site.close()
            if self._mirror is not None:
                await self._mirror.close()
            if self._paths is not None:
                await self._paths.close()
            records = await self._probes.stop()
            await self._mend_fleet()
        self._witnesses.read()
        moments, notes = list(self._witnesses.moments), list[str]()
        for client, record in records.items():
            moments += gap_moments(client, record, self._fault_ns)
        if seen is not None and seen.mirror is not None:
            moments += mirror_checks.moments(seen.mirror)
        if seen is not None:
            seen = with_packets(seen, records, self._sites_before, self._sites_after)
            checked += self._failed_waits + self._judge(seen, notes)
        report = Report(
            drill=drill.drill,
            message=drill.message,
            runner=runner.name,
            kernel=runner.kernel,
            esp=runner.esp,
            passed=bool(checked) and all(check.passed for check in checked),
            must_fail=drill.must_fail,
            zero_ns=self._fault_ns or time.time_ns(),
            ended_ns=seen.end_ns if seen is not None else time.time_ns(),
            timeline=story(moments, self._fault_ns) if self._fault_ns else (),
            clients={name: client.packets for name, client in seen.clients.items()} if seen is not None else {},
            checks=tuple(checked),
            notes=tuple(notes),
            floods=self._strain.floods,
            probes=dict(seen.at_site.probes) if seen is not None and seen.at_site is not None else {},
            figures=measured.figures(seen) if seen is not None and drill.measures else {},
        )
        return report if self._mirror is None else self._mirror.secrets.judged(report)

    async def _break_and_watch(self) -> Observation:
        """From health through the drill's steps to everything that was seen, but for the clients' packets."""
        drill, runner = self._drill, self._runner
        self._progress(f"{drill.drill}: waiting for health before the fault")
        probes = self._probes if runner.esp else None
        await self._forget_flaps()
        await readiness.ready(runner, self._fleet, self._witnesses, probes, self._bound("lab_ready"))
        self._probes.signal(signal.SIGSTOP)  # every packet costs what the commands below need, too
        self._sites_before = await self._sites()
        withdraws = await self._witnesses.withdraws()
        await self._watch.start()
        if self._client_sites is not None:
            self._client_sites.start()
        if self._site is not None:
            await self._site.start()
        if self._mirror is not None:
            await self._mirror.start()
        if self._paths is not None:
            await self._paths.start()
        if probes is not None:
            probes.signal(signal.SIGCONT)
            bound = self._bound("lab_ready")
            await readiness.first_packets(self._fleet, self._witnesses, probes, time.monotonic() + bound, bound)
        for step in drill.steps:
            await self._step(step)
        await around.hush(self._site, self._mirror, self._paths, self._probes, self._fault_ns)
        self._progress("reading what was captured")
        mirror = await self._mirror.seen(self._fault_ns) if self._mirror is not None else None
        at_site, why = None, await whys.tell(runner, (drill.victim, self._peer if self._site else ""), self._fault_ns)
        if self._site is not None:
            reasons = {name: pair_checks.reasons_named(text, self._fault_ns) for name, text in why.items()}
            at_site = self._site.seen(self._fault_ns, reasons)
        end_ns = time.time_ns()
        told = None
        if self._mirror is not None and not drill.foreign:  # when nothing is watched any more
            self._progress("looking for secrets in everything that was written")
            told = await self._mirror.secrets.end()
        self._sites_after = self._sites_after or await self._sites()
        self._witnesses.read()
        withdrawn = await self._witnesses.withdraws_since(withdraws)
        return Observation(
            victim=drill.victim,
            site=self._fleet.site_of(drill.victim),
            kernel=runner.kernel,
            esp=runner.esp,
            fault_ns=self._fault_ns,
            heal_ns=self._heal_ns,
            end_ns=end_ns,
            moments=tuple(sorted(self._witnesses.moments)),
            routes=self._witnesses.routes_of(drill.victim),
            withdraws=withdrawn[drill.victim],
            first_reason=whys.first_reason(why.get(drill.victim, "")),
            clients={},
            screens=tuple(self._screens),
            child_sas_at_announcement=self._child_sas,
            by_site=self._witnesses.routes_by_site(),
            own_by_site=self._witnesses.own_by_site(),
            withdraws_everywhere=sum(withdrawn.values()),
            floods=self._strain.floods,
            strangers=self._strain.strangers,
            at_site=at_site,
            mirror=mirror,
            paths=await self._paths.seen() if self._paths is not None else None,
            sites=tuple(self._fleet.sites),
            answers=self._answers,
            told=told,
        )

    def _judge(self, seen: Observation, notes: list[str]) -> list[Checked]:
        checked = []
        for check in self._drill.checks:
            if isinstance(check, d.ClientsMove | d.ClientsStay) and not seen.esp:
                notes.append(f"{check.check} was not judged: no ESP in this kernel")
            else:
                checked.append(judge(check, seen, self._limits))
        return checked

    @property
    def _clients(self) -> Sequence[str]:
        assert self._fleet.lab is not None
        return tuple(self._fleet.lab.clients)

    @property
    def _gateways(self) -> Sequence[str]:
        return tuple(gateway for site in self._fleet.sites.values() for gateway in site.gateways)

    def _bound(self, limit: str) -> float:
        """A limit on this kernel, in seconds."""
        return self._limits[limit].on(self._runner.kernel) / 1e3

    async def _step(self, step: d.Step) -> None:
        victim, runner = self._drill.victim, self._runner
        match step:
            case d.Signal(process=process, signal=name, at=where):
                node = victim if where == "victim" else self._peer
                pid = processes.find(runner, process, node)
                if pid is None:
                    if step.even_if_gone:
                        self._note(step, f"{name} {process}: already gone")
                        return
                    raise LabError(f"{node} runs no {process} to signal")
                number = getattr(signal, f"SIG{name}")
                self._note(step, f"SIG{name} → {process}" + (f" at {node}" if node != victim else ""))
                os.kill(pid, number)
            case _ if isinstance(step, mirror_steps.MirrorStep):
                assert self._mirror is not None, "a drill with this step watches tunnels"
                if isinstance(step, mirror_steps.PlantSecret):
                    self._note(step, f"{step.what} as {step.form} is written to {step.path}")
                self._progress(await self._mirror.cause(step, victim, self._peer))
            case _ if isinstance(step, tunnels.TunnelStep):
                await self._tunnel_step(step)
            case _ if isinstance(step, coordinator_steps.CoordinatorStep):
                await self._coordinator_step(step)
            case client_steps.WaitClient() | client_steps.Reconnect():
                assert self._client_sites is not None, "a drill with this step watches clients"
                bound = self._bound(step.limit) if isinstance(step, client_steps.WaitClient) else 0.0
                note = functools.partial(self._note, step)
                self._failed_waits += await self._client_sites.take(step, self._probes, bound, self._progress, note)
            case _ if isinstance(step, PathStep):
                assert self._paths is not None, "a drill with this step watches paths"
                bound = self._bound(step.limit) if isinstance(step, Fetch | Connect) else 0.0
                await self._paths.take(step, bound, functools.partial(self._note, step))
            case pair_steps.WaitRole():
                await self._wait_role(step)
            case _ if isinstance(step, pair_steps.PairStep):
                self._note(step, f"{step.do.replace('_', ' ')}: {victim}")
                await pair_faults.cause(step, runner, self._fleet, victim, self._peer)
            case d.Freeze():
                self._note(step, f"freeze {victim}")
                await runner.freeze(victim)
            case d.Thaw():
                self._note(step, f"thaw {victim}")
                await runner.thaw(victim)
            case d.PowerOff(at=where) | d.PowerOn(at=where):
                node, off = victim if where == "victim" else self._peer, isinstance(step, d.PowerOff)
                if off and self._mirror is not None:
                    self._mirror.loses_power(node)
                self._note(step, f"power {'off' if off else 'on'} {node}")
                await (runner.power_off if off else runner.power_on)(node)
            case d.RemoveVips() | d.AddVips():
                verb = "delete" if isinstance(step, d.RemoveVips) else "add"
                self._note(step, f"{verb} the VIPs at {victim}")
                for family in self._fleet.service.vips.families:
                    vip = self._fleet.service.vips.of(family)
                    command = ("ip", "address", verb, f"{vip}/{vip.max_prefixlen}", "dev", "lo")
                    done = await runner.exec(victim, command)
                    if done.rc:
                        raise LabError(f"{' '.join(command)} at {victim}: {done.stderr.decode(errors='replace').strip()}")
            case _ if isinstance(step, steps.KernelStep):
                node = self._peer if isinstance(step, steps.FlushStates) and step.at == "peer" else victim
                self._note(step, f"{step.do.replace('_', ' ')} at {node}")
                await kernel_faults.cause(step, runner, self._fleet, victim, self._peer, self._clients)
            case d.StartAgent():
                await processes.ended(runner, d.ProcessName.AGENT, victim)
                self._note(step, f"start site-agent at {victim}")
                done = await runner.exec(victim, START_AGENT)
                if done.rc:
                    raise LabError(f"site-agent did not start at {victim}: {done.stderr.decode(errors='replace').strip()}")
            case d.StopClients():
                for client in self._clients:
                    self._note(step, f"stop {client}")
                    with contextlib.suppress(ProcessLookupError, LabError):
                        os.kill(processes.by_pid_file(runner, client, "/run/charon.pid"), signal.SIGKILL)
            case d.StartClients():
                for client in self._clients:
                    self._note(step, f"start {client}")
                    await runner.exec(client, ("sh", "/etc/anycast/start-client"))
            case d.Flood(kinds=kinds, rate=rate, at=target):
                self._note(step, f"flood of {', '.join(kinds)} at every site")
                await self._strain.flood(kinds, self._limits[rate].on(runner.kernel), target)
            case d.EndFlood():
                await self._strain.end_flood()
                self._note(step, "the flood ends")
            case d.FillConntrack(known_s=known_s):
                await self._strain.track()
                await self._witnesses.until(lambda: False, known_s)
                entries = await self._strain.fill()
                self._note(step, f"{entries} entries fill {victim}'s connection tracking table")
            case d.EmptyConntrack():
                self._note(step, f"{victim}'s connection tracking table is emptied")
                await self._strain.empty()
            case d.AskStranger(at=target):
                await self._strain.ask_as_stranger(target)
                self._progress(f"a stranger got: {self._strain.strangers[-1]}")
            case d.StickVici():
                await self._vici.stick()
                self._note(step, f"{victim}'s control socket says nothing any more")
            case d.FreeVici():
                await self._vici.close()
                self._note(step, f"{victim}'s charon has its control socket back")
            case d.Hold(kind=kind, seconds=seconds, despite=despite):
                self._note(step, f"hold {kind} for {seconds:g} s{' despite ' if despite else ''}{', '.join(despite)}")
                await operator.hold(runner, victim, kind, seconds, despite)
            case d.HoldEnd() | d.FlapClear():
                words = ("hold", "end") if isinstance(step, d.HoldEnd) else ("flap", "clear")
                self._note(step, " ".join(words))
                await operator.say(runner, victim, "site-agent", *words)
            case d.BreakFleet():
                self._note(step, f"a fleet file with mistakes at {victim}")
                self._right_fleet = await operator.break_fleet(runner, victim)
            case d.MendFleet():
                await self._mend_fleet()
            case d.Screens(reason=reason, limit=limit):
                await self._look_at_screens(reason, limit)
            case d.DnsWrong(at=nodes) | d.DnsRight(at=nodes):
                for node in nodes:
                    self._note(step, f"{'wrong' if isinstance(step, d.DnsWrong) else 'right'} zone at {node}")
                    await around.serve_zone(runner, self._fleet, node, wrong=isinstance(step, d.DnsWrong))
            case d.SessionDown(at=router) | d.SessionUp(at=router):
                up = isinstance(step, d.SessionUp)
                self._note(step, f"{'enable' if up else 'disable'} the sessions with {victim} at {router}")
                await around.set_sessions(runner, self._fleet, router, victim, up=up)
            case d.CanaryWrong(at=gateways) | d.CanaryRight(at=gateways):
                wrong = isinstance(step, d.CanaryWrong)
                for gateway in gateways:
                    self._note(step, f"the canary's {'wrong' if wrong else 'own'} certificate at {gateway}")
                    await canaries.set_certificate(runner, self._fleet, gateway, wrong=wrong)
            case d.WaitAlarm():
                gateways, bound = step.at or (victim,), self._bound(step.limit)
                self._failed_waits += await alarm_wait.wait(
                    step, gateways, bound, runner, self._witnesses, self._progress
                )
            case d.Wait(until=what, limit=limit):
                await self._wait(what, limit)
            case d.Pass(seconds=seconds):
                self._progress(f"watching for {seconds:g} s")
                await self._witnesses.until(lambda: False, seconds)

    async def _sites(self) -> dict[str, str]:
        return {client: await self._witnesses.site_of_client(client) for client in self._clients}

    def _note(self, step: d.Step, text: str) -> None:
        whom = "" if isinstance(step, coordinator_steps.CoordinatorStep) else self._drill.victim
        at = self._witnesses.note(step.do, whom, text)
        if not self._fault_ns:
            self._fault_ns, self._fault_boot_ns = at, boottime_ns()
        elif isinstance(step, _HEALS) or (isinstance(step, d.Signal) and step.signal == "CONT"):
            self._heal_ns = at
        self._progress(text)

    async def _wait(self, what: str, limit: str) -> None:
        bound, fault_ns = self._bound(limit), self._fault_ns
        routes = self._witnesses.routes_of(self._drill.victim)
        since = max(self._heal_ns, fault_ns)
        asked = time.time_ns()

        def gone() -> bool:
            return not any(route.present(self._witnesses.moments) for route in routes)

        def back() -> bool:
            return all(route.present(self._witnesses.moments) for route in routes)

        def good() -> bool:
            return self._probes.all_good_since(asked)

        if what == "clients_good" and not self._runner.esp:
            return
        self._progress(f"waiting for {what.replace('_', ' ')} (at most {bound:g} s)")
        # Twice the bound, so that a missed bound is reported with its figure by the check that asserts it.
        if not await self._witnesses.until({"route_gone": gone, "route_back": back, "clients_good": good}[what], 2 * bound):
            text, last = f"{what.replace('_', ' ')} is seen at all", f"{2 * bound:g} s after the last step"
            self._failed_waits.append(Checked(text, "not seen", last, False))
            return
        if what == "clients_good" and not self._sites_after:
            self._sites_after = await self._sites()  # now: soon after a heal they go back
        if what == "route_back":
            self._child_sas = await around.count_child_sas(self._runner, self._drill.victim)
        self._progress(f"{what.replace('_', ' ')} {(time.time_ns() - since) / 1e9:.2f} s after the last fault or heal")

    async def _wait_role(self, step: pair_steps.WaitRole) -> None:
        node, bound = self._drill.victim if step.at == "victim" else self._peer, self._bound(step.limit)
        assert self._site is not None, "a drill with this step watches the site"
        self._progress(f"waiting for {node} to be {step.role} (at most {bound:g} s)")
        end = time.monotonic() + 2 * bound
        while self._site.role(node) != step.role:
            if time.monotonic() >= end:
                text, limit = f"{node} is {step.role}", f"{2 * bound:g} s after the last step"
                self._failed_waits.append(Checked(text, f"it is {self._site.role(node)}", limit, False))
                return
            await self._witnesses.until(lambda: False, 0.05)

    async def _tunnel_step(self, step: tunnels.TunnelStep) -> None:
        assert self._tunnels is not None and self._mirror is not None, "a drill with this step watches tunnels"
        words = " ".join(
            str(value).replace("_", " ") for key, value in step if key != "limit" and value not in (None, False)
        )
        if isinstance(step, tunnels.FAULTS):
            self._note(step, words)
        else:
            self._progress(words)
        if isinstance(step, tunnels.PowerOffWhen):
            self._mirror.secrets.keep(self._drill.victim)
        bound, since = self._bound(step.limit) if hasattr(step, "limit") else 0.0, time.monotonic()
        if problem := await self._tunnels.cause(step, bound):
            limit = f"{2 * bound:g} s after the last step"
            self._failed_waits.append(Checked(f"{step.do.replace('_', ' ')} comes to its end", problem, limit, False))
        elif isinstance(step, tunnels.WaitMirror):
            self._progress(f"every tunnel is protected after {time.monotonic() - since:.2f} s")
        elif isinstance(step, tunnels.MirrorOff | tunnels.ClientsDpd):
            asked = time.time_ns()
            if not await self._witnesses.until(lambda: self._probes.all_good_since(asked), self._bound("lab_ready")):
                raise LabError("not every client has a tunnel again")
            await self._mirror.begin_anew()

    async def _coordinator_step(self, step: coordinator_steps.CoordinatorStep) -> None:
        bound = 0.0 if (limit := getattr(step, "limit", None)) is None else self._bound(limit)
        if isinstance(step, coordinator_steps.WAITS):
            self._failed_waits += await self._watch.wait(step, self._witnesses, bound, self._progress)
            return
        self._note(step, coordinator_faults.words(step))
        await coordinator_faults.cause(step, self._runner, self._fleet, self._answers, bound)

    async def _mend_fleet(self) -> None:
        """Also after a drill that could not be carried out: the next one starts agents by that file."""
        if self._right_fleet is not None:
            await self._runner.put(self._drill.victim, operator.FLEET, self._right_fleet)
            self._right_fleet = None

    async def _look_at_screens(self, reason: str, limit: str) -> None:
        """Until all show the word, or twice the limit; the check judges the best look."""
        listen = compile_gateway(self._fleet, self._drill.victim).agent.metrics_listen
        self._progress(f"looking for {reason} on every screen")
        end = time.monotonic() + 2 * self._bound(limit)
        while True:
            seen = await operator.look(self._runner, self._drill.victim, reason, listen, self._fault_boot_ns)
            self._screens.append(seen)
            if set(seen.found_on) == set(SCREENS) or time.monotonic() >= end:
                return

    async def _forget_flaps(self) -> None:
        """The drills before this one withdrew routes within minutes, and flap control would rightly keep them away."""
        for site in self._fleet.sites.values():
            for gateway in filter(self._runner.power, site.gateways):
                # Without an agent there is nobody to ask and, unless one starts late, nothing that waits.
                await self._runner.exec(gateway, ("site-agent", "flap", "clear"))
