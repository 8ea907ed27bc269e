"""Rules about what two gateways of a site share: virtual router, mirror, uplink, management, routers inside, BFD.

That addresses lie in their subnets and are nobody else's is judged with all others, in `address_checks.py`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from anycast.fleet.address_checks import unusable
from anycast.fleet.bounds import bounded, said
from anycast.fleet.finding import Finding
from anycast.fleet.pair import Vrrp
from anycast.fleet.schema import Fleet, Site
from anycast.fleet.section import DualStack
from anycast.fleet.yaml_text import Path, where

_STEP = datetime.timedelta(milliseconds=10)


def _routers(fleet: Fleet) -> Iterator[tuple[str, Site, Path, Vrrp]]:
    for name, site in fleet.sites.items():
        if site.vrrp is not None:
            yield name, site, ("sites", name, "vrrp"), site.vrrp


def two_gateways_are_one_router(fleet: Fleet) -> Iterator[Finding]:
    """Two machines with one address and no election would both answer; one machine alone has nobody to elect."""
    for name, site in fleet.sites.items():
        here: Path = ("sites", name)
        if site.vrrp is None:
            if len(site.gateways) > 1:
                yield Finding((*here, "gateways"), "are two, but the site has no vrrp, so both would answer for one address")
            for gateway_name, gateway in site.gateways.items():
                if "priority" in gateway.model_fields_set:
                    path: Path = (*here, "gateways", gateway_name, "priority")
                    yield Finding(path, "is of a virtual router, and the site has no vrrp", judged=((*here, "vrrp"),))


def the_other_router_is_known(fleet: Fleet) -> Iterator[Finding]:
    """It is the site's other gateway, or a keepalived that this file does not describe."""
    for name, site, path, vrrp in _routers(fleet):
        gateways: Path = ("sites", name, "gateways")
        peers = [key for key in ("peer", "peer_inside") if getattr(vrrp, key) is not None]
        if len(site.gateways) > 1:
            other = list(site.gateways)[1]
            for key in peers:
                yield Finding((*path, key), f"is not needed: the other router is {other}", at_key=True, judged=(gateways,))
            if vrrp.interop != "none":
                what = f"{vrrp.interop}, but the other router is {other}, a gateway of this fleet; leave it out"
                yield Finding((*path, "interop"), what, judged=(gateways,))
        elif vrrp.interop == "none":
            what = "has one gateway and no second router; add a gateway, or say by interop that keepalived is the other one"
            yield Finding(path, what, judged=(gateways, ("sites", name)))
        elif vrrp.transport == "multicast":
            for key in peers:
                yield Finding((*path, key), "is not needed: multicast finds it", at_key=True, judged=((*path, "transport"),))
        else:
            for key in ("peer", "peer_inside"):
                if key not in peers:
                    what = (
                        f"has no {key}: where keepalived's advertisements come from and ours go to; or transport: multicast"
                    )
                    yield Finding(path, what, judged=((*path, key),))
        if vrrp.transport == "multicast" and vrrp.interop == "none":
            what = "multicast is for interop only; between two of ours unicast tells nobody else"
            yield Finding((*path, "transport"), what, judged=((*path, "interop"),))
        if vrrp.interop != "none" and "keys" in vrrp.model_fields_set:
            yield Finding((*path, "keys"), f"is of no use: {vrrp.interop} knows no seal", at_key=True)


def what_moves_has_its_families(fleet: Fleet) -> Iterator[Finding]:
    """A route's next hop and a server's way back are addresses of the packets' own family."""
    for name, site, path, vrrp in _routers(fleet):
        if vrrp.outside is not None and vrrp.uplink == "shared":
            yield from _lacks((*path, "outside"), vrrp.outside, fleet.service.vips, ("service", "vips"))
        yield from _lacks((*path, "inside"), vrrp.inside, site.pools, ("sites", name, "pools"))
        if len(site.gateways) == 1 and vrrp.transport == "unicast":
            outside = vrrp.outside or fleet.service.vips
            if vrrp.peer is not None:
                yield from _lacks((*path, "peer"), vrrp.peer, outside, (*path, "outside"))
            if vrrp.peer_inside is not None:
                yield from _lacks((*path, "peer_inside"), vrrp.peer_inside, vrrp.inside, (*path, "inside"))


def _lacks(path: Path, holder: DualStack, needed: DualStack, needed_path: Path) -> Iterator[Finding]:
    for family in needed.families:
        if holder.of(family) is None:
            yield Finding(path, f"has no {family}, but {where(needed_path)} has", judged=(needed_path,))


def the_uplink_is_shared_or_routed(fleet: Fleet) -> Iterator[Finding]:
    """A third-party next hop needs one subnet with the upstream (RFC 4271 section 5.1.3); otherwise each has its own."""
    for name, site in fleet.sites.items():
        here: Path = ("sites", name)
        vrrp = site.vrrp
        if vrrp is not None and vrrp.uplink == "routed":
            yield from _routed(here, site, vrrp)
            continue
        for gateway_name, gateway in site.gateways.items():
            if gateway.uplink.subnet.families:
                path: Path = (*here, "gateways", gateway_name, "uplink", "subnet")
                what = "is written with vrrp.uplink: routed only; where it is shared, the site's subnet is everybody's"
                yield Finding(path, what, at_key=True, judged=((*here, "vrrp"),))
        if vrrp is None:
            continue
        if site.upstreams and vrrp.outside is None:
            what = "has no outside: the next hop of the routes, in the upstreams' subnet; or uplink: routed"
            yield Finding((*here, "vrrp"), what, judged=((*here, "upstreams"),))
        if not site.upstreams and vrrp.outside is not None and vrrp.outside != fleet.service.vips:
            what = "is not service.vips; without upstreams the VIPs themselves move, so leave it out"
            yield Finding((*here, "vrrp", "outside"), what, judged=(("service", "vips"), (*here, "upstreams")))


def _routed(here: Path, site: Site, vrrp: Vrrp) -> Iterator[Finding]:
    path: Path = (*here, "vrrp")
    upstreams: Path = (*here, "upstreams")
    if vrrp.outside is not None:
        what = "moves nowhere: with uplink: routed each gateway announces its own address"
        yield Finding((*path, "outside"), what, at_key=True, judged=((*path, "uplink"),))
    if vrrp.witnesses is not None:
        what = "is not read with uplink: routed; each gateway asks the upstream at its own link's end"
        yield Finding((*path, "witnesses"), what, at_key=True, judged=((*path, "uplink"),))
    if not site.upstreams:
        yield Finding((*path, "uplink"), "routed needs upstreams to tell which gateway to send to", judged=(upstreams,))
    if len(site.gateways) == 1:
        what = "routed is for two gateways of this fleet; with one, the next hop is its own or the VRRP address: shared"
        yield Finding((*path, "uplink"), what, judged=((*here, "gateways"),))
    taken: list[tuple[Any, str]] = []
    for name, gateway in site.gateways.items():
        uplink: Path = (*here, "gateways", name, "uplink")
        for family in site.uplink.families:
            subnet, address = gateway.uplink.subnet.of(family), gateway.uplink.of(family)
            at: Path = (*uplink, "subnet", family)
            if subnet is None:
                what = f"has no subnet.{family}: the gateway's own link, which vrrp.uplink: routed needs"
                yield Finding(uplink, what, judged=((*uplink, "subnet"), (*path, "uplink"), (*here, "uplink")))
                continue
            if not subnet.subnet_of(site.uplink.of(family)):
                yield Finding(at, f"{subnet} is outside {where((*here, 'uplink', family))} {site.uplink.of(family)}")
            if address is not None and address not in subnet:
                yield Finding((*uplink, family), f"{address} is outside the gateway's own {subnet}", judged=(at,))
            elif address is not None and unusable(address, subnet):
                yield Finding((*uplink, family), f"{address} is no host's address in {subnet}", judged=(at,))
            for other, owner in taken:
                if other.version == subnet.version and other.overlaps(subnet):
                    yield Finding(at, f"{subnet} is also the link of {owner}", judged=((*here, "gateways", owner),))
            taken.append((subnet, name))
            if site.upstreams and not any(
                r.address.of(family) in subnet for r in site.upstreams.values() if r.address.of(family)
            ):
                yield Finding(
                    at, f"no upstream has an address in {subnet}, so nobody would hear {name}", judged=(upstreams,)
                )
    for name, router in site.upstreams.items():
        for family in router.address.families:
            address = router.address.of(family)
            link = next((subnet for subnet, _ in taken if subnet.version == address.version and address in subnet), None)
            judged: tuple[Path, ...] = ((*here, "gateways"), (*path, "uplink"))
            if link is None:
                yield Finding((*upstreams, name, "address", family), f"{address} is on no gateway's own link", judged=judged)
            elif unusable(address, link):
                yield Finding(
                    (*upstreams, name, "address", family), f"{address} is no host's address in {link}", judged=judged
                )


def durations_of_pairs(fleet: Fleet) -> Iterator[Finding]:
    """RFC 9568 counts centiseconds, RFC 5880 microseconds; what a machine can keep is narrower."""
    for _, _, path, vrrp in _routers(fleet):
        why = "RFC 9568 section 5.2.7: 12 bits of centiseconds"
        wrong = list(bounded((*path, "interval"), vrrp.interval, 0.01, 40, why))
        yield from wrong
        if not wrong and vrrp.interval % _STEP:
            what = f"{said(vrrp.interval)} is not a multiple of 10 ms, which is what VRRP counts (RFC 9568 section 5.2.7)"
            yield Finding((*path, "interval"), what)
        yield from bounded(
            (*path, "preempt_delay"), vrrp.preempt_delay, 0, 3600, "a machine that is back is believed some day"
        )
    for name, site in fleet.sites.items():
        for kind, routers in (("upstreams", site.upstreams), ("inside_routers", site.inside_routers)):
            for router, neighbor in routers.items():
                if neighbor.bfd is not None:
                    at: Path = ("sites", name, kind, router, "bfd", "interval")
                    yield from bounded(at, neighbor.bfd.interval, 0.01, 1, "below it a busy machine is taken for a dead one")


def preemption_has_a_reason(fleet: Fleet) -> Iterator[Finding]:
    """Who comes back takes over only from a lower priority (RFC 9568 section 6.4.2)."""
    for name, site, path, vrrp in _routers(fleet):
        gateways: Path = ("sites", name, "gateways")
        if vrrp.preempt and len(site.gateways) > 1 and len({gateway.priority for gateway in site.gateways.values()}) == 1:
            what = "is yes, but both gateways have the same priority, so neither takes over; give one a higher priority"
            yield Finding((*path, "preempt"), what, judged=(gateways,))
        if not vrrp.preempt and "preempt_delay" in vrrp.model_fields_set:
            what = "delays nothing: preempt is no"
            yield Finding((*path, "preempt_delay"), what, at_key=True, judged=((*path, "preempt"),))


def management_is_between_two(fleet: Fleet) -> Iterator[Finding]:
    """A third path that only one gateway has is one on which nothing is ever heard; a lone gateway's leads to the
    coordinator."""
    for name, site in fleet.sites.items():
        here: Path = ("sites", name)
        having = [gateway_name for gateway_name, gateway in site.gateways.items() if gateway.management is not None]
        if site.management.families and not having:
            what = "has subnets, but no gateway has a management interface in them"
            yield Finding((*here, "management"), what, at_key=True, judged=((*here, "gateways"),))
        for family in site.management.families:
            mine, theirs = site.management.of(family), site.inside.of(family)
            if theirs is not None and mine.overlaps(theirs):
                what = f"{mine} is also the inside; a path of its own still leads to the other gateway when that one is cut"
                yield Finding((*here, "management", family), what, judged=((*here, "inside"), (*here, "inside", family)))
        for gateway_name in having:
            path: Path = (*here, "gateways", gateway_name, "management")
            if len(site.gateways) == 1:
                if fleet.coordinator is None:
                    what = "leads to nobody: the site has one gateway, and the fleet no coordinator; take it out"
                    yield Finding(path, what, at_key=True, judged=((*here, "gateways"), ("coordinator",)))
            elif len(having) == 1:
                other = next(gateway for gateway in site.gateways if gateway != gateway_name)
                what = f"leads to nobody: {other} has no management interface"
                yield Finding(path, what, at_key=True, judged=((*here, "gateways", other, "management"),))


def routers_inside_hear_every_pool(fleet: Fleet) -> Iterator[Finding]:
    """A pool that nobody inside hears of has no way back."""
    for name, site in fleet.sites.items():
        if not site.inside_routers:
            continue
        for family in site.pools.families:
            if all(router.address.of(family) is None for router in site.inside_routers.values()):
                what = f"no router inside has an {family} address, so {site.pools.of(family)} would not be announced to it"
                path: Path = ("sites", name, "inside_routers")
                yield Finding(path, what, judged=(("sites", name, "pools", family),))


def witnesses_stand_on_the_uplink(fleet: Fleet) -> Iterator[Finding]:
    """Who is asked whether the uplink works is a neighbour there, and not one of the two who ask."""
    for name, site, path, vrrp in _routers(fleet):
        if vrrp.witnesses is None or vrrp.uplink == "routed":
            continue
        uplink: Path = ("sites", name, "uplink")
        for family in vrrp.witnesses.families:
            witness, here = vrrp.witnesses.of(family), (*path, "witnesses", family)
            subnet = site.uplink.of(family)
            if subnet is None or witness not in subnet:
                yield Finding(here, f"{witness} is not in {where(uplink)}; ask a router that stands there", judged=(uplink,))
            own = {gateway.uplink.of(family): gateway_name for gateway_name, gateway in site.gateways.items()}
            moving = vrrp.outside or (None if site.upstreams else fleet.service.vips)
            if witness in own:
                yield Finding(
                    here, f"{witness} is {own[witness]}'s own; ask a router", judged=(("sites", name, "gateways"),)
                )
            elif moving is not None and witness == moving.of(family):
                yield Finding(here, f"{witness} is what moves, so the Active would ask itself; ask a router")


def secrets_lie_among_secrets(fleet: Fleet) -> Iterator[Finding]:
    """Who can read the seal's keys can become Active."""
    for _, _, path, vrrp in _routers(fleet):
        if "secrets" not in PurePosixPath(vrrp.keys).parent.parts:
            what = f"{vrrp.keys} is below no folder `secrets`, which root alone reads (/etc/anycast/secrets/vrrp.keys)"
            yield Finding((*path, "keys"), what)


def routers_are_numbered_alike(fleet: Fleet) -> Iterator[Finding]:
    """The lower router id of two Backups waits: a number of one kind beside one of another might be the same."""
    for name, site, _, _ in _routers(fleet):
        without = [gateway_name for gateway_name, gateway in site.gateways.items() if gateway.router_id is None]
        if len(without) == 1 and len(site.gateways) > 1 and not (site.upstreams or site.inside_routers):
            path: Path = ("sites", name, "gateways", without[0])
            yield Finding(path, "has no router_id, but the other gateway has; write both or neither")


def a_mirror_has_two_ends(fleet: Fleet) -> Iterator[Finding]:
    """It goes from gateway to gateway of this fleet, on a link of theirs, and VRRP says which of the two is Active."""
    for name, site in fleet.sites.items():
        if site.sync is None:
            continue
        here: Path = ("sites", name)
        path, gateways, router = (*here, "sync"), (*here, "gateways"), (*here, "vrrp")
        if len(site.gateways) != 2:
            what = f"needs two gateways; {name} has one, and nobody to mirror its tunnels to"
            yield Finding(path, what, at_key=True, judged=(gateways,))
        if site.vrrp is None:
            yield Finding(path, "needs vrrp, which says whose tunnels are mirrored", at_key=True, judged=(router,))
        elif site.vrrp.interop != "none":
            what = f"needs a vrrp without interop: {site.vrrp.interop} has no mirror"
            yield Finding(path, what, at_key=True, judged=(router,))
        if lacking := [gateway_name for gateway_name, gateway in site.gateways.items() if gateway.management is None]:
            at = " and ".join(lacking)
            what = f"needs management at {at}: tunnels' secrets cross a link between the two gateways only"
            yield Finding(path, what, at_key=True, judged=(gateways,))


PAIR_RULES: tuple[Callable[[Fleet], Iterator[Finding]], ...] = (
    two_gateways_are_one_router,
    the_other_router_is_known,
    what_moves_has_its_families,
    the_uplink_is_shared_or_routed,
    durations_of_pairs,
    preemption_has_a_reason,
    management_is_between_two,
    routers_inside_hear_every_pool,
    witnesses_stand_on_the_uplink,
    secrets_lie_among_secrets,
    routers_are_numbered_alike,
    a_mirror_has_two_ends,
)
