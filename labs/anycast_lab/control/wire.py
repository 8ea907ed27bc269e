"""How a command line speaks with a lab: JSON lines over a root-only unix socket.

Request: ``{"v": 1, "id": n, "verb": "exec", ...}``. Answers carry the same id: any number of ``{"id", "progress": text}``
and ``{"id", "output": 1|2, "data": base64}``, then exactly one ``{"id", "result": ...}`` or ``{"id", "error": {...}}``.
Closing the connection cancels what was asked on it; an `up` that is cancelled takes the lab down.

User Mode Linux has one serial line instead of a socket. The relay beside it numbers its connections from 1 and writes each
line as frames ``NUMBER SP rest-of-line LF``, or ``NUMBER + part-of-line LF`` when more of the same line follows; an empty
one says that the connection has ended. The guest's terminal driver loses its way when it is handed more than it can hold
(4 KiB, measured with 6.1: the line stops for ever), so the relay sends one frame for each credit, which is a frame of
connection 0 from the guest: the first when its server listens, then one for each frame it has read.
"""

from __future__ import annotations

import json
import re
from typing import Any

from anycast.errors import AnycastError, ConfigError, DecodeError, Problem
from anycast_lab.runner import LabError

VERSION = 1
LINE = 16 * 1024 * 1024
"""Longest line in bytes: a file handed to `put` or `get` has to fit, in base64."""

FRAME = 2048
"""Most bytes of a line in one frame to the guest; its terminal driver holds 4096."""
_FRAME = re.compile(rb"(\d+)([ +])([^\r\n]*)\r?\n")


def encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError as exc:
        raise DecodeError("line", 0, "is not JSON") from exc
    if not isinstance(message, dict):
        raise DecodeError("line", 0, "is not an object")
    return message


def encode_error(error: AnycastError) -> dict[str, Any]:
    if isinstance(error, ConfigError):
        return {"problems": [[p.where, p.what, p.file, p.line, p.column] for p in error.problems]}
    return {"message": str(error)}


def decode_error(error: dict[str, Any]) -> AnycastError:
    if "problems" in error:
        return ConfigError([Problem(*problem) for problem in error["problems"]])
    return LabError(str(error.get("message", "the lab refused without a reason")))


def frames(channel: int, line: bytes) -> list[bytes]:
    """`line` of connection `channel` for the serial line, in pieces that the guest's terminal driver can hold."""
    line = line.rstrip(b"\n")
    parts = [line[start : start + FRAME] for start in range(0, len(line), FRAME)] or [b""]
    return [b"%d+%b\n" % (channel, part) for part in parts[:-1]] + [b"%d %b\n" % (channel, parts[-1])]


def wrap(channel: int, line: bytes) -> bytes:
    """`line` in one frame: from the guest any length passes."""
    return b"%d %b\n" % (channel, line.rstrip(b"\n"))


def unwrap(frame: bytes) -> tuple[int, bytes]:
    """Connection number and its bytes, with the newline where the line ends; empty when the connection has ended."""
    match = _FRAME.fullmatch(frame)
    if match is None:
        raise DecodeError("serial line", 0, "is not a frame")
    number, more, part = match.groups()
    return int(number), part if more == b"+" or not part else part + b"\n"
