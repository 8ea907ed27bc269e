"""Errors say whose fault it is and what survives.

Lower layers' exceptions (OSError, ssl.SSLError, pydantic, PyYAML) are mapped to these once, at the adapter that
meets them. Messages are lower-case sentences without a final dot; the command line prints them as they are.
"""

from __future__ import annotations

import dataclasses


class AnycastError(Exception):
    """Base of everything this project raises on purpose. Never raised itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a document that somebody wrote."""

    where: str
    """Place in the document's own terms, e.g. ``sites.fra.gateways.fra-gw1.uplink``; empty for the whole file."""
    what: str
    """What is wrong and what would be right, in one sentence."""
    file: str = ""
    line: int = 0
    """1-based; 0 where the document has no lines."""
    column: int = 0

    def __str__(self) -> str:
        file, where = _printable(self.file), _printable(self.where)
        place = f"{file}:{self.line}:{self.column}: " if self.line else f"{file}: " if file else ""
        return f"{place}{where}: {self.what}" if where else f"{place}{self.what}"


def _printable(text: str) -> str:
    """A name as somebody wrote it may turn a terminal's line around, or be none that can be written at all."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class ConfigError(AnycastError):
    """The operator's input cannot be used. Carries every problem found, not only the first; nothing was applied."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(p) for p in problems))


class DecodeError(AnycastError):
    """Bytes that do not mean what they should. `offset` counts from the start of the message handed to the codec."""

    def __init__(self, field: str, offset: int, what: str = "malformed") -> None:
        self.field, self.offset, self.what = field, offset, what
        super().__init__(f"{field} at byte {offset}: {what}")


class PeerError(AnycastError):
    """Another process (charon, ExaBGP, a peer gateway) broke its protocol or refused. Our own state is unharmed."""

    def __init__(self, peer: str, what: str) -> None:
        self.peer, self.what = peer, what
        super().__init__(f"{peer}: {what}")


class KernelError(AnycastError):
    """The kernel refused a request."""

    def __init__(self, errno: int, request: str) -> None:
        import os

        self.errno, self.request = errno, request
        super().__init__(f"{request}: {os.strerror(errno)}")


class BugError(AnycastError):
    """Our own mistake: something that cannot be. Never evidence against a gateway."""


def first_failure(found: BaseException) -> BaseException:
    """What a TaskGroup's failure began with; `found` itself where it is no group."""
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
