"""`links`: the brief form (`endpoints: ["a:eth1", "b:eth1"]`) and the extended ones of type `veth` and `dummy`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

import yaml

from anycast_lab.topology.model import Dummy, Endpoint, Link, Node
from anycast_lab.topology.walker import EMBEDDED, Walker, is_null

MTU = range(68, 65536)
DEFAULT_MTU = 9500
"""containerlab's (constants/containerlab.go). No VPN client's path has it, so our own topologies name theirs."""
OTHER_TYPES = frozenset({"mgmt-net", "host", "macvlan", "vxlan", "vxlan-stitch", "veth-stitch", "bridge"})
SPECIAL = frozenset({"mgmt-net", "host", "macvlan"})
"""Nodes of the brief form that stand for a link of that type."""
COMMON = frozenset({"type", "mtu", "labels", "vars"})
_INTERFACE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,14}")  # IFNAMSIZ is 16 with the final NUL
_MAC = re.compile(r"[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}")
_PREFIX_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")


class Links:
    def __init__(self, walker: Walker, nodes: Mapping[str, Node]) -> None:
        self.walker, self.nodes = walker, nodes
        self.links, self.dummies = list[Link](), list[Dummy]()
        self._used = {(node.inside, node.device): f"bridge {name}" for name, node in nodes.items() if node.kind == "bridge"}
        """(machine or "" for the lab's own namespace, interface) → what has that name there."""

    def read(self, node: yaml.Node | None) -> None:
        for index, item in enumerate(self.walker.sequence(node, "topology.links")):
            where = f"topology.links[{index}]"
            parts = {word: (key, value) for key, word, value in self.walker.pairs(item, where)}
            written = self.walker.text(parts["type"][1], f"{where}.type") if "type" in parts else ""
            match written.strip().lower():
                case "" | "brief":
                    self._pair(parts, where, item, brief=True)
                case "veth":
                    self._pair(parts, where, item, brief=False)
                case "dummy":
                    self._dummy(parts, where, item)
                case kind if kind in OTHER_TYPES:
                    self.walker.refuse(parts["type"][1], f"{where}.type", f"`{kind}` {EMBEDDED}, only `veth` and `dummy`")
                case kind:
                    self.walker.refuse(parts["type"][1], f"{where}.type", f"`{kind}` is not a type of link")

    def _pair(self, parts: dict[str, tuple[yaml.Node, yaml.Node]], where: str, item: yaml.Node, *, brief: bool) -> None:
        self._only(parts, where, COMMON | {"endpoints"} | ({"ipv4", "ipv6"} if brief else set()))
        if "endpoints" not in parts:
            self.walker.refuse(item, where, "has no `endpoints`")
            return
        value = parts["endpoints"][1]
        places = self.walker.sequence(value, f"{where}.endpoints")
        if len(places) != 2:
            self.walker.refuse(value, f"{where}.endpoints", "a link has exactly two endpoints")
        if brief:
            addresses = {word: self._addresses(parts, where, word) for word in ("ipv4", "ipv6")}
            ends = []
            for index, node in enumerate(places):
                text = self.walker.text(node, f"{where}.endpoints[{index}]")
                own = {word: found[index] if index < len(found) else "" for word, found in addresses.items()}
                ends.append(self._brief_end(node, f"{where}.endpoints", text, own))
        else:
            ends = [self._extended_end(node, f"{where}.endpoints[{index}]") for index, node in enumerate(places)]
        mtu, told = self._common(parts, where)
        if len(ends) == 2 and ends[0] is not None and ends[1] is not None:
            self.links.append(Link(ends[0], ends[1], mtu, told))

    def _dummy(self, parts: dict[str, tuple[yaml.Node, yaml.Node]], where: str, item: yaml.Node) -> None:
        self._only(parts, where, COMMON | {"endpoint"})
        if "endpoint" not in parts:
            self.walker.refuse(item, where, "has no `endpoint`")
            return
        end = self._extended_end(parts["endpoint"][1], f"{where}.endpoint")
        mtu, told = self._common(parts, where)
        if end is None:
            return
        if self.nodes[end.node].kind == "bridge":
            self.walker.refuse(parts["endpoint"][1], f"{where}.endpoint", f"a dummy on bridge `{end.node}` {EMBEDDED}")
        self.dummies.append(Dummy(end, mtu, told))

    def _only(self, parts: dict[str, tuple[yaml.Node, yaml.Node]], where: str, known: frozenset[str]) -> None:
        for word, (key, _) in parts.items():
            if word not in known:
                what = "belongs to an endpoint in this form of a link" if word in ("ipv4", "ipv6") else EMBEDDED
                self.walker.refuse(key, f"{where}.{word}", what)

    def _common(self, parts: dict[str, tuple[yaml.Node, yaml.Node]], where: str) -> tuple[int, dict[str, object]]:
        mtu, told = DEFAULT_MTU, dict[str, object]()
        if "mtu" in parts:
            mtu = self.walker.number(parts["mtu"][1], f"{where}.mtu", MTU) or DEFAULT_MTU
        if "labels" in parts:
            self.walker.texts(parts["labels"][1], f"{where}.labels")
        if "vars" in parts and not is_null(value := parts["vars"][1]):
            found = self.walker.anything(value, f"{where}.vars")
            if isinstance(found, dict):
                told = found
            else:
                self.walker.refuse(value, f"{where}.vars", "must be a mapping")
        return mtu, told

    def _brief_end(self, node: yaml.Node, where: str, text: str, addresses: Mapping[str, str]) -> Endpoint | None:
        name, colon, interface = text.partition(":")
        if name.strip().lower() in SPECIAL:
            self.walker.refuse(node, where, f"`{text}`: a link of type `{name.strip().lower()}` {EMBEDDED}")
            return None
        if not colon:
            self.walker.refuse(node, where, f"`{text}` is not `node:interface`")
            return None
        return self._end(node, where, Endpoint(name, interface, **addresses))

    def _extended_end(self, node: yaml.Node, where: str) -> Endpoint | None:
        if not isinstance(node, yaml.MappingNode):
            self.walker.refuse(node, where, "must be a mapping with a `node` and an `interface`")
            return None
        values, bad = dict[str, str](), False
        for key, word, value in self.walker.pairs(node, where):
            place = f"{where}.{word}"
            match word:
                case "node" | "interface":
                    values[word] = self.walker.text(value, place)
                case "mac":
                    values[word] = self.walker.text(value, place)
                    if values[word] and not _MAC.fullmatch(values[word]):
                        what = f"`{values[word]}` is not one machine's MAC address (like 02:00:00:00:00:01)"
                        self.walker.refuse(value, place, what)
                case "ipv4" | "ipv6":
                    values[word] = self._address(value, place, word)
                case "vars":
                    if not is_null(value) and not isinstance(self.walker.anything(value, place), dict):
                        self.walker.refuse(value, place, "must be a mapping")
                case _:
                    self.walker.refuse(key, place, EMBEDDED)
                    bad = True
        if not {"node", "interface"} <= values.keys():
            self.walker.refuse(node, where, "needs a `node` and an `interface`")
            return None
        return None if bad else self._end(node, where, Endpoint(**values))

    def _addresses(self, parts: dict[str, tuple[yaml.Node, yaml.Node]], where: str, word: str) -> list[str]:
        if word not in parts:
            return []
        place = f"{where}.{word}"
        items = self.walker.sequence(parts[word][1], place)
        if len(items) > 2:
            self.walker.refuse(parts[word][1], place, "has more addresses than a link has endpoints")
        return [self._address(item, f"{place}[{index}]", word) for index, item in enumerate(items)]

    def _address(self, node: yaml.Node, where: str, word: str) -> str:
        """With its length, canonical; empty where none is given."""
        text = self.walker.text(node, where).strip()
        address, _, length = text.partition("/")
        try:
            if text and not _PREFIX_LENGTH.fullmatch(length):
                raise ValueError
            return str(ipaddress.ip_interface(text)) if text and _family(address) == word else self._no_address(text)
        except ValueError:
            self.walker.refuse(node, where, f"`{text}` is not an {word.replace('ip', 'IP')} address with its prefix length")
            return ""

    @staticmethod
    def _no_address(text: str) -> str:
        if text:
            raise ValueError
        return ""

    def _end(self, node: yaml.Node, where: str, end: Endpoint) -> Endpoint | None:
        if not _INTERFACE.fullmatch(end.interface):
            what = f"`{end}` is not `node:interface` with an interface name of at most 15 letters"
            self.walker.refuse(node, where, what)
            return None
        if end.node not in self.nodes:
            self.walker.refuse(node, where, f"`{end.node}` is not among topology.nodes")
            return None
        owner = self.nodes[end.node]
        if owner.kind == "linux" and end.interface == "lo":
            self.walker.refuse(node, where, f"`{end}` is there already: the loopback interface")
        if owner.kind == "linux" and end.interface == "eth0" and owner.network_mode != "none":
            what = f"`{end}` is the management network's unless {end.node} has `network-mode: none`"
            self.walker.refuse(node, where, what)
        place = (owner.inside if owner.kind == "bridge" else end.node, end.interface)
        if place in self._used:
            self.walker.refuse(node, where, f"`{end}` is taken already by {self._used[place]}")
        self._used.setdefault(place, f"the link in line {node.start_mark.line + 1}")
        return end


def _family(address: str) -> str:
    return "" if "%" in address else f"ipv{ipaddress.ip_address(address).version}"
