"""Fill every node's folder before it boots: addresses, routing, certificates, client profiles.

    lab_dir/NODE/etc/        bound to /etc/anycast in the node (see the topology's `binds`)
        boot                 what the machine runs when it starts
        ip.batch sysctl.conf bird.conf nat.nft knot.conf zone start-client swanctl/ strongswan.conf   as its role needs
        fleet.yaml           on gateways
        secrets/             root only; the same vrrp.keys at both gateways of a site
        pki/                 at the gateways of a pair, and where there is a coordinator: who they are (`management.py`)
        operators.json operator/   where contents are taken, and where they are signed (`operators.py`)
        out/                 what the machine writes for the drill to read: logs and the probe's record

Nothing here depends on which runner starts the nodes.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import secrets
from pathlib import Path
from typing import Any

import jinja2

from anycast.fleet.compile import compile_gateway
from anycast.fleet.loading import load, lock_of
from anycast.fleet.schema import Fleet
from anycast.fleet.values import FAMILIES
from anycast_lab.machines import client_profile, management, name_server, operators, pki, wiring
from anycast_lab.topology import Topology

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("anycast_lab.machines"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # shell and BIRD text, made only of validated names and addresses
)


def fleet_file(topology: Path) -> Path:
    """The fleet file of a topology: ``two-site.clab.yml`` -> ``two-site.fleet.yaml`` beside it."""
    return topology.with_name(topology.name.removesuffix(".yml").removesuffix(".clab") + ".fleet.yaml")


def cables(topology: Topology) -> dict[str, dict[str, str]]:
    """The topology's links as `wiring` wants them."""
    result: dict[str, dict[str, str]] = {name: {} for name in topology.nodes}
    for link in topology.links:
        result[link.a.node][link.a.interface] = link.b.node
        result[link.b.node][link.b.interface] = link.a.node
    return result


def prepare(topology: Topology, lab_dir: Path) -> Fleet:
    """Write every node's folder. Raises ConfigError with everything that does not fit."""
    fleet_path = fleet_file(topology.path)
    fleet = load(fleet_path)
    plans = wiring.plan(fleet, cables(topology))
    gateways, clients = pki.Root("lab gateways"), pki.Root("lab clients")
    keys: dict[str, str] = {}
    for plan in plans.values():
        for session in plan.sessions:
            if session.md5_key:
                keys.setdefault(session.md5_key, secrets.token_hex(16))
    seals = {name: _seal_keys() for name in fleet.sites}
    for plan in plans.values():
        etc = lab_dir / plan.node / "etc"
        etc.mkdir(parents=True, exist_ok=True)
        (etc / "out").mkdir(exist_ok=True)
        _write_common(etc, plan, topology)
        if plan.sessions:
            text = _render(
                "bird.conf.j2", plan=plan, keys=keys, prefixes=_prefixes(fleet), ms=datetime.timedelta(milliseconds=1)
            )
            pki.write_secret(etc / "bird.conf", text.encode())
        if plan.masquerade:
            inside, _, address = plan.masquerade
            (etc / "nat.nft").write_text(
                f"table ip lab {{\n  chain out {{\n    type nat hook postrouting priority srcnat;\n"
                f"    ip saddr {inside} snat to {address}\n  }}\n}}\n"
            )
        if plan.name_server:
            (etc / "knot.conf").write_text(name_server.configuration(fleet.service.identity))
            (etc / "zone").write_text(name_server.zone(fleet, plan.name_server))
        if plan.role == "gateway":
            _write_gateway(etc, plan, fleet, fleet_path, keys, gateways, clients)
            if (vrrp := compile_gateway(fleet, plan.node).vrrp) is not None and vrrp.keys_file is not None:
                pki.write_secret(_inside(etc, vrrp.keys_file), seals[plan.site])
        if plan.role in ("client", "guest"):
            _write_client(etc, plan, fleet, gateways, clients)
        if plan.role == "crowd":
            _write_crowd(etc, plan, fleet, gateways, clients)
    management.write(fleet, lab_dir)
    operators.write(fleet, fleet_path, lab_dir)
    return fleet


def _write_common(etc: Path, plan: wiring.NodePlan, topology: Topology) -> None:
    forwards = plan.role in ("gateway", "router", "nat")
    sysctls = [
        f"net.ipv4.ip_forward = {int(forwards)}",
        f"net.ipv6.conf.all.forwarding = {int(forwards)}",
        "net.ipv4.conf.all.rp_filter = 0",
        "net.ipv4.conf.default.rp_filter = 0",
        "net.ipv4.conf.all.send_redirects = 0",
        "net.ipv4.conf.default.send_redirects = 0",
        "net.ipv6.conf.all.accept_dad = 0",
        "net.ipv6.conf.default.accept_dad = 0",
    ]
    if plan.ecmp:  # by addresses, protocol and ports, as carriers do
        sysctls += ["net.ipv4.fib_multipath_hash_policy = 1", "net.ipv6.fib_multipath_hash_policy = 1"]
    if plan.role == "gateway":
        sysctls += ["net.ipv4.conf.all.arp_ignore = 1", "net.ipv4.conf.all.arp_announce = 2"]
        for interface in dict.fromkeys(interface for interface, _ in plan.addresses if interface != "lo"):
            sysctls += [
                f"net.ipv4.conf.{interface}.accept_redirects = 0",
                f"net.ipv6.conf.{interface}.accept_redirects = 0",
                f"net.ipv6.conf.{interface}.accept_ra = 0",
            ]
    # containerlab's links have 9,500 bytes where the topology says nothing.
    ends = [(end, link.mtu) for link in topology.links_of(plan.node) for end in link.ends() if end.node == plan.node]
    batch = [f"link set dev {end.interface} mtu {mtu}" for end, mtu in ends]
    if plan.role == "switch":  # a switch has no address, and asks and answers nothing
        sysctls += ["net.ipv6.conf.all.disable_ipv6 = 1", "net.ipv6.conf.default.disable_ipv6 = 1"]
    if plan.bridge:
        batch.append(f"link add name {wiring.BRIDGE} type bridge forward_delay 0 mcast_snooping 0")
        batch += [f"link set dev {port} master {wiring.BRIDGE}" for port in plan.bridge]
        batch.append(f"link set dev {wiring.BRIDGE} up")
    for interface, address in plan.addresses:
        nodad = " nodad" if ":" in address else ""
        batch.append(f"address add {address} dev {interface}{nodad}")
    for prefix, via in plan.routes:
        family = "-6 " if ipaddress.ip_network(prefix).version == 6 else ""
        batch.append(f"{family}route add {prefix} via {via}".replace("-6 route", "route"))
    (etc / "sysctl.conf").write_text("\n".join(sysctls) + "\n")
    (etc / "ip.batch").write_text("\n".join(batch) + "\n")
    (etc / "boot").write_text(_render("boot.j2", plan=plan))


def _write_gateway(
    etc: Path,
    plan: wiring.NodePlan,
    fleet: Fleet,
    fleet_path: Path,
    keys: dict[str, str],
    gateways: pki.Root,
    clients: pki.Root,
) -> None:
    (etc / "fleet.yaml").write_bytes(fleet_path.read_bytes())
    if (lock := lock_of(fleet_path)).exists():
        (etc / "fleet.lock").write_bytes(lock.read_bytes())
    issued = gateways.issue(fleet.service.identity)
    paths = fleet.service.certificates
    pki.write_secret(_inside(etc, paths.gateway), issued.certificate)
    pki.write_secret(_inside(etc, paths.key), issued.private_key)
    pki.write_secret(_inside(etc, paths.client_ca), clients.certificate)
    if (canary := fleet.service.checks.canary) is not None:  # a client that lives on the gateway
        issued = clients.issue(canary.identity)
        pki.write_secret(_inside(etc, canary.certificate), issued.certificate)
        pki.write_secret(_inside(etc, canary.key), issued.private_key)
        pki.write_secret(_inside(etc, canary.gateway_ca), gateways.certificate)
    for upstream in fleet.sites[plan.site].upstreams.values():
        if upstream.md5_key_file:
            pki.write_secret(_inside(etc, upstream.md5_key_file), keys[str(upstream.md5_key_file)].encode())


def _write_client(etc: Path, plan: wiring.NodePlan, fleet: Fleet, gateways: pki.Root, clients: pki.Root) -> None:
    assert fleet.lab is not None
    client = fleet.lab.connected[plan.node]
    identity = f"{plan.node}.clients.{fleet.service.identity}"
    issued = clients.issue(identity)
    pki.write_secret(etc / "secrets" / "client.crt", issued.certificate)
    pki.write_secret(etc / "secrets" / "client.key", issued.private_key)
    pki.write_secret(etc / "secrets" / "gateway-ca.crt", gateways.certificate)
    for name, text in client_profile.render_client(fleet, client, identity).items():
        target = etc / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    link, target_in_node = client_profile.KEY_LINK
    (etc / link).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    (etc / link).unlink(missing_ok=True)
    (etc / link).symlink_to(target_in_node)
    (etc / "start-client").write_text(_render("start-client.j2"))


def _write_crowd(etc: Path, plan: wiring.NodePlan, fleet: Fleet, gateways: pki.Root, clients: pki.Root) -> None:
    """Nothing is loaded at boot: a drill that wants the crowd does it, and no other waits for it."""
    assert fleet.lab is not None
    crowd = fleet.lab.crowds[plan.node]
    pki.write_secret(etc / "secrets" / "gateway-ca.crt", gateways.certificate)
    for member in client_profile.members(fleet, plan.node, crowd):
        issued = clients.issue(member.identity)
        pki.write_secret(_inside(etc, member.certificate), issued.certificate)
        pki.write_secret(_inside(etc, member.key), issued.private_key)
    for name, text in client_profile.render_crowd(fleet, plan.node, crowd).items():
        target = etc / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    (etc / "swanctl" / "private").mkdir(exist_ok=True)
    (etc / "start-client").write_text(_render("start-client.j2"))


def _seal_keys() -> bytes:
    """One key file for both gateways of a site, as `site-agent keys new` makes it: with one key, of 32 bytes."""
    made = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
    key = {"id": 1, "made": made, "key": secrets.token_hex(32)}
    return json.dumps({"version": 1, "in_use": 1, "keys": [key]}, indent=1).encode() + b"\n"


def _inside(etc: Path, path: str) -> Path:
    """Where a node's own path lies on the machine that makes the lab."""
    return etc / Path(path).relative_to("/etc/anycast")


def _prefixes(fleet: Fleet) -> dict[str, list[str]]:
    return {f: [str(fleet.service.prefixes.of(f))] if f in fleet.service.prefixes.families else [] for f in FAMILIES}


def _render(template: str, **values: Any) -> str:
    return _TEMPLATES.get_template(template).render(**values)
