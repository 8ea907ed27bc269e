"""What the coordinator knows of the fleet, as a plan reads it: who runs by which content, what is seen, what is dark.

An answer that is empty is not taken for a fleet that is empty (reference: the outages that began so): a coordinator that
has given out no content yet says so with `generation` 0, and one that has names every gateway. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import pydantic

from anycast.content.canonical import Name, Part, Prefix, Sha256, Words, decode, hash_of, understood
from anycast.content.content import Budget, Content, Floor, Intent, decode_content
from anycast.content.envelope import LAST_GENERATION
from anycast.errors import DecodeError

VERSION: Literal[1] = 1
FROM_CONTENT = "content"
"""The kind of a dark site that is dark because the content in force says so."""


class GatewayState(Part):
    site: Name
    active: Sha256 | None = None
    """The content that it runs by; None: none that was signed."""
    newest: Sha256 | None = None
    """The last that it took, active or only staged."""
    heard: bool = False
    """It is connected now. What is said of one that is not is the last that it said."""
    tunnels: Annotated[int, pydantic.Field(ge=0)] | None = None
    """Clients' IKE_SAs; None: unknown, which is not zero. The two of a mirrored pair both count each."""
    own: tuple[Prefix, ...] | None = None
    """The site's own prefixes that it announces now; None: unknown."""


class DarkSite(Part):
    kind: Annotated[str, pydantic.StringConstraints(min_length=1, max_length=40)]
    """``content``, or what holds a slot: ``drain``, ``rollout``, ``maintenance``, ``degrade``, ``token``, ``hold``."""
    why: Words
    """``drain by alice until 04:00``."""


class LedgerState(Part):
    allowed: Annotated[int, pydantic.Field(ge=0)]
    """Sites that may be dark on purpose."""
    dark: dict[Name, DarkSite]


class State(Part):
    version: Literal[1]
    requires: tuple[str, ...] = ()
    fleet: Name
    generation: Annotated[int, pydantic.Field(ge=0, le=LAST_GENERATION)]
    """The last that was given out; 0: none yet."""
    contents: dict[Sha256, str]
    """The text of every content that a gateway names."""
    gateways: dict[Name, GatewayState]
    seen: dict[Name, dict[str, tuple[Prefix, ...] | None]] = pydantic.Field(default_factory=dict)
    """By site and neighbor: the prefixes that the neighbor hears from there; None: unknown."""
    ledger: LedgerState

    @property
    def tunnels(self) -> dict[str, int | None]:
        """By site: the most that a gateway of it counts, because a pair's mirror counts each twice; None: nobody knows."""
        counted: dict[str, int | None] = {}
        for gateway in self.gateways.values():
            known = [each for each in (counted.get(gateway.site), gateway.tunnels) if each is not None]
            counted[gateway.site] = max(known, default=None)
        return counted


def decode_state(data: bytes) -> tuple[State, dict[str, Content]]:
    """The state, and its contents by their hashes. Raises DecodeError."""
    state = decode(data.strip(), "state", State)
    understood("state", state.requires)
    named = {each for gateway in state.gateways.values() for each in (gateway.active, gateway.newest) if each is not None}
    if (state.generation == 0) != (not named):
        what = "no gateway has a content" if state.generation else "a gateway has one"
        raise DecodeError("state", 0, f"{state.generation} generations were given out, and {what}: that is not believed")
    if missing := sorted(named - state.contents.keys()):
        raise DecodeError("state", 0, f"content {missing[0][:12]} is named and not there")
    contents = {}
    for hash_, text in state.contents.items():
        if hash_of(text) != hash_:
            raise DecodeError("state", 0, f"what is called content {hash_[:12]} is another one")
        contents[hash_] = content = decode_content(text)
        if content.fleet != state.fleet:
            raise DecodeError("state", 0, f"content {hash_[:12]} is of fleet {content.fleet}, not of {state.fleet}")
    for name, gateway in state.gateways.items():
        if gateway.active is not None:
            site = contents[gateway.active].sites.get(gateway.site)
            if site is None or name not in site.gateways:
                raise DecodeError("state", 0, f"gateway {name} is not at site {gateway.site} of the content that it runs by")
        if (gateway.active is None) != (gateway.newest is None) and gateway.newest is None:
            raise DecodeError("state", 0, f"gateway {name} runs by a content and has taken none")
    return state, contents


def nothing_yet(fleet: str) -> State:
    """Of a fleet that never had a content."""
    return State(
        version=VERSION, fleet=fleet, generation=0, contents={}, gateways={}, ledger=LedgerState(allowed=0, dark={})
    )


def in_force(state: State, contents: dict[str, Content]) -> Content | None:
    """One content that says what each gateway runs by now; None where none does. In the middle of a rollout they run by
    several: a site stands as its own gateways have it, and the budget is the strictest of all."""
    running = {name: gateway for name, gateway in state.gateways.items() if gateway.active is not None}
    used = {gateway.active: contents[gateway.active] for gateway in running.values() if gateway.active is not None}
    if not used:
        return None
    only = next(iter(used.values()))
    if len(used) == 1 and all(site.gateways.keys() <= running.keys() for site in only.sites.values()):
        return only
    return _merged(state, running, contents, list(used.values()))


def _merged(
    state: State, running: dict[str, GatewayState], contents: dict[str, Content], used: list[Content]
) -> Content:
    sites: dict[str, list[tuple[str, Content]]] = {}
    for name, gateway in sorted(running.items()):
        assert gateway.active is not None
        sites.setdefault(gateway.site, []).append((name, contents[gateway.active]))
    merged = {}
    for site, parts in sites.items():
        views = [(name, content.sites[site]) for name, content in parts]
        # Where two gateways of a site disagree, it attracts by the one that does.
        best = min((view for _, view in views), key=lambda view: list(Intent).index(view.intent))
        merged[site] = best.model_copy(update={"gateways": {name: view.gateways[name] for name, view in views}})
    budgets = [content.budget for content in used]
    regions = sorted({region for budget in budgets for region in budget.regions})
    strictest = _strictest(budgets)
    budget = Budget(
        min_sites=strictest.min_sites,
        min_capacity=strictest.min_capacity,
        regions={
            region: _strictest([budget.regions[region] for budget in budgets if region in budget.regions])
            for region in regions
        },
        retiring=tuple(sorted(set.intersection(*(set(budget.retiring) for budget in budgets)))),
    )
    return used[0].model_copy(update={"after": (), "budget": budget, "sites": merged})


def _strictest(floors: Sequence[Floor]) -> Floor:
    capacities = [floor.min_capacity for floor in floors if floor.min_capacity is not None]
    return Floor(min_sites=max(floor.min_sites for floor in floors), min_capacity=max(capacities, default=None))
