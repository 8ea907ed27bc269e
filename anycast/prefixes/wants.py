"""What a fleet file asks the plan for: every value that it may leave out, whether it does, and what else it writes.

The file is looked at as text (`yaml_text.Tree`), because one that leaves addresses out is no `Fleet` yet. What cannot be
read here is not asked for: reading the filled-in file says what is wrong with it, in its place. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from anycast.fleet.addressing import Addressing
from anycast.fleet.finding import Finding
from anycast.fleet.values import FAMILIES
from anycast.prefixes.allocation import Kind
from anycast.prefixes.numbers import WIDTH, Range, read
from anycast.prefixes.sizes import LAN, Need, clients_need, visible_lengths

_NOBODYS = frozenset({"addressing", "announcements", "budget", "dns", "service"})
"""Sections whose prefixes say what space is for, not that somebody has it; the service's are looked at by themselves."""
SIDES = ("uplink", "inside", "management")


class Want(NamedTuple):
    """One value."""

    key: str
    kind: Kind
    family: str
    """``ipv4``, ``ipv6``; empty for a number."""
    use: str
    """Of the blocks that it is taken from; empty: it lies in another prefix, or is no address."""
    length: int
    """Of a prefix taken from a block; of a single address its width."""
    parent: str
    """The key of the prefix that it lies in, or that prefix itself, where the file writes it in another place."""
    pin: str
    """What the file writes; empty: nothing."""
    why: str
    at: int | None = None
    """The first address of a prefix that is no other, because an address in it is written."""
    need: Need | None = None
    """Of a site's first pool of a family: how many addresses its pools must hold together."""

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(self.key.split("."))


@dataclasses.dataclass(frozen=True, slots=True)
class Declared:
    """Everything that a plan is made from but the records and the day."""

    fleet: str
    environment: str
    addressing: Addressing
    wants: dict[str, Want]
    """By key; parents before what lies in them."""
    written: tuple[Range, ...]
    """Every address and prefix that the file writes, but for what clients reach or a budget retires."""
    reached: tuple[Range, ...]
    """What clients reach through their tunnels (`service.inside`)."""
    renamed: dict[str, str]
    """Sites' names before, and now."""
    unsized: tuple[tuple[str, ...], ...]
    """Paths of pools that are to be planned, while nobody says for how many clients, or not so that it can be read."""
    sized: frozenset[str]
    """Sites that say for how many clients they are."""

    sites: frozenset[str]
    services: frozenset[str]
    """Anycast services that stand in the file: `addressing.services`, and an empty name for `service` where it is
    announced."""

    @property
    def unmet(self) -> list[tuple[str, ...]]:
        """Paths of what the file leaves out."""
        return [*(want.path for want in self.wants.values() if not want.pin), *self.unsized]


def declared(tree: Any, addressing: Addressing) -> Declared:
    """`tree`: the text of a fleet file as `yaml_text.parse` gives it (`Tree.value`); `addressing`: its section, read."""
    return _Reader(tree, addressing).read()


def unsized(wanted: Declared) -> Iterator[Finding]:
    """Sites of which nothing says how many clients they have."""
    for path in wanted.unsized:
        if path[1] not in wanted.sized:  # such a one has something that cannot be read, and reading the file says so
            what = "has no clients, by which its pools are sized; write `clients`, or `addressing.clients` for all sites"
            yield Finding(path[:2], what)


def unserved(wanted: Declared) -> Iterator[Finding]:
    """Who declares something that no block is for would look for it in vain."""
    for name in sorted(wanted.services - {""}):
        if not any(f"addressing.services.{name}.prefixes.{family}" in wanted.wants for family in WIDTH):
            yield Finding(("addressing", "services", name), "gets nothing: no block has anycast in its use")
    if not wanted.addressing.subnets:
        return
    given = {want.path[3] for want in wanted.wants.values() if want.kind is Kind.SUBNET and want.path[2] == "subnets"}
    for name in sorted(wanted.addressing.subnets.keys() - given):
        what = "gets nothing: no block of its families has subnets in its use"
        yield Finding(("addressing", "subnets", name), what)


class _Reader:
    def __init__(self, tree: Any, addressing: Addressing) -> None:
        self._tree = _mapping(tree)
        self._addressing = addressing
        self._environment = _text(self._tree.get("environment"))
        self._wants: dict[str, Want] = {}
        self._unsized: list[tuple[str, ...]] = []
        self._uses = {(use, f"ipv{block.prefix.version}") for block in addressing.blocks.values() for use in block.use}
        self._blocks = [
            (found, block.use) for block in addressing.blocks.values() if (found := read(str(block.prefix))) is not None
        ]
        self._visible = visible_lengths(self._environment, addressing)

    def read(self) -> Declared:
        service, sites = _mapping(self._tree.get("service")), _mapping(self._tree.get("sites"))
        announced = any(_mapping(site).get("upstreams") for site in sites.values())
        if announced:
            self._service("service", service, _text(service.get("name")) or "the service")
        else:
            self._moving_vips(_mapping(service.get("vips")))
        for name, other in _sorted(_mapping(self._tree.get("addressing")).get("services")):
            self._service(f"addressing.services.{name}", _mapping(other), name)
        for name, site in _sorted(sites):
            if isinstance(site, dict):
                self._site(name, site, service)
        renamed = {
            old: name for name, site in sites.items() if (old := _text(_mapping(site).get("formerly"))) and old not in sites
        }
        outside = {key: value for key, value in self._tree.items() if key not in _NOBODYS}
        mine = {key: value for key, value in service.items() if key != "inside"}
        services = _mapping(self._tree.get("addressing")).get("services")
        return Declared(
            fleet=_text(self._tree.get("fleet")),
            environment=self._environment,
            addressing=self._addressing,
            wants=self._wants,
            written=tuple(_written([outside, mine, services])),
            reached=tuple(_written(service.get("inside"))),
            renamed=renamed,
            unsized=tuple(self._unsized),
            sized=frozenset(name for name, site in sites.items() if "clients" in _mapping(site)),
            sites=frozenset(sites),
            services=frozenset(self._addressing.services) | ({""} if announced else set()),
        )

    def _service(self, here: str, service: dict[str, Any], name: str) -> None:
        prefixes, vips = _mapping(service.get("prefixes")), _mapping(service.get("vips"))
        for family in FAMILIES:
            length = self._visible[family]
            why = f"{name}: announced as one, a /{length}, the longest that is heard everywhere"
            if self._prefix(f"{here}.prefixes.{family}", Kind.COVERING, family, "anycast", length, prefixes, vips, why):
                self._address(
                    f"{here}.vips.{family}", Kind.VIP, family, f"{here}.prefixes.{family}", vips, f"{name}: its VIP"
                )

    def _moving_vips(self, vips: dict[str, Any]) -> None:
        """Without upstreams nothing is announced: the VIP is what moves on the uplink, and the file writes it."""
        for family in FAMILIES:
            if pin := _text(vips.get(family)):
                self._add(Want(f"service.vips.{family}", Kind.VIP, family, "", WIDTH[family], "", pin, ""))

    def _site(self, name: str, site: dict[str, Any], service: dict[str, Any]) -> None:
        here = f"sites.{name}"
        self._unicast(here, name, site, service)
        self._pools(here, name, site, service)
        lans = {side: self._lan(here, side, site) for side in SIDES}
        for family in FAMILIES:
            for subnet, lengths in sorted(self._addressing.subnets.items()):
                if (length := lengths.of(family)) is not None:
                    key = f"{here}.subnets.{subnet}.{family}"
                    holder = _mapping(_mapping(site.get("subnets")).get(subnet))
                    self._prefix(key, Kind.SUBNET, family, "subnets", length, holder, {}, f"{name}: /{length} for {subnet}")
        self._machines(here, site, lans)
        pin = _text(site.get("spi_label"))
        why = f"{name}: tells its SPIs from other sites'"
        self._add(Want(f"{here}.spi_label", Kind.SPI_LABEL, "", "", 0, "", pin, why))

    def _unicast(self, here: str, name: str, site: dict[str, Any], service: dict[str, Any]) -> None:
        own, addresses = _mapping(site.get("unicast_prefix")), _mapping(site.get("service_address"))
        vips = _mapping(service.get("vips"))
        for family in FAMILIES:
            length, key = self._visible[family], f"{here}.unicast_prefix.{family}"
            why = f"{name}: a /{length} is heard everywhere, and this one leads here only"
            there = self._prefix(key, Kind.UNICAST_PREFIX, family, "unicast", length, own, addresses, why)
            if there and (family in vips or f"service.vips.{family}" in self._wants):
                drains = f"{name}: where drains of other sites redirect clients to"
                self._address(f"{here}.service_address.{family}", Kind.SERVICE_ADDRESS, family, key, addresses, drains)
            ends = _mapping(site.get("tunnel"))
            mine, pin = f"{here}.tunnel.{family}", _text(ends.get(family))
            why = f"{name}: tunnels from other sites end here"
            if ("tunnels", family) in self._uses:
                self._add(Want(mine, Kind.TUNNEL, family, "tunnels", WIDTH[family], "", pin, why))
            elif there or pin:
                self._address(mine, Kind.TUNNEL, family, key if there else "", ends, why)

    def _pools(self, here: str, name: str, site: dict[str, Any], service: dict[str, Any]) -> None:
        inside = service.get("inside")
        reached = {found.family for each in inside if (found := read(_text(each)))} if isinstance(inside, list) else set()
        pools, more = _mapping(site.get("pools")), _mapping(site.get("more_pools"))
        need = clients_need(site, self._addressing)
        for family in FAMILIES:
            key, pin = f"{here}.pools.{family}", _text(pools.get(family))
            if not pin and (("pools", family) not in self._uses or family not in reached):
                continue
            if need is None and not pin and family == "ipv4":
                self._unsized.append(tuple(key.split(".")))
                continue
            planned = ("pools", family) in self._uses and family == "ipv4" and need is not None
            length = 64 if family == "ipv6" else 32 if need is None else need.length
            why = f"{name}: a /64 is more than its clients" if family == "ipv6" else f"{name}: {need and need.why}"
            self._add(Want(key, Kind.POOL, family, "pools", length, "", pin, why, None, need if planned else None))
            for extra, holder in sorted(more.items()):
                if text := _text(_mapping(holder).get(family)):
                    self._add(Want(f"{here}.more_pools.{extra}.{family}", Kind.POOL, family, "pools", 0, "", text, ""))

    def _lan(self, here: str, side: str, site: dict[str, Any]) -> dict[str, str]:
        """Ask for the site's subnets on one side; their keys, by family."""
        holder, gateways = _mapping(site.get(side)), _sorted(site.get("gateways"))
        attached = [each for _, gateway in gateways if isinstance(each := _mapping(gateway).get(side), dict)]
        keys: dict[str, str] = {}
        for family in FAMILIES:
            children = {str(i): each.get(family) for i, each in enumerate(attached)}
            if side == "management" and not attached and family not in holder:
                continue  # nobody stands there
            name = here.removeprefix("sites.")
            length = LAN[side][family]
            key, why = f"{here}.{side}.{family}", f"{name}: its {side} LAN"
            if self._prefix(key, Kind.SUBNET, family, side, length, holder, children, why):
                keys[family] = key
        return keys

    def _machines(self, here: str, site: dict[str, Any], lans: dict[str, dict[str, str]]) -> None:
        """Ask for the addresses of what stands in the site's LANs: first what is a way out for others there, which inside is
        what moves, and outside the routers."""
        self._moving(here, site, "inside", "inside", lans)
        for kind, side in (("upstreams", "uplink"), ("inside_routers", "inside")):
            for router, settings in _sorted(site.get(kind)):
                if not isinstance(settings, dict):
                    continue
                holder, why = settings.get("address"), f"of {router}"
                for family, lan in lans[side].items():
                    if holder is None or family in _mapping(holder):  # where one is written, that is all it has
                        key = f"{here}.{kind}.{router}.address.{family}"
                        self._address(key, Kind.ADDRESS, family, lan, _mapping(holder), why)
        for gateway, settings in _sorted(site.get("gateways")):
            why = f"of {gateway}"
            for side in SIDES:
                attachment = _mapping(settings).get(side)
                if not isinstance(attachment, dict):
                    continue
                links = _mapping(attachment.get("subnet"))
                for family, lan in lans[side].items():
                    key = f"{here}.gateways.{gateway}.{side}.{family}"
                    self._address(key, Kind.ADDRESS, family, _text(links.get(family)) or lan, attachment, why)
            if (site.get("upstreams") or site.get("inside_routers")) and isinstance(settings, dict):
                key, pin = f"{here}.gateways.{gateway}.router_id", _text(settings.get("router_id"))
                own = f"{here}.gateways.{gateway}.uplink.ipv4"
                if pin or own in self._wants:
                    self._add(Want(key, Kind.ROUTER_ID, "ipv4", "", 32, own, pin, f"{why}: its IPv4 address outside"))
        vrrp = _mapping(site.get("vrrp"))
        if "outside" in vrrp or (site.get("upstreams") and _text(vrrp.get("uplink")) != "routed"):
            self._moving(here, site, "uplink", "outside", lans)

    def _moving(self, here: str, site: dict[str, Any], side: str, name: str, lans: dict[str, dict[str, str]]) -> None:
        if isinstance(vrrp := site.get("vrrp"), dict):
            why = f"moves between the gateways {name}"
            for family, lan in lans[side].items():
                self._address(f"{here}.vrrp.{name}.{family}", Kind.VRRP, family, lan, _mapping(vrrp.get(name)), why)

    def _prefix(
        self,
        key: str,
        kind: Kind,
        family: str,
        use: str,
        length: int,
        holder: dict[str, Any],
        inner: dict[str, Any],
        why: str,
    ) -> bool:
        """Ask for a prefix that is written in `holder`, or is to be taken from a block; whether there is one.

        Where an address that lies in it is written (in `inner`) and the prefix is not, it is the one around that address.
        """
        if pin := _text(holder.get(family)):
            self._add(Want(key, kind, family, use, length, "", pin, why))
            return True
        if (use, family) not in self._uses:
            return False
        children = inner.values() if kind is Kind.SUBNET else [inner.get(family)]
        around = [found for each in children if each and (found := read(_text(each))) and found.family == family]
        if not around:
            self._add(Want(key, kind, family, use, length, "", "", why))
            return True
        start = around[0].start >> (WIDTH[family] - length) << (WIDTH[family] - length)
        found = Range(family, start, length)
        if not any(block.holds(found) and use in uses for block, uses in self._blocks):
            return False
        self._add(Want(key, kind, family, use, length, "", "", f"{why}; around an address that is written", start))
        return True

    def _address(self, key: str, kind: Kind, family: str, parent: str, holder: dict[str, Any], why: str) -> None:
        self._add(Want(key, kind, family, "", WIDTH[family], parent, _text(holder.get(family)), why))

    def _add(self, want: Want) -> None:
        self._wants[want.key] = want


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _sorted(value: Any) -> list[tuple[str, Any]]:
    """By name: the order of a file means nothing."""
    return sorted(_mapping(value).items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _written(value: Any) -> Iterator[Range]:
    if isinstance(value, str):
        if (":" in value or value.count(".") == 3) and (found := read(value)) is not None:
            yield found
        elif "/" in value and (found := read(value.partition("/")[0])) is not None:
            yield found  # an address with the length of its subnet
    elif isinstance(value, dict):
        for each in value.values():
            yield from _written(each)
    elif isinstance(value, list):
        for each in value:
            yield from _written(each)
