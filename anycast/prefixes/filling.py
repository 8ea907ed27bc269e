"""From the records into a fleet file's text what the file leaves out. Pure.

A record of something that the file does not have (a site that went, a gateway without that interface) fills in nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anycast.fleet.finding import Finding
from anycast.prefixes.allocation import Allocation, Lock

_HAS_TO_BE_THERE = {"service": 1, "addressing": 3, "gateways": 5, "upstreams": 4, "inside_routers": 4, "vrrp": 3}
"""How many steps of a path lead to something that the file itself has: by its first step, and by its third of a site."""


def of_another_fleet(fleet: str, lock: Lock) -> Finding | None:
    """What is wrong where the lock file beside the file of `fleet` is another one's."""
    if lock.fleet == fleet:
        return None
    what = (
        f"is {fleet}, and the lock file of {lock.fleet}: if that is what this fleet was called, write the new name into the"
        " first line of the lock file, too"
    )
    return Finding(("fleet",), what)


def fill(tree: Any, records: Iterable[Allocation]) -> None:
    """Write into `tree` (`yaml_text.Tree.value`) the value of each record whose path leads to nothing there."""
    if not isinstance(tree, dict):
        return
    for record in records:
        _fill(tree, record.path, record.value)


def _fill(tree: dict[str, Any], path: tuple[str, ...], value: str) -> None:
    kind = path[2] if path[0] == "sites" and len(path) > 2 else path[0]
    needed = 4 if path[-1] == "router_id" else _HAS_TO_BE_THERE.get(kind, 2)
    here = tree
    for depth, step in enumerate(path[:-1], start=1):
        if step not in here:
            if depth <= needed:
                return
            here[step] = {}
        below = here[step]
        if not isinstance(below, dict):
            return
        here = below
    here.setdefault(path[-1], value)
