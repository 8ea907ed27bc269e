"""PID 1 of a User Mode Linux lab on the host's side: the kernel's parent, and the bridge between socket and serial line.

    relay LISTEN_FD RUN_DIR MODULES DISK server arguments...       (DISK: empty where there is none)

Clients connect at once; what they say waits until the guest's server says that it listens. When the kernel ends, the
relay ends, and the other way round; nothing is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
from pathlib import Path

from anycast.errors import DecodeError
from anycast_lab.control import wire
from anycast_lab.embedded import uml

CHECKOUT = Path(__file__).resolve().parents[3]


class Relay:
    """Numbers connections; `wire.wrap` and `wire.unwrap` are all it knows of the protocol."""

    def __init__(self, serial_in: asyncio.StreamReader, serial_out: asyncio.StreamWriter) -> None:
        self.serial_in, self.serial_out = serial_in, serial_out
        self.credit = asyncio.Semaphore(0)
        self.clients = dict[int, asyncio.StreamWriter]()
        self.numbers = itertools.count(1)

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self.numbers)
        self.clients[number] = writer
        with contextlib.suppress(ConnectionError, ValueError):  # a client that vanished, or a line over wire.LINE
            while line := await reader.readline():
                await self.send(number, line)
        await self.send(number, b"")
        self.clients.pop(number).close()

    async def send(self, number: int, line: bytes) -> None:
        for frame in wire.frames(number, line):
            await self.credit.acquire()
            self.serial_out.write(frame)

    async def guest(self) -> None:
        while line := await self.serial_in.readline():
            try:
                number, rest = wire.unwrap(line)
            except DecodeError:
                sys.stdout.buffer.write(line)  # the guest's console before its server speaks
                continue
            if number == 0:
                self.credit.release()
            elif number in self.clients:
                self.clients[number].write(rest)


async def _main(listener: socket.socket, run_dir: Path, modules: Path, disk: Path | None, server: list[str]) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        command = uml.command(CHECKOUT, run_dir, modules, server, theirs.fileno(), disk)
        kernel = subprocess.Popen(command, env=uml.environment(), stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    reader, writer = await asyncio.open_connection(sock=ours, limit=wire.LINE)
    relay = Relay(reader, writer)
    await asyncio.start_unix_server(relay.client, sock=listener, limit=wire.LINE)
    guest = asyncio.create_task(relay.guest())
    code = await asyncio.to_thread(kernel.wait)
    print(f"User Mode Linux ended with {code}", flush=True)
    guest.cancel()


def main() -> None:
    listen_fd, run_dir, modules, disk, *server = sys.argv[1:]
    asyncio.run(
        _main(socket.socket(fileno=int(listen_fd)), Path(run_dir), Path(modules), Path(disk) if disk else None, server)
    )


if __name__ == "__main__":
    main()
