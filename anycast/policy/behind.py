"""Whether a coordinator's store knows everything that it has decided: judged by what gateways say that they have. Pure.

What a coordinator says is in its store before it is said. So a gateway that has a generation, a content or a grant that the
store does not know was told so by a store that knew more: this one is an older copy of it, or another one. Whoever decides
by such a store gives one number to two contents, or a slot that is taken. So it must not, until it has caught up
(`policy/recovery.py`). One gateway's word is enough, because nothing is lost by waiting; it can be wrong, so an operator
may leave it out by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from anycast.policy.rollout import Version

_NAMED = 3
"""Gateways in a sentence before it counts."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What one gateway last said that it has."""

    site: str
    staged: Version | None = None
    active: Version | None = None
    frozen: int | None = None
    """The generation that two contents came to it under."""
    held: tuple[str, ...] = ()
    """Slots that it holds and the ledger did not know when it said so first."""

    @property
    def versions(self) -> tuple[Version, ...]:
        """Older first."""
        return tuple(each for each in (self.active, self.staged) if each is not None)

    @property
    def highest(self) -> int:
        """0: it has had nothing."""
        return max((*(each.generation for each in self.versions), self.frozen or 0))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the store has given out."""

    generation: int
    """The last."""
    contents: Collection[str]
    """Hashes."""
    given: Mapping[int, str]
    """Hash by generation, where that is known: after a recovery some numbers are left out."""


def contradiction(word: Word, known: Known) -> str:
    """What it has that the store does not know, for people; empty: nothing."""
    for how, each in (("runs by", word.active), ("was sent", word.staged)):
        if each is None:
            continue
        said = f"{how} generation {each.generation}, {each.hash[:12]}"
        if each.generation > known.generation:
            return f"{said}, and this store has given out {known.generation}"
        if each.hash not in known.contents:
            return f"{said}, a content that this store does not have"
        if known.given.get(each.generation, each.hash) != each.hash:
            return f"{said}, and by this store that number is {known.given[each.generation][:12]}"
    if word.frozen is not None and word.frozen > known.generation:
        return f"was sent two contents under generation {word.frozen}, and this store has given out {known.generation}"
    if word.held:
        return f"is dark by {word.held[0]}, a slot that this store has never given"
    return ""


def sentence(against: Mapping[str, str]) -> str:
    """Of `contradiction` by gateway; empty: nothing is known against it."""
    if not against:
        return ""
    told = [f"{gateway} {what}" for gateway, what in sorted(against.items())]
    more = f"; and {len(told) - _NAMED} more gateways" if len(told) > _NAMED else ""
    return "; ".join(told[:_NAMED]) + more
