"""Rules about what sites announce besides the service's prefixes."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator

from anycast.fleet.addressing_checks import Network, announced
from anycast.fleet.finding import Finding
from anycast.fleet.schema import Fleet
from anycast.fleet.values import FAMILIES
from anycast.fleet.yaml_text import Path
from anycast.lease_wire import MAX_ROUTES


def last_resorts_are_the_fleets(fleet: Fleet) -> Iterator[Finding]:
    """Whoever announces an address attracts its traffic, whosever it is."""
    if fleet.announcements is None:
        return
    own = _own_space(fleet)
    longer = [holder.of(family) for _, holder in announced(fleet) for family in holder.families]
    for name, each in fleet.announcements.last_resort.items():
        path: Path = ("announcements", "last_resort", name)
        prefix = each.prefix
        if not any(_inside(prefix, space) for space in own):
            what = f"{prefix} is not all in this fleet's blocks: its announcement would attract what is others'"
            yield Finding((*path, "prefix"), what, judged=(("addressing",),))
        elif not any(prefix != other and _inside(other, prefix) for other in longer):
            what = f"{prefix} holds no prefix that is announced: there is nothing that it would be the last resort of"
            yield Finding((*path, "prefix"), what, judged=(("addressing",), ("service",), ("sites",)))
        for i, site in enumerate(each.sites):
            if site not in fleet.sites:
                yield Finding((*path, "sites", i), f"there is no site {site}; there are {', '.join(fleet.sites)}")
            elif not fleet.sites[site].upstreams:
                yield Finding((*path, "sites", i), f"{site} has no upstreams to announce it to")
            elif site in each.sites[:i]:
                yield Finding((*path, "sites", i), f"{site} stands here twice")


def words_are_in_their_vocabulary(fleet: Fleet) -> Iterator[Finding]:
    """A community that its network does not know is silently ignored, or worse, means something else."""
    known = {} if fleet.announcements is None else fleet.announcements.communities
    for name, site in fleet.sites.items():
        for kind, routers in (("upstreams", site.upstreams), ("inside_routers", site.inside_routers)):
            for router, upstream in routers.items():
                if (each := upstream.announce) is None:
                    continue
                path: Path = ("sites", name, kind, router, "announce")
                if each.local_pref is not None and upstream.asn != site.asn:
                    what = f"AS {upstream.asn} is another AS than the site's, and LOCAL_PREF is not sent there"
                    yield Finding((*path, "local_pref"), f"{what} (RFC 4271 section 5.1.5)", judged=(path[:-1],))
                if each.prepend and upstream.asn == site.asn:
                    what = "a router of the site's own AS drops as a loop what carries its AS number"
                    yield Finding((*path, "prepend"), f"{what} (RFC 4271 section 9.1.2)", judged=(path[:-1],))
                if each.vocabulary is None:
                    if each.communities:
                        yield Finding((*path, "communities"), "need a vocabulary, which says what these words are")
                    continue
                if each.vocabulary not in known:
                    what = f"{each.vocabulary} is none of announcements.communities ({', '.join(known) or 'there are none'})"
                    yield Finding((*path, "vocabulary"), what, judged=(("announcements",),))
                    continue
                words = known[each.vocabulary]
                for i, word in enumerate(each.communities):
                    if word not in words:
                        what = f"{word} is no word of {each.vocabulary}; it has {', '.join(words)}"
                        yield Finding((*path, "communities", i), what, judged=(("announcements",),))


def routes_fit_one_renewal(fleet: Fleet) -> Iterator[Finding]:
    """The lease is renewed by one message with all routes of the gateway. A longer one is refused, and the site is dark."""
    resorts = {} if fleet.announcements is None else fleet.announcements.last_resort
    for name, site in fleet.sites.items():
        last = [each.prefix for each in resorts.values() if name in each.sites]
        pools = [site.pools, *site.more_pools.values()]
        for gateway, each in site.gateways.items():
            count = 0
            for family in FAMILIES:
                link = each.uplink.subnet.of(family)
                outside = [fleet.service.prefixes, site.unicast_prefix]
                told = sum(family in holder.families for holder in outside)
                told += sum(f"ipv{prefix.version}" == family for prefix in last)
                heard = [own for router in site.upstreams.values() if (own := router.address.of(family)) is not None]
                count += told * sum(link is None or address in link for address in heard)
                inside = sum(family in router.address.families for router in site.inside_routers.values())
                count += inside * sum(family in pool.families for pool in pools)
            if count > MAX_ROUTES:
                what = f"announces {count} routes, one for each prefix and router; its lease has room for {MAX_ROUTES}"
                yield Finding(("sites", name, "gateways", gateway), what, judged=(("sites", name, "upstreams"),))


def _own_space(fleet: Fleet) -> list[Network]:
    """Blocks that are announced from, with neighbours put together; without blocks, what the file writes."""
    if fleet.addressing is None:
        found = [holder.of(family) for _, holder in announced(fleet) for family in holder.families]
    else:
        found = [block.prefix for block in fleet.addressing.blocks.values() if {"anycast", "unicast"} & set(block.use)]
    return [
        *ipaddress.collapse_addresses([each for each in found if each.version == 4]),
        *ipaddress.collapse_addresses([each for each in found if each.version == 6]),
    ]


def _inside(one: Network, other: Network) -> bool:
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type]


ANNOUNCEMENT_RULES: tuple[Callable[[Fleet], Iterator[Finding]], ...] = (
    last_resorts_are_the_fleets,
    words_are_in_their_vocabulary,
    routes_fit_one_renewal,
)
