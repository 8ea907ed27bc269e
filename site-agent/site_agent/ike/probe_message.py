"""Codec of the question that every charon must refuse: an IKE_SA_INIT request and what may come back (RFC 7296).

Theory of operation
-------------------
The question is a complete and well-formed IKE_SA_INIT request (SA, KE, Nonce), so charon's receiver hands it to a worker
thread like any client's. Its one proposal asks for an encryption algorithm out of the middle of the range for private use
(section 3.3.2), which no configuration can name. A responder that supports nothing of what is proposed refuses with
NO_PROPOSAL_CHOSEN (sections 2.7 and 3.10.1) and keeps no state: no half-open IKE_SA, no Diffie-Hellman computation.

NO_PROPOSAL_CHOSEN therefore says that a worker thread took the question and finished with it. COOKIE (section 2.6) comes
from the receiver thread alone, and says nothing of the workers; the same question with that cookie before everything else
goes on to one. The answer names the initiator's SPI, which is random for
each question, so nobody's answer is taken for the answer to another question.

On port 4500 four zero bytes, the non-ESP marker, stand before each message (RFC 3948 section 2.2).
"""

from __future__ import annotations

import dataclasses
import enum
import struct

from anycast.errors import DecodeError

SPI_BYTES = 8
NONCE_BYTES = 32
PUBLIC_VALUE_BYTES = 32
"""Of Curve25519. Never computed with: a proposal is chosen first."""

_HEADER = struct.Struct("!8s8sBBBBII")
"""Initiator's SPI, responder's SPI, next payload, version, exchange type, flags, message ID, length (section 3.1)."""
_PAYLOAD = struct.Struct("!BBH")
"""Next payload, critical bit, length: the generic payload header (section 3.2)."""
_NOTIFY = struct.Struct("!BBH")
"""Protocol ID, SPI size, notify message type (section 3.10)."""
_MARKER = bytes(4)

_VERSION_2 = 0x20
_IKE_SA_INIT = 34
_INITIATOR, _RESPONSE = 0x08, 0x20
_NO_PAYLOAD, _SA, _KE, _NONCE, _NOTIFY_PAYLOAD = 0, 33, 34, 40, 41
_PROTOCOL_IKE = 1
_TRANSFORM_ENCR, _TRANSFORM_PRF, _TRANSFORM_INTEG, _TRANSFORM_DH = 1, 2, 3, 4
_ENCR_NOBODY_HAS = 0xC4D7
"""Of the private range 1024 to 65535, far from its beginning, where implementations put their own."""
_PRF_HMAC_SHA2_256, _AUTH_HMAC_SHA2_256_128, _CURVE25519 = 5, 12, 31

NO_PROPOSAL_CHOSEN = 14
"""The notify type that strongSwan refuses with."""
_COOKIE = 16390
_FIRST_STATUS_TYPE = 16384
"""Notify types below are errors (section 3.10.1)."""
_LONGEST_COOKIE = 64
"""Bytes (section 2.6)."""
_LONGEST_CHAIN = 64
"""Payloads of one answer that are looked at."""


class Kind(enum.StrEnum):
    """What an answer says of charon."""

    REFUSED = "refused"
    """An error notify, NO_PROPOSAL_CHOSEN as a rule: a worker thread has dealt with the question."""
    COOKIE = "cookie"
    """The receiver thread wants a cookie: of the workers this says nothing."""
    OTHER = "other"
    """An answer all the same, such as one that accepts: nothing that a strongSwan of ours would say."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    kind: Kind
    notify: int | None
    """The notify type that it was judged by."""
    cookie: bytes = b""
    """Of COOKIE: what the question has to bring the next time."""


def encode_question(spi: bytes, nonce: bytes, *, marked: bool, cookie: bytes = b"") -> bytes:
    """An IKE_SA_INIT request. `spi` is 8 bytes and not all zero, `nonce` 32; `marked` for port 4500; `cookie` is what the
    answer to the same question wanted, 1 to 64 bytes.
    """
    if len(spi) != SPI_BYTES or not any(spi):
        raise ValueError("an initiator's SPI has 8 bytes and is not zero")
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce of {NONCE_BYTES} bytes")
    transforms = (
        (_TRANSFORM_ENCR, _ENCR_NOBODY_HAS),
        (_TRANSFORM_PRF, _PRF_HMAC_SHA2_256),
        (_TRANSFORM_INTEG, _AUTH_HMAC_SHA2_256_128),
        (_TRANSFORM_DH, _CURVE25519),
    )
    body = b"".join(
        struct.pack("!BxHBxH", 3 if place < len(transforms) else 0, 8, kind, number)
        for place, (kind, number) in enumerate(transforms, 1)
    )
    proposal = struct.pack("!BxHBBBB", 0, 8 + len(body), 1, _PROTOCOL_IKE, 0, len(transforms)) + body
    payloads = (
        _payload(_KE, proposal)
        + _payload(_NONCE, struct.pack("!Hxx", _CURVE25519) + nonce[::-1])
        + _payload(_NO_PAYLOAD, nonce)
    )
    first = _SA
    if cookie:  # "the first payload and all other payloads unchanged" (section 2.6)
        first, payloads = _NOTIFY_PAYLOAD, _payload(_SA, _NOTIFY.pack(0, 0, _COOKIE) + cookie) + payloads
    length = _HEADER.size + len(payloads)
    header = _HEADER.pack(spi, bytes(SPI_BYTES), first, _VERSION_2, _IKE_SA_INIT, _INITIATOR, 0, length)
    return (_MARKER if marked else b"") + header + payloads


def decode_answer(data: bytes, spi: bytes, *, marked: bool) -> Answer | None:
    """What a datagram says in answer to the question with `spi`; None where it answers another or none at all.

    Raises DecodeError for what begins like the answer and is not one.
    """
    start = 0
    if marked:
        if data[:4] != _MARKER:
            return None  # ESP, or a NAT keepalive
        start = 4
    if len(data) < start + _HEADER.size:
        return None
    initiator, _, following, version, exchange, flags, _, length = _HEADER.unpack_from(data, start)
    if initiator != spi or version >> 4 != 2 or exchange != _IKE_SA_INIT or not flags & _RESPONSE:
        return None
    end = start + length
    if length < _HEADER.size or end > len(data):
        raise DecodeError("length", start + 24, f"{length} of {len(data) - start} bytes")
    return _judge(data[:end], start + _HEADER.size, following)


def _judge(data: bytes, offset: int, following: int) -> Answer:
    """Of the first notify that decides. A chain that is too long is no answer of any implementation."""
    for _ in range(_LONGEST_CHAIN):
        if following == _NO_PAYLOAD:
            return Answer(Kind.OTHER, None)
        if offset + _PAYLOAD.size > len(data):
            raise DecodeError("payload", offset, "cut off")
        payload = following
        following, _, length = _PAYLOAD.unpack_from(data, offset)
        if length < _PAYLOAD.size or offset + length > len(data):
            raise DecodeError("payload length", offset + 2, f"{length} of {len(data) - offset} bytes")
        if payload == _NOTIFY_PAYLOAD:
            if length < _PAYLOAD.size + _NOTIFY.size:
                raise DecodeError("notify", offset, f"{length} bytes")
            _, _, notify = _NOTIFY.unpack_from(data, offset + _PAYLOAD.size)
            if notify == _COOKIE:
                cookie = data[offset + _PAYLOAD.size + _NOTIFY.size : offset + length]
                if not 0 < len(cookie) <= _LONGEST_COOKIE:
                    raise DecodeError("cookie", offset, f"{len(cookie)} bytes")
                return Answer(Kind.COOKIE, notify, cookie)
            if notify < _FIRST_STATUS_TYPE:
                return Answer(Kind.REFUSED, notify)
        offset += length
    raise DecodeError("payload", offset, f"more than {_LONGEST_CHAIN} of them")


def _payload(following: int, body: bytes) -> bytes:
    return _PAYLOAD.pack(following, 0, _PAYLOAD.size + len(body)) + body
