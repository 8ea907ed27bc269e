"""Contents and their rollouts as the store has them, and who runs by what. Pure but for the store's own forms.

    content      hash → the text, its signature, every gateway's document
    generation   "last" → the last number that was given out
    gateway      name → its site, and the contents that it said it has
    rollout      id → `Rollout`, and each site's traffic before it was changed
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from anycast.content.content import Content, Intent, decode_content
from anycast.content.envelope import Envelope
from anycast.content.signature import Signature
from anycast.content.state import DarkSite, GatewayState, LedgerState, State
from anycast.coordinator.store import Body, Entry
from anycast.errors import DecodeError
from anycast.link_offer import OfferFrames
from anycast.link_wire import ContentsTold
from anycast.policy.gates import Counted
from anycast.policy.ledger import Entry as Slot
from anycast.policy.plan import Submission
from anycast.policy.rollout import Page, Rollout, Step, Version
from anycast.reasons import Reason

CONTENT, GENERATION, GATEWAY, ROLLOUT = "content", "generation", "gateway", "rollout"
LAST = "last"


@dataclasses.dataclass(frozen=True)
class Kept:
    """One content as an operator handed it in."""

    text: str
    signature: Signature
    documents: Mapping[str, str]

    def frames(self, generation: int) -> OfferFrames:
        """What is sent to everybody under that generation."""
        return OfferFrames(Envelope(version=1, generation=generation, content=self.text, signature=self.signature))

    @functools.cached_property
    def content(self) -> Content:
        """Of `text`, which each look at a rollout asks for: decoded once."""
        return decode_content(self.text)


def content_body(submission: Submission, by: str, at: float) -> Body:
    return {
        "v": 1, "text": submission.content, "signature": submission.signature.model_dump(mode="json"),
        "documents": dict(submission.documents), "by": by, "at": at,
    }  # fmt: skip


def kept(body: Body) -> Kept:
    """Raises DecodeError."""
    try:
        return Kept(str(body["text"]), Signature.model_validate(body["signature"]), dict(body["documents"]))
    except (KeyError, ValueError, TypeError) as exc:
        raise DecodeError("content", 0, "what the store has means nothing") from exc


def gateway_body(site: str, told: ContentsTold) -> Body:
    staged, active = told.staged, told.active
    return {
        "v": 1, "site": site,
        "active": None if active is None else [active.generation, active.hash],
        "staged": None if staged is None else [staged.generation, staged.hash],
    }  # fmt: skip


def version(pair: Any) -> Version | None:
    """As `gateway_body` writes one."""
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
        for name in ("sites", "same", "quiet", "changed"):
            told[name] = tuple(told[name])
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


def state_of(
    fleet: str,
    generation: int,
    contents: Mapping[str, Kept],
    gateways: Mapping[str, Entry],
    heard: Mapping[str, int | None],
    slots: list[Slot],
    allowed: int,
) -> State:
    """What a plan reads. `heard`: the tunnels of every gateway that is connected now."""
    known = {}
    for name, entry in gateways.items():
        assert entry.body is not None
        active, staged = (believed(name, entry.body, word, contents) for word in ("active", "staged"))
        known[name] = GatewayState(
            site=entry.body["site"],
            active=active,
            newest=staged or active,
            heard=name in heard,
            tunnels=heard.get(name),
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
    bake_s: float,
) -> Rollout:
    """A new one. `first`: the generation of the content; the one after it is kept for a return."""
    changed = [name for name, site in content.sites.items() if before is None or before.sites.get(name) != site]
    same = [name for name in content.sites if name not in changed]
    quiet = [name for name, site in content.sites.items() if site.intent.dark or not site.attracts]
    return Rollout(
        id=id_,
        by=by,
        target=Version(first, hash_),
        back=None if before_hash is None else Version(first + 1, before_hash),
        sites=(*changed, *same),
        gateways={name: tuple(site.gateways) for name, site in content.sites.items()},
        same=tuple(same),
        quiet=tuple(quiet),
        bake_s=bake_s,
    )
