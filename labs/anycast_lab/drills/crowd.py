"""A site's crowd in a drill: it connects, rekeys and sends when told to, and what its clients have is looked at.

What is looked at is `swanctl --list-sas` and `ip address` on the clients' machines, the log of the crowd's charon, and
its packets.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from anycast.fleet.schema import Fleet
from anycast_lab.drills import crowd_steps as steps
from anycast_lab.drills import pairs, processes
from anycast_lab.drills.cables import only_interface
from anycast_lab.drills.crowd_checks import COUNT, CrowdSeen, Look, Sa, Takeover, judge_probes, read_log, sas
from anycast_lab.drills.in_flight_checks import Cut
from anycast_lab.machines.client_profile import member_name
from anycast_lab.runner import LabError, Process, Progress, Runner

_ACTOR = ("python", "-m", "anycast_lab.drills.crowd_actor")
_OUT = "/etc/anycast/out"
_LOOK_S = 1.0
_COMMAND_S = 400.0
"""No bound that is asserted, only an end to waiting for hundreds of handshakes on one processor."""
_SETTLE_S = 60.0
"""A client in the middle of a rekey has two of a kind; the last look is what is judged."""
_BEFORE_NS = 1_000_000_000
_SHOWN = 3


class Crowd:
    """One drill's. `close` at the end, whatever happened."""

    def __init__(self, runner: Runner, fleet: Fleet, site: str) -> None:
        assert fleet.lab is not None
        self._runner, self._fleet, self._lab, self._site = runner, fleet, fleet.lab, site
        self.node = next(iter(self._lab.crowds), "")
        self._members: list[str] = []
        self._guests: list[str] = []
        self._turn = 0
        self.cuts: list[Cut] = []
        self._logged = 0
        self._looks: list[Look] = []
        self._takeovers: list[Takeover] = []
        self._losses_ns: list[int] = []
        self._sending: list[str] = []
        """Whose packets pass all the time."""
        self._pinged: dict[str, list[str]] | None = None
        self._feed: list[tuple[int, str]] = []
        self._rekeys: Process | None = None
        self._probe: Process | None = None
        self.again = 0
        """Connections that came only at another attempt, which the client itself made."""

    @property
    def size(self) -> int:
        """How many clients have connected."""
        return len(self._members)

    async def cause(self, step: steps.CrowdStep, bound_s: float, say: Progress) -> str:
        """Do it; empty, or why what is waited for is not so at twice the bound. Raises LabError where it cannot."""
        match step:
            case steps.CrowdUp(count=count):
                say(await self.up(count))
            case steps.CrowdRekey():
                return await self._rekey(bound_s)
            case steps.CrowdRekeys(per_second=rate):
                words = (
                    "rekeys",
                    "--child",
                    self._fleet.service.name,
                    "--per-second",
                    str(rate),
                    "--out",
                    f"{_OUT}/crowd.rekeys",
                )
                self._rekeys = await self._runner.spawn(self.node, (*_ACTOR, *words, *self._members))
            case steps.EndCrowdRekeys():
                return await self._end_rekeys(bound_s, say)
            case steps.CrowdProbe(count=count, every_ms=every_ms):
                say(f"packets of {', '.join(await self.probe(count, every_ms))}")
            case steps.CrowdGoesOn():
                return await self._goes_on(bound_s)
            case steps.WatchFeed():
                return await self._watch_feed(bound_s, say)
            case steps.FillKernel() | steps.LoseInFlight():
                raise LabError(f"{step.do} is for one who knows which gateway is the victim")
        return ""

    @property
    def interface(self) -> str:
        return only_interface(self._runner, self.node)

    @property
    def outer(self) -> IPv4Address:
        """Where all of them connect from."""
        own = self._lab.crowds[self.node].ipv4
        assert own is not None, "a crowd connects by IPv4"
        return IPv4Address(str(own[1].ip))

    # Connecting

    async def up(self, count: int) -> str:
        """The next `count` connect; how long it took. Raises LabError where one cannot."""
        await self._start()
        names = [member_name(self.node, len(self._members) + n) for n in range(1, count + 1)]
        began = time.monotonic()
        answer = json.loads(await self._act("up", "--child", self._fleet.service.name, *names))
        self._members += names
        if answer["failed"]:
            name, why = next(iter(answer["failed"].items()))
            raise LabError(f"{len(answer['failed'])} of {count} clients cannot connect, {name}: {why}")
        self.again += len(answer["again"])
        again = f", {len(answer['again'])} at another attempt" if answer["again"] else ""
        await self.look()
        return f"{count} clients connected in {time.monotonic() - began:.1f} s{again}"

    async def _start(self) -> None:
        """Its charon, unless it runs; and note where this drill's log begins."""
        if not self.node:
            raise LabError("the fleet has no crowd")
        try:
            processes.by_pid_file(self._runner, self.node, "/run/charon.pid")
        except LabError:
            await self._runner.exec(self.node, ("sh", "/etc/anycast/start-client"), timeout=_COMMAND_S)
        if not self._members:
            self._logged = len(self._log())

    async def _act(self, *words: str) -> str:
        done = await self._runner.exec(self.node, (*_ACTOR, *words), timeout=_COMMAND_S)
        if done.rc:
            raise LabError(f"the crowd cannot {words[0]}: {done.stderr.decode(errors='replace').strip()[-500:]}")
        return done.text

    # Looking

    async def look(self) -> Look:
        """At every client of the lab."""
        found: dict[str, tuple[Sa, ...]] = {}
        addresses = set[str]()
        for node in (*self._lab.clients, self.node):
            listed = sas((await self._runner.exec(node, ("swanctl", "--list-sas"))).text)
            found |= listed if node == self.node else {f"{node}/{name}": one for name, one in listed.items()}
            links = json.loads((await self._runner.exec(node, ("ip", "-json", "address"))).text or "[]")
            addresses |= {one["local"] for link in links for one in link.get("addr_info", ()) if "local" in one}
        self._looks.append(Look(at_ns=time.time_ns(), sas=found, addresses=frozenset(addresses)))
        return self._looks[-1]

    def _file(self, name: str) -> Path:
        return self._runner.lab_dir / self.node / "etc" / "out" / name

    def _log(self) -> str:
        path = self._file("charon.log")
        return path.read_text(errors="replace") if path.exists() else ""

    def _new_log(self) -> str:
        return self._log()[self._logged :]

    def _inner(self, look: Look, names: list[str]) -> list[str]:
        """As the actor wants them."""
        pools = [pool for site in self._fleet.sites.values() for f in site.pools.families if (pool := site.pools.of(f))]
        found = []
        for name in names:
            inner = [
                one for sa in look.sas.get(name, ())[:1] for one in sa.inner if any(ip_address(one) in p for p in pools)
            ]
            found += [f"{name}={','.join(inner)}"] if inner else []
        return found

    def _targets(self) -> tuple[str, ...]:
        server = next(one for one in self._lab.servers.values() if one.site == self._site)
        return tuple(word for family in server.families for word in ("--to", str(server.of(family))))

    # Steps

    async def _rekey(self, bound_s: float) -> str:
        before = {name: one for name, one in (await self.look()).sas.items() if name in self._members}
        await self._act("rekey", *self._members)
        end = time.monotonic() + 2 * bound_s
        while True:
            now = (await self.look()).sas
            old = [n for n in self._members if len(now.get(n, ())) != 1 or now[n][0].spis == before[n][0].spis]
            if not old:
                return ""
            if time.monotonic() >= end:
                return f"{len(old)} clients have no other IKE_SA"
            await asyncio.sleep(_LOOK_S)

    async def _end_rekeys(self, bound_s: float, say: Progress) -> str:
        if self._rekeys is not None:
            self._rekeys.send_signal(signal.SIGKILL)
            self._rekeys = None
            say(f"the crowd began {self._file('crowd.rekeys').read_text() or 0} rekeys")
        end = time.monotonic() + 2 * bound_s
        while torn := await self._torn():
            if time.monotonic() >= end:
                return f"{len(torn)} clients are in the middle of a rekey"
            await asyncio.sleep(_LOOK_S)
        return ""

    async def _torn(self) -> list[str]:
        now = (await self.look()).sas
        return [name for name in self._members if [sa.whole for sa in now.get(name, ())] != [True]]

    async def probe(self, count: int, interval_ms: float) -> list[str]:
        """Their names. Goes on when they send."""
        names = sorted(random.sample(self._members, min(count, len(self._members))))
        for suffix in ("json", "live"):
            self._file(f"crowd.{suffix}").unlink(missing_ok=True)
        words = ("probe", *self._targets(), "--interval-ms", str(interval_ms), "--out", f"{_OUT}/crowd.json")
        self._probe = await self._runner.spawn(self.node, (*_ACTOR, *words, *self._inner(await self.look(), names)))
        end = time.monotonic() + _COMMAND_S
        while not self._file("crowd.live").exists():
            if self._probe.returncode is not None or time.monotonic() > end:
                raise LabError("the crowd sends no packets")
            await asyncio.sleep(0.1)
        self._sending = names
        return names

    def loses_power(self) -> None:
        """A gateway is about to."""
        self._losses_ns.append(time.time_ns())

    async def _goes_on(self, bound_s: float) -> str:
        asking = tuple(name for name in self._members if name not in self._sending)
        takeover, end = Takeover(time.time_ns(), asking), time.monotonic() + 2 * bound_s
        self._takeovers.append(takeover)
        while True:
            silent = set(takeover.there) - takeover.answers(read_log(self._new_log())).keys()
            if not silent or time.monotonic() >= end:
                break
            await asyncio.sleep(_LOOK_S)
        sources = self._inner(await self.look(), self._members)
        self._pinged = json.loads(await self._act("ping", *self._targets(), *sources))
        lacking = set(self._members) - {word.partition("=")[0] for word in sources}
        self._pinged |= {name: ["has no inner address"] for name in lacking}
        return f"{len(silent)} clients have no answer" if silent else ""

    async def _watch_feed(self, bound_s: float, say: Progress) -> str:
        end, said = time.monotonic() + 2 * bound_s, ""
        while True:
            active = pairs.actives(self._runner, self._fleet, self._site)
            for gateway in active[:1]:
                shown = await self._runner.exec(gateway, ("site-agent", "status"), env={"COLUMNS": "400"})
                lines = [line.strip() for line in shown.text.splitlines()]
                line = next((line for line in lines if line.startswith("unprotected: ")), "")
                if line:  # and how long that takes, which stands in a line of its own
                    line += "".join(f"; {each}" for each in lines if each.startswith("rekeys: "))
                if not any(line.startswith("mirror: connected ") for line in lines):
                    line = ""  # what it says is of a time before
                if line:
                    self._feed.append((time.time_ns(), line))
                if line != said:
                    say(said := line)
                if (found := COUNT.search(line)) and found[1] == "0" and int(found[2]) >= 2 * self.size:
                    return ""
            if time.monotonic() >= end:
                return f"it says: {said or 'nothing'}"
            await asyncio.sleep(_LOOK_S)

    # Exchanges in flight

    async def provoke(self, connecting: int, rekeying: int) -> None:
        """Others than last time connect, some rekey, all tell of an address; none of it is waited for."""
        leaving, strangers = self._guests, range(self._lab.crowds[self.node].members - len(self._members))
        picked = [strangers[(self._turn * connecting + n) % len(strangers)] for n in range(connecting)]
        self._guests = [member_name(self.node, len(self._members) + n + 1) for n in picked]
        rekey = [self._members[(self._turn * rekeying + n) % len(self._members)] for n in range(rekeying)]
        verb, self._turn = "del" if self._turn % 2 else "add", self._turn + 1
        words = ["provoke", "--child", self._fleet.service.name]
        words += ["--ip", f"address {verb} {self.outer + 1}/32 dev {self.interface}"]
        words += [word for name in rekey for word in ("--rekey", name)]
        words += [word for name in leaving for word in ("--leave", name)]
        await self._act(*words, *self._guests)

    async def lacking(self) -> str:
        """Empty where everybody has a tunnel and packets in it, also who connected last; else who has not."""
        everybody, now = [*self._members, *self._guests], await self.look()
        without = [n for n in everybody if not any(sa.state == "ESTABLISHED" and sa.children for sa in now.sas.get(n, ()))]
        if without:
            return f"{', '.join(without[:_SHOWN])} ({len(without)} of {len(everybody)}) have no tunnel"
        silent = json.loads(await self._act("ping", "--rounds", "1", *self._targets(), *self._inner(now, everybody)))
        return f"no packets come back to {', '.join(list(silent)[:_SHOWN])} ({len(silent)})" if silent else ""

    # The end

    async def end(self, fault_ns: int) -> CrowdSeen | None:
        """What was seen; None where nobody has connected."""
        if not self._members:
            return None
        records = []
        if self._probe is not None:
            self._probe.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self._probe.wait(), 30)
            records = json.loads(self._file("crowd.json").read_text())
            self._probe = None
        end = time.monotonic() + _SETTLE_S
        while await self._torn() and time.monotonic() < end:  # a Backup that came back may be fed still
            await asyncio.sleep(_LOOK_S)
        return CrowdSeen(
            members=tuple(self._members),
            looks=tuple(self._looks),
            log=read_log(self._new_log()),
            takeovers=tuple(self._takeovers),
            pinged=self._pinged,
            probed=judge_probes(records, fault_ns - _BEFORE_NS, time.time_ns()),
            feed=tuple(self._feed),
            cuts=tuple(self.cuts),
            losses_ns=tuple(self._losses_ns),
        )

    async def close(self) -> None:
        """All of them leave, so that the next drill begins without a crowd."""
        for process in (self._rekeys, self._probe):
            if process is not None:
                process.send_signal(signal.SIGKILL)
        self._rekeys = self._probe = None
        if not self._members:
            return
        members, self._members, self._guests = [*self._members, *self._guests], [], []
        try:
            await self._act("down", *members)
            listed = sas((await self._runner.exec(self.node, ("swanctl", "--list-sas"))).text)
        except LabError:
            listed = {"": ()}
        if listed:  # it starts anew with the next drill that wants it
            os.kill(processes.by_pid_file(self._runner, self.node, "/run/charon.pid"), signal.SIGKILL)
