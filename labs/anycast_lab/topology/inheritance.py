"""From defaults, kinds, groups and a node's own mapping to the node.

The order is containerlab's (types/topology.go, v0.79): single values come from the node, else its group, else its kind,
else the defaults; `env`, `labels`, `sysctls` merge in the other direction, the nearest wins; `binds` merge by destination;
`exec` and `env-files` are put one after the other, defaults first; `wait-for` gathers. containerlab versions differ in
whether an `exec` line or a bind that stands on two of those levels counts twice, so such a line is refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import yaml

from anycast_lab.topology import definitions, words
from anycast_lab.topology.definitions import EMPTY, IPV6_SWITCH, LISTS, MAPS, NAME, Definition
from anycast_lab.topology.model import STAGES, Node, Wait
from anycast_lab.topology.stages import WrittenWait
from anycast_lab.topology.walker import EMBEDDED, Walker, is_null

LEVELS = ("defaults", "kind", "group", "node")
KINDS = ("linux", "bridge")
BRIDGE_KEYS = frozenset({"kind", "group", "network-mode", "labels"})
"""containerlab runs nothing in a bridge: what it inherits beside these means nothing there either."""
_BRIDGE = re.compile(r"(?P<device>[a-zA-Z0-9][a-zA-Z0-9._-]{0,14})(?:\|(?P<inside>[a-zA-Z0-9][a-zA-Z0-9._-]*))?")


@dataclasses.dataclass(slots=True)
class Levels:
    """What nodes inherit from."""

    defaults: Definition
    kinds: Mapping[str, Definition]
    groups: Mapping[str, Definition]

    def kind(self, own: Definition) -> str:
        """GetNodeKind: the group may name the kind, the node's own before the defaults'."""
        own_group, default_group = (self.groups.get(level.text("group"), EMPTY) for level in (own, self.defaults))
        return own.text("kind") or own_group.text("kind") or default_group.text("kind") or self.defaults.text("kind")

    def group(self, own: Definition, kind: str, *, bare: bool) -> str:
        """GetNodeGroup: a kind may name the group too, except of a node without anything of its own (`a:`)."""
        named = "" if bare else own.text("group") or self.kinds.get(kind, EMPTY).text("group")
        return named or self.defaults.text("group")


class Nodes:
    def __init__(self, walker: Walker, parts: Mapping[str, yaml.Node]) -> None:
        self.walker, self.parts = walker, parts
        self.written = list[WrittenWait]()
        kinds, groups = (
            {
                word: definitions.read(walker, v, f"topology.{part}.{word}")
                for _, word, v in pairs(parts.get(part), f"topology.{part}")
            }
            for part, pairs in (("kinds", walker.definitions), ("groups", walker.pairs))
        )
        if (defaults := parts.get("defaults")) is not None and is_null(defaults):
            walker.refuse(defaults, "topology.defaults", "must be a mapping")  # or containerlab panics
        self.levels = Levels(definitions.read(walker, defaults, "topology.defaults"), kinds, groups)

    def read(self) -> dict[str, Node]:
        nodes, keys = dict[str, Node](), dict[str, yaml.Node]()
        for key, name, value in self.walker.pairs(self.parts.get("nodes"), "topology.nodes"):
            nodes[name], keys[name] = self._node(key, name, value), key
        for name, node in nodes.items():
            if node.inside and (node.inside not in nodes or nodes[node.inside].kind != "linux"):
                what = f"`{node.inside}`, which the bridge is in, is no `linux` node of topology.nodes"
                self.walker.refuse(keys[name], f"topology.nodes.{name}.network-mode", what)
        return nodes

    def _node(self, key: yaml.Node, name: str, value: yaml.Node) -> Node:
        where, levels = f"topology.nodes.{name}", self.levels
        own = definitions.read(self.walker, value, where)
        written_kind = levels.kind(own)
        kind, group = written_kind.lower(), levels.group(own, written_kind, bare=is_null(value))
        if kind not in KINDS:
            self.walker.refuse(key, f"{where}.kind", f"`{kind}` {EMBEDDED}, only `linux` and `bridge`")
        if group and levels.groups and group not in levels.groups:
            self.walker.refuse(key, f"{where}.group", f"`{group}` is not among topology.groups")
        chain = [levels.defaults, levels.kinds.get(written_kind, EMPTY), levels.groups.get(group, EMPTY), own]
        if kind == "bridge":
            return self._bridge(key, name, group, chain)
        if not NAME.fullmatch(name):
            self.walker.refuse(key, where, "is not a node name (letters, digits, `.`, `_`, `-`)")
        return self._machine(key, name, kind, group, chain)

    def _machine(self, key: yaml.Node, name: str, kind: str, group: str, chain: list[Definition]) -> Node:
        lists = {word: self._list(word, chain) for word in LISTS}
        destinations = {text.split(":")[1]: text for text in lists["binds"] if ":" in text}
        maps = {word: {k: v for level in chain for k, v in level.maps.get(word, {}).items()} for word in MAPS}
        files = {k: v for level in chain for k, v in level.env_files.items()}
        mode = self._value("network-mode", chain)
        if mode is not None and mode[1] != "none":
            what = f"`{mode[1]}` {EMBEDDED}, only `none`"
            self.walker.refuse(mode[0], f"topology.nodes.{name}.network-mode", what)
        texts = {word: found[1] if (found := self._value(word, chain)) else "" for word in definitions.TEXTS}
        hostname = texts["hostname"] or name
        if not definitions.HOSTNAME.fullmatch(hostname.replace("_", "-")):
            self.walker.refuse(key, f"topology.nodes.{name}", "is too long for a host name (64); give it a `hostname`")
        return Node(
            name=name,
            kind=kind,
            group=group,
            hostname=hostname,
            binds=tuple(destinations.values()),
            exec=tuple(tuple(line) for text in lists["exec"] if (line := _split(text))),
            env={**files, **maps["env"]},
            sysctls={**maps["sysctls"], IPV6_SWITCH: "0"},
            labels=maps["labels"],
            image=texts["image"],
            network_mode=texts["network-mode"],
            main=(*_split(texts["entrypoint"]), *_split(texts["cmd"])),
            startup_delay=next((level.startup_delay for level in reversed(chain) if level.startup_delay), 0),
            waits=self._waits(chain),
        )

    def _bridge(self, key: yaml.Node, name: str, group: str, chain: list[Definition]) -> Node:
        where = f"topology.nodes.{name}"
        for definition, level in zip(chain, LEVELS, strict=True):
            for word, at in definition.keys.items():
                if level in ("kind", "node") and word not in BRIDGE_KEYS:
                    self.walker.refuse(at, f"{where}.{word}", "means nothing on a bridge")
        match = _BRIDGE.fullmatch(name)
        mode = self._value("network-mode", chain)
        inside = match["inside"] if match else None
        if match is None:
            what = "is not a bridge's name: at most 15 letters, digits, `.`, `_`, `-`, then `|machine` if it is in one"
            self.walker.refuse(key, where, what)
        elif (mode[1] if mode else "") != (f"container:{inside}" if inside else ""):
            what = "a bridge is named `bridge|machine` with network-mode `container:machine`, or has neither"
            self.walker.refuse(mode[0] if mode else key, f"{where}.network-mode", what)
        labels = {k: v for level in chain for k, v in level.maps.get("labels", {}).items()}
        return Node(
            name=name, kind="bridge", group=group, hostname="", labels=labels, network_mode=mode[1] if mode else ""
        )  # fmt: skip

    @staticmethod
    def _value(word: str, chain: list[Definition]) -> tuple[yaml.Node, str] | None:
        return next((level.texts[word] for level in reversed(chain) if level.text(word)), None)

    def _list(self, word: str, chain: list[Definition]) -> list[str]:
        first = dict[str, str]()
        for level, definition in zip(LEVELS, chain, strict=True):
            for item, text in definition.lists.get(word, ()):
                if text in first:
                    self.walker.refuse(item, word, f"`{text}` stands at the level of the {first[text]} already")
                first.setdefault(text, level)
        return list(first)

    def _waits(self, chain: list[Definition]) -> dict[str, tuple[Wait, ...]]:
        written = [one for level in chain for one in level.waits]
        self.written += written
        return {
            stage: waits
            for stage in STAGES
            if (waits := tuple(dict.fromkeys(one.wait for one in written if one.stage == stage)))
        }


def _split(text: str) -> list[str]:
    try:
        return words.split(text)
    except ValueError:
        return []  # already refused where it stands
