"""The question that every charon refuses, and what may come back: pairs of bytes and meaning, and any bytes at all."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError
from site_agent.ike.probe_message import NO_PROPOSAL_CHOSEN, Answer, Kind, decode_answer, encode_question

SPI, NONCE = bytes(range(1, 9)), bytes(range(32))
QUESTION = bytes.fromhex(
    "0102030405060708 0000000000000000 21 20 22 08 00000000 00000094"  # header: SA first, 2.0, IKE_SA_INIT, initiator
    "22 00 002c  00 00 0028 01 01 00 04"  # SA: proposal 1 for IKE with four transforms
    "03 00 0008 01 00 c4d7  03 00 0008 02 00 0005  03 00 0008 03 00 000c  00 00 0008 04 00 001f"
    "28 00 0028 001f 0000"
    + NONCE[::-1].hex()  # KE of Curve25519
    + "00 00 0024"
    + NONCE.hex()
)
MARKER = bytes(4)


def answer(
    *payloads: tuple[int, bytes], spi: bytes = SPI, flags: int = 0x20, exchange: int = 34, version: int = 0x20
) -> bytes:
    """A response with payloads of (type, body)."""
    kinds = [kind for kind, _ in payloads] + [0]
    body = b"".join(
        struct.pack("!BBH", following, 0, 4 + len(data)) + data
        for (_, data), following in zip(payloads, kinds[1:], strict=True)
    )
    return struct.pack("!8s8sBBBBII", spi, bytes(8), kinds[0], version, exchange, flags, 0, 28 + len(body)) + body


def notify(kind: int, data: bytes = b"") -> tuple[int, bytes]:
    return 41, struct.pack("!BBH", 0, 0, kind) + data


REFUSED = answer(notify(14))
COOKIE = answer(notify(16390, b"c" * 24))


def test_the_question_is_what_rfc_7296_says() -> None:
    assert encode_question(SPI, NONCE, marked=False) == QUESTION
    assert encode_question(SPI, NONCE, marked=True) == MARKER + QUESTION, "RFC 3948 section 2.2: the non-ESP marker on 4500"


def test_a_cookie_is_brought_back_before_everything_else_which_is_unchanged() -> None:
    asked = encode_question(SPI, NONCE, marked=False, cookie=b"c" * 24)
    header = bytes.fromhex("0102030405060708 0000000000000000 29 20 22 08 00000000 000000b4")
    assert asked == header + bytes.fromhex("21 00 0020 00 00 4006") + b"c" * 24 + QUESTION[28:], "RFC 7296 section 2.6"


@pytest.mark.parametrize("length", [0, 65])
def test_a_cookie_of_a_length_that_cannot_be_is_an_error(length: int) -> None:
    with pytest.raises(DecodeError, match="cookie"):
        decode_answer(answer(notify(16390, bytes(length))), SPI, marked=False)


@pytest.mark.parametrize(("spi", "nonce"), [(bytes(8), NONCE), (b"short", NONCE), (SPI, b"short")])
def test_a_question_that_cannot_be_asked_is_not(spi: bytes, nonce: bytes) -> None:
    with pytest.raises(ValueError, match=r"SPI|nonce"):
        encode_question(spi, nonce, marked=False)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (REFUSED, Answer(Kind.REFUSED, NO_PROPOSAL_CHOSEN)),
        (answer(notify(17, b"\0\x1f")), Answer(Kind.REFUSED, 17)),  # INVALID_KE_PAYLOAD: a worker's word as well
        (COOKIE, Answer(Kind.COOKIE, 16390, b"c" * 24)),
        (answer(notify(16388, b"nat"), notify(14)), Answer(Kind.REFUSED, 14)),  # a status before the error
        (answer((33, b"sa"), (34, b"ke"), (40, b"nonce")), Answer(Kind.OTHER, None)),  # accepted
        (answer(), Answer(Kind.OTHER, None)),
        (answer(notify(14), spi=b"x" * 8), None),  # another question's
        (answer(notify(14), flags=0x08), None),  # a request of somebody
        (answer(notify(14), exchange=37), None),
        (answer(notify(14), version=0x10), None),
        (b"", None),
        (REFUSED[:27], None),
    ],
)
def test_answers(data: bytes, expected: Answer | None) -> None:
    assert decode_answer(data, SPI, marked=False) == expected
    assert decode_answer(MARKER + data, SPI, marked=True) == expected


def test_on_4500_what_has_no_marker_is_esp() -> None:
    assert decode_answer(REFUSED, SPI, marked=True) is None
    assert decode_answer(b"\xff", SPI, marked=True) is None, "a NAT keepalive"


@pytest.mark.parametrize("length", range(28, len(REFUSED)))
def test_an_answer_that_was_cut_off_is_an_error(length: int) -> None:
    with pytest.raises(DecodeError):
        decode_answer(REFUSED[:length], SPI, marked=False)


@pytest.mark.parametrize("length", range(4))
def test_a_payload_shorter_than_its_own_header_is_an_error(length: int) -> None:
    data = bytearray(answer((43, b"vendor"), notify(14)))
    data[28 + 2 : 28 + 4] = length.to_bytes(2, "big")
    with pytest.raises(DecodeError, match=r"payload length at byte 30"):
        decode_answer(bytes(data), SPI, marked=False)


def test_a_chain_of_payloads_ends() -> None:
    with pytest.raises(DecodeError, match="more than 64"):
        decode_answer(answer(*[(43, b"")] * 100), SPI, marked=False)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(data: bytes, marked: bool) -> None:
    for datagram in (data, (MARKER if marked else b"") + SPI + bytes(8) + data):
        try:
            found = decode_answer(datagram, SPI, marked=marked)
        except DecodeError as exc:
            assert 0 <= exc.offset <= len(datagram) + 4
        else:
            assert found is None or isinstance(found, Answer)


@given(st.sampled_from([REFUSED, COOKIE]), st.integers(0, 60), st.binary(min_size=1, max_size=4))
def test_a_damaged_answer_never_becomes_anybody_elses(data: bytes, place: int, damage: bytes) -> None:
    damaged = bytearray(data)
    damaged[place : place + len(damage)] = damage
    try:
        found = decode_answer(bytes(damaged), SPI, marked=False)
    except DecodeError:
        return
    assert found is None or damaged[:8] == SPI
