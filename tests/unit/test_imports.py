"""Imports point one way, and what is a core or a codec meets neither clock, socket nor chance (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
ROOTS = {
    "anycast": TREE / "anycast",
    "exabgp_bridge": TREE / "exabgp" / "exabgp_bridge",
    "site_agent": TREE / "site-agent" / "site_agent",
    "anycast_lab": TREE / "labs" / "anycast_lab",
}
MAY_IMPORT = {
    "anycast": {"anycast"},
    "exabgp_bridge": {"exabgp_bridge", "anycast"},
    "site_agent": {"site_agent", "anycast"},
    "anycast_lab": {"anycast_lab", "anycast"},
}
"""They meet on the wire, never by import."""

PURE = (
    "anycast/model.py",
    "anycast/reasons.py",
    "anycast/events.py",
    "anycast/lease_wire.py",
    "anycast/policy/*.py",
    "anycast/fleet/*.py",
    "site-agent/site_agent/announce/holder.py",
    "site-agent/site_agent/history.py",
    "site-agent/site_agent/proc_counters.py",
    "site-agent/site_agent/observe/decisions.py",
    "site-agent/site_agent/checks/steady.py",
    "site-agent/site_agent/netlink/messages.py",
    "site-agent/site_agent/netlink/xfrm.py",
    "exabgp/exabgp_bridge/core.py",
    "exabgp/exabgp_bridge/api.py",
)
IMPURE = {"asyncio", "socket", "time", "random", "logging", "select", "selectors", "subprocess", "threading", "os"}
LIGHT = {"anycast.errors", "anycast.model", "anycast.reasons", "anycast.lease_wire"}
"""What exabgp_bridge may import of `anycast`: ExaBGP waits for it on slow machines, so nothing that costs time."""


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a module imports while it is being imported; functions' own imports are not its dependencies."""
    todo: list[ast.AST] = [ast.parse(path.read_text(), str(path))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; say where it comes from"
            yield node.module or ""
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo.extend(ast.iter_child_nodes(node))


def modules(package: str) -> list[Path]:
    return sorted(ROOTS[package].rglob("*.py"))


@pytest.mark.parametrize("package", ROOTS)
def test_packages_import_only_what_is_below_them(package: str) -> None:
    assert modules(package)
    for path in modules(package):
        ours = {name.split(".")[0] for name in imported(path)} & set(ROOTS)
        assert ours <= MAY_IMPORT[package], f"{path.relative_to(TREE)} imports {ours - MAY_IMPORT[package]}"


def test_cores_and_codecs_do_no_io() -> None:
    for pattern in PURE:
        paths = sorted(TREE.glob(pattern))
        assert paths, f"{pattern}: nothing there; correct the list when a core moves"
        for path in paths:
            impure = {name.split(".")[0] for name in imported(path)} & IMPURE
            assert not impure, f"{path.relative_to(TREE)} is pure and imports {impure}"


def test_the_bridge_stays_light() -> None:
    for path in modules("exabgp_bridge"):
        heavy = {name for name in imported(path) if name.startswith("anycast")} - LIGHT - {"anycast", "anycast.runtime"}
        assert not heavy, f"{path.relative_to(TREE)} imports {heavy}"
