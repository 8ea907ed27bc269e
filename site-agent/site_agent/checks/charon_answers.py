"""Does charon still do anything? A process that exists, is not stopped, and hangs serves nobody.

A fact, because `silence` believes it only where two independent ways to charon are silent together and the kernel's own
figures rule out that anybody's packets are the cause. IKE's silence is silence only where this very process has answered
before, be it to `ike_probe`, which shares the prober, or to an agent before this one, which left a record of that
(`ike/heard_before.py`).

A look asks `stats` over a connection of its own (a long list on the other one delays nothing), 0.3 ms a second. While that
answers, nothing else is done. When it is silent the look goes on in rounds and asks IKE as well, until charon answers,
something else explains the silence, or `silence.ROUNDS` rounds were silent and calm: 4 to 6 s after charon began to hang.

An objector: it can only speak against a gateway. At a start a flood may keep it from seeing anything, and no flood may keep
a site dark.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from anycast import trusted_file
from anycast.errors import DecodeError, KernelError, PeerError
from anycast.model import EvidenceClass
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.checks import silence
from site_agent.checks.base import Finding, Timing, passing, unknown
from site_agent.checks.charon import STOPPED_STATES, Watched
from site_agent.checks.pressure import LOADAVG
from site_agent.checks.silence import NAME, ROUND_S, ROUNDS, Gauge, Round, Said
from site_agent.ike.heard_before import HeardBefore, decode, encode
from site_agent.ike.prober import PORTS, Asked, Outcome, Prober
from site_agent.ike.vici_client import Section, ViciClient
from site_agent.proc_counters import parse_run_queue, parse_stalled, parse_udp_drops
from site_agent.procfs import ProcessStat, read_file, read_stat

PRESSURES = tuple(f"/proc/pressure/{resource}" for resource in ("cpu", "memory", "io"))
UDP_TABLES = ("/proc/net/udp", "/proc/net/udp6")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

SAID = {Outcome.WORKER: Said.ANSWER, Outcome.SILENT: Said.NOTHING, Outcome.COOKIE: Said.UNCLEAR}


class CharonAnswersCheck:
    """Reports `charon_answers`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.FACT}
    timing = Timing(interval_s=1.0, timeout_s=(ROUNDS + 1) * (ROUND_S + 1.0), rise=1, fall=1)

    def __init__(
        self,
        charon: Watched,
        vici_path: str,
        prober: Prober,
        read: Callable[[str], bytes] = read_file,
        *,
        record: Path | None = None,
    ) -> None:
        """`record` is where what was heard is kept for the next agent, in the run directory; None keeps nothing."""
        self._charon, self._prober, self._read, self._record = charon, prober, read, record
        self._vici = ViciClient(vici_path)
        self._plugins: tuple[int, frozenset[str]] | None = None
        """Of the charon with this pid."""
        self._recalled: tuple[int, int] | None = None
        """Pid and start of the charon that the record was asked about."""
        self._kept: HeardBefore | None = None

    async def look(self) -> Sequence[Finding]:
        pid, rounds = self._charon.pid, list[Round]()
        if pid is not None:
            self._recall(pid)
        if await self._ask_vici(pid) is Said.ANSWER:
            if pid is not None:
                self._keep(pid)
            return [passing(NAME, "control socket")]
        while True:
            stat = None if pid is None or pid != self._charon.pid else read_stat(pid)
            if pid is None or stat is None or stat.exiting:
                return [unknown(NAME, Reason.CHARON_ABSENT, "no charon to ask")]
            if stat.state in STOPPED_STATES:
                return [unknown(NAME, Reason.CHARON_STOPPED, f"pid {pid} in state {stat.state}")]
            rounds.append(await self._round(pid))
            plugins = self._plugins[1] if self._plugins is not None and self._plugins[0] == pid else None
            if (finding := silence.judge(rounds, plugins)) is not None:
                return [finding]

    def _recall(self, pid: int) -> None:
        """Once a process: what an earlier agent heard of it."""
        stat = read_stat(pid)
        if stat is None or self._recalled == (pid, stat.start_ticks):
            return
        self._recalled = pid, stat.start_ticks
        if self._record is None:
            return
        try:
            heard = decode(trusted_file.read(self._record))
        except (OSError, DecodeError):  # none yet, or one that nobody should believe
            return
        if (heard.pid, heard.start_ticks) == self._recalled:
            self._kept, self._plugins = heard, (pid, heard.plugins)
            self._prober.was_heard(heard.ends, _began(stat))

    def _keep(self, pid: int) -> None:
        """Write down what is known of this process, where that is news. A full /run costs the next agent this fact only."""
        stat = read_stat(pid)
        if self._record is None or stat is None or self._plugins is None or self._plugins[0] != pid:
            return
        ends = self._prober.heard_since(_began(stat))
        heard = HeardBefore(pid=pid, start_ticks=stat.start_ticks, plugins=self._plugins[1], ends=ends)
        if heard != self._kept:
            self._kept = heard
            scratch = self._record.with_suffix(".new")
            with contextlib.suppress(OSError):
                scratch.write_bytes(encode(heard))
                scratch.chmod(0o600)
                scratch.replace(self._record)

    async def _round(self, pid: int) -> Round:
        before = self._gauge(pid)
        rest = asyncio.create_task(asyncio.sleep(ROUND_S))
        try:
            async with asyncio.TaskGroup() as group:
                vici = group.create_task(self._ask_vici(pid))
                ike = group.create_task(self._ask_ike(pid))
            if Said.ANSWER not in (vici.result(), ike.result()):
                await rest  # a refusal comes at once, and says no more when it is asked for more often
        finally:
            rest.cancel()
        return Round(vici=vici.result(), ike=ike.result(), before=before, after=self._gauge(pid))

    async def _ask_vici(self, pid: int | None) -> Said:
        try:
            stats = await self._vici.request("stats", timeout_s=ROUND_S)
        except TimeoutError:
            return Said.NOTHING
        except PeerError:
            return Said.UNCLEAR
        if pid is not None:
            self._plugins = pid, _plugins_of(stats)
        return Said.ANSWER

    async def _ask_ike(self, pid: int) -> Said:
        stat = read_stat(pid)
        if stat is None:
            return Said.UNCLEAR
        try:
            asked = await self._prober.ask(ROUND_S)
        except (KernelError, DecodeError):
            return Said.UNCLEAR
        # Where nobody listens nobody is silent: a family or a port that is switched off is left out.
        ends = [one for one in asked if one.outcome is not Outcome.NOBODY]
        return silence.together(_said(one, _began(stat)) for one in ends)

    def _gauge(self, pid: int) -> Gauge:
        """Raises KernelError, DecodeError: whoever cannot see how busy the machine is must not judge."""
        stat = read_stat(pid)
        cpus = len(os.sched_getaffinity(0))
        return Gauge(
            at=boottime(),
            cpu_s=0.0 if stat is None else stat.cpu_ticks / TICKS_PER_S,
            drops=sum(parse_udp_drops(data, frozenset(PORTS)) for data in map(self._read_if_there, UDP_TABLES)),
            stalled_s=tuple(parse_stalled(data) / 1e6 for data in map(self._read_if_there, PRESSURES) if data),
            runnable=max(0, parse_run_queue(self._read(LOADAVG)) - 1) / cpus,
        )

    def _read_if_there(self, path: str) -> bytes:
        """A kernel without IPv6, or without pressure stall information, has no such file, or refuses it (``psi=0``)."""
        try:
            return self._read(path)
        except KernelError:
            return b""


def _began(stat: ProcessStat) -> float:
    """CLOCK_BOOTTIME of the process's start."""
    return stat.start_ticks / TICKS_PER_S


def _said(asked: Asked, charon_began: float) -> Said:
    """What one end says; its silence counts where the charon that began then has answered there, be it just a COOKIE."""
    if asked.outcome is Outcome.SILENT and not asked.cookie and (asked.heard_at is None or asked.heard_at < charon_began):
        return Said.UNHEARD
    return SAID[asked.outcome]


def _plugins_of(stats: Section) -> frozenset[str]:
    """Of VICI's `stats`; what cannot be understood is a plugin that nobody knows."""
    try:
        return frozenset(name.decode("ascii") for name in stats["plugins"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return frozenset({"?"})
