"""Imports point one way, and what is a core or a codec meets neither clock, socket nor chance (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
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
    "anycast/timer.py",
    "anycast/reasons.py",
    "anycast/events.py",
    "anycast/lease_wire.py",
    "anycast/link_wire.py",
    "anycast/event_wire.py",
    "anycast/record_text.py",
    "anycast/coordinator/access.py",
    "anycast/coordinator/api.py",
    "anycast/coordinator/fleet_view.py",
    "anycast/coordinator/why.py",
    "anycast/policy/*.py",
    "anycast/fleet/*.py",
    "anycast/prefixes/*.py",
    "anycast/content/*.py",
    "anycast/pki/names.py",
    "anycast/pki/certificates.py",
    "anycast/pki/trust.py",
    "site-agent/site_agent/announce/holder.py",
    "site-agent/site_agent/alarms/delivery.py",
    "site-agent/site_agent/alarms/notices.py",
    "anycast/history.py",
    "anycast/trail.py",
    "site-agent/site_agent/punctuality.py",
    "site-agent/site_agent/proc_counters.py",
    "site-agent/site_agent/untracking.py",
    "site-agent/site_agent/render/*.py",
    "site-agent/site_agent/observe/decisions.py",
    "site-agent/site_agent/canary/plan.py",
    "site-agent/site_agent/canary/tunnels.py",
    "site-agent/site_agent/ike/settings_file.py",
    "site-agent/site_agent/doctor/finding.py",
    "site-agent/site_agent/doctor/registry.py",
    "site-agent/site_agent/doctor/judge/*.py",
    "site-agent/site_agent/checks/event_pace.py",
    "site-agent/site_agent/checks/steady.py",
    "site-agent/site_agent/checks/silence.py",
    "site-agent/site_agent/checks/connections.py",
    "site-agent/site_agent/fleet_report.py",
    "site-agent/site_agent/netlink/client_traffic.py",
    "site-agent/site_agent/ike/probe_message.py",
    "site-agent/site_agent/ike/child_sa.py",
    "site-agent/site_agent/client_history.py",
    "site-agent/site_agent/ike/client_watch.py",
    "site-agent/site_agent/ike/clients.py",
    "site-agent/site_agent/ike/address_ranges.py",
    "site-agent/site_agent/ike/inner_addresses.py",
    "site-agent/site_agent/ike/inner_address_words.py",
    "site-agent/site_agent/ike/tunnel_repair.py",
    "site-agent/site_agent/ike/rekey_queue.py",
    "site-agent/site_agent/sync/ages.py",
    "site-agent/site_agent/sync/rekey_wishes.py",
    "site-agent/site_agent/netlink/link.py",
    "site-agent/site_agent/ike/swanctl_text.py",
    "site-agent/site_agent/checks/name_answers.py",
    "site-agent/site_agent/checks/dns_message.py",
    "site-agent/site_agent/checks/icmp_echo.py",
    "labs/anycast_lab/machines/name_server.py",
    "labs/anycast_lab/drills/alarms.py",
    "labs/anycast_lab/drills/captured.py",
    "labs/anycast_lab/drills/checks.py",
    "labs/anycast_lab/drills/pair_checks.py",
    "labs/anycast_lab/capture/*.py",
    "site-agent/site_agent/netlink/messages.py",
    "site-agent/site_agent/netlink/xfrm.py",
    "site-agent/site_agent/netlink/addresses.py",
    "site-agent/site_agent/netlink/local_route.py",
    "site-agent/site_agent/netlink/xfrm_replay.py",
    "site-agent/site_agent/packet_messages.py",
    "site-agent/site_agent/netlink/xfrm_digest.py",
    "site-agent/site_agent/ike/mirror_view.py",
    "site-agent/site_agent/sync/digest*.py",
    "site-agent/site_agent/sync/repairs.py",
    "site-agent/site_agent/sync/ha_forget.py",
    "site-agent/site_agent/netlink/conntrack.py",
    "site-agent/site_agent/netlink/conntrack_columns.py",
    "site-agent/site_agent/netlink/conntrack_forms.py",
    "site-agent/site_agent/sync/conntrack_copier.py",
    "site-agent/site_agent/sync/conntrack_digest.py",
    "site-agent/site_agent/sync/conntrack_filter.py",
    "site-agent/site_agent/sync/conntrack_mirror.py",
    "site-agent/site_agent/sync/conntrack_teller.py",
    "site-agent/site_agent/sync/conntrack_wire.py",
    "site-agent/site_agent/sync/conntrack_words.py",
    "site-agent/site_agent/sync/ha_relay.py",
    "site-agent/site_agent/sync/ha_wire.py",
    "site-agent/site_agent/sync/kinds.py",
    "site-agent/site_agent/sync/lanes.py",
    "site-agent/site_agent/sync/marks_wire.py",
    "site-agent/site_agent/sync/numbers.py",
    "site-agent/site_agent/sync/numbers_words.py",
    "site-agent/site_agent/sync/promotion.py",
    "site-agent/site_agent/sync/session.py",
    "site-agent/site_agent/sync/versions.py",
    "site-agent/site_agent/sync/wire.py",
    "site-agent/site_agent/sync/windows.py",
    "site-agent/site_agent/sync/words.py",
    "site-agent/site_agent/bfd/packet.py",
    "site-agent/site_agent/bfd/session.py",
    "site-agent/site_agent/bfd/peers.py",
    "site-agent/site_agent/vrrp/no_router.py",
    "site-agent/site_agent/vrrp/neighbours.py",
    "site-agent/site_agent/vrrp/late_ticks.py",
    "site-agent/site_agent/vrrp/plan.py",
    "site-agent/site_agent/vrrp/plan_of.py",
    "site-agent/site_agent/vrrp/keeper.py",
    "site-agent/site_agent/vrrp/wire.py",
    "site-agent/site_agent/vrrp/packet.py",
    "site-agent/site_agent/vrrp/seal.py",
    "site-agent/site_agent/vrrp/familiar.py",
    "site-agent/site_agent/vrrp/pair_keys.py",
    "site-agent/site_agent/vrrp/solicitations.py",
    "site-agent/site_agent/vrrp/uplink_proof.py",
    "site-agent/site_agent/vrrp/election.py",
    "site-agent/site_agent/vrrp/router.py",
    "site-agent/site_agent/vrrp/router_words.py",
    "site-agent/site_agent/netlink/xfrm_keys.py",
    "site-agent/site_agent/netlink/nftables.py",
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


def test_the_vrrp_process_brings_no_library_that_would_have_to_be_locked_into_memory() -> None:
    heavy = "asyncio", "logging", "pydantic", "pyroute2", "prometheus_client", "jinja2"
    code = f"import sys, site_agent.vrrp.process; print([name for name in {heavy} if name in sys.modules])"
    environment = {"PYTHONPATH": f"{TREE}:{TREE / 'site-agent'}"}
    done = subprocess.run([sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
