"""What a store that is behind takes from the gateways: `anycast recover`. Pure.

Every content that a gateway says it has and the store has not is taken from that gateway, with its document, and counts by
an operator's signature, never by who hands it over. A generation is signed by nobody: the numbers go on above the highest
that anybody names, with room for those that may have been given to gateways that are not heard.

Refused, with everything that is against it:
* two contents under one generation: two coordinators, or a gateway that lies;
* a content that nobody hands over, or that no operator of this fleet has signed; a revoked key's is taken, because what runs
  goes on running (docs/content.md), and nobody is offered it again;
* a document that is not the one that was signed;
* a generation so high that no agent would have taken it (`acceptance.LONGEST_JUMP`);
* a gateway that the store knows and that has not been heard.

An operator may leave gateways out by name: they count as if they had not been heard, and nothing is taken from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping

from anycast.content.canonical import hash_of
from anycast.content.content import Content
from anycast.content.envelope import LAST_GENERATION, Offer
from anycast.content.operators import Operators
from anycast.errors import DecodeError
from anycast.policy.acceptance import LONGEST_JUMP, NotSigned, Refusal, signed_content
from anycast.policy.behind import Known, Word

ROOM = 1000
"""Generations that are left out: more rollouts than a store can have lost with no gateway hearing of the last one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A content that the store gets."""

    offer: Offer
    """Of one of those who have it."""
    documents: Mapping[str, str]
    """Of the gateways that handed theirs over."""
    signed_by: str
    """For people."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    generation: int
    """The last that counts as given out."""
    given: Mapping[int, str]
    """Hash by generation, new to the store."""
    contents: Mapping[str, Found]
    """By hash, new to the store."""


def wanted(known: Known, words: Mapping[str, Word]) -> Iterator[tuple[str, str]]:
    """Gateway and hash of everything that is to be asked for."""
    for gateway, word in sorted(words.items()):
        for hash_ in dict.fromkeys(each.hash for each in word.versions):
            if hash_ not in known.contents:
                yield gateway, hash_


def recover(
    known: Known,
    words: Mapping[str, Word],
    had: Mapping[tuple[str, str], Offer],
    operators: Operators,
    fleet: str,
    unheard: Collection[str] = (),
    left_out: Collection[str] = (),
) -> Recovered | tuple[str, ...]:
    """What the store takes, or everything against it. `words`: of who counts; `had`: by gateway and hash, what was handed
    over; `unheard`: gateways that the store knows and whose word is missing; `left_out`: those whose word does not count."""
    problems = [f"{name} has not been heard: wait for it, or leave it out" for name in sorted(unheard)]
    highest = max((word.highest for word in words.values()), default=0)
    for gateway, word in sorted(words.items()):
        if word.highest > min(known.generation + LONGEST_JUMP, LAST_GENERATION - 2 * ROOM):
            problems.append(f"{gateway} names generation {word.highest}, which no coordinator counts up to")
    given, split = _numbered(known, words)
    problems += split
    found: dict[str, Found] = {}
    for gateway, hash_ in wanted(known, words):
        offer = had.get((gateway, hash_))
        if offer is None:
            problems.append(f"{gateway} does not hand over content {hash_[:12]}")
            continue
        try:
            signer = _judged(offer, hash_, gateway, words[gateway].site, operators, fleet)
        except DecodeError as exc:
            problems.append(f"content {hash_[:12]} of {gateway}: {exc.what}")
            continue
        before = found.get(hash_)
        documents = {**({} if before is None else before.documents), gateway: offer.document}
        found[hash_] = Found(offer, documents, signer)
    if problems:
        return tuple(dict.fromkeys(problems))
    new = {number: hash_ for number, hash_ in given.items() if number not in known.given}
    ahead = highest > known.generation or bool(found) or bool(left_out)
    last = max(highest, known.generation) + ROOM if ahead else known.generation
    return Recovered(generation=last, given=new, contents=found)


def document_of(content: Content, gateway: str, site: str, text: str) -> str:
    """`text`, which a gateway handed over as its own. Raises DecodeError where it is not the one that was signed."""
    named = content.sites.get(site)
    its = None if named is None else named.gateways.get(gateway)
    if its is None:
        raise DecodeError("document", 0, f"it has no gateway {gateway} at site {site}")
    if hash_of(text) != its.document:
        raise DecodeError("document", 0, f"the document of {gateway} is not the one that was signed")
    return text


def _judged(offer: Offer, hash_: str, gateway: str, site: str, operators: Operators, fleet: str) -> str:
    """Who signed it. Raises DecodeError."""
    envelope = offer.envelope
    if envelope.hash != hash_:
        raise DecodeError("content", 0, f"what was handed over is {envelope.hash[:12]}")
    signer = None if envelope.signature is None else operators.of(envelope.signature.key)
    revoked = "" if signer is None or signer.revoked is None else f", revoked since {signer.revoked}"
    trusting = operators
    if signer is not None and revoked:
        listed = tuple(each.model_copy(update={"revoked": None}) if each == signer else each for each in operators.operators)
        trusting = operators.model_copy(update={"operators": listed})
    try:
        content = signed_content(envelope, trusting, fleet)
    except NotSigned as exc:
        raise DecodeError("content", 0, f"{exc.refusal}: {exc.what}") from exc
    document_of(content, gateway, site, offer.document)
    assert signer is not None, Refusal.UNTRUSTED
    return signer.name + revoked


def _numbered(known: Known, words: Mapping[str, Word]) -> tuple[dict[int, str], list[str]]:
    """Hash by generation, as the store and all gateways have it, and where they differ."""
    who: dict[int, dict[str, list[str]]] = {}
    for gateway, word in sorted(words.items()):
        for each in word.versions:
            who.setdefault(each.generation, {}).setdefault(each.hash, []).append(gateway)
    problems = []
    for number, hashes in sorted(who.items()):
        if number in known.given:
            hashes.setdefault(known.given[number], []).append("this store")
        if len(hashes) > 1:
            told = " and ".join(f"{hash_[:12]} at {', '.join(names[:5])}" for hash_, names in sorted(hashes.items()))
            problems.append(f"generation {number} is {told}: leave out who is wrong")
    return {number: next(iter(hashes)) for number, hashes in who.items()}, problems
