"""Whatever the kernel writes and whatever it counts: the `load` checks parse it or refuse it, and move no verdict.

The files are made up whole, and run through the real checks, the real runner and the real core.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import ClassVar

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from anycast.errors import DecodeError, KernelError, PeerError
from anycast.events import AlarmRaised
from anycast.model import Evidence, EvidenceClass, Status
from anycast.policy.verdict import VerdictCore
from anycast.reasons import Reason
from anycast.runtime import TimerExpired
from site_agent import proc_counters
from site_agent.checks import conntrack, half_open, machine, memory, pressure, xfrm_stat
from site_agent.checks.base import Check, Timing
from site_agent.checks.runner import CheckRunner

CONNTRACK = (
    b"entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop\n"
    b"00000005  00000001 00000002 00000000 00000000 00000000 00000000 00000000 00000000 %08x %08x 00000000\n"
    b"00000005  00000001 0000000a 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n"
)
XFRM = b"XfrmInError             \t0\nXfrmInNoStates          \t%d\n"
PSI = b"some avg10=%d.10 avg60=38.89 avg300=26.29 total=611987483\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
LOADAVG = b"3.04 2.27 1.51 %d/164 22581\n"
MEMINFO = b"MemTotal:       1000 kB\nMemFree:        10 kB\nMemAvailable:   %d kB\n"
UDP = (
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
    b"  888: 00000000:1194 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 3051215 2 00000000fdb1a017 %d\n"
    b"13272: 017100CB:01F4 00000000:0000 07 00000000:00001380 00:00000000 00000000 0 0 3051214 2 00000000d9ad70a4 5\n"
    b"  917: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 3051216 2 00000000d9ad70a5 9\n"
)

PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "number": (lambda data: proc_counters.parse_number(data, "nf_conntrack_count"), b"262144\n"),
    "conntrack": (proc_counters.parse_conntrack_stat, CONNTRACK % (1, 2)),
    "xfrm_stat": (proc_counters.parse_xfrm_stat, XFRM % 7),
    "pressure": (proc_counters.parse_pressure, PSI % 38),
    "stalled": (proc_counters.parse_stalled, PSI % 38),
    "udp": (lambda data: proc_counters.parse_udp_drops(data, frozenset({500, 4500})), UDP % 2),
    "loadavg": (proc_counters.parse_run_queue, LOADAVG % 3),
    "meminfo": (proc_counters.parse_meminfo, MEMINFO % 500),
}


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real file, cut off and with some bytes changed; or anything."""
    data = bytearray(draw(st.sampled_from([sample for _, sample in PARSERS.values()])))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.sampled_from(b"\n \t0-_:./\xffnainf9"))
    return bytes(data[: draw(st.integers(0, len(data)))])


BYTES = st.one_of(damaged(), st.binary(max_size=200))


def parses_or_refuses(data: bytes) -> None:
    """The first property itself, which the mutants below must break."""
    for parse, _ in PARSERS.values():
        try:
            parse(data)
        except DecodeError as error:
            assert 0 <= error.offset <= len(data) + 1


@given(BYTES)
def test_any_bytes_parse_or_raise_decode_error(data: bytes) -> None:
    parses_or_refuses(data)


def test_what_the_kernel_writes_is_read() -> None:
    said = {name: parse(sample) for name, (parse, sample) in PARSERS.items()}
    assert said["number"] == 262144
    columns = said["conntrack"]
    assert isinstance(columns, dict)
    assert (columns["insert_failed"], columns["drop"], columns["found"], "entries" in columns) == (1, 2, 12, False)
    assert said["xfrm_stat"] == {"XfrmInError": 0, "XfrmInNoStates": 7}
    assert (said["pressure"], said["loadavg"]) == (38.1, 3)
    assert (said["stalled"], said["udp"]) == (611987483, 7), "of the sockets on 500 and 4500 only"
    assert said["meminfo"] == proc_counters.Memory(1000 * 1024, 500 * 1024)


@st.composite
def proc(draw: st.DrawFn) -> dict[str, bytes]:
    """What /proc holds at one look: plausible, extreme, damaged or absent."""
    big = st.integers(0, 2**32 - 1)
    files = {
        conntrack.COUNT: b"%d\n" % draw(big),
        conntrack.LIMIT: b"%d\n" % draw(st.sampled_from([0, 1, 262144])),
        conntrack.STATISTICS: CONNTRACK % (draw(big), draw(big)),
        xfrm_stat.PATH: XFRM % draw(big),
        pressure.PRESSURE: PSI % draw(st.integers(0, 99)),
        pressure.LOADAVG: LOADAVG % draw(st.integers(0, 500)),
        memory.PATH: MEMINFO % draw(st.integers(0, 1000)),
    }
    for path in draw(st.lists(st.sampled_from(sorted(files)), max_size=2)):
        files[path] = draw(BYTES)
    for path in draw(st.lists(st.sampled_from(sorted(files)), max_size=2)):
        files.pop(path, None)
    return files


LOOKS = st.lists(st.tuples(proc(), st.integers(0, 100_000)), min_size=1, max_size=6)


class HalfOpen:
    """The part of the `vici` check that judges half-open SAs, with a charon that says any number."""

    reports: ClassVar = {half_open.NAME: EvidenceClass.LOAD}
    timing = Timing(interval_s=1.0, timeout_s=1.0)

    def __init__(self) -> None:
        self.count = 0

    async def look(self):
        total, count = half_open.half_open_of({"ikesas": {"total": b"0", "half-open": str(self.count).encode()}})
        return [half_open.judge(count + total)]


def load_moves_nothing(looks: list[tuple[dict[str, bytes], int]]) -> None:
    """The second property: with the fact passing, every verdict serves, whatever the load checks say."""
    files: dict[str, bytes] = {}

    def read(path: str) -> bytes:
        if path not in files:
            raise KernelError(2, path)
        return files[path]

    now = 100.0

    def clock() -> float:
        nonlocal now
        now += 0.001
        return now

    asked = HalfOpen()
    checks: list[Check] = [
        conntrack.ConntrackCheck(read, clock),
        xfrm_stat.XfrmStatCheck(read, clock),
        pressure.PressureCheck(read, clock),
        memory.MemoryCheck(read),
        asked,
    ]
    faults: list[object] = []
    reported: list[Evidence] = []
    runner = CheckRunner(checks, reported.append, faults.append)
    core = VerdictCore({"charon": EvidenceClass.FACT, **runner.classes}, lease_s=1.0, recovery_s=0.0, now=now)
    fact = Evidence(
        check="charon",
        evidence_class=EvidenceClass.FACT,
        status=Status.PASSING,
        reason=Reason.HEALTHY,
        at=now,
    )
    core.handle(fact, now)

    async def look_all() -> None:
        for check in checks:
            for finding in await runner._look(check):
                runner.found(finding, clock())

    for content, count in looks:
        files.clear()
        files.update(content)
        asked.count = count
        reported.clear()
        asyncio.run(look_all())
        for evidence in reported:
            core.handle(evidence, now)
            assert core.verdict is not None and core.verdict.serving
            assert [cause.reason for cause in core.verdict.causes] == [Reason.HEALTHY]
        now = core.deadline
        core.handle(TimerExpired(), now)
    assert not faults, "a check of ours crashed"


@settings(max_examples=60, deadline=None)
@given(LOOKS)
def test_load_moves_no_verdict(looks: list[tuple[dict[str, bytes], int]]) -> None:
    load_moves_nothing(looks)


def test_every_check_of_the_machine_is_load() -> None:
    classes = {name: c for check in machine.load_checks() for name, c in check.reports.items()}
    assert classes == dict.fromkeys(["conntrack", "xfrm_stat", "cpu_pressure", "memory"], EvidenceClass.LOAD)


def test_what_the_machine_does_not_have_is_shown_and_no_alarm() -> None:
    def nothing(path: str) -> bytes:
        raise KernelError(2, path)

    reported: list[Evidence] = []
    runner = CheckRunner([check := conntrack.ConntrackCheck(nothing)], reported.append, lambda event: None)
    (finding,) = asyncio.run(runner._look(check))
    assert (finding.status, finding.reason) == (Status.UNKNOWN, Reason.CHECK_UNAVAILABLE)
    core = VerdictCore({"charon": EvidenceClass.FACT, **runner.classes}, lease_s=1.0, recovery_s=0.0, now=0.0)
    runner.found(finding, 0.1)
    assert not any(isinstance(action, AlarmRaised) for action in core.handle(reported[0], 0.1))


@pytest.mark.parametrize("stats", [{}, {"ikesas": b""}, {"ikesas": {"total": b"x", "half-open": b"1"}}])
def test_stats_that_cannot_be_understood_are_charons_fault(stats: dict[str, object]) -> None:
    with pytest.raises(PeerError):
        half_open.half_open_of(stats)


# Broken on purpose: each rule has to be noticed.


def a_check_becomes_a_fact(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(xfrm_stat.XfrmStatCheck, "reports", {xfrm_stat.NAME: EvidenceClass.FACT})


def half_open_becomes_a_fact(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HalfOpen, "reports", {half_open.NAME: EvidenceClass.FACT})


def numbers_are_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(proc_counters, "_DECIMAL", re.compile(rb".*"))


def columns_are_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(proc_counters, "_HEX", re.compile(rb"[^ ]*"))


def a_refusal_is_our_bug(patch: pytest.MonkeyPatch) -> None:
    import site_agent.checks.runner as module

    patch.setattr(module, "DecodeError", PeerError)


@pytest.mark.parametrize(
    ("mutate", "broken", "given_by"),
    [
        (a_check_becomes_a_fact, load_moves_nothing, LOOKS),
        (half_open_becomes_a_fact, load_moves_nothing, LOOKS),
        (a_refusal_is_our_bug, load_moves_nothing, LOOKS),
        (numbers_are_not_checked, parses_or_refuses, BYTES),
        (columns_are_not_checked, parses_or_refuses, BYTES),
    ],
)
def test_each_broken_rule_is_noticed(mutate, broken, given_by, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    only_try = settings(max_examples=5000, phases=[Phase.generate], database=None, derandomize=True, deadline=None)
    with pytest.raises((AssertionError, ValueError)):
        only_try(given(given_by)(broken))()
