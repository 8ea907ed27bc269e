"""What a name server, or somebody in its place, may answer: nothing that is not signed is believed, nothing hangs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import dns.flags
import dns.message
import dns.name
import dns.rrset
import dns.tsig
import pytest

from anycast.cli import name_server
from anycast.cli.name_server import MOST_ANSWER, NotChanged, Primary
from anycast.errors import PeerError
from anycast.prefixes.name_changes import Change
from anycast.prefixes.names import Key
from anycast.prefixes.tsig_keys import TsigKey

KEY = TsigKey("fleet-update", "hmac-sha256", b"sixteen-bytes-of-a-secret-for-a-test")
RING = dns.tsig.Key(dns.name.from_text(KEY.name), KEY.secret, KEY.algorithm)
NAME = Key("a.example.org", "A")
Answer = Callable[[dns.message.Message], bytes]


def signed(question: dns.message.Message, *, records: str = "", flags: int = dns.flags.AA, rcode: int = 0) -> bytes:
    answer = dns.message.make_response(question)
    answer.flags |= flags
    answer.set_rcode(rcode)  # type: ignore[arg-type]
    if records:
        answer.answer.append(dns.rrset.from_text(question.question[0].name, 60, "IN", *records.split(" ", 1)))
    return answer.to_wire()


def soa(question: dns.message.Message) -> bytes:
    return signed(question, records="SOA ns.example.net. hostmaster.example.org. 1 60 60 60 60")


@contextmanager
def server(*answers: Answer | None) -> Iterator[int]:
    """Answers one message after the other, on one connection, and then ends it; None: says nothing at all."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            for make in answers:
                length = int.from_bytes(connection.recv(2, socket.MSG_WAITALL), "big")
                question = dns.message.from_wire(connection.recv(length, socket.MSG_WAITALL), keyring=RING)
                if make is None:
                    connection.recv(1)
                    return
                wire = make(question)
                connection.sendall(len(wire).to_bytes(2, "big") + wire)
            with suppress(OSError):  # who refused an answer is gone
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1 << 16)  # closed with something unread, a connection is reset instead of ended

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        thread.join(10)
        listening.close()


def looked(*answers: Answer | None) -> str:
    """The sentence that a look ends with."""
    with (
        server(*answers) as port,
        Primary("example.org", "127.0.0.1", port, KEY) as primary,
        pytest.raises(PeerError) as caught,
    ):
        primary.look([NAME])
    return caught.value.what


def other_id(wire: bytes) -> bytes:
    return bytes([wire[0] ^ 1]) + wire[1:]


def without_signature(question: dns.message.Message) -> bytes:
    answer = dns.message.from_wire(soa(question), keyring=RING, request_mac=question.mac)
    plain = dns.message.make_response(dns.message.make_query("example.org", "SOA", id=answer.id))
    plain.flags |= dns.flags.AA
    plain.answer = answer.answer
    return plain.to_wire()


@pytest.mark.parametrize(
    ("answers", "what"),
    [
        ((without_signature,), "answers what means nothing: response requires a TSIG"),
        ((lambda q: other_id(soa(q)),), "answers what means nothing: an answer to no question"),
        ((lambda q: soa(q)[:-1] + bytes([soa(q)[-1] ^ 1]),), "answers what means nothing"),
        ((lambda q: b"\x00" * (MOST_ANSWER + 1),), "answers what means nothing: an answer of 8193 bytes"),
        ((lambda q: b"",), "answers what means nothing"),
        ((lambda q: soa(q)[:20],), "answers what means nothing"),
        ((), "cannot be asked: closed the connection"),
        ((soa, lambda q: signed(q, flags=0)), "has no authority for a.example.org"),
        ((soa, lambda q: signed(q, rcode=2)), "said SERVFAIL when asked for a.example.org A"),
        ((lambda q: signed(q, flags=0),), "is not its primary"),
        ((lambda q: signed(q, rcode=5),), "is not its primary: asked for the SOA, it said REFUSED"),
    ],
)
def test_an_answer_that_is_none_is_refused_in_a_sentence(answers: tuple[Answer, ...], what: str) -> None:
    assert what in looked(*answers)


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_server, "TIMEOUT_S", 0.2)
    assert "does not answer within" in looked(None)


def test_whether_an_update_came_to_pass_is_said_only_where_it_is_known() -> None:
    change = Change(NAME, frozenset(), 0, frozenset({"203.0.113.1"}), 60)
    for answer, known in ((lambda q: signed(q, rcode=5), True), (lambda q: signed(q)[:20], False)):
        with (
            server(answer) as port,
            Primary("example.org", "127.0.0.1", port, KEY) as primary,
            pytest.raises(PeerError) as caught,
        ):
            primary.change([change])
        assert isinstance(caught.value, NotChanged) == known
