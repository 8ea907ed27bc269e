"""The agent's local control socket: one JSON object a line in, one out (version 1). Root only.

It answers questions; seven words make the agent act, and none carries what to do: `hold` has it read the hold's file
again, which only root can write, `drain` likewise the drain's, `drain-abort` undoes that drain,
`flap-clear` forgets a penalty, `apply` puts the installed files into force, `handover`
lets the other gateway of the site serve, if it can, and `vrrp-restart` has a new vrrp process go on in place of the old
one. So a mistaken client cannot withdraw a route. Whoever connects is checked by SO_PEERCRED as well as by the file's
mode; a client that says nothing, or too much, is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from anycast.errors import DecodeError, PeerError

VERSION = 1
LONGEST_LINE = 64 * 1024
PATIENCE_S = 5.0
"""How long a client may take to ask and to read its answer."""

START = "`systemctl start site-agent` or `site-agent run` starts an agent"
"""What to do where none answers."""

Answer = Mapping[str, Any]
Answers = Mapping[str, Callable[[], Answer | Awaitable[Answer]]]


class NobodyAnswers(PeerError):
    """There is no agent, or it stands still. Any other PeerError of `ask` says nothing of whether it lives."""


async def serve(path: Path, answers: Answers) -> asyncio.Server:
    """Listen on `path`; `answers` maps the question's word to what makes its answer. Close what it returns."""

    async def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Anything a client does wrong, or leaves in the middle, is its own loss.
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            if _peer_uid(writer) in (0, os.geteuid()):
                async with asyncio.timeout(PATIENCE_S):
                    line = await reader.readline()
                answer = await _answer(line, answers)
                async with asyncio.timeout(PATIENCE_S):
                    writer.write(json.dumps({"v": VERSION, **answer}, ensure_ascii=False).encode() + b"\n")
                    await writer.drain()
        writer.close()

    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(on_client, path, limit=LONGEST_LINE)
    path.chmod(0o600)
    return server


def ask(path: Path, question: str, *, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """Ask the agent that listens on `path`. Blocks. Raises NobodyAnswers, or PeerError if refused or not understood."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(patience_s)
            sock.connect(str(path))
            sock.sendall(json.dumps({"v": VERSION, "ask": question}).encode() + b"\n")
            with sock.makefile("rb") as file:
                answer = json.loads(file.readline())
    except PermissionError as exc:
        raise PeerError("control socket", f"{path} may not be opened; run as root") from exc
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        raise NobodyAnswers("control socket", f"nobody listens on {path}; {START}") from exc
    except OSError as exc:
        raise NobodyAnswers("control socket", f"{path}: {exc}; is the agent frozen? {START}") from exc
    except ValueError as exc:  # the agent ended in the middle of its answer
        raise NobodyAnswers("control socket", f"{path}: no whole answer came; {START}") from exc
    if not isinstance(answer, dict) or answer.get("v") != VERSION:
        raise PeerError("site-agent", "speaks another version of the control protocol")
    if "error" in answer:
        raise PeerError("agent", str(answer["error"]))
    return answer


def decode_question(line: bytes) -> str:
    """The word that is asked for. Raises DecodeError."""
    try:
        question = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise DecodeError("question", 0, "not JSON") from exc
    if not isinstance(question, dict) or question.get("v") != VERSION or not isinstance(question.get("ask"), str):
        raise DecodeError("question", 0, f'not {{"v": {VERSION}, "ask": …}}')
    return str(question["ask"])


async def _answer(line: bytes, answers: Answers) -> Answer:
    try:
        question = decode_question(line)
    except DecodeError as exc:
        return {"error": str(exc)}
    make = answers.get(question)
    if make is None:
        return {"error": f"unknown question {question!r}"}
    made = make()
    return await made if inspect.isawaitable(made) else made


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    sock = writer.get_extra_info("socket")
    _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)
