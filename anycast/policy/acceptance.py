"""What an agent takes from a coordinator: the agent's half of "the coordinator decides when, operators decide what". Pure.

Theory of operation ------------------- An `Offer` is staged, or refused by a word. An `Activation` makes what is staged
active; it names one site, one generation and one hash. Nothing here can make an agent stop: whatever is refused, it goes on
by the content that is active (rule 2, rule 3).

A content is taken only if it
* is signed by an operator whom this machine trusts, exactly as it stands, and is of this fleet;
* comes under a higher generation than everything known (the same thing twice is fine);
* follows what this agent took last (`Content.after`), or *is* what it took last, runs by, or ran by before: a return;
* keeps the budget, its own and the one of what it follows (`policy/budget.py`). A return has been judged already, both
  ways, and keeps its own floor;
* names this gateway at this site, and the document beside it is the one that was signed and does what the content says.

Two contents, both signed, under one generation mean two coordinators, or one that lies: neither counts, and nothing is taken
until a higher generation comes. Both are told by a Reason: `content_refused`, `generation_split`.
"""

from __future__ import annotations

import dataclasses
import enum

import pydantic

from anycast.content.attraction import announces, holds
from anycast.content.canonical import hash_of
from anycast.content.content import Content, decode_content
from anycast.content.envelope import Activation, Envelope, decode_activation, decode_offer
from anycast.content.operators import Operators
from anycast.content.record import Frozen, Record, Taken
from anycast.content.signature import Signature, is_signed
from anycast.document import KNOWN_REQUIREMENTS, Document
from anycast.errors import DecodeError
from anycast.policy.budget import shortfalls
from anycast.reasons import Reason

LONGEST_JUMP = 2**32
"""Generations that may be left out at once: more than any fleet counts, and too few to use up the numbers by jumps."""


class Refusal(enum.StrEnum):
    """Why an offer or an activation is refused: the word in log and metrics."""

    MALFORMED = "malformed"
    """It cannot be read, or asks for what this version does not know."""
    UNSIGNED = "unsigned"
    UNTRUSTED = "untrusted"
    """Signed by a key that is not on this machine's list, or the list is of another fleet."""
    REVOKED = "revoked"
    """Signed by a key that is not trusted any more."""
    BAD_SIGNATURE = "bad_signature"
    """The text is not the one that was signed."""
    FOREIGN = "foreign"
    """Of another fleet."""
    LOWER_GENERATION = "lower_generation"
    GENERATION_JUMP = "generation_jump"
    """So much higher that the numbers would run out."""
    FROZEN = "frozen"
    """Two contents came under this generation."""
    OUT_OF_LINE = "out_of_line"
    """It was planned against another content than the one that is here."""
    OVER_BUDGET = "over_budget"
    NOT_FOR_US = "not_for_us"
    """It has no such gateway at this site; or the activation is another site's."""
    WRONG_DOCUMENT = "wrong_document"
    """Not the document that was signed, not this gateway's, or it does not do what the content says."""
    NOT_STAGED = "not_staged"
    """What is to be activated is not what waits."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this agent is; from its own configuration, never from a message."""

    fleet: str
    site: str
    gateway: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a message."""

    record: Record
    """To be stored before anything else is said or done. The very same object where nothing changed."""
    refusal: Refusal | None = None
    """None: taken, or there already."""
    reason: Reason | None = None
    """The alarm that stands because of it; None: none."""
    detail: str = ""
    """For people, the refusal's word first."""


class _Refused(Exception):
    def __init__(self, refusal: Refusal, detail: str) -> None:
        self.refusal, self.detail = refusal, detail


def offer(record: Record, me: Identity, operators: Operators, data: bytes) -> Answer:
    """Stage what was sent, or say why not. Raises nothing."""
    try:
        return _offer(record, me, operators, data)
    except _Refused as refused:
        return _refusing(record, refused)


def activate(record: Record, me: Identity, operators: Operators, data: bytes) -> Answer:
    """Make what waits active, or say why not. Raises nothing."""
    try:
        return _activate(record, me, operators, data)
    except _Refused as refused:
        return _refusing(record, refused)


def signed_content(envelope: Envelope, operators: Operators, fleet: str) -> Content:
    """The content, if an operator of `fleet` who is trusted has signed it as it stands. The coordinator asks the same.
    Raises `NotSigned`."""
    try:
        return _signed(envelope.content, envelope.signature, operators, fleet)
    except _Refused as refused:
        raise NotSigned(refused.refusal, refused.detail) from None


class NotSigned(DecodeError):
    """No content of this fleet's operators."""

    def __init__(self, refusal: Refusal, detail: str) -> None:
        self.refusal = refusal
        super().__init__("content", 0, detail)


def _offer(record: Record, me: Identity, operators: Operators, data: bytes) -> Answer:
    try:
        sent = decode_offer(data)
    except DecodeError as exc:
        raise _Refused(Refusal.MALFORMED, str(exc)) from exc
    envelope = sent.envelope
    content = _signed(envelope.content, envelope.signature, operators, me.fleet)
    assert envelope.signature is not None
    known = {each.generation: each for each in (record.active, record.staged) if each is not None}
    twin = known.get(envelope.generation)
    if record.frozen is not None and envelope.generation == record.frozen.generation:
        raise _Refused(Refusal.FROZEN, f"two contents came under generation {envelope.generation}; a higher one ends that")
    if twin is not None and twin.hash != envelope.hash and envelope.generation == record.highest:
        return _freeze(record, twin, envelope)
    if twin is None or twin.hash != envelope.hash:
        _newer(record, envelope)
        _in_line(record, content, envelope.hash)
    _for_me(content, me, sent.document)
    if twin is not None:
        return Answer(record=record)
    taken = Taken(
        generation=envelope.generation, content=envelope.content, signature=envelope.signature, document=sent.document
    )
    return Answer(record=record.model_copy(update={"staged": taken, "frozen": None}))


def _activate(record: Record, me: Identity, operators: Operators, data: bytes) -> Answer:
    try:
        word: Activation = decode_activation(data)
    except DecodeError as exc:
        raise _Refused(Refusal.MALFORMED, str(exc)) from exc
    if word.site != me.site:
        raise _Refused(Refusal.NOT_FOR_US, f"it is for site {word.site}, and this is {me.site}")
    if record.frozen is not None and word.generation == record.frozen.generation:
        raise _Refused(Refusal.FROZEN, f"two contents came under generation {word.generation}; a higher one ends that")
    for there in (record.active, record.staged):
        if there is None or (there.generation, there.hash) != (word.generation, word.hash):
            continue
        if there is record.active:
            return Answer(record=record)
        # Trust may have ended since it was staged.
        _signed(there.content, there.signature, operators, me.fleet)
        return Answer(
            record=record.model_copy(update={"active": there, "staged": None, "previous": record.active or record.previous})
        )
    waits = "nothing" if record.staged is None else f"generation {record.staged.generation}, {record.staged.hash[:12]}"
    raise _Refused(Refusal.NOT_STAGED, f"generation {word.generation}, {word.hash[:12]}, and {waits} waits here")


def _signed(text: str, signature: Signature | None, operators: Operators, fleet: str) -> Content:
    if signature is None:
        raise _Refused(Refusal.UNSIGNED, "no operator has signed it")
    if operators.fleet != fleet:
        raise _Refused(Refusal.UNTRUSTED, f"the list of operators is of fleet {operators.fleet}, and this is {fleet}")
    operator = operators.of(signature.key)
    if operator is None:
        raise _Refused(Refusal.UNTRUSTED, f"key {signature.key} is of no operator that this machine knows")
    if operator.revoked is not None:
        raise _Refused(Refusal.REVOKED, f"{operator.name}'s key {signature.key} is revoked since {operator.revoked}")
    if not is_signed(text, signature, operator.public):
        raise _Refused(Refusal.BAD_SIGNATURE, f"it is not what {operator.name} signed")
    try:
        content = decode_content(text)
    except DecodeError as exc:
        raise _Refused(Refusal.MALFORMED, str(exc)) from exc
    if content.fleet != fleet:
        raise _Refused(Refusal.FOREIGN, f"it is of fleet {content.fleet}, and this is {fleet}")
    return content


def _freeze(record: Record, twin: Taken, envelope: Envelope) -> Answer:
    both = (twin.hash, envelope.hash)
    staged = None if twin is record.staged else record.staged
    return Answer(
        record=record.model_copy(
            update={"staged": staged, "frozen": Frozen(generation=envelope.generation, hashes=both)}
        ),
        refusal=Refusal.FROZEN,
        reason=Reason.GENERATION_SPLIT,
        detail=f"{Refusal.FROZEN}: generation {envelope.generation} is {both[0][:12]} and {both[1][:12]}; neither is taken",
    )


def _newer(record: Record, envelope: Envelope) -> None:
    if envelope.generation <= record.highest:
        raise _Refused(Refusal.LOWER_GENERATION, f"generation {envelope.generation}, and {record.highest} is known here")
    if envelope.generation > record.highest + LONGEST_JUMP:
        raise _Refused(
            Refusal.GENERATION_JUMP, f"generation {envelope.generation} after {record.highest} leaves out too many"
        )


def _in_line(record: Record, content: Content, hash_: str) -> None:
    newest = record.newest
    returns = {each.hash for each in (newest, record.active, record.previous) if each is not None}
    if newest is None or hash_ in returns:
        before = None
    elif newest.hash in content.after:
        before = newest.decoded
    else:
        raise _Refused(
            Refusal.OUT_OF_LINE,
            f"it was not planned against generation {newest.generation}, {newest.hash[:12]}, which is the last one here",
        )
    if problems := shortfalls(before, content):
        raise _Refused(Refusal.OVER_BUDGET, "; ".join(problems))


def _for_me(content: Content, me: Identity, text: str) -> None:
    site = content.sites.get(me.site)
    gateway = None if site is None else site.gateways.get(me.gateway)
    if gateway is None:
        raise _Refused(Refusal.NOT_FOR_US, f"it has no gateway {me.gateway} at site {me.site}")
    if hash_of(text) != gateway.document:
        raise _Refused(Refusal.WRONG_DOCUMENT, f"its hash is {hash_of(text)[:12]}, and {gateway.document[:12]} was signed")
    try:
        document = Document.model_validate_json(text)
    except pydantic.ValidationError as exc:
        raise _Refused(Refusal.WRONG_DOCUMENT, "it is no document that this version can read") from exc
    if (document.fleet, document.site, document.gateway) != (me.fleet, me.site, me.gateway):
        raise _Refused(Refusal.WRONG_DOCUMENT, f"it is of {document.gateway} at {document.site} of {document.fleet}")
    if document.generation != 0:
        raise _Refused(Refusal.WRONG_DOCUMENT, "it has a generation of its own, which only a coordinator gives")
    if unknown := sorted(set(document.requires) - KNOWN_REQUIREMENTS):
        raise _Refused(Refusal.WRONG_DOCUMENT, f"it requires {', '.join(unknown)}, which is unknown to this version")
    does = {neighbor: frozenset(prefixes) for neighbor, prefixes in announces(document).items() if prefixes}
    says = {neighbor: frozenset(prefixes) for neighbor, prefixes in gateway.announces.items() if prefixes}
    if does != says or set(holds(document)) != set(gateway.holds):
        raise _Refused(Refusal.WRONG_DOCUMENT, "it does not announce what the content says that it announces")


def _refusing(record: Record, refused: _Refused) -> Answer:
    reason = Reason.GENERATION_SPLIT if refused.refusal is Refusal.FROZEN else Reason.CONTENT_REFUSED
    return Answer(record=record, refusal=refused.refusal, reason=reason, detail=f"{refused.refusal}: {refused.detail}")
