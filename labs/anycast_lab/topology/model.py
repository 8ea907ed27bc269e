"""What a topology file says, after inheritance: machines, bridges, cables."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anycast_lab.topology import variables

STAGES = ("create", "create-links", "configure")
"""What a node passes while a lab comes up, in this order (types/stages.go). `exec` comes after `configure`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bind:
    """One `source:destination[:ro]` after the magic variables were replaced."""

    source: Path
    destination: str
    read_only: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Wait:
    """A stage begins when `node` has passed `stage`."""

    node: str
    stage: str


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    name: str
    kind: str
    """`linux`: a machine. `bridge`: a bridge, in a machine (`inside`) or in the lab's own namespace."""
    group: str
    hostname: str
    binds: tuple[str, ...] = ()
    """As written, magic variables included: they depend on where the lab lives (`Topology.binds`)."""
    exec: tuple[tuple[str, ...], ...] = ()
    """Split into words as containerlab does, and run without a shell; magic variables as in `binds`."""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """With what stands in `env-files`; without what both runners add (`Topology.environment`)."""
    sysctls: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    image: str = ""
    """containerlab's affair: under the embedded runner a machine runs this machine's own programs."""
    network_mode: str = ""
    main: tuple[str, ...] = ()
    """`entrypoint` and `cmd` in words; empty: nothing but what `exec` starts."""
    startup_delay: int = 0
    """Seconds before the machine is created."""
    waits: Mapping[str, tuple[Wait, ...]] = dataclasses.field(default_factory=dict)
    """stage → what must have happened before it."""

    @property
    def inside(self) -> str:
        """The machine that a bridge is in; empty for the lab's own namespace."""
        return self.network_mode.partition(":")[2] if self.kind == "bridge" else ""

    @property
    def device(self) -> str:
        """A bridge's interface name: the node's name without the `|machine` that tells bridges of one name apart."""
        return self.name.partition("|")[0]


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """An end of a cable. Its addresses are for templates: neither runner sets them on a `linux` node."""

    node: str
    interface: str
    mac: str = dataclasses.field(default="", compare=False)
    """Empty: any."""
    ipv4: str = dataclasses.field(default="", compare=False)
    ipv6: str = dataclasses.field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.node}:{self.interface}"


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    a: Endpoint
    b: Endpoint
    mtu: int
    vars: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)
    """For templates, like the ends' addresses; scalars as text."""

    def ends(self) -> tuple[Endpoint, Endpoint]:
        return self.a, self.b


@dataclasses.dataclass(frozen=True, slots=True)
class Dummy:
    """An interface that leads nowhere."""

    end: Endpoint
    mtu: int
    vars: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Topology:
    name: str
    path: Path
    nodes: Mapping[str, Node]
    links: tuple[Link, ...]
    dummies: tuple[Dummy, ...] = ()
    prefix: str = "clab"
    """What containerlab puts before its containers' names."""
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The environment variables that the file names, with the values that it was read with."""

    @property
    def machines(self) -> dict[str, Node]:
        return {name: node for name, node in self.nodes.items() if node.kind == "linux"}

    @property
    def bridges(self) -> dict[str, Node]:
        return {name: node for name, node in self.nodes.items() if node.kind == "bridge"}

    def links_of(self, node: str) -> list[Link]:
        return [link for link in self.links if node in (link.a.node, link.b.node)]

    def long_name(self, node: str) -> str:
        """The name of the node's container under containerlab (core/config.go, nodeLongName)."""
        match self.prefix:
            case "":
                return node
            case "__lab-name":
                return f"{self.name}-{node}"
            case _:
                return f"{self.prefix}-{self.name}-{node}"

    def binds(self, node: str, lab_dir: Path) -> list[Bind]:
        """The node's binds with `__clabDir__` = `lab_dir`, parents first; relative sources are relative to the topology
        file."""
        found = []
        for text in self.nodes[node].binds:
            source, destination, *options = text.split(":")
            source = variables.magic(source, self.name, node, lab_dir)
            found.append(Bind(self.path.parent / Path(source).expanduser(), destination, "ro" in options))
        return sorted(found, key=lambda bind: Path(bind.destination).parts)

    def commands(self, node: str, lab_dir: Path) -> list[tuple[str, ...]]:
        """The node's `exec` with the magic variables replaced."""
        return [tuple(variables.magic(w, self.name, node, lab_dir) for w in words) for words in self.nodes[node].exec]

    def environment(self, node: str, lab_dir: Path) -> dict[str, str]:
        """What the node's processes find: `env` and, as under containerlab, its labels and the number of its interfaces."""
        definition = self.nodes[node]
        labels = {
            **definition.labels,
            "containerlab": self.name,
            "clab-node-name": node,
            "clab-node-longname": self.long_name(node),
            "clab-node-kind": definition.kind,
            "clab-node-group": definition.group,
            "clab-node-lab-dir": str(lab_dir / node),
            "clab-topo-file": str(self.path),
        }
        interfaces = sum(end.node == node for link in self.links for end in link.ends())
        interfaces += sum(dummy.end.node == node for dummy in self.dummies)
        told = {f"CLAB_LABEL_{_environment_name(label)}": value for label, value in labels.items()}
        return {**definition.env, **told, "CLAB_INTFS": str(interfaces)}


def _environment_name(label: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]+", "", re.sub(r"[-+./]", "_", label)).upper()  # utils/env.go, ToEnvKey
