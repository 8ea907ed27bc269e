"""Run one drill on a lab that is up: break, watch, heal, judge.

A drill starts from health (it waits for it) and leaves health behind, so that any drill may follow any other. The fault
is the first step that is not a wait; its time is the report's zero.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anycast.fleet.schema import Fleet
from anycast_lab.drills import drill as d
from anycast_lab.drills import readiness
from anycast_lab.drills.checks import ClientSeen, Observation, judge
from anycast_lab.drills.report import Checked, Report, story
from anycast_lab.drills.timeline import judge_packets
from anycast_lab.drills.witnesses import Probes, Witnesses, gap_moments
from anycast_lab.runner import LabError, Progress, Runner

START_AGENT = ("site-agent", "run", "--detach", "--fleet", "/etc/anycast/fleet.yaml")
VICI = "unix:///run/site-agent/charon.vici"
PID_FILES = {
    d.ProcessName.CHARON: "/run/charon.pid",
    d.ProcessName.AGENT: "/run/site-agent/agent.pid",
    d.ProcessName.EXABGP: "/run/site-agent/exabgp.pid",
}
_HEALS = (d.Thaw, d.PowerOn, d.AddVips, d.StartAgent, d.StartClients)


async def run_drill(runner: Runner, fleet: Fleet, drill: d.Drill, limits: dict[str, d.Limit], progress: Progress) -> Report:
    """Run `drill` and report. Raises LabError when the lab is not healthy to begin with."""
    return await _DrillRun(runner, fleet, drill, limits, progress).run()


class _DrillRun:
    def __init__(self, runner: Runner, fleet: Fleet, drill: d.Drill, limits: dict[str, d.Limit], progress: Progress) -> None:
        self._runner, self._fleet, self._drill, self._limits, self._progress = runner, fleet, drill, limits, progress
        self._witnesses = Witnesses(runner, fleet)
        self._probes = Probes(runner, self._witnesses, fleet)
        self._fault_ns = self._heal_ns = 0
        self._failed_waits: list[Checked] = []
        self._child_sas: int | None = None
        self._sites_before: dict[str, str] = {}
        self._sites_after: dict[str, str] = {}

    async def run(self) -> Report:
        drill, runner = self._drill, self._runner
        if drill.kernel == "esp" and not runner.esp:
            raise LabError(f"{drill.drill} needs ESP, which this kernel does not have; set LAB_KERNEL=uml")
        if drill.victim not in runner.topology.nodes:
            raise LabError(f"{drill.drill}: the topology has no node {drill.victim}")
        checked, records = list[Checked](), dict[str, dict[str, Any]]()
        seen: Observation | None = None
        try:
            if runner.esp:
                await self._probes.start()
            seen = await self._break_and_watch()
        except LabError as error:  # a drill that could not be carried out is red, and the next one may still be run
            checked.append(Checked("every step of the drill could be taken", str(error), "no obstacle", False))
        finally:
            records = await self._probes.stop()
        self._witnesses.read()
        moments, notes = list(self._witnesses.moments), list[str]()
        for client, record in records.items():
            moments += gap_moments(client, record, self._fault_ns)
        if seen is not None:
            seen = self._with_packets(seen, records)
            checked += self._failed_waits + self._judge(seen, notes)
        return Report(
            drill=drill.drill,
            message=drill.message,
            kernel=runner.kernel,
            esp=runner.esp,
            passed=bool(checked) and all(check.passed for check in checked),
            must_fail=drill.must_fail,
            zero_ns=self._fault_ns or time.time_ns(),
            timeline=story(moments, self._fault_ns) if self._fault_ns else (),
            clients={name: client.packets for name, client in seen.clients.items()} if seen is not None else {},
            checks=tuple(checked),
            notes=tuple(notes),
        )

    async def _break_and_watch(self) -> Observation:
        """From health through the drill's steps to everything that was seen, but for the clients' packets."""
        drill, runner = self._drill, self._runner
        self._progress(f"{drill.drill}: waiting for health before the fault")
        probes = self._probes if runner.esp else None
        await self._forget_flaps()
        await readiness.ready(runner, self._fleet, self._witnesses, probes, self._bound("lab_ready"))
        self._sites_before = {client: await self._witnesses.site_of_client(client) for client in self._clients}
        withdraws = await self._witnesses.withdraws(drill.victim)
        for step in drill.steps:
            await self._step(step)
        self._sites_after = {client: await self._witnesses.site_of_client(client) for client in self._clients}
        self._witnesses.read()
        return Observation(
            victim=drill.victim,
            site=self._fleet.site_of(drill.victim),
            kernel=runner.kernel,
            esp=runner.esp,
            fault_ns=self._fault_ns,
            heal_ns=self._heal_ns,
            end_ns=time.time_ns(),
            moments=tuple(sorted(self._witnesses.moments)),
            routes=self._witnesses.routes_of(drill.victim),
            withdraws=await self._withdraws_since(withdraws),
            first_reason=await self._first_reason(),
            clients={},
            child_sas_at_announcement=self._child_sas,
        )

    def _with_packets(self, seen: Observation, records: dict[str, dict[str, Any]]) -> Observation:
        clients = {
            client: ClientSeen(
                packets=judge_packets(record, seen.fault_ns - 1_000_000_000, seen.end_ns),
                site_before=self._sites_before[client],
                site_after=self._sites_after[client],
            )
            for client, record in records.items()
        }
        return dataclasses.replace(seen, clients=clients)

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

    def _bound(self, limit: str) -> float:
        """A limit on this kernel, in seconds."""
        return self._limits[limit].on(self._runner.kernel) / 1e3

    async def _step(self, step: d.Step) -> None:
        victim, runner = self._drill.victim, self._runner
        match step:
            case d.Signal(process=process, signal=name):
                pid = self._find(process)
                if pid is None:
                    if step.even_if_gone:
                        self._note(step, f"{name} {process}: already gone")
                        return
                    raise LabError(f"{victim} runs no {process} to signal")
                number = getattr(signal, f"SIG{name}")
                self._note(step, f"SIG{name} → {process}")
                os.kill(pid, number)
            case d.Freeze():
                self._note(step, f"freeze {victim}")
                await runner.freeze(victim)
            case d.Thaw():
                self._note(step, f"thaw {victim}")
                await runner.thaw(victim)
            case d.PowerOff():
                self._note(step, f"power off {victim}")
                await runner.power_off(victim)
            case d.PowerOn():
                self._note(step, f"power on {victim}")
                await runner.power_on(victim)
            case d.RemoveVips() | d.AddVips():
                verb = "delete" if isinstance(step, d.RemoveVips) else "add"
                self._note(step, f"{verb} the VIPs at {victim}")
                for family in self._fleet.service.vips.families:
                    vip = self._fleet.service.vips.of(family)
                    command = ("ip", "address", verb, f"{vip}/{vip.max_prefixlen}", "dev", "lo")
                    done = await runner.exec(victim, command)
                    if done.rc:
                        raise LabError(f"{' '.join(command)} at {victim}: {done.stderr.decode(errors='replace').strip()}")
            case d.StartAgent():
                self._note(step, f"start site-agent at {victim}")
                done = await runner.exec(victim, START_AGENT)
                if done.rc:
                    raise LabError(f"site-agent did not start at {victim}: {done.stderr.decode(errors='replace').strip()}")
            case d.StopClients():
                for client in self._clients:
                    self._note(step, f"stop {client}")
                    with contextlib.suppress(ProcessLookupError, LabError):
                        os.kill(self._pid(client, "/run/charon.pid"), signal.SIGKILL)
            case d.StartClients():
                for client in self._clients:
                    self._note(step, f"start {client}")
                    await runner.exec(client, ("sh", "/etc/anycast/start-client"))
            case d.Wait(until=what, limit=limit):
                await self._wait(what, limit)
            case d.Pass(seconds=seconds):
                self._progress(f"watching for {seconds:g} s")
                await self._witnesses.until(lambda: False, seconds)

    def _note(self, step: d.Step, text: str) -> None:
        at = self._witnesses.note(step.do, self._drill.victim, text)
        if not self._fault_ns:
            self._fault_ns = at
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
            self._failed_waits.append(
                Checked(
                    f"{what.replace('_', ' ')} is seen at all", "not seen", f"{2 * bound:g} s after the last step", False
                )
            )
            return
        if what == "route_back":
            self._child_sas = await self._count_child_sas()
        self._progress(f"{what.replace('_', ' ')} {(time.time_ns() - since) / 1e9:.2f} s after the last fault or heal")

    async def _forget_flaps(self) -> None:
        """The drills before this one withdrew routes within minutes, and flap control would rightly keep them away."""
        for site in self._fleet.sites.values():
            for gateway in filter(self._runner.power, site.gateways):
                # Without an agent there is nobody to ask and, unless one starts late, nothing that waits.
                await self._runner.exec(gateway, ("site-agent", "flap", "clear"))

    async def _count_child_sas(self) -> int | None:
        # swanctl's own default socket is another charon's; the agent's lies in its run directory.
        done = await self._runner.exec(self._drill.victim, ("swanctl", "--list-sas", "--uri", VICI))
        return done.text.count("INSTALLED") if done.rc == 0 else None

    async def _withdraws_since(self, before: int) -> int:
        """BIRD's counters start anew with a session, so a lower number means: all of them are ours."""
        now = await self._witnesses.withdraws(self._drill.victim)
        return now - before if now >= before else now

    async def _first_reason(self) -> str:
        """What `site-agent why` names at the victim for the first thing that went wrong after the fault."""
        if not self._runner.power(self._drill.victim):
            return ""
        done = await self._runner.exec(self._drill.victim, ("site-agent", "why", "--json", "--since", str(self._fault_ns)))
        try:
            answer = json.loads(done.text)
            return str(answer["first"]["reason"]) if answer.get("first") else ""
        except (ValueError, KeyError, TypeError):
            return ""

    def _find(self, process: d.ProcessName) -> int | None:
        with contextlib.suppress(LabError):
            if process is d.ProcessName.BRIDGE:
                return self._child_of(self._pid(self._drill.victim, PID_FILES[d.ProcessName.EXABGP]))
            return self._pid(self._drill.victim, PID_FILES[process])
        return None

    def _pid(self, node: str, pid_file: str) -> int:
        """A node's process by its pid file, as a pid that this server can signal."""
        try:
            inner = int(Path(f"/proc/{self._runner.pid(node)}/root{pid_file}").read_text().split()[0])
        except (OSError, ValueError, IndexError) as error:
            raise LabError(f"{node} has no {pid_file}") from error
        for pid in self._runner.pids(node):
            with contextlib.suppress(OSError):
                if _status(pid, "NSpid")[-1] == str(inner):
                    return pid
        raise LabError(f"{node} runs no process {inner} ({pid_file})")

    def _child_of(self, parent: int) -> int:
        for pid in self._runner.pids(self._drill.victim):
            with contextlib.suppress(OSError):
                if _status(pid, "PPid") == [str(parent)]:
                    return pid
        raise LabError(f"{self._drill.victim}: process {parent} has no child")


def _status(pid: int, key: str) -> list[str]:
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == key:
                return value.split()
    return []
