"""The kernel's address list: what an interrupted one may say, and what of the machine's address events causes a look."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from anycast.events import Event
from anycast.model import Evidence, Status
from anycast.reasons import Reason
from site_agent.checks import vip
from site_agent.checks.event_pace import SHORTEST_PAUSE_S
from site_agent.checks.runner import CheckRunner
from site_agent.checks.vip import VipCheck
from tests.support.namespace import in_namespace

VIP, OTHER = "203.0.113.1", "192.0.2.1"
EVENT_S = 2.0
FLAPS = 300


@pytest.mark.parametrize(
    ("dumps", "status"),
    [
        ([(False, ""), (False, "")], Status.UNKNOWN),
        ([(False, ""), (True, "")], Status.FAILING),
        ([(False, ""), (False, VIP)], Status.PASSING),
        ([(False, VIP), (False, "")], Status.PASSING),
        ([(True, "")], Status.FAILING),
    ],
)
def test_two_interrupted_lists_prove_no_absence(
    dumps: list[tuple[bool, str]], status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, faults = list(dumps), list[Event]()

    async def dump(protocol: int, kind: int, take: Any, payload: bytes) -> bool:
        still, there = left.pop(0)
        if there:
            take.keywords["seen"].add(ip_address(there))
        return still

    monkeypatch.setattr(vip, "dump", dump)
    seen: list[Evidence] = []

    async def run() -> None:
        check = VipCheck([VIP])
        runner = CheckRunner([check], seen.append, faults.append)
        for finding in await runner._look(check):
            runner.found(finding)

    asyncio.run(run())
    (evidence,) = seen
    assert (evidence.status, faults, left) == (status, [], [])
    if status is Status.UNKNOWN:
        assert evidence.reason is Reason.CHECK_REFUSED
        assert "changed meanwhile" in evidence.detail and str(errno.EAGAIN) not in evidence.detail


def batch(lines: list[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(["ip", "-batch", "-"], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write("\n".join(lines) + "\n")
    process.stdin.close()
    return process


async def waits_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(EVENT_S):
        while not condition():
            await asyncio.sleep(0.005)


@in_namespace
def test_events_cause_looks_at_a_pace_and_only_those_of_our_addresses() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    async def run() -> None:
        check, looked = VipCheck([VIP]), list[Status]()
        wake = asyncio.Event()
        events = check.watch(wake.set)

        async def look() -> None:
            while True:
                await wake.wait()
                wake.clear()
                looked.append((await check.look())[0].status)

        looking = asyncio.create_task(look())
        began = time.monotonic()
        flaps = [f"addr {verb} {VIP}/32 dev lo" for _ in range(FLAPS) for verb in ("add", "del")]
        process = batch([*flaps, f"addr add {VIP}/32 dev lo"])
        assert await asyncio.to_thread(process.wait) == 0
        await waits_for(lambda: looked[-1:] == [Status.PASSING])
        assert len(looked) <= 2 + (time.monotonic() - began) / SHORTEST_PAUSE_S, "looks keep their pause"

        process = batch([f"addr {verb} {OTHER}/32 dev lo" for _ in range(FLAPS) for verb in ("add", "del")])
        before = len(looked)
        assert await asyncio.to_thread(process.wait) == 0
        process = batch([f"addr del {VIP}/32 dev lo"])  # heard after the others: one socket keeps their order
        await waits_for(lambda: looked[-1:] == [Status.FAILING])
        assert len(looked) <= before + 2, "the one that was late, and the one that saw it go"
        assert await asyncio.to_thread(process.wait) == 0
        looking.cancel()
        events.close()

    asyncio.run(run())
