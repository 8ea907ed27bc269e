"""An operator's own swanctl files, read by strongSwan's own reader and loaded without unloading anything.

`swanctl --load-all` cannot be let at charon: it unloads what it does not find in its files, and where one of them has a
syntax error it finds nothing, unloads everything, ours included, and ends with status 0 (measured, 5.9.8). So it speaks
to a socket of ours that says yes to all it asks and has nothing loaded, hence nothing to unload. What it would have
loaded is then loaded into charon, one by one; what charon says of each is the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Mapping
from pathlib import Path

from vici.exception import DeserializationException
from vici.protocol import Message, Packet

from anycast.errors import PeerError
from site_agent.ike.vici_client import LONGEST_PACKET, Section

SWANCTL = "/usr/sbin/swanctl"
LIMIT_S = 10.0
"""Private keys, roots and one connection take 20 ms, 1 s in User Mode Linux."""
FAREWELL_S = 1.0
CONFIRM = bytes([Packet.EVENT_CONFIRM])
Command = tuple[str, Section]
"""A request's name and its message."""


async def read_files(env: Mapping[str, str], socket_path: Path) -> list[Command]:
    """What `swanctl --load-all` would have charon load, in its order. Raises PeerError with its words where it cannot.

    `socket_path` is where the stand-in listens meanwhile.
    """
    wanted: list[Command] = []

    async def stand_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, struct.error, DeserializationException, UnicodeDecodeError):
            while (command := await _question(reader)) is not None:
                name, _ = command
                if name.startswith("load-"):
                    wanted.append(command)
                answer = bytes([Packet.CMD_RESPONSE]) + Message.serialize({"success": "yes"}) if name else CONFIRM
                writer.write(struct.pack("!I", len(answer)) + answer)
                await writer.drain()
        writer.close()

    try:
        socket_path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(stand_in, socket_path)
    except OSError as exc:
        raise PeerError("swanctl", f"cannot be listened to: {exc.strerror}: {socket_path}") from exc
    try:
        socket_path.chmod(0o600)
        said, status = await _run(env, socket_path)
    finally:
        server.close()
        socket_path.unlink(missing_ok=True)
    complaints = [line for line in said if "fail" in line or "rror" in line or "invalid" in line]
    if status != 0 or complaints:
        raise PeerError("swanctl", "; ".join(complaints) or f"--load-all exited with {status}")
    return wanted


async def _question(reader: asyncio.StreamReader) -> Command | None:
    """The next request; without a name where an event is registered for."""
    (length,) = struct.unpack("!I", await reader.readexactly(4))
    if not 0 < length <= LONGEST_PACKET:
        return None
    packet = await reader.readexactly(length)
    if packet[0] != Packet.CMD_REQUEST:
        return "", {}
    end = 2 + packet[1]
    # The library reads answers only; a request's section is written like an answer's.
    message = Packet.parse(bytes([Packet.CMD_RESPONSE]) + packet[end:])
    return packet[2:end].decode(), Message.deserialize(message.payload)


async def _run(env: Mapping[str, str], socket_path: Path) -> tuple[list[str], int | None]:
    """swanctl's output, a line each, and its exit status."""
    try:
        child = await asyncio.create_subprocess_exec(
            SWANCTL, "--load-all", "--noprompt", "--uri", f"unix://{socket_path}", env=env, cwd="/",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
    except OSError as exc:
        raise PeerError("swanctl", f"cannot be started: {exc.strerror}") from exc
    try:
        async with asyncio.timeout(LIMIT_S):
            output, _ = await child.communicate()
    except TimeoutError:
        raise PeerError("swanctl", f"--load-all took longer than {LIMIT_S:g} s") from None
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            with contextlib.suppress(TimeoutError):  # one that a dead mount holds does not even die
                async with asyncio.timeout(FAREWELL_S):
                    await child.wait()
    return output.decode(errors="replace").splitlines(), child.returncode
