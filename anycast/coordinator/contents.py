"""Contents and their rollouts as the store has them, and who runs by what. Pure but for the store's own forms.

    content      hash → the text, its signature, every gateway's document (of one that was recovered: of who handed it over)
    generation   "last" → the last number that was given out
    given        generation → hash, of a content that was recovered; a rollout names its own
    gateway      name → its site, and the contents that it said it has
    rollout      id → `Rollout`, and each site's traffic before it was changed
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from anycast.content.canonical import is_prefix
from anycast.content.content import Content, Intent, decode_content
from anycast.content.envelope import Envelope
from anycast.content.signature import Signature
from anycast.content.state import DarkSite, GatewayState, LedgerState, State
from anycast.coordinator.store import Body, Entry, Line
from anycast.errors import DecodeError
from anycast.link_offer import OfferFrames
from anycast.link_wire import Report, VersionTold
from anycast.policy.behind import Word
from anycast.policy.content_diff import Difference, differences
from anycast.policy.gates import Counted
from anycast.policy.ledger import Entry as Slot
from anycast.policy.recovery import Recovered
from anycast.policy.rollout import Page, Rollout, Step, Terms, Version
from anycast.reasons import Reason

CONTENT, GENERATION, GATEWAY, ROLLOUT, GIVEN = "content", "generation", "gateway", "rollout", "given"
LAST = "last"
BEGIN = "rollout.begin"
"""The deed of whoever handed a content in."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """One content as an operator handed it in."""

    text: str
    signature: Signature
    documents: Mapping[str, str]

    @property
    def whole(self) -> bool:
        """The document of every gateway is there."""
        return self.documents.keys() >= {name for site in self.content.sites.values() for name in site.gateways}

    def frames(self, generation: int) -> OfferFrames:
        """What is sent to everybody under that generation, each with its document, which is there."""
        return OfferFrames(Envelope(version=1, generation=generation, content=self.text, signature=self.signature))

    @functools.cached_property
    def content(self) -> Content:
        """Of `text`, which each look at a rollout asks for: decoded once."""
        return decode_content(self.text)


def content_body(text: str, signature: Signature, documents: Mapping[str, str], by: str, at: float) -> Body:
    sealed = signature.model_dump(mode="json")
    return {"v": 1, "text": text, "signature": sealed, "documents": dict(documents), "by": by, "at": at}


def recovered_bodies(recovered: Recovered, at: float) -> dict[str, Body]:
    """By hash."""
    return {
        hash_: content_body(envelope.content, envelope.signature, each.documents, each.signed_by, at)
        for hash_, each in recovered.contents.items()
        if (envelope := each.offer.envelope).signature is not None
    }


def told_bodies(words: Mapping[str, Word], without: Collection[str], contents: Mapping[str, Kept]) -> dict[str, Body]:
    """Of gateways, by name: what they say that they have, or (`without`) what the others have, as far as it names them."""
    told = {name: versions_body(word.site, word.active, word.staged) for name, word in words.items()}
    active = [word.active for word in words.values() if word.active is not None]
    if active:
        highest = max(active, key=lambda each: each.generation)
        for site, each in contents[highest.hash].content.sites.items():
            told |= {name: versions_body(site, highest, None) for name in each.gateways if name in without}
    return told


def kept(body: Body) -> Kept:
    """Raises DecodeError."""
    try:
        return Kept(str(body["text"]), Signature.model_validate(body["signature"]), dict(body["documents"]))
    except (KeyError, ValueError, TypeError) as exc:
        raise DecodeError("content", 0, "what the store has means nothing") from exc


def versions_body(site: str, active: Version | None, staged: Version | None) -> Body:
    """Of a gateway."""
    return {
        "v": 1, "site": site,
        "active": None if active is None else [active.generation, active.hash],
        "staged": None if staged is None else [staged.generation, staged.hash],
    }  # fmt: skip


def version_told(told: VersionTold | None) -> Version | None:
    return None if told is None else Version(told.generation, told.hash)


def version(pair: Any) -> Version | None:
    """As `versions_body` writes one."""
    return None if pair is None else Version(int(pair[0]), str(pair[1]))


def believed(gateway: str, body: Body, word: str, contents: Mapping[str, Kept]) -> str | None:
    """The hash of what a gateway says that it has ``active`` or ``staged``, where that is a content that is known here and
    names this gateway at this site. Its word is its own, and what it makes up must not be everybody's trouble."""
    told = version(body[word])
    if told is None or told.hash not in contents:
        return None
    site = contents[told.hash].content.sites.get(body["site"])
    return told.hash if site is not None and gateway in site.gateways else None


def rollout_body(rollout: Rollout, before: Mapping[str, Counted]) -> Body:
    return {
        "v": 1,
        "rollout": {**dataclasses.asdict(rollout), "step": rollout.step.value, "gateways": dict(rollout.gateways)},
        "before": {site: dataclasses.asdict(counted) for site, counted in before.items()},
    }


def rollout_from(body: Body) -> tuple[Rollout, dict[str, Counted]]:
    """Raises DecodeError."""
    try:
        told = dict(body["rollout"])
        for name in ("sites", "same", "quiet", "changed", "dark_before"):
            told[name] = tuple(told.get(name, ()))
        told["target"] = Version(**told["target"])
        told["back"] = None if told["back"] is None else Version(**told["back"])
        told["step"] = Step(told["step"])
        told["pages"] = tuple(Page(Reason(page["reason"]), page["detail"]) for page in told["pages"])
        told["gateways"] = {site: tuple(names) for site, names in told["gateways"].items()}
        known = {field.name for field in dataclasses.fields(Rollout)}
        rollout = Rollout(**{name: value for name, value in told.items() if name in known})
        return rollout, {site: Counted(**counted) for site, counted in body["before"].items()}
    except (KeyError, ValueError, TypeError) as exc:
        raise DecodeError("rollout", 0, "what the store has means nothing") from exc


def changed_by(rollouts: Mapping[str, Entry]) -> dict[str, frozenset[str]]:
    """By the id of each rollout that the store has: the sites that it changes."""
    told = {id_: entry.body["rollout"] for id_, entry in rollouts.items() if entry.body is not None}
    return {id_: frozenset(each["sites"]) - frozenset(each["same"]) for id_, each in told.items()}


def generations(rollouts: Mapping[str, Entry], recovered: Mapping[str, Entry]) -> dict[str, tuple[int, ...]]:
    """By the hash of each content: the generations that it was given out under, as the store's rollouts say and its `GIVEN`.
    A return's counts where there was one."""
    found: dict[str, set[int]] = {}
    for number, entry in recovered.items():
        if entry.body is not None:
            found.setdefault(str(entry.body["hash"]), set()).add(int(number))
    for entry in rollouts.values():
        if entry.body is not None:
            rollout, _ = rollout_from(entry.body)
            found.setdefault(rollout.target.hash, set()).add(rollout.target.generation)
            if rollout.back is not None and rollout.step in (Step.RETURNING, Step.STOPPED) and rollout.changed:
                found.setdefault(rollout.back.hash, set()).add(rollout.back.generation)
    return {hash_: tuple(sorted(numbers)) for hash_, numbers in found.items()}


def diffs(
    lines: Iterable[Line], rollouts: Mapping[str, Entry], contents: Mapping[str, Kept]
) -> dict[int, tuple[Difference, ...]]:
    """By the number of each line that began a rollout: what its content has otherwise than the one before."""
    found = {}
    for line in lines:
        entry = rollouts.get(str(line.body.get("id", ""))) if line.action == BEGIN else None
        if entry is None or entry.body is None:
            continue
        rollout, _ = rollout_from(entry.body)
        new = contents.get(rollout.target.hash)
        old = None if rollout.back is None else contents.get(rollout.back.hash)
        if new is not None and (old is not None or not new.content.after):
            was = (None, {}) if old is None else (old.content, old.documents)
            found[line.seq] = differences(was[0], new.content, was[1], new.documents)
    return found


def state_of(
    fleet: str,
    generation: int,
    contents: Mapping[str, Kept],
    gateways: Mapping[str, Entry],
    heard: Mapping[str, Report | None],
    slots: list[Slot],
    allowed: int,
) -> State:
    """What a plan reads. `heard`: the last word of every gateway that is connected now."""
    known = {}
    for name, entry in gateways.items():
        assert entry.body is not None
        report = heard.get(name)
        active, staged = (believed(name, entry.body, word, contents) for word in ("active", "staged"))
        known[name] = GatewayState(
            site=entry.body["site"],
            active=active,
            newest=staged or active,
            heard=name in heard,
            tunnels=None if report is None else report.tunnels,
            own=None if report is None or report.own is None else tuple(filter(is_prefix, report.own)),
        )
    named = {each for gateway in known.values() for each in (gateway.active, gateway.newest) if each is not None}
    dark = {slot.site: DarkSite(kind=str(slot.kind), why=slot.why or f"{slot.kind} by {slot.by}") for slot in slots}
    for gateway in known.values():
        if gateway.active is not None and gateway.active in contents:
            site = contents[gateway.active].content.sites.get(gateway.site)
            if site is not None and site.intent is not Intent.ANNOUNCED:
                dark[gateway.site] = DarkSite(kind="content", why=str(site.intent))
    return State(
        version=1,
        fleet=fleet,
        generation=generation if named else 0,
        contents={hash_: contents[hash_].text for hash_ in named},
        gateways=known,
        seen={},
        ledger=LedgerState(allowed=max(0, allowed), dark=dark),
    )


def rollout_of(
    id_: str,
    by: str,
    content: Content,
    hash_: str,
    before: Content | None,
    before_hash: str | None,
    first: int,
    terms: Terms,
    dark: Collection[str] = (),
) -> Rollout:
    """A new one. `first`: the generation of the content; the one after it is kept for a return. `dark`: sites that announce
    nothing now, by their gateways' own word. Where that is by a fact or a hold and not by the content before,
    nobody can be lost there, and the new one cannot be asked to bring back what was gone already."""
    changed = [name for name, site in content.sites.items() if before is None or before.sites.get(name) != site]
    same = [name for name in content.sites if name not in changed]
    meant = content.sites if before is None else {name for name, site in before.sites.items() if site.attracts}
    quiet = [name for name, site in content.sites.items() if not site.attracts or (name in dark and name in meant)]
    return Rollout(
        id=id_,
        by=by,
        target=Version(first, hash_),
        back=None if before_hash is None else Version(first + 1, before_hash),
        sites=(*changed, *same),
        gateways={name: tuple(site.gateways) for name, site in content.sites.items()},
        same=tuple(same),
        quiet=tuple(quiet),
        dark_before=tuple(
            name
            for name, site in content.sites.items()
            if not site.intent.dark and before is not None and name in before.sites and before.sites[name].intent.dark
        ),
        bake_s=terms.bake_s,
        blind=terms.blind,
        despite=terms.despite,
    )
