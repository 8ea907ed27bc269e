"""``python -m site_agent.sync FD``: see `process`."""

from __future__ import annotations

import asyncio
import socket
import sys

from anycast.errors import DecodeError, KernelError, PeerError
from site_agent import core_dumps
from site_agent.sync import plan as plans
from site_agent.sync.process import Process

LONGEST_PLAN = 1 << 20


def main(arguments: list[str]) -> int:
    """``FD``: the agent's socket. The plan comes on standard input."""
    core_dumps.leave_none()
    try:
        agent = socket.socket(fileno=int(arguments[0]))
        agent.setblocking(False)
        plan = plans.decode(sys.stdin.buffer.read(LONGEST_PLAN))
    except (IndexError, ValueError, OSError, DecodeError) as exc:
        print(f"site_agent.sync is started by the agent, with a plan on its standard input ({exc})", file=sys.stderr)
        return 2

    async def run() -> None:
        await Process(plan, agent).run()

    try:
        asyncio.run(run())
    except (KernelError, DecodeError, PeerError) as exc:
        print(f"sync: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
