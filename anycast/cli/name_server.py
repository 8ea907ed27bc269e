"""A zone's primary name server: what stands at some names, and an update of them (RFC 2136), all signed (RFC 8945).

One TCP connection. Questions go out many at a time (RFC 7766 section 6.2.1), because a fleet has thousands of names and a
server may be far away. An answer that is not signed with the key, or not authoritative, is no answer.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.update

from anycast.errors import PeerError
from anycast.prefixes.name_changes import Change, Seen
from anycast.prefixes.names import Key
from anycast.prefixes.tsig_keys import TsigKey

TIMEOUT_S = 10.0
AT_ONCE = 100
"""Questions on their way: their answers fit into any receive buffer."""
MOST_ANSWER = 8192
"""Bytes; hundreds of addresses. dnspython reads a message before it verifies it, and compression pointers that lead to each
other cost it the square of the length."""
MOST_CHANGES = 200
"""RRsets in one update: its message stays below 64 KiB with the longest names."""


class NotChanged(PeerError):
    """The server refused an update; its zone is as it was."""


class Primary:
    """Of one zone. Use as a context manager; raises PeerError whenever the server does not do as it should."""

    def __init__(self, zone: str, address: str, port: int, key: TsigKey) -> None:
        self._zone = dns.name.from_text(zone)
        self._where = f"{zone} at {address} port {port}"
        self._address, self._port = address, port
        self._key = dns.tsig.Key(dns.name.from_text(key.name), key.secret, dns.name.from_text(key.algorithm))
        self._socket: socket.socket | None = None

    def __enter__(self) -> Primary:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def look(self, keys: Sequence[Key], progress: Callable[[int], None] = lambda _: None) -> dict[Key, Seen]:
        """What stands there now."""
        soa = dns.message.make_query(self._zone, dns.rdatatype.SOA)
        answer = next(self._ask([soa]))
        if answer.rcode() != dns.rcode.NOERROR or not answer.flags & dns.flags.AA or not answer.answer:
            said = dns.rcode.to_text(answer.rcode())
            raise PeerError(self._where, f"is not its primary: asked for the SOA, it said {said} without authority")
        found: dict[Key, Seen] = {}
        for start in range(0, len(keys), AT_ONCE):
            some = keys[start : start + AT_ONCE]
            questions = [dns.message.make_query(_absolute(key.name), key.type) for key in some]
            for key, answer in zip(some, self._ask(questions), strict=True):
                found[key] = self._seen(key, answer)
            progress(len(found))
        return found

    def _seen(self, key: Key, answer: dns.message.Message) -> Seen:
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise PeerError(self._where, f"said {dns.rcode.to_text(answer.rcode())} when asked for {key.name} {key.type}")
        if not answer.flags & dns.flags.AA:
            raise PeerError(self._where, f"has no authority for {key.name}: it is delegated, and its records are elsewhere")
        for rrset in answer.answer:
            if rrset.name != _absolute(key.name):
                continue
            if rrset.rdtype == dns.rdatatype.CNAME:
                return Seen(cname=_plain(rrset[0].target))
            if rrset.rdtype == dns.rdatatype.from_text(key.type):
                return Seen(frozenset(_value(rdata) for rdata in rrset), rrset.ttl)
        return Seen()

    def change(self, changes: Sequence[Change]) -> None:
        """All of `changes`, or none: raises NotChanged then, and PeerError where it is not known.

        Beyond `MOST_CHANGES` they are several updates; where a later one is refused, the earlier ones are taken back.
        """
        done: list[Change] = []
        for start in range(0, len(changes), MOST_CHANGES):
            some = changes[start : start + MOST_CHANGES]
            try:
                self._update(some)
            except NotChanged:
                for back in range((len(done) - 1) // MOST_CHANGES * MOST_CHANGES, -1, -MOST_CHANGES):
                    self._update([each.back for each in done[back : back + MOST_CHANGES]])
                raise
            done += some

    def _update(self, changes: Iterable[Change]) -> None:
        message = dns.update.UpdateMessage(self._zone)
        for each in changes:
            name = _absolute(each.key.name)
            if each.before:
                message.present(name, *_rdatas(each.key, each.before))
            else:
                message.absent(name, each.key.type)
                message.absent(name, "CNAME")
            if each.before:
                message.delete(name, each.key.type)
            if each.after:
                message.add(name, each.after_ttl, *_rdatas(each.key, each.after))
        answer = next(self._ask([message]))
        code = answer.rcode()
        if code in (dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN):
            what = "was changed by somebody since it was looked at; nothing was changed there: look again"
            raise NotChanged(self._where, what)
        if code != dns.rcode.NOERROR:
            raise NotChanged(self._where, f"refused the update ({dns.rcode.to_text(code)}); nothing was changed there")

    def _ask(self, messages: Sequence[dns.message.Message]) -> Iterator[dns.message.Message]:
        """Their answers, in order."""
        try:
            yield from self._exchange(messages)
        except dns.tsig.PeerError as exc:
            self._close()
            raise PeerError(self._where, f"does not take the key {_plain(self._key.name)}: {type(exc).__name__}") from exc
        except (dns.exception.DNSException, ValueError) as exc:
            self._close()
            raise PeerError(self._where, f"answers what means nothing: {exc}") from exc
        except TimeoutError as exc:
            self._close()
            raise PeerError(self._where, f"does not answer within {TIMEOUT_S:.0f} s") from exc
        except OSError as exc:
            self._close()
            raise PeerError(self._where, f"cannot be asked: {(exc.strerror or str(exc)).lower()}") from exc

    def _exchange(self, messages: Sequence[dns.message.Message]) -> list[dns.message.Message]:
        if self._socket is None:
            self._socket = socket.create_connection((self._address, self._port), TIMEOUT_S)
        sent: dict[int, dns.message.Message] = {}
        data = bytearray()
        for message in messages:
            while message.id in sent:
                message.id = (message.id + 1) & 0xFFFF
            message.flags &= ~dns.flags.RD
            message.use_tsig(self._key)
            wire = message.to_wire()
            sent[message.id] = message
            data += len(wire).to_bytes(2, "big") + wire
        self._socket.sendall(data)
        answers: dict[int, dns.message.Message] = {}
        while len(answers) < len(messages):
            length = int.from_bytes(self._read(2), "big")
            if length > MOST_ANSWER:
                raise ValueError(f"an answer of {length} bytes, more than any of these questions has")
            wire = self._read(length)
            asked = sent.get(int.from_bytes(wire[:2], "big"))
            if asked is None or asked.id in answers:
                raise ValueError("an answer to no question")
            # Raises where it is not signed with this key.
            answer = dns.message.from_wire(wire, keyring=self._key, request_mac=asked.mac)
            if not asked.is_response(answer):
                raise ValueError("an answer to another question")
            answers[asked.id] = answer
        return [answers[message.id] for message in messages]

    def _read(self, length: int) -> bytes:
        assert self._socket is not None
        data = bytearray()
        while len(data) < length:
            more = self._socket.recv(length - len(data))
            if not more:
                raise ConnectionResetError(104, "closed the connection")
            data += more
        return bytes(data)

    def _close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None


def _absolute(name: str) -> dns.name.Name:
    return dns.name.from_text(name)


def _plain(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _value(rdata: dns.rdata.Rdata) -> str:
    return _plain(rdata.target) if rdata.rdtype == dns.rdatatype.PTR else rdata.to_text()  # type: ignore[attr-defined]


def _rdatas(key: Key, values: Iterable[str]) -> list[dns.rdata.Rdata]:
    texts = (f"{value}." if key.type == "PTR" else value for value in sorted(values))
    return [dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(key.type), text) for text in texts]
