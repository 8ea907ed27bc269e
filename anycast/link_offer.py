"""An offer on the link, made once for a whole fleet: all but one gateway's document is the same for everybody. Pure.

A content of 1,000 gateways has half a megabyte, and as JSON in JSON in JSON more: spelt anew for each agent it costs the
coordinator minutes, and the management network gigabytes. So an agent that says so in its hello (`PACKED`) is sent the
envelope's canonical text compressed (zlib, RFC 1950: a seventh of it), and puts the offer together again, byte for byte; any
other is sent the whole offer, of which only its document is spelt for it. Compression leaks nothing here (CRIME): who can
choose a part of a content is an operator, who knows the rest.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import zlib
from collections.abc import Collection

from anycast.content.canonical import LARGEST, encode
from anycast.content.envelope import Envelope
from anycast.errors import DecodeError
from anycast.link_wire import ActivationSent, OfferPacked, OfferSent, decode, framed

PACKED = "offer_packed"
"""In `Hello.takes`."""


class OfferFrames:
    """Of one content under one generation."""

    def __init__(self, envelope: Envelope) -> None:
        self._text = encode(envelope.model_dump(mode="json"))

    def frame(self, document: str, takes: Collection[str]) -> bytes:
        """For one gateway, whose hello said what it takes."""
        if PACKED in takes:
            return framed(b'{"kind":"offer_packed","envelope":"%b","document":%b}' % (self._packed, _spelt(document)))
        before = _inside(f'{{"document":{json.dumps(document, ensure_ascii=False)},"envelope":')
        return framed(b'{"kind":"offer","data":"%b%b%b"}' % (before, self._escaped, _inside(_AFTER)))

    @functools.cached_property
    def _packed(self) -> bytes:
        return base64.b64encode(zlib.compress(self._text.encode()))

    @functools.cached_property
    def _escaped(self) -> bytes:
        return _inside(self._text)


def unpacked(message: OfferPacked) -> bytes:
    """`Offer.data`, as it would have come whole. Raises DecodeError, also where it would be longer than a message may be."""
    try:
        unpacking = zlib.decompressobj()
        envelope = unpacking.decompress(base64.b64decode(message.envelope, validate=True), LARGEST)
        if not unpacking.eof or unpacking.unused_data:
            raise DecodeError("offer", 0, f"is cut, or unpacks to more than {LARGEST >> 20} MiB")
        return b'{"document":%b,"envelope":%b%b' % (_in_utf8(encode(message.document)), envelope, _AFTER.encode())
    except (binascii.Error, ValueError, zlib.error) as exc:
        raise DecodeError("offer", 0, "is not packed as it must be") from exc


def data_of(message: OfferSent | OfferPacked | ActivationSent) -> bytes:
    """`Offer.data` or `Activation.data`. Raises DecodeError."""
    return unpacked(message) if isinstance(message, OfferPacked) else _in_utf8(message.data)


def unframed(frame: bytes) -> bytes:
    """`Offer.data`, of a frame without its length. Raises DecodeError."""
    message = decode(frame)
    if not isinstance(message, OfferSent | OfferPacked):  # its kind stands twice
        raise DecodeError("frame", 0, "is no offer")
    return data_of(message)


def _in_utf8(text: str) -> bytes:
    """JSON can name half a character (a lone surrogate, RFC 8259 section 8.2), and UTF-8 has none. Raises
    DecodeError."""
    try:
        return text.encode()
    except UnicodeError as exc:
        raise DecodeError("offer", getattr(exc, "start", 0), "is not UTF-8") from exc


_AFTER = ',"requires":[],"version":1}'
"""Of an `Offer` in its canonical spelling, behind the envelope."""


def _spelt(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()


def _inside(text: str) -> bytes:
    """As it stands in a JSON string: of two texts one behind the other it is that of both, one behind the other."""
    return _spelt(text)[1:-1]
