"""Carries out what a drill needs an exact moment for (`moment_steps`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from ipaddress import ip_address

from anycast.fleet.schema import Fleet
from anycast_lab.capture.frames import Address, Exchange, Ike, Sealed
from anycast_lab.drills import ike_ear, operator, pairs, processes
from anycast_lab.drills import moment_steps as steps
from anycast_lab.drills.cables import far_end
from anycast_lab.drills.drill import ProcessName
from anycast_lab.drills.mirror_checks import ike_sas
from anycast_lab.drills.moment_judges import child_spis, complete_exchanges
from anycast_lab.drills.witnesses import Probes
from anycast_lab.runner import LabError, Runner

VICI, CLIENT_VICI = "/run/site-agent/charon.vici", "/run/charon.vici"
_LOOK_S = 0.2
_SHOWN = 4
_BEGIN_S = 30.0
"""No bound that is asserted, only an end to waiting: a charon starts, a command is started."""
_CLIENT_CONF = "/etc/anycast/swanctl/swanctl.conf"
_DPD, _NO_DPD = b"dpd_delay = 2s", b"dpd_delay = 0s"
_CHARON_LOG = "/run/site-agent/charon.log"
_PRELOAD, _LIBRARY = "/etc/ld.so.preload", "/etc/skewed-clock.so"
_SOURCE = "/opt/anycast/labs/anycast_lab/drills/skewed_clock.c"
_STOP_AGENT = "kill -TERM $(cat /run/site-agent/agent.pid)"
_EXECUTE_AGENT = "exec /opt/anycast-commands/site-agent run --detach --fleet /etc/anycast/fleet.yaml"
_FORGET = "ip xfrm state flush; ip xfrm policy flush; ip route flush table 220; ip -6 route flush table 220"
_CLOCK_S = 5.0
"""Between two readings of a clock, one of which starts a process."""
_REKEY_JOB = re.compile(r"creating rekey job for CHILD_SA")


class Moments:
    """One drill's. `close` at the end, whatever happened."""

    def __init__(
        self, runner: Runner, fleet: Fleet, victim: str, peer: str, probes: Probes,
        note: Callable[[steps.MomentStep, str], None],
    ) -> None:  # fmt: skip
        """`note` writes into the drill's timeline that the fault is now."""
        assert fleet.lab is not None
        self._runner, self._fleet, self._lab = runner, fleet, fleet.lab
        self._victim, self._peer, self.probes, self._note = victim, peer, probes, note
        self._without_dpd = self._skewed = False
        self._translating: set[str] = set()

    async def cause(self, step: steps.MomentStep, bound_s: float) -> str:
        """Do it; empty, or what was not as it must be. Raises LabError where it cannot."""
        match step:
            case steps.PowerOffWhen():
                return await self._power_off_when(step, bound_s)
            case steps.SoftExpire(seconds=seconds):
                return await self._soft_expire(seconds)
            case steps.RekeyEach():
                return await self._rekey_each(bound_s)
            case steps.ClientsDpd(back=back):
                await self._clients_dpd(back=back)
                return ""
            case steps.NatInside():
                for gateway in (self._victim, self._peer):
                    await operator.say(self._runner, gateway, *self._nat_rule(gateway, "-A"))
                    self._translating.add(gateway)
                return ""
            case steps.SkewClock(seconds=seconds):
                await self._skew_clock(f"{seconds:+d}")
                return ""
            case steps.Idle(seconds=seconds, asks=asks):
                return await self._idle(seconds, asks)

    async def _power_off_when(self, step: steps.PowerOffWhen, bound_s: float) -> str:
        client, exchange, response = self._outer(step.client), Exchange[step.exchange.upper()], step.message == "response"
        late_ms = 0.0

        def wanted(ike: Ike) -> bool:
            return ike.exchange == exchange and ike.response is response and client in (ike.source, ike.destination)

        async def moment() -> None:
            nonlocal late_ms
            try:
                heard = await ike_ear.hear(ear, wanted, _BEGIN_S)
            except TimeoutError:
                raise LabError(f"no {step.message} of {step.exchange} of {step.client} passed") from None
            await asyncio.sleep(max(0.0, step.after_ms / 1e3 - (time.time_ns() - heard.at_ns) / 1e9))
            after_ms = (time.time_ns() - heard.at_ns) / 1e6
            late_ms = after_ms - step.after_ms
            what = f"{step.exchange} {step.message} of {step.client}"
            self._note(step, f"power off {self._victim}, {after_ms:.1f} ms after the {what}")

        with ike_ear.open_ear(self._runner, *far_end(self._runner, self._fleet, self._victim, "uplink")) as ear:
            causing = asyncio.create_task(self._provoke(step))
            try:
                await self._runner.power_off(self._victim, when=moment)
                await causing
            finally:
                causing.cancel()
        return f"{late_ms:.1f} ms later than asked" if late_ms > bound_s * 1e3 else ""

    async def _provoke(self, step: steps.PowerOffWhen) -> None:
        if step.exchange == "ike_auth":
            await restart_client(self._runner, step.client, forget=True)
        else:
            await self._runner.exec(step.client, ("swanctl", "--rekey", "--child", self._fleet.service.name))

    def _outer(self, client: str) -> Address:
        """Where the gateways see it."""
        behind = self._lab.nat.get(self._lab.clients[client].behind)
        ends = self._lab.clients[client] if behind is None else behind.outside
        family = ends.ipv4 if ends.ipv4 is not None else ends.ipv6
        assert family is not None, "a client has an address"
        return ip_address(str(family[1].ip))

    async def _soft_expire(self, seconds: float) -> str:
        before = [await self._kernels_spis(gateway) for gateway in (self._victim, self._peer)]
        logged = len(await self._runner.get(self._peer, _CHARON_LOG))
        with ike_ear.open_ear(self._runner, *far_end(self._runner, self._fleet, self._peer, "uplink")) as ear:
            expired = int(await operator.say(self._runner, self._peer, "python", "-m", "anycast_lab.drills.soft_expire"))
            sent = await ike_ear.coming_in(ear, seconds)
        heard = _REKEY_JOB.findall((await self._runner.get(self._peer, _CHARON_LOG))[logged:].decode(errors="replace"))
        after = [await self._kernels_spis(gateway) for gateway in (self._victim, self._peer)]
        problems = []
        if expired < 2 * len(self._lab.clients) or not heard:
            problems.append(f"{expired} SAs expired, and the Backup's charon heard of {len(heard)}")
        if tunnel := [one for one in sent if isinstance(one, Ike | Sealed)]:
            problems.append(f"the Backup sent {len(tunnel)} packets of IKE or ESP: {', '.join(map(_said, tunnel[:_SHOWN]))}")
        if before != after or not all(before):
            problems.append("SAs came or went")
        return "; ".join(problems)

    async def _kernels_spis(self, gateway: str) -> frozenset[str]:
        listed = await operator.say(self._runner, gateway, "ip", "xfrm", "state")
        return frozenset(re.findall(r"\bspi (0x[0-9a-f]+)", listed))

    async def _rekey_each(self, bound_s: float) -> str:
        active = pairs.actives(self._runner, self._fleet, self._fleet.site_of(self._victim))
        if len(active) != 1:
            return f"{', '.join(active) or 'nobody'} is Active"
        problems = []
        for node in (*self._lab.clients, active[0]):
            vici, clients = (VICI, tuple(self._lab.clients)) if node == active[0] else (CLIENT_VICI, (node,))
            for kind in ("child", "ike"):
                before = {client: await self._has(client, kind) for client in clients}
                words = ("swanctl", "--rekey", f"--{kind}", self._fleet.service.name, "--uri", f"unix://{vici}")
                await operator.say(self._runner, node, *words)
                end = time.monotonic() + bound_s
                while waiting := [c for c in clients if not _renewed(before[c], await self._has(c, kind))]:
                    if time.monotonic() >= end:
                        problems.append(f"{node} has rekeyed no {kind.upper()}_SA of {', '.join(waiting)}")
                        break
                    await asyncio.sleep(_LOOK_S)
                else:
                    gateways = await self._has(active[0], kind)
                    ends = frozenset[object]().union(*[await self._has(client, kind) for client in clients])
                    if not ends <= gateways:
                        problems.append(f"{active[0]} does not list what {', '.join(clients)} has")
        return "; ".join(problems)

    async def _has(self, node: str, kind: str) -> frozenset[object]:
        """SPIs of its IKE_SAs that are established, or of its CHILD_SAs that are installed."""
        vici = CLIENT_VICI if node in self._lab.clients else VICI
        listed = await operator.say(self._runner, node, "swanctl", "--list-sas", "--uri", f"unix://{vici}")
        if kind == "ike":
            return frozenset(one.spis for one in ike_sas(listed) if one.state == "ESTABLISHED")
        return frozenset(child_spis(listed))

    async def _clients_dpd(self, *, back: bool) -> None:
        old, new = (_NO_DPD, _DPD) if back else (_DPD, _NO_DPD)
        for client in self._lab.clients:
            text = await self._runner.get(client, _CLIENT_CONF)
            if old not in text:
                raise LabError(f"{_CLIENT_CONF} of {client} has no {old.decode()!r}")
            await self._runner.put(client, _CLIENT_CONF, text.replace(old, new))
            await restart_client(self._runner, client)
        self._without_dpd = not back
        end = time.monotonic() + _BEGIN_S
        while missing := [client for client in self._lab.clients if not await self._has(client, "child")]:
            if time.monotonic() >= end:
                raise LabError(f"{', '.join(missing)} has no tunnel again")
            await asyncio.sleep(_LOOK_S)

    async def _idle(self, seconds: float, asks: str) -> str:
        active = pairs.actives(self._runner, self._fleet, self._fleet.site_of(self._victim))
        if len(active) != 1:
            return f"{', '.join(active) or 'nobody'} is Active"
        with ike_ear.open_ear(self._runner, *far_end(self._runner, self._fleet, active[0], "uplink")) as ear:
            self.probes.signal(signal.SIGSTOP)
            try:
                messages = await ike_ear.all_ike(ear, seconds)
            finally:
                self.probes.signal(signal.SIGCONT)
        problems = []
        for client in self._lab.clients:
            outer = self._outer(client)
            asked = complete_exchanges(messages, Exchange.INFORMATIONAL, outer)
            if not asked[asks]:
                said = f"{len([one for one in messages if outer in (one.source, one.destination)])} messages"
                problems.append(f"the {asks} of {client}'s tunnel asked and was answered never ({said})")
        return "; ".join(problems)

    def _nat_rule(self, gateway: str, verb: str) -> tuple[str, ...]:
        site = self._fleet.sites[self._fleet.site_of(gateway)]
        inside, pool = site.gateways[gateway].inside, site.pools.ipv4
        if inside is None or site.vrrp is None or pool is None or site.vrrp.inside.ipv4 is None:
            raise LabError(f"{gateway} has no virtual address inside to translate to")
        where = ("-t", "nat", verb, "POSTROUTING", "-s", str(pool), "-o", inside.interface)
        return ("iptables-legacy", *where, "-j", "SNAT", "--to-source", str(site.vrrp.inside.ipv4))

    async def _skew_clock(self, offset: str) -> None:
        """Empty: none. The agent is executed, not forked from the lab's server as elsewhere: only that loads a library."""
        if shutil.which("tcc") is None:
            raise LabError("no clock can be skewed: the package `tcc` is not installed (install/apt-packages-dev)")
        runner, node = self._runner, self._peer
        if runner.power(node):
            if offset:
                await operator.say(runner, node, "tcc", "-shared", "-nostdlib", f"-DAHEAD={offset}", "-o", _LIBRARY, _SOURCE)
            await runner.put(node, _PRELOAD, f"{_LIBRARY}\n".encode() if offset else b"")
            await runner.power_off(node)
        await runner.power_on(node)
        self._skewed = bool(offset)
        if offset:
            await operator.say(runner, node, "sh", "-c", _STOP_AGENT)
            await processes.ended(runner, ProcessName.AGENT, node)
            await operator.say(runner, node, "sh", "-c", _EXECUTE_AGENT)
            ahead = float(await operator.say(runner, node, "date", "+%s.%N")) - time.time()
            if abs(ahead - float(offset)) > _CLOCK_S:
                raise LabError(f"{node}'s clock is {ahead:+.1f} s from the kernel's, not {offset} s")

    async def close(self) -> None:
        if self._skewed:
            with contextlib.suppress(LabError):
                await self._skew_clock("")
        for gateway in self._translating:
            with contextlib.suppress(LabError):  # gone with its power
                await operator.say(self._runner, gateway, *self._nat_rule(gateway, "-D"))
        self._translating.clear()
        if self._without_dpd:
            with contextlib.suppress(LabError):
                await self._clients_dpd(back=True)


def _renewed(before: frozenset[object], now: frozenset[object]) -> bool:
    return bool(now) and not before & now


def _said(one: Ike | Sealed) -> str:
    what = f"exchange {one.exchange}, message {one.message}" if isinstance(one, Ike) else f"ESP {one.spi:08x}"
    return f"{what} from {one.source} to {one.destination}"


async def restart_client(runner: Runner, client: str, *, forget: bool = False) -> None:
    """Its charon is killed and started, and connects by itself. `forget`: its kernel has no tunnel any more, as after
    a boot; a charon that is killed leaves everything to go on there."""
    with contextlib.suppress(ProcessLookupError, LabError):
        os.kill(processes.by_pid_file(runner, client, "/run/charon.pid"), signal.SIGKILL)
    if forget:
        await runner.exec(client, ("sh", "-c", _FORGET))  # a table without routes is an error
    await runner.exec(client, ("sh", "/etc/anycast/start-client"))
