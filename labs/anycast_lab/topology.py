"""A containerlab topology file, read strictly: the part of the format that `linux` nodes and veth links need.

containerlab itself reads the same files. Where it would do something that the embedded runner cannot, this loader refuses
the key by name instead of ignoring it, because a lab that silently differs between the two runners proves nothing.

Inheritance is containerlab's own (types/topology.go, v0.79): single values come from the node, else its group, else its
kind, else the defaults; `env` and `sysctls` merge in the other direction, the nearest wins; `binds` merge by destination;
`exec` lists are put one after the other, defaults first. containerlab versions differ in whether an `exec` line or a bind
that stands on two of those levels counts twice, so such a line is refused.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from anycast.errors import ConfigError, Problem

LEVELS = ("defaults", "kind", "group", "node")
SCALARS = ("kind", "group", "image", "network-mode", "hostname")
LISTS = ("binds", "exec")
MAPS = ("env", "sysctls", "labels")
NODE_KEYS = frozenset(SCALARS + LISTS + MAPS)
TOPOLOGY_KEYS = frozenset({"defaults", "kinds", "groups", "nodes", "links"})
LINK_KEYS = frozenset({"endpoints", "mtu"})
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*")
INTERFACE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,14}")  # IFNAMSIZ is 16 with the final NUL
MTU = range(68, 65536)
DEFAULT_MTU = 1500
"""containerlab's own default is 9500, which no VPN client's path has; `mtu: 9500` on a link says so explicitly."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bind:
    """One `source:destination[:ro]` after the magic variables were replaced."""

    source: Path
    destination: str
    read_only: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    name: str
    group: str
    hostname: str
    binds: tuple[str, ...]
    """As written, magic variables included: they depend on where the lab lives (`Topology.binds`)."""
    exec: tuple[tuple[str, ...], ...]
    """Split like a POSIX shell would, but run without one, as containerlab does."""
    env: Mapping[str, str]
    sysctls: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    node: str
    interface: str

    def __str__(self) -> str:
        return f"{self.node}:{self.interface}"


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    a: Endpoint
    b: Endpoint
    mtu: int

    def ends(self) -> tuple[Endpoint, Endpoint]:
        return self.a, self.b


@dataclasses.dataclass(frozen=True, slots=True)
class Topology:
    name: str
    path: Path
    nodes: Mapping[str, Node]
    links: tuple[Link, ...]

    def links_of(self, node: str) -> list[Link]:
        return [link for link in self.links if node in (link.a.node, link.b.node)]

    def binds(self, node: str, lab_dir: Path) -> list[Bind]:
        """The node's binds with `__clabDir__` = `lab_dir`; relative sources are relative to the topology file."""
        found = []
        for text in self.nodes[node].binds:
            source, destination, *options = text.split(":")
            source = source.replace("__clabNodeDir__", str(lab_dir / node)).replace("__clabDir__", str(lab_dir))
            found.append(Bind(self.path.parent / source, destination, "ro" in options))
        return found


def load(path: Path) -> Topology:
    """Read and check `path`.

    Raises:
        ConfigError: every problem of the file, with line and column.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except OSError as exc:
        raise ConfigError([Problem("", f"cannot be read: {exc.strerror}", str(path))]) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError([Problem("", f"is not UTF-8 (byte {exc.start})", str(path))]) from exc
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        what = getattr(exc, "problem", None) or str(exc)
        raise ConfigError([Problem("", f"is not YAML: {what}", str(path), line, column)]) from exc
    return _Reader(path).topology(root)


class _Reader:
    """Walks the composed YAML (which still knows lines) and collects problems instead of stopping at the first."""

    def __init__(self, path: Path) -> None:
        self.path, self.problems = path, list[Problem]()

    def refuse(self, node: yaml.Node | None, where: str, what: str) -> None:
        mark = node.start_mark if node is not None else None
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        problem = Problem(where, what, str(self.path), line, column)
        if problem not in self.problems:  # what stands in a group is met once a node
            self.problems.append(problem)

    # -- shapes ---------------------------------------------------------------------------------------------------

    def pairs(self, node: yaml.Node | None, where: str) -> Iterator[tuple[yaml.ScalarNode, str, yaml.Node]]:
        if node is None or self.is_null(node):
            return
        if not isinstance(node, yaml.MappingNode):
            self.refuse(node, where, "must be a mapping")
            return
        seen = set[str]()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.refuse(key, where, "a key must be a plain word")
            elif key.value == "<<":
                self.refuse(key, where, "YAML merge keys are not supported; use `defaults`, `kinds` or `groups`")
            elif key.value in seen:
                self.refuse(key, where, f"key `{key.value}` stands here twice")
            else:
                seen.add(key.value)
                yield key, key.value, value

    def items(self, node: yaml.Node, where: str) -> list[tuple[yaml.Node, str]]:
        if not isinstance(node, yaml.SequenceNode):
            self.refuse(node, where, "must be a list")
            return []
        return [(item, self.text(item, f"{where}[{index}]")) for index, item in enumerate(node.value)]

    def text(self, node: yaml.Node, where: str) -> str:
        if isinstance(node, yaml.ScalarNode) and not self.is_null(node):
            return str(node.value)
        self.refuse(node, where, "must be text")
        return ""

    @staticmethod
    def is_null(node: yaml.Node) -> bool:
        return bool(node.tag == "tag:yaml.org,2002:null")

    # -- the document ---------------------------------------------------------------------------------------------

    def topology(self, root: yaml.Node | None) -> Topology:
        name, body = "", None
        for key, word, value in self.pairs(root, ""):
            match word:
                case "name":
                    name = self.text(value, "name")
                    if not NAME.fullmatch(name):
                        self.refuse(value, "name", f"`{name}` is not a name (letters, digits, `.`, `_`, `-`)")
                case "topology":
                    body = value
                case _:
                    self.refuse(key, word, "is not supported by the embedded runner")
        if not name:
            self.refuse(root, "name", "is missing")
        if body is None:
            self.refuse(root, "topology", "is missing")
        parts = dict[str, yaml.Node]()
        for key, word, value in self.pairs(body, "topology"):
            if word in TOPOLOGY_KEYS:
                parts[word] = value
            else:
                self.refuse(key, f"topology.{word}", "is not supported by the embedded runner")
        nodes = self.nodes(parts)
        if not nodes:
            self.refuse(body, "topology.nodes", "a lab needs at least one node")
        links = self.links(parts.get("links"), nodes)
        if self.problems:
            raise ConfigError(self.problems)
        return Topology(name, self.path.absolute(), nodes, links)

    def nodes(self, parts: Mapping[str, yaml.Node]) -> dict[str, Node]:
        defaults = self.definition(parts.get("defaults"), "topology.defaults")
        kinds, groups = (
            {w: self.definition(v, f"topology.{part}.{w}") for _, w, v in self.pairs(parts.get(part), f"topology.{part}")}
            for part in ("kinds", "groups")
        )
        nodes = dict[str, Node]()
        for key, name, value in self.pairs(parts.get("nodes"), "topology.nodes"):
            where = f"topology.nodes.{name}"
            if not NAME.fullmatch(name):
                self.refuse(key, where, "is not a node name (letters, digits, `.`, `_`, `-`)")
            own = self.definition(value, where)
            # The group may name the kind, so it is looked for first; a kind may also name a group (GetNodeGroup).
            group = own.text("group")
            kind = own.text("kind") or groups.get(group, _EMPTY).text("kind") or defaults.text("kind")
            group = group or kinds.get(kind, _EMPTY).text("group") or defaults.text("group")
            if kind != "linux":
                self.refuse(key, f"{where}.kind", f"`{kind}` is not supported by the embedded runner, only `linux`")
            if group and group not in groups:
                self.refuse(key, f"{where}.group", f"`{group}` is not among topology.groups")
            levels = [defaults, kinds.get(kind, _EMPTY), groups.get(group, _EMPTY), own]
            nodes[name] = self.merged(key, name, group, levels)
        return nodes

    def definition(self, node: yaml.Node | None, where: str) -> _Definition:
        values = dict[str, Any]()
        for key, word, value in self.pairs(node, where):
            place = f"{where}.{word}"
            if word not in NODE_KEYS:
                self.refuse(key, place, "is not supported by the embedded runner")
            elif word in SCALARS:
                values[word] = self.text(value, place)
                if word == "network-mode" and values[word] != "none":
                    self.refuse(value, place, f"`{values[word]}` is not supported by the embedded runner, only `none`")
            elif word in LISTS:
                values[word] = self.items(value, place)
                for item, text in values[word]:
                    self.check_bind(item, place, text) if word == "binds" else self.check_exec(item, place, text)
            else:
                values[word] = {k: self.text(v, f"{place}.{k}") for _, k, v in self.pairs(value, place)}
                for _, k, v in self.pairs(value, place):
                    if word == "sysctls" and not k.startswith("net."):
                        self.refuse(v, f"{place}.{k}", "only `net.` settings belong to one node")
        return _Definition(values)

    def check_bind(self, node: yaml.Node, where: str, text: str) -> None:
        parts = text.split(":")
        if len(parts) not in (2, 3) or not parts[0] or not parts[1].startswith("/"):
            self.refuse(node, where, f"`{text}` is not `source:/destination` with an optional `:ro`")
        elif parts[2:] and parts[2] not in ("ro", "rw"):
            self.refuse(node, where, f"option `{parts[2]}` is not supported by the embedded runner, only `ro` and `rw`")

    def check_exec(self, node: yaml.Node, where: str, text: str) -> None:
        try:
            if not shlex.split(text):
                self.refuse(node, where, "is empty")
        except ValueError as exc:
            self.refuse(node, where, f"`{text}` cannot be split into words: {str(exc).lower()}")

    def merged(self, key: yaml.Node, name: str, group: str, levels: list[_Definition]) -> Node:
        lists: dict[str, list[str]] = {}
        for word in LISTS:
            first = dict[str, str]()
            for level, definition in zip(LEVELS, levels, strict=True):
                for item, text in definition.values.get(word, ()):
                    if text in first:
                        self.refuse(item, word, f"`{text}` stands at the level of the {first[text]} already")
                    first.setdefault(text, level)
            lists[word] = list(first)
        destinations = {text.split(":")[1]: text for text in lists["binds"] if ":" in text}
        maps = {word: {k: v for level in levels for k, v in level.values.get(word, {}).items()} for word in MAPS}
        hostname = next((t for level in reversed(levels) if (t := level.text("hostname"))), name)
        commands = [tuple(words) for text in lists["exec"] if (words := _split(text))]
        return Node(name, group, hostname, tuple(destinations.values()), tuple(commands), maps["env"], maps["sysctls"])

    def links(self, node: yaml.Node | None, nodes: Mapping[str, Node]) -> tuple[Link, ...]:
        links, used = list[Link](), dict[Endpoint, int]()
        if node is None or self.is_null(node):
            return ()
        if not isinstance(node, yaml.SequenceNode):
            self.refuse(node, "topology.links", "must be a list")
            return ()
        for index, item in enumerate(node.value):
            where, ends, mtu = f"topology.links[{index}]", list[Endpoint](), DEFAULT_MTU
            for key, word, value in self.pairs(item, where):
                match word:
                    case "endpoints":
                        texts = self.items(value, f"{where}.endpoints")
                        ends = [e for n, t in texts if (e := self.endpoint(n, f"{where}.endpoints", t, nodes, used))]
                        if len(texts) != 2:
                            self.refuse(value, f"{where}.endpoints", "a link has exactly two endpoints")
                    case "mtu":
                        text = self.text(value, f"{where}.mtu")
                        mtu = int(text) if text.isdecimal() else 0
                        if mtu not in MTU:
                            self.refuse(value, f"{where}.mtu", f"`{text}` is not within {MTU.start}..{MTU.stop - 1}")
                    case _:
                        self.refuse(key, f"{where}.{word}", "is not supported by the embedded runner")
            if len(ends) == 2:
                links.append(Link(ends[0], ends[1], mtu))
        return tuple(links)

    def endpoint(
        self, node: yaml.Node, where: str, text: str, nodes: Mapping[str, Node], used: dict[Endpoint, int]
    ) -> Endpoint | None:
        name, colon, interface = text.partition(":")
        if not colon or not INTERFACE.fullmatch(interface):
            self.refuse(node, where, f"`{text}` is not `node:interface` with an interface name of at most 15 letters")
            return None
        if name not in nodes:
            self.refuse(node, where, f"`{name}` is not among topology.nodes")
            return None
        endpoint = Endpoint(name, interface)
        if endpoint in used:
            self.refuse(node, where, f"`{text}` is an end of another link (line {used[endpoint]}) already")
        used.setdefault(endpoint, node.start_mark.line + 1)
        return endpoint


@dataclasses.dataclass(frozen=True, slots=True)
class _Definition:
    """One `defaults`, kind, group or node mapping; list items keep their YAML node for later complaints."""

    values: Mapping[str, Any]

    def text(self, key: str) -> str:
        return str(self.values.get(key, ""))


_EMPTY = _Definition({})


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return []  # already refused where it stands
