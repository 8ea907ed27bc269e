"""Many agents' ends of the link, as far as events need them: real TLS, a hello, heartbeats, a batch for each `events_kept`.

Run as a process of its own, `python -m benchmarks.event_crowd PORT FOLDER AGENTS SECONDS RATE`, so that what it costs is not
the coordinator's. Records are texts that are made beforehand but for their numbers. Once told to begin by a line on standard
input, it writes for each second how many records the coordinator has said it keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path

from anycast import link_wire
from anycast.event_wire import MOST_RECORDS
from anycast.events import EvidenceChanged, to_record
from anycast.link_stream import read_message
from anycast.link_wire import EventsKept, Hello, Report, Welcome
from anycast.model import EvidenceClass, Status
from anycast.pki import tls
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity, Role
from anycast.reasons import Reason

FLEET, COORDINATOR = "example", "coord"
BATCH = 10
"""Records that an agent gathers where nothing keeps it waiting."""
AT_ONCE = 50
"""Handshakes under way."""
STREAM = "0123456789abcdef"
DETAIL = "203.0.113.1: no answer to an IKE_SA_INIT within 2.0 s, twice; load 3.1"


class Crowd:
    """All agents of one process."""

    def __init__(self, rate: float, agents: int) -> None:
        self.pace_s = agents / rate
        """Between two records of one agent."""
        self.kept = 0
        """Records that the coordinator has said it keeps."""

    async def agent(self, name: str, folder: Path, port: int, gate: asyncio.Semaphore, there: asyncio.Event) -> None:
        async with gate:
            context = tls.load(MachineFolder(folder), Identity(FLEET, Role.GATEWAY, name), link_wire.ALPN).calling
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=COORDINATOR)
            hello = Hello(protocols=(1,), fleet=FLEET, site=name, gateway=name, agent="bench", instance=STREAM, boot="b")
            writer.write(link_wire.encode(hello))
            assert isinstance(await read_message(reader), Welcome)
        beating = asyncio.create_task(self._beat(writer))
        head, tail = template(name)
        sent, begun = 0, 0.0
        try:
            while True:
                message = await read_message(reader)
                if not isinstance(message, EventsKept):
                    continue
                if not begun:
                    await there.wait()
                    begun = time.monotonic()
                self.kept += message.seq - sent
                sent = message.seq
                await asyncio.sleep(max(0.0, begun + (sent + BATCH) * self.pace_s - time.monotonic()))
                due = min(int((time.monotonic() - begun) / self.pace_s) - sent, MOST_RECORDS)
                records = ",".join(f"{head}{seq}{tail}" for seq in range(sent + 1, sent + max(1, due) + 1))
                body = f'{{"kind":"events","records":[{records}]}}'.encode()
                writer.write(len(body).to_bytes(4, "big") + body)
        finally:
            beating.cancel()

    async def _beat(self, writer: asyncio.StreamWriter) -> None:
        for number in range(1 << 30):
            told = Report(number=number, document="d", generation=0, serving=True, announced=2, routes=2, role="none")
            writer.write(link_wire.encode(told))
            await asyncio.sleep(link_wire.HEARTBEAT_S)


def template(name: str) -> tuple[str, str]:
    """One record as a JSON text inside JSON, before and behind its number."""
    event = EvidenceChanged(
        check="ike_probe", evidence_class=EvidenceClass.LOAD, status=Status.FAILING, reason=Reason.IKE_UNANSWERED,
        detail=DETAIL,
    )  # fmt: skip
    record = to_record(event, wall=time.time(), boot_ns=time.monotonic_ns(), gateway=name, stream=STREAM, seq=7777777)
    head, _, tail = json.dumps(json.dumps(record, separators=(",", ":"))).partition("7777777")
    return head, tail


async def main(port: int, folder: Path, agents: int, seconds: float, rate: float) -> None:
    crowd, gate, there = Crowd(rate, agents), asyncio.Semaphore(AT_ONCE), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(crowd.agent(f"g{n}", folder / f"g{n}", port, gate, there)) for n in range(agents)]
        await asyncio.to_thread(sys.stdin.readline)
        there.set()
        for _ in range(int(seconds)):
            before = crowd.kept
            await asyncio.sleep(1)
            print(crowd.kept - before, flush=True)
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])))
