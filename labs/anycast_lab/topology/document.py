"""The whole file: read, variables replaced, walked, checked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from anycast.errors import ConfigError, Problem
from anycast_lab.topology import stages, variables
from anycast_lab.topology.definitions import NAME
from anycast_lab.topology.inheritance import Nodes
from anycast_lab.topology.links import Links
from anycast_lab.topology.model import Topology
from anycast_lab.topology.walker import EMBEDDED, Walker, compose, is_null

PARTS = frozenset({"defaults", "kinds", "groups", "nodes", "links"})
_PREFIX = re.compile(r"(?:[a-zA-Z0-9][a-zA-Z0-9._-]*|__lab-name)?")


def load(path: Path, environ: Mapping[str, str] | None = None) -> Topology:
    """Read and check `path`; `environ` instead of this process's environment.

    Raises:
        ConfigError: every problem of the file, with line and column.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError([Problem("", f"cannot be read: {exc.strerror}", str(path))]) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError([Problem("", f"is not UTF-8 (byte {exc.start})", str(path))]) from exc
    text, used, problems = variables.substitute(text, os.environ if environ is None else environ, str(path))
    if problems:
        raise ConfigError(problems)
    return _topology(Walker(path), compose(text, path), used)


def _topology(walker: Walker, root: yaml.Node | None, used: Mapping[str, str]) -> Topology:
    name, prefix, body = "", "clab", None
    for key, word, value in walker.pairs(root, ""):
        match word:
            case "name":
                name = walker.text(value, "name")
                if not NAME.fullmatch(name):
                    walker.refuse(value, "name", f"`{name}` is not a name (letters, digits, `.`, `_`, `-`)")
                elif "__git" in name:
                    walker.refuse(value, "name", f"`{name}`: a git variable {EMBEDDED}")
            case "prefix":
                prefix = prefix if is_null(value) else walker.text(value, "prefix")
                if not _PREFIX.fullmatch(prefix):
                    walker.refuse(value, "prefix", f"`{prefix}` is not the beginning of a container's name")
            case "topology":
                body = value
            case _:
                walker.refuse(key, word, EMBEDDED)
    if not name:
        walker.refuse(root, "name", "is missing")
    if body is None:
        walker.refuse(root, "topology", "is missing")
    parts = dict[str, yaml.Node]()
    for key, word, value in walker.pairs(body, "topology"):
        if word in PARTS:
            parts[word] = value
        else:
            walker.refuse(key, f"topology.{word}", EMBEDDED)
    readers = Nodes(walker, parts)
    nodes = readers.read()
    if not any(node.kind == "linux" for node in nodes.values()):
        walker.refuse(body, "topology.nodes", "a lab needs at least one node")
    stages.check(walker, nodes, readers.written)
    links = Links(walker, nodes)
    links.read(parts.get("links"))
    if walker.problems:
        raise ConfigError(sorted(walker.problems, key=lambda problem: (problem.line, problem.column)))
    return Topology(name, walker.path.absolute(), nodes, tuple(links.links), tuple(links.dummies), prefix, used)
