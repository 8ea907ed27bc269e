"""What two gateways of a site share, compiled for one of them: its virtual router, its end of the mirror, and whom it tells
the routes to. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from ipaddress import IPv6Address
from typing import Any

from anycast.document import AnnouncementPolicy, Bfd, Neighbor, Sync, Vrrp, VrrpPath, VrrpVoice
from anycast.fleet.pair import Attachment
from anycast.fleet.schema import Fleet, Gateway, Site, Upstream
from anycast.fleet.section import NO_PREFIXES, DualStack, Prefixes
from anycast.fleet.values import FAMILIES, Family

_GROUPS: dict[Family, str] = {"ipv4": "224.0.0.18", "ipv6": "ff02::12"}
_SIDES = ("outside", "inside", "management")


def compile_vrrp(fleet: Fleet, site: Site, name: str) -> Vrrp | None:
    """Gateway `name`'s part in its site's virtual router; None where it has none."""
    if (vrrp := site.vrrp) is None:
        return None
    gateway = site.gateways[name]
    peer = next((other for other in site.gateways if other != name), None)
    sealed = vrrp.interop == "none"
    return Vrrp(
        peer=peer,
        vrid=vrrp.vrid,
        interval_cs=vrrp.interval // datetime.timedelta(milliseconds=10),
        priority=gateway.priority,
        preempt=vrrp.preempt,
        preempt_delay_ms=vrrp.preempt_delay // datetime.timedelta(milliseconds=1),
        router_id=_number(gateway, second=bool(list(site.gateways).index(name))),
        uplink=vrrp.uplink,
        interop=vrrp.interop,
        keys_file=vrrp.keys if sealed else None,
        witnesses=_witnesses(site, gateway),
        paths=tuple(path for side in _SIDES if (path := _path(side, fleet, site, name, peer)) is not None),
    )


def compile_sync(site: Site, name: str) -> Sync | None:
    """Gateway `name`'s end of its site's mirror; None where it has none. The checks have passed, so both have an address."""
    if site.sync is None:
        return None
    (peer,) = (other for other in site.gateways if other != name)
    own, theirs = site.gateways[name].management, site.gateways[peer].management
    assert own is not None and theirs is not None
    family = next(family for family in own.families if family in theirs.families)
    return Sync(
        peer=peer,
        rank=0 if name < peer else 1,
        own_address=str(own.of(family)),
        peer_address=str(theirs.of(family)),
        port=site.sync.port,
    )


def virtual_link_local(vrid: int) -> str:
    """The virtual router's own link-local address: what its virtual MAC address makes (RFC 9568 section 7.3, RFC 4291)."""
    return str(IPv6Address(f"fe80::200:5eff:fe00:2{vrid:02x}"))


def virtual_outside(fleet: Fleet, site: Site) -> DualStack | None:
    """What moves on the uplink: written, or without upstreams the VIPs; None where nothing does."""
    if site.vrrp is None or site.vrrp.uplink == "routed":
        return None
    return site.vrrp.outside or (None if site.upstreams else fleet.service.vips)


def _number(gateway: Gateway, *, second: bool) -> int:
    """By the identifier, else by the address outside; without either by the place in the file."""
    known = gateway.router_id or gateway.uplink.ipv4
    return int(known) if known is not None else 1 + second


def _witnesses(site: Site, gateway: Gateway) -> tuple[str, ...]:
    if site.vrrp is not None and site.vrrp.witnesses is not None:
        return tuple(str(site.vrrp.witnesses.of(family)) for family in site.vrrp.witnesses.families)
    return tuple(
        str(upstream.address.of(family))
        for upstream in site.upstreams.values()
        for family in upstream.address.families
        if _on_link(upstream, gateway.uplink, family)
    )


def _path(side: str, fleet: Fleet, site: Site, name: str, peer: str | None) -> VrrpPath | None:
    assert site.vrrp is not None
    own: Attachment | None = _attachment(site.gateways[name], side)
    virtual = {"outside": virtual_outside(fleet, site), "inside": site.vrrp.inside}.get(side)
    announced = virtual or virtual_outside(fleet, site) or site.vrrp.inside
    sealed = site.vrrp.interop == "none"
    if own is None or (virtual is None and not sealed) or (side == "outside" and virtual is None):
        return None
    other = None if peer is None else _attachment(site.gateways[peer], side)
    stranger = {"outside": site.vrrp.peer, "inside": site.vrrp.peer_inside}.get(side)
    voices = []
    for family in FAMILIES:
        theirs = None if other is None else other.of(family)
        if theirs is None and stranger is not None:
            theirs = stranger.of(family)
        if site.vrrp.transport == "multicast":
            theirs = _GROUPS[family]
        names = [str(announced.of(family))] if announced.of(family) is not None else []
        if own.of(family) is None or theirs is None or not names:
            continue
        if family == "ipv6":
            names.insert(0, virtual_link_local(site.vrrp.vrid))
        link_local = family == "ipv6" and site.vrrp.transport == "multicast"
        voices.append(
            VrrpVoice(
                source="" if link_local else str(own.of(family)),
                destination=str(theirs),
                addresses=tuple(names) if virtual is not None else (),
                announced=tuple(names),
            )
        )
    return VrrpPath(path=side, interface=own.interface, voices=tuple(voices)) if voices else None  # type: ignore[arg-type]


def _attachment(gateway: Gateway, side: str) -> Attachment | None:
    return {"outside": gateway.uplink, "inside": gateway.inside, "management": gateway.management}[side]


def neighbors_of(fleet: Fleet, site: Site, gateway: Gateway) -> tuple[Neighbor, ...]:
    """One session for each address of each router; each carries its own family, so neither falls with the other."""
    outside = virtual_outside(fleet, site) or gateway.uplink
    inside = gateway.inside if site.vrrp is None else site.vrrp.inside
    return (
        *_sessions(
            fleet, site.upstreams, gateway.uplink, outside, _told_outside(fleet, site), "outside", site.unicast_prefix
        ),
        *_sessions(fleet, site.inside_routers, gateway.inside, inside, [site.pools, *site.more_pools.values()], "inside"),
    )


def _told_outside(fleet: Fleet, site: Site) -> list[DualStack]:
    """The service's prefixes, then those that this site is the last resort with."""
    resorts = {} if fleet.announcements is None else fleet.announcements.last_resort
    name = next(name for name, each in fleet.sites.items() if each is site) if resorts else ""
    found = [each.prefix for each in resorts.values() if name in each.sites]
    return [fleet.service.prefixes, *(Prefixes.model_validate({f"ipv{prefix.version}": prefix}) for prefix in found)]


def policy_of(fleet: Fleet, router: Upstream) -> AnnouncementPolicy | None:
    """With the words' communities in place of the words."""
    if (own := router.announce) is None:
        return None
    words = {} if fleet.announcements is None or own.vocabulary is None else fleet.announcements.communities[own.vocabulary]
    said = [words[word] for word in own.communities]
    made = AnnouncementPolicy(
        prepend=own.prepend,
        med=own.med,
        communities=tuple(text for text in said if text.count(":") == 1),
        large_communities=tuple(text for text in said if text.count(":") == 2),
        local_pref=own.local_pref,
    )
    return None if made == AnnouncementPolicy() else made


def _sessions(
    fleet: Fleet,
    routers: dict[str, Upstream],
    own: Attachment,
    next_hop: DualStack,
    told: Sequence[DualStack],
    side: Any,
    unicast: Prefixes = NO_PREFIXES,
) -> list[Neighbor]:
    return [
        Neighbor(
            name=f"{name}-{family}",
            address=str(router.address.of(family)),
            local_address=str(own.of(family)),
            asn=router.asn,
            families=(family,),
            next_hop={family: str(next_hop.of(family))},
            md5_key_file=router.md5_key_file,
            gtsm=router.gtsm,
            side=side,
            announces=tuple(str(holder.of(family)) for holder in told if family in holder.families),
            unicast=(str(unicast.of(family)),) if family in unicast.families else (),
            policy=policy_of(fleet, router),
            bfd=None
            if router.bfd is None
            else Bfd(
                interval_ms=router.bfd.interval // datetime.timedelta(milliseconds=1), multiplier=router.bfd.multiplier
            ),
        )
        for name, router in routers.items()
        for family in router.address.families
        if any(family in holder.families for holder in (*told, unicast)) and _on_link(router, own, family)
    ]


def _on_link(router: Upstream, own: Attachment, family: Family) -> bool:
    """With a link of one's own only the router at its other end is a neighbour."""
    subnet = own.subnet.of(family)
    return subnet is None or router.address.of(family) in subnet
