"""An inner address that a client has, from charon's pool over the agent's report and the coordinator's store to what
`anycast prefixes forecast`, `check` and `show` print. Real charons, agent, TLS and coordinator. No ESP: an IKE_SA alone.

c ── upstream (router) ── gateway ── coordinator
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from anycast.cli.main import app
from site_agent.ike.vici_client import ViciClient
from tests.support.charons import BASE, ip
from tests.support.coordinator import Coordinator
from tests.support.gateway import Gateway
from tests.support.managed_gateway import fleet_text
from tests.support.namespace import in_namespace
from tests.support.two_sites import Station
from tests.support.upstream import NAMESPACE, until

pytestmark = pytest.mark.root

WITH_CERTIFICATES = "pem x509 pubkey"
ADDRESSING = """addressing:
  visible: {ipv4: /28, ipv6: /56}
  blocks: {inner: {prefix: 203.0.113.64/26, use: [pools]}}
"""
COUNTED_S = 150
"""The agent asks charon every 30 s."""


def a_client(gateway: Gateway) -> Station:
    """Behind the upstream, which leads its VIP to the gateway."""
    uplink = next(n for n in gateway.document.bgp.neighbors if n.families == ("ipv4",) and n.side == "outside")
    ip("netns add c")
    ip(f"-n {NAMESPACE} link add c type veth peer name out netns c")
    ip(f"-n {NAMESPACE} addr add 198.51.100.130/30 dev c")
    ip(f"-n {NAMESPACE} link set c up")
    for words in ("link set lo up", "addr add 198.51.100.129/30 dev out", "link set out up"):
        ip(f"-n c {words}")
    ip("-n c route add default via 198.51.100.130")
    ip(f"route add 198.51.100.128/30 via {uplink.address}")
    ip(f"-n {NAMESPACE} route replace {gateway.document.service.vips[0]}/32 via {uplink.local_address}")
    lenient = ("net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.gw.rp_filter=0")
    subprocess.run(["ip", "netns", "exec", NAMESPACE, "sysctl", "-qw", *lenient], check=True)
    client = Station("c", plugins=WITH_CERTIFICATES)
    client.start()
    return client


async def connect(client: Station, gateway: Gateway) -> str:
    """The inner address that it was given."""
    client.vici = ViciClient(client.vici.path)
    vpn, clients = gateway.roots
    service = gateway.document.service
    issued = clients.issue("c.clients.example.org")
    await client.ask("load-cert", {"type": "X509", "flag": "CA", "data": vpn.certificate.decode()})
    await client.ask("load-key", {"type": "any", "data": issued.private_key.decode()})
    own = {"auth": "pubkey", "id": "c.clients.example.org", "certs": [issued.certificate.decode()]}
    message = {
        "version": "2", "proposals": list(service.ike_proposals), "remote_addrs": [service.vips[0]], "vips": ["0.0.0.0"],
        "local": own, "remote": {"auth": "pubkey", "id": service.identity}, "childless": "force",
    }  # fmt: skip
    await client.ask("load-conn", {"home": message})
    await client.ask("initiate", {"ike": "home", "timeout": "20000"})
    [ike_sa] = await client.sas()
    [address] = ike_sa["local-vips"]
    return str(address.decode())


def asked(coordinator: Coordinator, word: str, *more: str) -> str:
    """What `anycast prefixes WORD` prints; in this process, which has imported everything already."""
    socket = f"unix:{coordinator.base}/run/coordinator.sock"
    known = {"ANYCAST_COORDINATOR": socket, "COLUMNS": "200"}
    done = CliRunner().invoke(app(), ["prefixes", word, str(coordinator.base / "fleet.yaml"), *more], env=known)
    assert done.exit_code == 0, (word, done.output)
    return done.stdout


@in_namespace
def test_an_address_that_a_client_has_is_in_the_forecast_and_stays_that_days_most() -> None:
    subprocess.run(["mount", "-t", "tmpfs", "charons", str(BASE)], check=True)
    Path("/run/netns").mkdir(exist_ok=True)
    gateway = Gateway(recovery_ms=0)
    base = gateway.base / "coordinator"
    base.mkdir()
    (base / "fleet.yaml").write_text(fleet_text() + ADDRESSING)
    coordinator = Coordinator(base)
    coordinator.start()
    coordinator.gateway("fra-gw1")
    (gateway.base / "document.json").write_bytes(coordinator.known_to(gateway.document).canonical())
    gateway.start("--pki-dir", str(coordinator.base / "pki-fra-gw1"))
    gateway.announced(within_s=150)

    def forecast() -> dict[tuple[str, str], dict[str, Any]]:
        found = json.loads(asked(coordinator, "forecast", "--json"))["forecasts"]
        return {(each["site"], each["family"]): each for each in found}

    asked(coordinator, "apply")
    until(lambda: forecast()["fra", "ipv4"]["most"] == 0, "seen, and none in use", within_s=COUNTED_S)
    client = a_client(gateway)
    inner = asyncio.run(connect(client, gateway))
    [pool] = [each.prefix for each in gateway.document.service.pools if "." in each.prefix]
    assert ipaddress.ip_address(inner) in ipaddress.ip_network(pool), "from the pool that is counted"
    until(lambda: forecast()["fra", "ipv4"]["most"] == 1, "one in use", within_s=COUNTED_S)
    for word in ("forecast", "check", "show"):
        rows = [line.split() for line in asked(coordinator, word).splitlines() if line.split()[1:2] == ["ipv4"]]
        assert [row[:5] for row in rows] == [["fra", "ipv4", "30", "1", "1"], ["sin", "ipv4", "30", "unknown", "0"]], word
    assert forecast()["fra", "ipv4"]["what"] == "unknown: 1 day was seen"

    async def leaves() -> None:
        client.vici = ViciClient(client.vici.path)
        await client.ask("terminate", {"ike": "home"})

    asyncio.run(leaves())
    coordinator.stop()
    coordinator.start()
    assert forecast()["fra", "ipv4"]["most"] == 1, "the day's most, over a restart"
