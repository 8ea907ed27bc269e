"""One `defaults`, kind, group or node mapping: which keys there are, and what each may say."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from anycast_lab.topology import env_files, stages, words
from anycast_lab.topology.walker import EMBEDDED, Walker

TEXTS = ("kind", "group", "image", "hostname", "network-mode", "entrypoint", "cmd")
LISTS = ("binds", "exec", "env-files")
MAPS = ("env", "sysctls", "labels")
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*")
HOSTNAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.-]{0,63}")
STARTUP_DELAY = range(86_401)
"""Seconds."""
IMPORT_ENVS = "__IMPORT_ENVS"
IPV6_SWITCH = "net.ipv6.conf.all.disable_ipv6"
_SYSCTL = re.compile(r"net(\.[A-Za-z0-9_-]+)+")
_ONE_INTERFACE = re.compile(r"net\.ipv[46]\.(?:conf|neigh)\.(?!(?:all|default|lo)\.)[^.]+\.")
_VARIABLE = re.compile(r"[^=\0]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Definition:
    """Values with the YAML nodes they stand in, for complaints about what they come to together."""

    texts: Mapping[str, tuple[yaml.Node, str]] = dataclasses.field(default_factory=dict)
    lists: Mapping[str, list[tuple[yaml.Node, str]]] = dataclasses.field(default_factory=dict)
    maps: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    env_files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    startup_delay: int = 0
    waits: tuple[stages.WrittenWait, ...] = ()
    keys: Mapping[str, yaml.Node] = dataclasses.field(default_factory=dict)

    def text(self, key: str) -> str:
        return self.texts[key][1] if key in self.texts else ""


EMPTY = Definition()


def read(walker: Walker, node: yaml.Node | None, where: str) -> Definition:
    texts, keys = dict[str, tuple[yaml.Node, str]](), dict[str, yaml.Node]()
    lists, maps = dict[str, list[tuple[yaml.Node, str]]](), dict[str, Mapping[str, str]]()
    files, delay, waits = dict[str, str](), 0, tuple[stages.WrittenWait, ...]()
    for key, word, value in walker.pairs(node, where):
        place = f"{where}.{word}"
        keys[word] = key
        if word in TEXTS:
            texts[word] = (value, _text(walker, value, place, word))
        elif word in LISTS:
            lists[word] = walker.items(value, place)
            for item, text in lists[word]:
                if word == "binds":
                    _check_bind(walker, item, place, text)
                elif word == "exec":
                    _split(walker, item, place, text)
                else:
                    files |= _env_file(walker, item, place, text)
        elif word in MAPS:
            maps[word] = walker.texts(value, place)
            for at, name, _ in walker.pairs(value, place):
                _check_name(walker, at, word, place, name, maps[word][name])
        elif word == "startup-delay":
            delay = walker.number(value, place, STARTUP_DELAY) or 0
        elif word == "stages":
            waits = stages.read(walker, value, place)
        else:
            walker.refuse(key, place, EMBEDDED)
    return Definition(texts, lists, maps, files, delay, waits, keys)


def _text(walker: Walker, node: yaml.Node, where: str, word: str) -> str:
    text = walker.text(node, where)
    if word in ("cmd", "entrypoint") and text:
        _split(walker, node, where, text)
    elif word == "hostname" and text and not HOSTNAME.fullmatch(text):
        walker.refuse(node, where, f"`{text}` is not a host name of at most 64 letters, digits, `.` and `-`")
    return text


def _split(walker: Walker, node: yaml.Node, where: str, text: str) -> None:
    try:
        if not words.split(text):
            walker.refuse(node, where, "is empty")
    except ValueError as exc:
        walker.refuse(node, where, f"`{text}` cannot be split into words: {exc}")


def _check_bind(walker: Walker, node: yaml.Node, where: str, text: str) -> None:
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[0] or not parts[1].startswith("/") or ".." in parts[1].split("/"):
        walker.refuse(node, where, f"`{text}` is not `source:/destination` with an optional `:ro`")
    elif parts[2:] and parts[2] not in ("ro", "rw"):
        walker.refuse(node, where, f"option `{parts[2]}` {EMBEDDED}, only `ro` and `rw`")
    elif parts[0].startswith("~") and not re.match(r"~(/|$)", parts[0]):
        walker.refuse(node, where, f"`{text}` begins with another user's home; write the path")


def _env_file(walker: Walker, node: yaml.Node, where: str, text: str) -> dict[str, str]:
    if not text or text.startswith("~"):
        walker.refuse(node, where, f"`{text}` is not a path, absolute or from the topology file's folder")
        return {}
    found, problems = env_files.read(walker.path.parent / Path(text))
    for problem in problems:
        place = f"`{text}`{f', line {problem.line},' if problem.line else ''}"
        walker.refuse(node, where, f"{place} {problem.what}")
    return found


def _check_name(walker: Walker, node: yaml.Node, word: str, where: str, name: str, value: str) -> None:
    place = f"{where}.{name}"
    if word == "env" and name == IMPORT_ENVS:
        walker.refuse(node, place, f"{EMBEDDED}: name what a node needs, as `NAME: ${{NAME}}`")
    elif word == "env" and not _VARIABLE.fullmatch(name):
        walker.refuse(node, place, "is not the name of a variable")
    elif word == "sysctls" and not _SYSCTL.fullmatch(name):
        walker.refuse(node, place, "only `net.` settings belong to one node")
    elif word == "sysctls" and _ONE_INTERFACE.match(name):
        walker.refuse(node, place, "settings are made before the node has its links; use `exec` for those of one interface")
    elif word == "sysctls" and name == IPV6_SWITCH and value != "0":
        walker.refuse(node, place, "containerlab makes it 0 for every `linux` node, whatever is written here; use `exec`")
