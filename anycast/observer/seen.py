"""Whether the routers that an observer hears have a site's route: seen, not seen, or unknown. Pure.

Theory of operation
-------------------
A path belongs to the site whose AS number it ends in. What a router has is known from its End-of-RIB on, for as long as the
session stands: before and after it is unknown.

    the router tells, of one prefix                    of a site
    a path that ends in the site's AS number           seen
    paths, by ADD-PATH, and none is the site's         not seen
    its best path only, and that is another site's     unknown: the site's may stand behind it
    none                                               not seen

A site is seen where any router has any prefix of it, not seen where every router says of every prefix that it has not, and
else unknown. Two sites with one AS number cannot be told apart: then a path tells of neither.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping

from anycast.observer.exabgp_lines import EndOfRib, Event, PathGone, PathHeard, SessionDown, SessionUp
from anycast.policy.drain import Seen


@dataclasses.dataclass(slots=True)
class _Peer:
    up: bool = False
    whole: set[str] = dataclasses.field(default_factory=set)
    """Families of which it has told everything."""
    paths: dict[str, dict[str | None, int | None]] = dataclasses.field(default_factory=dict)
    """By prefix and path id: the AS number that it ends in."""


class Sight:
    """What one observer sees, fed by its ExaBGP's lines."""

    def __init__(
        self, peers: Mapping[str, Collection[str]], prefixes: Collection[str], asns: Mapping[str, int]
    ) -> None:
        """`peers`: by the router's address, the families that it tells; `prefixes`: the service's; `asns`: by site."""
        self._families, self._asns = {peer: tuple(families) for peer, families in peers.items()}, dict(asns)
        self._prefixes = {prefix: "ipv6" if ":" in prefix else "ipv4" for prefix in prefixes}
        counted = Counter(asns.values())
        self._shared = {site for site, asn in asns.items() if counted[asn] > 1}
        self._peers = {peer: _Peer() for peer in peers}

    def handle(self, event: Event) -> None:
        """Of a router that is none of the observer's, nothing is taken."""
        peer = self._peers.get(event.peer)
        if peer is None:
            return
        match event:
            case SessionUp():
                self._peers[event.peer] = _Peer(up=True)
            case SessionDown():
                self._peers[event.peer] = _Peer()
            case EndOfRib(family=family):
                peer.whole.add(family)
            case PathHeard(prefix=prefix, path_id=path_id, origin=origin) if prefix in self._prefixes:
                peer.paths.setdefault(prefix, {})[path_id] = origin
            case PathGone(prefix=prefix, path_id=path_id):
                peer.paths.get(prefix, {}).pop(path_id, None)

    def lost(self) -> None:
        """ExaBGP is gone: nothing is known any more."""
        self._peers = {peer: _Peer() for peer in self._peers}

    @property
    def up(self) -> dict[str, bool]:
        """By router: its session stands."""
        return {name: peer.up for name, peer in self._peers.items()}

    def sites(self) -> dict[str, Seen]:
        """Of every site, now."""
        return {site: self._site(site) for site in self._asns}

    def _site(self, site: str) -> Seen:
        words = {
            self._word(peer, prefix, family, site)
            for name, peer in self._peers.items()
            for prefix, family in self._prefixes.items()
            if family in self._families[name]
        }
        if Seen.SEEN in words:
            return Seen.SEEN
        return Seen.NOT_SEEN if words == {Seen.NOT_SEEN} else Seen.UNKNOWN

    def _word(self, peer: _Peer, prefix: str, family: str, site: str) -> Seen:
        paths = peer.paths.get(prefix, {})
        if self._asns[site] in paths.values():
            return Seen.UNKNOWN if site in self._shared else Seen.SEEN
        if not peer.up or family not in peer.whole:
            return Seen.UNKNOWN
        # A best path hides the others; one without an origin may be anybody's.
        return Seen.UNKNOWN if None in paths or None in paths.values() else Seen.NOT_SEEN
