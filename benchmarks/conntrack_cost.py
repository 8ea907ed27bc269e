"""`python -m benchmarks.conntrack_cost FEW MANY OUT`: times the conntrack check over two sizes of the table, beside a dump.

Runs in a gateway's namespaces. Writes microseconds of each look by size.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from anycast_lab.flood.conntrack import NETLINK_NETFILTER, fill_to
from site_agent.checks.conntrack import ConntrackCheck
from site_agent.netlink.transport import dump

LOOKS = 200
DUMPS = 3
CT_GET = 1 << 8 | 1
ANY_FAMILY = bytes(4)
"""`struct nfgenmsg`."""
TARGET = "203.0.113.1"


async def timed(count: int, act: Callable[[], Awaitable[object]]) -> list[float]:
    samples = []
    for _ in range(count):
        began = time.perf_counter_ns()
        await act()
        samples.append((time.perf_counter_ns() - began) / 1e3)
    return samples


async def measure(sizes: list[int]) -> dict[str, dict[int, list[float]]]:
    check = ConntrackCheck()
    result: dict[str, dict[int, list[float]]] = {"ours": {}, "dump": {}}
    for size in sizes:
        fill_to(size, TARGET)
        await check.look()
        result["ours"][size] = await timed(LOOKS, check.look)
        result["dump"][size] = await timed(DUMPS, lambda: dump(NETLINK_NETFILTER, CT_GET, lambda _: None, ANY_FAMILY))
    return result


def main() -> None:
    *sizes, out = sys.argv[1:]
    Path(out).write_text(json.dumps(asyncio.run(measure([int(size) for size in sizes]))))


if __name__ == "__main__":
    main()
