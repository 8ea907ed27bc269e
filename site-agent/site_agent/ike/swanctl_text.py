"""The rendered swanctl.conf as what charon is asked for over VICI, and whether charon then says that it has it. Pure.

The text is the one source: what an operator reads in the file, what `swanctl --load-all` would load of it, and what the
agent loads are the same, because it is read by strongSwan's own grammar (`settings_file.py`). `include` lines belong to
the operator and are skipped. How values become VICI's is swanctl's own rule (strongSwan, src/swanctl/commands/load_conns.c,
load_pools.c): some keys are lists, some name files whose content is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_network
from typing import Any

from anycast.errors import DecodeError
from site_agent.ike import settings_file

FILE = "swanctl.conf"
LISTS = frozenset(
    {
        *("local_addrs", "remote_addrs", "proposals", "esp_proposals", "ah_proposals", "local_ts", "remote_ts"),
        *("vips", "pools", "groups", "cert_policy"),
    }
)
FILES = frozenset({"certs", "cacerts", "pubkeys"})
"""Lists of files; their content is sent."""

Node = dict[str, Any]
"""A section: text by key, or a section by name."""


def parse(text: str) -> Node:
    """The sections of a rendered file. Raises DecodeError, also for what our template cannot have written."""
    return _node(settings_file.parse(FILE, text).root)


def _node(section: settings_file.Section) -> Node:
    if section.references:  # a tree of copies could not say that these are another section's values
        raise DecodeError(FILE, 0, f"a reference to {section.references[0]}, which we never write")
    if twice := section.values.keys() & section.sections.keys():
        raise DecodeError(FILE, 0, f"{min(twice)} is a value and a section")
    return section.values | {name: _node(inner) for name, inner in section.sections.items()}


def connection_message(section: Node, read: Callable[[str], bytes]) -> Node:
    """A connection, or a part of one, as `load-conn` takes it. `read` gives a file's content."""
    message: Node = {}
    for key, value in section.items():
        if isinstance(value, dict):
            message[key] = connection_message(value, read)
        elif key in FILES:
            message[key] = [read(path) for path in _items(value)]
        else:
            message[key] = _items(value) if key in LISTS else value
    return message


def pool_message(section: Node) -> Node:
    """A pool as `load-pool` takes it: the range is text, everything else a list."""
    return {key: value if key == "addrs" else _items(value) for key, value in section.items()}


def pool_attributes(pools: Mapping[str, Node]) -> Node:
    """What clients are told beside their address: of all pools of a service, since a range of any may serve them."""
    found: Node = {}
    for section in pools.values():
        for key, value in pool_message(section).items():
            if key != "addrs":
                found[key] = list(dict.fromkeys([*found.get(key, ()), *value]))
    return found


def differences(wanted: Mapping[str, Node], listed: Mapping[str, Node]) -> list[str]:
    """Where charon's own list (`list-conns`) is not what the file says, a sentence each.

    charon 5.9 does not list proposals; it refuses a connection with one that it cannot read.
    """
    found = []
    for name, section in wanted.items():
        has = listed.get(name)
        if has is None:
            found.append(f"{name} is not loaded")
            continue
        if "local_addrs" in section:
            found += _compare(f"{name}: local_addrs", _items(section["local_addrs"]), _texts(has, "local_addrs"))
        identity = section.get("local", {}).get("id")
        ends = [end.get("id", b"").decode() for key, end in has.items() if key.startswith("local-")]
        if identity is not None and identity not in ends:
            found.append(f"{name}: local id is {', '.join(ends) or 'none'} instead of {identity}")
        children, listed_children = section.get("children", {}), has.get("children", {})
        found += _compare(f"{name}: children", list(children), list(listed_children))
        for child, inner in children.items():
            if "local_ts" in inner and child in listed_children:
                networks = [str(ip_network(text)) for text in _items(inner["local_ts"])]
                found += _compare(f"{name}: {child}: local_ts", networks, _texts(listed_children[child], "local-ts"))
    return found


def _compare(what: str, wanted: list[str], has: list[str]) -> list[str]:
    return [] if sorted(wanted) == sorted(has) else [f"{what} is {', '.join(has) or 'none'} instead of {', '.join(wanted)}"]


def _texts(section: Node, key: str) -> list[str]:
    return [value.decode() for value in section.get(key, [])]


def _items(value: str) -> list[str]:
    return [item for item in map(str.strip, value.split(",")) if item]
