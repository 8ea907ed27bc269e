"""One gateway's `InnerAddresses` with a small pool, told by hand: its shell applies at once, its peer is the test."""

from __future__ import annotations

from anycast.timer import TimerExpired
from site_agent.ike import inner_address_words as words
from site_agent.ike.address_ranges import Range, Ranges, parse_range
from site_agent.ike.inner_addresses import InnerAddresses, Limits

POOL = "203.0.113.0/27"
"""Fifteen for each: .1 to .15, of which .1 to .8 may be lent, and .16 to .30, of which .16 to .23 may."""
V6 = "2001:db8:c::/64"
LIMITS = Limits(reserve=4, longest_range=4, most_ranges=8, rest_s=60.0, peer_stops_s=5.0, forget_s=600.0)


def span(text: str) -> Range:
    low, dash, high = text.partition("-")
    return parse_range(f"203.0.113.{low}-203.0.113.{high if dash else low}")


def of(*texts: str) -> Ranges:
    return Ranges(map(span, texts))


def offered(actions: list[words.Action]) -> Ranges | None:
    found = [Ranges(action.ranges) for action in actions if isinstance(action, words.Offer)]
    return found[-1] if found else None


def said(actions: list[words.Action]) -> words.Word:
    return [action.word for action in actions if isinstance(action, words.TellPeer)][-1]


class One:
    """One gateway's core, whose shell applies at once."""

    def __init__(
        self, rank: int = 0, prefixes: tuple[str, ...] = (POOL,), gateways: int = 2, limits: Limits = LIMITS
    ) -> None:
        self.now = 0.0
        self.core = InnerAddresses(prefixes, rank, now=0.0, gateways=gateways, limits=limits)
        self.offer: tuple[Range, ...] = ()

    def tell(self, event: words.Input, *, apply: bool = True) -> list[words.Action]:
        actions = self.core.handle(event, self.now)
        for action in list(actions):
            if isinstance(action, words.Offer):
                self.offer = action.ranges
                if apply:
                    actions += self.tell(words.Applied(action.ranges))
        return actions

    def look(self, *uses: str, began: float | None = None) -> list[words.Action]:
        return self.tell(words.Looked(began=self.now if began is None else began, uses=of(*uses)))

    def wait(self, seconds: float) -> list[words.Action]:
        """Time passes; the core's own timer is served when it is due."""
        actions: list[words.Action] = []
        end = self.now + seconds
        while (due := self.core.deadline) is not None and due <= end:
            self.now = due
            actions += self.tell(TimerExpired())
        self.now = end
        return actions

    def hear(self, **word: object) -> list[words.Action]:
        self.tell(words.PeerConnected())
        return self.tell(words.PeerSaid(words.Word(**{"active": False, "heard": 10**9, **word})))  # type: ignore[arg-type]

    @property
    def ranges(self) -> Ranges:
        return Ranges(self.offer)


def active(rank: int = 0) -> One:
    one = One(rank)
    one.look()
    one.hear()
    one.tell(words.RoleIs(True))
    return one
