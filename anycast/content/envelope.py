"""What the coordinator sends to an agent: a signed content under a generation, and the word to go by it. Pure.

    Offer       everything that one gateway has to stage: the envelope, which is the same for all, and its own document
    Activation  one site, one generation, one hash: no message activates two
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from anycast.content.canonical import Name, Part, Sha256, decode, encode, hash_of, understood
from anycast.content.signature import Signature

VERSION: Literal[1] = 1
LAST_GENERATION = 2**63 - 1
"""What SQLite can count to."""
Generation = Annotated[int, pydantic.Field(ge=1, le=LAST_GENERATION)]


class Envelope(Part):
    version: Literal[1]
    requires: tuple[str, ...] = ()
    generation: Generation
    content: str
    """The text itself, byte for byte as it was signed."""
    signature: Signature | None = None
    """None: unsigned, which is refused by that word."""

    @property
    def hash(self) -> str:
        return hash_of(self.content)


class Offer(Part):
    version: Literal[1]
    requires: tuple[str, ...] = ()
    envelope: Envelope
    document: str
    """The canonical text of the document of whom it is sent to."""

    @property
    def data(self) -> bytes:
        return encode(self.model_dump(mode="json")).encode()


class Activation(Part):
    version: Literal[1]
    requires: tuple[str, ...] = ()
    site: Name
    generation: Generation
    hash: Sha256
    """Of the content."""

    @property
    def data(self) -> bytes:
        return encode(self.model_dump(mode="json")).encode()


def decode_offer(data: bytes) -> Offer:
    """Raises DecodeError. Neither content nor document are looked into."""
    offer = decode(data, "offer", Offer)
    understood("offer", offer.requires)
    understood("envelope", offer.envelope.requires)
    return offer


def decode_activation(data: bytes) -> Activation:
    """Raises DecodeError."""
    activation = decode(data, "activation", Activation)
    understood("activation", activation.requires)
    return activation
