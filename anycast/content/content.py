"""What an operator signs: one text for the whole fleet, so that each agent can check the budget by itself.

It says of every site whether it is meant to attract traffic, by which announcements, and which document each of its
gateways runs by (as a hash; the documents travel beside it). It has no generation and no time: the coordinator numbers,
operators decide.

`after` chains contents: an agent takes one only after a content that it was planned against (`policy/acceptance.py`), so
that nobody who has collected signed contents can mix them. It is a list of hashes; an empty one follows nothing.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal, Self

import pydantic

from anycast.content.canonical import Address, Name, Part, Prefix, Sha256, decode, encode, understood
from anycast.errors import DecodeError

VERSION: Literal[1] = 1
MOST_PREPEND = 10
"""Routers drop paths with many copies."""


class Intent(enum.StrEnum):
    """What operators want of a site."""

    ANNOUNCED = "announced"
    DEGRADED = "degraded"
    """Announces worse than it could. That moves clients, so it counts as dark."""
    DRAINED = "drained"

    @property
    def dark(self) -> bool:
        return self is not Intent.ANNOUNCED


class Floor(Part):
    """What must be left."""

    min_sites: Annotated[int, pydantic.Field(ge=1, le=100_000)]
    """Sites that attract traffic."""
    min_capacity: Annotated[int, pydantic.Field(ge=1, le=10**12)] | None = None
    """Tunnels that they can carry together; None: not asked for."""


class Budget(Floor):
    """How much of the fleet may be dark on purpose."""

    regions: dict[Name, Floor] = pydantic.Field(default_factory=dict)
    """Floors of single regions, besides the fleet's."""
    retiring: tuple[Prefix | Address, ...] = ()
    """What a later content may cease to announce, or to hold, everywhere."""


class Gateway(Part):
    document: Sha256
    announces: dict[Annotated[str, pydantic.StringConstraints(min_length=1, max_length=100)], tuple[Prefix, ...]]
    """To each BGP neighbor outside, by its name: the prefixes that it hears while the site serves."""
    unicast: dict[Annotated[str, pydantic.StringConstraints(min_length=1, max_length=100)], tuple[Prefix, ...]] = (
        pydantic.Field(default_factory=dict, exclude_if=lambda told: not told)
    )
    """To each of them: the site's own prefixes, which it hears also while the site is dark. Not written where none are."""
    holds: tuple[Address, ...] = ()
    """VIPs that the gateway holds by VRRP, without BGP."""


LONGEST_MOVE_S = 86_400


class Moves(Part):
    """Where a drained site's tunnels go before its route does (docs/drain.md)."""

    site: Name
    to: Annotated[tuple[Address, ...], pydantic.Field(min_length=1, max_length=2)]
    """Its unicast service addresses."""
    left: Literal["wait", "delete"] = "wait"
    """What becomes of clients that cannot follow: the drain waits for them, or they are cut once the route is worse."""
    limit_s: Annotated[int, pydantic.Field(ge=1, le=LONGEST_MOVE_S)] | None = pydantic.Field(
        default=None, exclude_if=lambda limit: limit is None
    )
    """For all to move; then, with `delete`, whoever is left counts as one that cannot follow. None, and not written: as in
    the agent's code, 10 min; so does an agent that does not know it."""


class Because(Part):
    """Operators' words for why a site is dark, and until when they mean it to be. No clock ends anything by it."""

    kind: Literal["drain", "maintenance", "degrade"]
    """What the ledger calls it."""
    why: Annotated[str, pydantic.StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")] = ""
    until: Annotated[int, pydantic.Field(ge=0, le=2**40)] | None = None
    """Unix time, seconds; None: nobody said."""


class Site(Part):
    intent: Intent
    because: Because | None = pydantic.Field(default=None, exclude_if=lambda because: because is None)
    """None, and not written: the intent says all. Only of a dark site."""
    prepend: Annotated[int, pydantic.Field(ge=0, le=MOST_PREPEND)] = pydantic.Field(default=0, exclude_if=lambda n: n == 0)
    """Of a degraded site: how many more copies of its AS number, besides GRACEFUL_SHUTDOWN."""
    moves: Moves | None = pydantic.Field(default=None, exclude_if=lambda moves: moves is None)
    """None: a drained site withdraws its route at once, and its clients find another by themselves. Not written then."""
    region: Name | None = None
    capacity: Annotated[int, pydantic.Field(ge=1, le=10**12)] | None = None
    """Tunnels that it can carry; None: nobody said."""
    gateways: Annotated[dict[Name, Gateway], pydantic.Field(min_length=1)]

    @property
    def announces(self) -> dict[str, frozenset[str]]:
        """What each neighbor outside hears from any of the gateways; nothing of a drained site."""
        if self.intent is Intent.DRAINED:
            return {}
        heard: dict[str, frozenset[str]] = {}
        for gateway in self.gateways.values():
            for neighbor, prefixes in gateway.announces.items():
                if prefixes:
                    heard[neighbor] = heard.get(neighbor, frozenset()) | frozenset(prefixes)
        return heard

    @property
    def unicast(self) -> dict[str, frozenset[str]]:
        """What each neighbor outside hears of the site's own, whatever the intent."""
        heard: dict[str, frozenset[str]] = {}
        for gateway in self.gateways.values():
            for neighbor, prefixes in gateway.unicast.items():
                heard[neighbor] = heard.get(neighbor, frozenset()) | frozenset(prefixes)
        return heard

    @property
    def attracts(self) -> frozenset[str]:
        """The prefixes and addresses that bring traffic here, as good as any other site; nothing: it is dark."""
        if self.intent.dark:
            return frozenset()
        held = (gateway.holds for gateway in self.gateways.values())
        return frozenset().union(*self.announces.values(), *held)


class Content(Part):
    version: Literal[1]
    requires: tuple[str, ...] = ()
    fleet: Name
    service: Name
    after: tuple[Sha256, ...]
    """Hashes of the contents that this one may follow. None: it is a first one."""
    budget: Budget
    sites: Annotated[dict[Name, Site], pydantic.Field(min_length=1)]

    @pydantic.model_validator(mode="after")
    def _gateways_are_somewhere(self) -> Self:
        names = [name for site in self.sites.values() for name in site.gateways]
        if len(names) != len(set(names)):
            raise ValueError("a gateway stands in two sites")
        return self

    @property
    def text(self) -> str:
        """The canonical text. Of a content that came from elsewhere, keep the text that came: it may say more."""
        return encode(self.model_dump(mode="json"))

    @property
    def core(self) -> Content:
        """Without what it follows: the same for two contents that want the same."""
        return self.model_copy(update={"after": ()})

    def with_intent(
        self, site: str, intent: Intent, moves: Moves | None = None, because: Because | None = None, prepend: int = 0
    ) -> Content:
        """The same with another intent of one site, which it has: KeyError else. What it follows is for a plan to say."""
        changed = self.sites[site].model_copy(
            update={"intent": intent, "moves": moves, "because": because, "prepend": prepend}
        )
        return self.core.model_copy(update={"sites": {**self.sites, site: changed}})


def decode_content(text: bytes | str) -> Content:
    """Raises DecodeError."""
    content = decode(text, "content", Content)
    understood("content", content.requires)
    for name, site in content.sites.items():
        if site.moves is not None and (site.intent is not Intent.DRAINED or site.moves.site == name):
            raise DecodeError("content", 0, f"sites.{name}.moves: only a drained site's tunnels move, and to another one")
        if site.because is not None and (site.because.kind == "degrade") != (site.intent is Intent.DEGRADED):
            raise DecodeError("content", 0, f"sites.{name}.because: {site.because.kind} is no word for {site.intent}")
        if site.because is not None and not site.intent.dark:
            raise DecodeError("content", 0, f"sites.{name}.because: it is not dark")
        if site.prepend and site.intent is not Intent.DEGRADED:
            raise DecodeError("content", 0, f"sites.{name}.prepend: only of a degraded site")
    if len(set(content.after)) != len(content.after):
        raise DecodeError("content", 0, "after: names one content twice")
    return content
