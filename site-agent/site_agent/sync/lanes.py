"""One lane of a session, each way: numbers without a gap, bounds, what is kept until the peer has worked it off. Pure.

A message has a number in its lane from the session's beginning on, over every connection of it. The sender keeps it until
the receiver says that everything up to a number has been worked off; that same word makes room for more (`window`). So a
message survives its connection, arrives once and in order, and neither side holds more than the bounds, whatever the other
one does.
"""

from __future__ import annotations

import collections
import dataclasses

from anycast.errors import DecodeError
from site_agent.sync.kinds import Kind
from site_agent.sync.wire import HEADER, Standing


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    number: int
    kind: Kind
    payload: bytes = dataclasses.field(repr=False)
    at: float
    """When it was handed in."""

    @property
    def size(self) -> int:
        """Its header counts: a flood of empty messages is a flood."""
        return HEADER + len(self.payload)


class Outbound:
    """What goes to the peer. `limit` is how many bytes may wait here unsent; the peer's window is for what is sent."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._waiting: collections.deque[Message] = collections.deque()
        self._sent: collections.deque[Message] = collections.deque()
        self._waiting_bytes = self._sent_bytes = 0
        self._last = self._highest_sent = self._worked_off = 0

    @property
    def room(self) -> int:
        """Bytes of payload that one more message may have."""
        return max(self.limit - self._waiting_bytes - HEADER, 0)

    @property
    def oldest_at(self) -> float | None:
        """When the oldest message was handed in that the peer has not worked off."""
        first = next(iter(self._sent), None) or next(iter(self._waiting), None)
        return None if first is None else first.at

    def submit(self, kind: Kind, payload: bytes, now: float) -> bool:
        """Whether there was room."""
        if len(payload) > self.room:
            return False
        self._last += 1
        message = Message(self._last, kind, payload, now)
        self._waiting.append(message)
        self._waiting_bytes += message.size
        return True

    def take(self, window: int) -> Message | None:
        """The next one to send, if the peer's window has room for it. It counts as sent."""
        if not self._waiting or self._sent_bytes + self._waiting[0].size > window:
            return None
        message = self._waiting.popleft()
        self._waiting_bytes -= message.size
        self._sent.append(message)
        self._sent_bytes += message.size
        self._highest_sent = max(self._highest_sent, message.number)
        return message

    def worked_off(self, number: int) -> None:
        """The peer says so. Raises DecodeError where that is a lie."""
        if not self._sent or not self._sent[0].number <= number <= self._sent[-1].number:
            raise DecodeError("number", 8, f"message {number} cannot have been worked off now")
        while self._sent and self._sent[0].number <= number:
            self._sent_bytes -= self._sent.popleft().size
        self._worked_off = number

    def resume(self, received: int, worked_off: int) -> None:
        """On a new connection: what the peer has not received waits again. Raises DecodeError where that is a lie."""
        if not self._worked_off <= worked_off <= received <= self._highest_sent:
            what = f"{received} cannot have been received last, or {worked_off} worked off"
            raise DecodeError("resume", HEADER, what)
        if worked_off > self._worked_off:
            self.worked_off(worked_off)
        while self._sent and self._sent[-1].number > received:
            message = self._sent.pop()
            self._sent_bytes -= message.size
            self._waiting.appendleft(message)
            self._waiting_bytes += message.size


class Inbound:
    """What comes from the peer. `window` is how many bytes may be here, or on their way, and not worked off."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.received = 0
        """Number of the last message."""
        self.worked_off = 0
        """Number of the last message that the owner is done with."""
        self._sizes: collections.deque[int] = collections.deque()
        """Of the messages that it is not done with."""
        self._bytes = self._freed = 0
        self._told = 0

    def accept(self, number: int, size: int) -> None:
        """Raises DecodeError for a message that is not the next one, or that the window had no room for."""
        if number != self.received + 1:
            raise DecodeError("number", 8, f"message {number} after {self.received}")
        if self._bytes + size > self.window:
            raise DecodeError("length", 0, f"{self._bytes + size} bytes in a window of {self.window}")
        self.received = number
        self._sizes.append(size)
        self._bytes += size

    def work_off(self, count: int) -> None:
        """The next `count` messages are done with. Raises ValueError where there are not so many."""
        if not 0 <= count <= len(self._sizes):
            raise ValueError(f"{count} messages of {len(self._sizes)}")
        self._freed += sum(self._sizes.popleft() for _ in range(count))
        self.worked_off += count

    def tell(self) -> int | None:
        """The number that the peer should hear now, if any: nothing is left, or a quarter of the window is free again."""
        if self.worked_off == self._told or (self._sizes and self._freed < self.window // 4):
            return None
        return self._tell()

    def standing(self) -> Standing:
        """What a RESUME says."""
        self._tell()
        return self.received, self.worked_off

    def _tell(self) -> int:
        self._bytes -= self._freed
        self._told, self._freed = self.worked_off, 0
        return self._told
