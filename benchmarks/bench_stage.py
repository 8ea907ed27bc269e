"""From an accepted rollout to a whole fleet that has it waiting: 1,000 agents on real TLS, one real `anycast serve`.

`stage_1000_agents` begins when the coordinator has numbered a submission (history's `rollout.begin`) and ends when it has on
disk that every gateway said that it took content and document (history's next step), so it includes the coordinator's own
looking around, sending, reading of a thousand reports, and the store. Beside that the fleet reports as always, every 2 s.
Coordinator and agents share this machine's processors; an agent's judgement of a content is one machine's work of many, and
`simulated_fleet.py` says how it is done here. There is no peer: nothing else stages a signed content.

`coordinator_memory_per_agent` is what 1,000 connected agents that report add to the coordinator's PSS, over 1,000.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import threading
import time
from pathlib import Path

from anycast.cli.coordinator_client import Target, ask, fetch
from anycast.content.state import decode_state
from anycast.policy.plan import make, submit
from anycast_lab.drills.limits import load_limits
from benchmarks.report import Bound, Result, compare
from benchmarks.simulated_fleet import PAIR, Fleet, Named, contents_of
from tests.support.contents import ALICE, TRUSTED
from tests.support.coordinator import Coordinator, kill

AGENTS = 1000
RUNS, SOAK_RUNS = 5, 20
SETTLE_S = 6.0
"""Every agent has reported some times, and the ledger has heard every site."""
LIMIT_S = 120.0
NOBODY = "none: nothing else stages a signed content"


def pss_kib(pid: int) -> int:
    """Of one process (proc(5), smaps_rollup)."""
    match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


def stage_1000_agents(soak: bool) -> Result:
    with tempfile.TemporaryDirectory(prefix="bench-stage-") as base:
        coordinator = Coordinator(Path(base))
        (Path(base) / "operators.json").write_bytes(TRUSTED.data)
        coordinator.start()
        assert coordinator.process is not None and coordinator.process.stderr is not None
        log: list[str] = []
        reading = threading.Thread(target=log.extend, args=(coordinator.process.stderr,), daemon=True)
        reading.start()
        try:
            return asyncio.run(_measure(coordinator, SOAK_RUNS if soak else RUNS))
        except Exception as exc:
            exc.add_note("the coordinator said: " + "".join(log[-20:]))
            raise
        finally:
            kill(coordinator.process)


async def _measure(coordinator: Coordinator, runs: int) -> Result:
    named = [contents_of(AGENTS // len(PAIR), capacity=capacity) for capacity in (1000, 1001)]
    fleet = Fleet(coordinator, list(named[0].documents), coordinator.base / "agents")
    assert coordinator.process is not None
    alone = pss_kib(coordinator.process.pid)
    begun = time.monotonic()
    await fleet.connect()
    print(f"  {AGENTS} agents connected in {time.monotonic() - begun:.1f} s", flush=True)
    await asyncio.sleep(SETTLE_S)
    grown = pss_kib(coordinator.process.pid) - alone
    staged = []
    try:
        for run in range(runs):
            staged.append(await _stage(coordinator, fleet, named[run % 2]))
            print(f"  staged in {staged[-1]:.2f} s", flush=True)
    finally:
        await fleet.close()
    name, memory, limits = "stage_1000_agents", "coordinator_memory_per_agent", load_limits()
    size = len(named[0].content.text) >> 10
    figures = [
        compare(name, "s", staged, [], f"{NOBODY}; a content of {size} KiB and 4 KiB of document each"),
        compare(memory, "KiB of PSS", [grown / AGENTS], [], "none"),
    ]
    return Result(figures, [
        Bound(name=f"{name}, ms", seen=figures[0].p50 * 1e3, limit=limits["bench_stage"].on("native")),
        Bound(name=f"{memory}, KiB", seen=grown / AGENTS, limit=limits["bench_memory_per_agent"].on("native")),
    ])  # fmt: skip


async def _stage(coordinator: Coordinator, fleet: Fleet, wanted: Named) -> float:
    """Plan, sign and submit it; seconds from the coordinator's word to its next step. It is aborted then."""
    target = Target(f"unix:{coordinator.base}/run/coordinator.sock")
    state, contents = decode_state(await asyncio.to_thread(fetch, target, "/v1/state"))
    submission = submit(make(state, contents, wanted.content, wanted.documents), ALICE)
    before = await asyncio.to_thread(_last, target)
    rollout = await asyncio.to_thread(ask, target, "POST", "/v1/rollouts", submission.data)
    began = staged = None
    ends = time.monotonic() + LIMIT_S
    while staged is None:
        assert time.monotonic() < ends, "it does not stage"
        await asyncio.sleep(0.1)
        fleet.look()
        for line in (await asyncio.to_thread(ask, target, "GET", f"/v1/history?after={before}"))["lines"]:
            if line["action"] == "rollout.begin":
                began = line["at"]
            elif line["action"] == "rollout.step" and line["body"]["step"] != "staging":
                staged = staged or line["at"]
    assert began is not None
    generation = rollout["generation"]
    assert all(agent.staged is not None and agent.staged.generation == generation for agent in fleet.agents)
    await asyncio.to_thread(ask, target, "POST", "/v1/rollouts/command", {"word": "abort"})
    return float(staged - began)


def _last(target: Target) -> int:
    """Number of the last line of history."""
    found = 0
    while lines := ask(target, "GET", f"/v1/history?after={found}")["lines"]:
        found = lines[-1]["seq"]
    return found


BENCHMARKS = {"stage_1000_agents": stage_1000_agents}
