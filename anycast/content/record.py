"""What an agent keeps of contents, as one stored file: what it runs by, what it ran by before, what waits. Pure.

One file, replaced whole (`whole_file.put`), so that a SIGKILL at any moment leaves the record before a step or the one after
it. Unknown optional fields are ignored and `requires` is obeyed, so a version reads what the one after it wrote.
"""

from __future__ import annotations

from typing import Literal, Self

import pydantic

from anycast.content.canonical import Part, Sha256, decode, encode, hash_of, understood
from anycast.content.content import Content, decode_content
from anycast.content.envelope import Generation
from anycast.content.signature import Signature
from anycast.document import Document
from anycast.errors import DecodeError

VERSION: Literal[1] = 1


class Taken(Part):
    """A content that was accepted, and this gateway's document of it."""

    generation: Generation
    content: str
    signature: Signature
    document: str

    @property
    def hash(self) -> str:
        return hash_of(self.content)

    @property
    def decoded(self) -> Content:
        return decode_content(self.content)

    @property
    def runs(self) -> Document:
        """The document to run by: as it was signed, with the generation that the coordinator gave. Raises DecodeError."""
        try:
            document = Document.model_validate_json(self.document)
        except pydantic.ValidationError as exc:
            raise DecodeError("document", 0, "is none that this version can read") from exc
        return document.model_copy(update={"generation": self.generation})


class Frozen(Part):
    """Two contents were seen under one generation: neither counts, until a higher one comes."""

    generation: Generation
    hashes: tuple[Sha256, Sha256]


class Record(Part):
    version: Literal[1]
    requires: tuple[str, ...] = ()
    # None has to be written: an empty object is a file that lost its content, not an agent that never had one.
    active: Taken | None
    previous: Taken | None
    """What was active before: the coordinator may return to it, by the same bytes under a new generation."""
    staged: Taken | None
    frozen: Frozen | None

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> Self:
        active, staged = self.active, self.staged
        if active is not None and staged is not None and staged.generation <= active.generation:
            raise ValueError("what waits is not newer than what is active")
        if active is None and self.previous is not None:
            raise ValueError("something was active before, and nothing is")
        return self

    @property
    def newest(self) -> Taken | None:
        """The last that was taken, active or not."""
        return self.staged or self.active

    @property
    def highest(self) -> int:
        """The highest generation that this agent knows of; 0: none."""
        known = (self.staged, self.active, self.frozen)
        return max((each.generation for each in known if each is not None), default=0)

    @property
    def data(self) -> bytes:
        return encode(self.model_dump(mode="json")).encode()


NOTHING = Record(version=VERSION, active=None, previous=None, staged=None, frozen=None)
"""Of an agent that never took a content."""


def decode_record(data: bytes) -> Record:
    """Raises DecodeError."""
    record = decode(data, "record", Record)
    understood("record", record.requires)
    return record
