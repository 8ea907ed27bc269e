"""An inner address that a client has, from charon's pool over the agent's report and the coordinator's store to what
`anycast prefixes forecast`, `check` and `show` print. Real charons, agent, TLS and coordinator. No ESP: an IKE_SA alone.

c ── upstream (router) ── gateway ── coordinator
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

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


@in_namespace
def test_an_address_that_a_client_has_is_in_the_forecast_and_stays_that_days_most() -> None:
    subprocess.run(["mount", "-t", "tmpfs", "charons", str(BASE)], check=True)
    Path("/run/netns").mkdir(exist_ok=True)
    gateway = Gateway(recovery_ms=0)
    base = gateway.base / "coordinator"
    base.mkdir()
    (base / "fleet.yaml").write_text(fleet_text())
    coordinator = Coordinator(base)
    coordinator.start()
    coordinator.gateway("fra-gw1")
    (gateway.base / "document.json").write_bytes(coordinator.known_to(gateway.document).canonical())
    gateway.start("--pki-dir", str(coordinator.base / "pki-fra-gw1"))
    gateway.announced(within_s=150)

    def of_fra() -> dict[str, int | None]:
        found = coordinator.ask("prefixes", "forecast", "fleet.yaml")["forecasts"]
        return {each["family"]: each["most"] for each in found if each["site"] == "fra"}

    until(lambda: of_fra()["ipv4"] == 0, "seen, and none in use", within_s=COUNTED_S)
    client = a_client(gateway)
    inner = asyncio.run(connect(client, gateway))
    [pool] = [each.prefix for each in gateway.document.service.pools if "." in each.prefix]
    assert inner.rpartition(".")[0] == pool.rpartition(".")[0], "from the pool that is counted"
    until(lambda: of_fra()["ipv4"] == 1, "one in use", within_s=COUNTED_S)
    [row] = [each for each in coordinator.ask("prefixes", "forecast", "fleet.yaml")["forecasts"]
             if (each["site"], each["family"]) == ("fra", "ipv4")]  # fmt: skip
    assert (row["days"], row["what"]) == (1, "unknown: 1 days were seen") and row["runs_out"] is None
    for words in (("forecast",), ("check",), ("show",)):
        said = coordinator.run("prefixes", *words, "fleet.yaml")
        lines = [line.split() for line in said.stdout.splitlines() if line.split()[:2] == ["fra", "ipv4"]]
        assert any(line[3:5] == ["1", "1"] for line in lines), (words, said.stdout, said.stderr)
    sin = [each for each in coordinator.ask("prefixes", "forecast", "fleet.yaml")["forecasts"] if each["site"] == "sin"]
    assert {each["most"] for each in sin} == {None}, "nobody of it was heard: unknown, not none"

    async def leaves() -> None:
        client.vici = ViciClient(client.vici.path)
        await client.ask("terminate", {"ike": "home"})

    asyncio.run(leaves())
    coordinator.stop()
    coordinator.start()
    assert of_fra()["ipv4"] == 1, "the day's most, over a restart"
    assert json.loads(coordinator.run("prefixes", "check", "fleet.yaml", "--json").stdout)
