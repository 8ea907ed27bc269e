"""How a command line speaks with a lab: JSON lines over a root-only unix socket.

Request: ``{"v": 1, "id": n, "verb": "exec", ...}``. Answers carry the same id: any number of ``{"id", "progress": text}`` and
``{"id", "output": 1|2, "data": base64}``, then exactly one ``{"id", "result": ...}`` or ``{"id", "error": {...}}``. Closing
the connection cancels what was asked on it; an `up` that is cancelled takes the lab down.

User Mode Linux has one serial line instead of a socket. The relay beside it numbers its connections and writes each line
as ``NUMBER SP line``; an empty line says that the connection has ended.
"""

from __future__ import annotations

import json
from typing import Any

from anycast.errors import AnycastError, ConfigError, DecodeError, Problem
from anycast_lab.runner import LabError

VERSION = 1
LINE = 16 * 1024 * 1024
"""Longest line in bytes: a file handed to `put` or `get` has to fit, in base64."""


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


def wrap(channel: int, line: bytes) -> bytes:
    """One line of connection `channel`, with its newline; an empty one ends the connection."""
    return b"%d %b\n" % (channel, line.rstrip(b"\n"))


def unwrap(line: bytes) -> tuple[int, bytes]:
    """Connection number and the line with its newline; empty when the connection has ended."""
    number, blank, rest = line.rstrip(b"\r\n").partition(b" ")
    if not blank or not number.isdigit():
        raise DecodeError("serial line", 0, "has no connection number")
    return int(number), rest + b"\n" if rest else b""
