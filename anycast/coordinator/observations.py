"""What observers say of the sites' routes from outside, and for how long that is worth something. Pure; kept nowhere.

An observer's word is whole and is good for `GOOD_S`; who has said nothing for longer says nothing. Of several, one that sees
the route is enough for "seen"; "not seen" needs all of them that say anything, for a router that knows nothing has confirmed
nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from anycast.policy.drain import Seen

GOOD_S = 6.0
"""Three of an observer's words: two may be lost."""


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    """What one observer last said."""

    at: float
    """CLOCK_BOOTTIME seconds of the coordinator: when it came."""
    sites: Mapping[str, Seen]
    routers: Mapping[str, bool]
    """By address: its session stands."""


class Observations:
    """Fed by observers; asked about sites."""

    def __init__(self) -> None:
        self._words: dict[str, Word] = {}

    def take(self, observer: str, word: Word) -> bool:
        """Whether it says anything that its word before did not."""
        before, self._words[observer] = self._words.get(observer), word
        return before is None or (before.sites, before.routers) != (word.sites, word.routers)

    def seen(self, site: str, now: float) -> Seen:
        said = {word.sites.get(site, Seen.UNKNOWN) for word in self._words.values() if now - word.at <= GOOD_S}
        if Seen.SEEN in said:
            return Seen.SEEN
        return Seen.NOT_SEEN if said == {Seen.NOT_SEEN} else Seen.UNKNOWN

    def words(self) -> Mapping[str, Word]:
        """The last of each, by name."""
        return dict(sorted(self._words.items()))
