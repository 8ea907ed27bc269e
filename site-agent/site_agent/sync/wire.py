"""Frames of the sync channel: what two sync processes say to each other inside TLS. Bounds-checked; pure.

     0                   1                   2                   3
    |                       length of payload                       |
    |     type      |  lane or kind |           reserved            |
    |                            number                             |
    |                                                               |
    |                          payload ...                          |

    HELLO     JSON; the first frame of a connection, both ways. Its form and this header are the same in every version
    RESUME    of each lane the number of the last message that was received, and of the last that was worked off
    MESSAGE   kind, number in its lane; opaque payload
    CONSUMED  lane; number: everything up to it has been worked off, and its bytes may be in flight anew
    PING      nothing else was said for a second
    VERSIONS  JSON: the sender's versions have changed
    REDIAL    please open a new connection: the sender has a new certificate
    CLOSE     JSON: why the sender ends the connection

A reader is fed bytes and gives frames, as far as they are whole; it holds one frame's bytes at most, and refuses a length
before it waits for what follows.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import struct
from collections.abc import Iterator
from typing import Any

from anycast.errors import DecodeError
from site_agent.sync import versions
from site_agent.sync.kinds import LARGEST, Lane
from site_agent.sync.versions import Versions

_HEADER = struct.Struct("!IBBHQ")
HEADER = _HEADER.size
_RESUME = struct.Struct("!4Q")
LONGEST_TEXT = 8 * 1024
_LONGEST_WORD = 128
_MOST_NAMES = 32


Standing = tuple[int, int]
"""Of a lane: numbers of the last message that was received and of the last that was worked off."""


class Type(enum.IntEnum):
    HELLO = 1
    RESUME = 2
    MESSAGE = 3
    CONSUMED = 4
    PING = 5
    VERSIONS = 6
    REDIAL = 7
    CLOSE = 8


_LONGEST = {
    Type.HELLO: LONGEST_TEXT, Type.RESUME: _RESUME.size, Type.MESSAGE: LARGEST, Type.CONSUMED: 0, Type.PING: 0,
    Type.VERSIONS: LONGEST_TEXT, Type.REDIAL: 0, Type.CLOSE: LONGEST_TEXT,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    type: Type
    which: int = 0
    """A message's kind, or a lane."""
    number: int = 0
    payload: bytes = dataclasses.field(default=b"", repr=False)

    def encode(self) -> bytes:
        return header(self.type, self.which, self.number, len(self.payload)) + self.payload


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who speaks, before anything else is said."""

    newest: int
    oldest: int
    """Protocols that the sender speaks."""
    requires: tuple[str, ...] = ()
    """What the receiver must know by name; it ends the connection where it does not."""
    offer: str
    """The sender's half of a new session's name."""
    session: str = ""
    """The session that the sender is in, connected or not. Where both are in the same one, it goes on."""
    windows: tuple[int, int]
    """Bytes that may be on their way to the sender and not worked off, urgent and bulk."""
    versions: Versions


@dataclasses.dataclass(frozen=True, slots=True)
class Close:
    cause: str
    detail: str


def header(type_: Type, which: int, number: int, length: int) -> bytes:
    """What precedes a payload of `length` bytes."""
    return _HEADER.pack(length, type_, which, 0, number)


class Reader:
    """`receive_data`, then `frames` until it is empty. Raises DecodeError, and then can be used no more."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._read = 0

    def receive_data(self, data: bytes) -> None:
        self._buffer += data

    def frames(self) -> Iterator[Frame]:
        while (frame := self._next()) is not None:
            yield frame
        del self._buffer[: self._read]
        self._read = 0

    def _next(self) -> Frame | None:
        begin = self._read
        if len(self._buffer) - begin < HEADER:
            return None
        length, number_of_type, which, reserved, number = _HEADER.unpack_from(self._buffer, begin)
        try:
            type_ = Type(number_of_type)
        except ValueError as exc:
            raise DecodeError("type", 4, f"unknown ({number_of_type})") from exc
        if length > _LONGEST[type_]:
            raise DecodeError("length", 0, f"{length} bytes in a {type_.name}")
        if reserved:
            raise DecodeError("reserved", 6, "not zero")
        end = begin + HEADER + length
        if len(self._buffer) < end:
            return None
        self._read = end
        return Frame(type_, which, number, bytes(memoryview(self._buffer)[begin + HEADER : end]))


def encode_resume(standing: tuple[Standing, Standing]) -> bytes:
    urgent, bulk = standing
    return Frame(Type.RESUME, payload=_RESUME.pack(*urgent, *bulk)).encode()


def decode_resume(frame: Frame) -> tuple[Standing, Standing]:
    """Urgent and bulk. Raises DecodeError."""
    if len(frame.payload) != _RESUME.size:
        raise DecodeError("resume", HEADER, "not four numbers")
    numbers = _RESUME.unpack(frame.payload)
    return (numbers[0], numbers[1]), (numbers[2], numbers[3])


def lane_of(frame: Frame) -> Lane:
    """Of a CONSUMED. Raises DecodeError."""
    try:
        return Lane(frame.which)
    except ValueError as exc:
        raise DecodeError("lane", 5, f"unknown ({frame.which})") from exc


def encode_hello(hello: Hello) -> bytes:
    body = dataclasses.asdict(hello) | {"versions": versions.to_json(hello.versions)}
    return Frame(Type.HELLO, 0, 0, _text(body)).encode()


def decode_hello(frame: Frame) -> Hello:
    """Raises DecodeError. Unknown fields are ignored: a newer version may say more."""
    body = _object(frame.payload)
    newest, oldest = _integer(body.get("newest"), "newest", 0xFFFF), _integer(body.get("oldest"), "oldest", 0xFFFF)
    if oldest > newest:
        raise DecodeError("oldest", HEADER, "is newer than the newest")
    requires, windows = body.get("requires", []), body.get("windows")
    if not isinstance(requires, list) or len(requires) > _MOST_NAMES:
        raise DecodeError("requires", HEADER, "not a list of a permitted length")
    if not isinstance(windows, list) or len(windows) != len(Lane):
        raise DecodeError("windows", HEADER, "not one of each lane")
    urgent, bulk = (_integer(each, "windows", 2**40) for each in windows)
    if min(urgent, bulk) < LARGEST + HEADER:
        raise DecodeError("windows", HEADER, "less than a message")
    return Hello(
        newest=newest,
        oldest=oldest,
        requires=tuple(_word(each, "requires") for each in requires),
        offer=_word(body.get("offer"), "offer"),
        session=_word(body.get("session"), "session", least=0),
        windows=(urgent, bulk),
        versions=versions.from_json(body.get("versions")),
    )


def encode_versions(own: Versions) -> bytes:
    return Frame(Type.VERSIONS, 0, 0, _text(versions.to_json(own))).encode()


def decode_versions(frame: Frame) -> Versions:
    """Raises DecodeError."""
    return versions.from_json(_object(frame.payload))


def encode_close(cause: str, detail: str) -> bytes:
    return Frame(Type.CLOSE, 0, 0, _text({"cause": cause, "detail": detail[:500]})).encode()


def decode_close(frame: Frame) -> Close:
    """Raises DecodeError. What it says is a stranger's text, cut and cleaned: it is shown to people."""
    body = _object(frame.payload)
    detail = body.get("detail", "")
    if not isinstance(detail, str):
        raise DecodeError("detail", HEADER, "not text")
    cleaned = "".join(each if each.isprintable() and each.isascii() else "?" for each in detail[:500])
    return Close(_word(body.get("cause"), "cause"), cleaned)


def _text(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _object(payload: bytes) -> dict[str, Any]:
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        raise DecodeError("payload", HEADER, "not JSON") from exc
    if not isinstance(body, dict):
        raise DecodeError("payload", HEADER, "not an object")
    return body


def _integer(value: object, name: str, high: int) -> int:
    if type(value) is not int or not 0 <= value <= high:
        raise DecodeError(name, HEADER, "not a number in range")
    return value


def _word(value: object, name: str, least: int = 1) -> str:
    if not isinstance(value, str) or not least <= len(value) <= _LONGEST_WORD or not value.isascii():
        raise DecodeError(name, HEADER, "not a word")
    if not all(each.isalnum() or each in "._-" for each in value):
        raise DecodeError(name, HEADER, "not a word")
    return value
