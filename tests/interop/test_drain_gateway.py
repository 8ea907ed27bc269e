"""A drain of a whole gateway: agent, real charons (its own, another site's, clients'), ExaBGP, BIRD. No ESP: IKE_SAs only.

c, nf ── upstream (BIRD, router) ── gateway          BIRD is the witness of the route, the clients of their tunnels.
other ──┘
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from site_agent.ike.vici_client import ViciClient
from tests.support.charons import BASE, ip
from tests.support.gateway import Gateway
from tests.support.namespace import in_namespace
from tests.support.two_sites import FOLLOWS_NOT, Station
from tests.support.upstream import NAMESPACE, until

pytestmark = pytest.mark.root

OTHER = "198.51.100.129"
"""The other site's unicast service address."""
BASICS = ("--reason", "new optics", "--settle", "1 s")
WITH_CERTIFICATES = "pem x509 pubkey"


class World:
    def __init__(self) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "charons", str(BASE)], check=True)
        Path("/run/netns").mkdir(exist_ok=True)
        self.gateway = Gateway()
        self.vip = self.gateway.document.service.vips[0]
        self.other = Station("other", plugins=WITH_CERTIFICATES)
        self.c, self.nf = Station("c", plugins=WITH_CERTIFICATES), Station("nf", FOLLOWS_NOT, plugins=WITH_CERTIFICATES)
        uplink = next(n for n in self.gateway.document.bgp.neighbors if n.families == ("ipv4",) and n.side == "outside")
        for number, station in enumerate((self.other, self.c, self.nf)):
            name, at = station.name, 128 + 4 * number
            ip(f"netns add {name}")
            ip(f"-n {NAMESPACE} link add {name} type veth peer name out netns {name}")
            ip(f"-n {NAMESPACE} addr add 198.51.100.{at + 2}/30 dev {name}")
            ip(f"-n {NAMESPACE} link set {name} up")
            for words in ("link set lo up", f"addr add 198.51.100.{at + 1}/30 dev out", "link set out up"):
                ip(f"-n {name} {words}")
            ip(f"-n {name} route add default via 198.51.100.{at + 2}")
            ip(f"route add 198.51.100.{at}/30 via {uplink.address}")
        # No reverse path filter: paths there and back differ as soon as a route has moved.
        lenient = ("net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.gw.rp_filter=0")
        subprocess.run(["ip", "netns", "exec", NAMESPACE, "sysctl", "-qw", *lenient], check=True)
        ip(f"-n other addr add {self.vip}/32 dev lo")
        self._here = uplink.local_address
        self.lead(self._here)

    def lead(self, via: str) -> None:
        """Where the network takes packets for the VIP."""
        ip(f"-n {NAMESPACE} route replace {self.vip}/32 via {via}")

    def lead_away(self) -> None:
        self.lead("198.51.100.129")

    async def boot(self) -> None:
        vpn, clients = self.gateway.roots
        service = self.gateway.document.service
        for station in (self.other, self.c, self.nf):
            station.start()
        issued = vpn.issue(service.identity)
        await self._believe(self.other, clients.certificate, issued.certificate, issued.private_key)
        # It fits in either place, so one message serves both ends.
        self.common: dict[str, Any] = {"version": "2", "proposals": list(service.ike_proposals), "childless": "allow"}
        ours = {"auth": "pubkey", "id": service.identity, "certs": [issued.certificate.decode()]}
        message = {"local_addrs": [OTHER, self.vip], "local": ours, "remote": {"auth": "pubkey"}}
        await self.other.ask("load-conn", {"vpn": {**self.common, **message}})
        for client in (self.c, self.nf):
            issued = clients.issue(f"{client.name}.clients.example.org")
            await self._believe(client, vpn.certificate, issued.certificate, issued.private_key)
            own = {"auth": "pubkey", "id": f"{client.name}.clients.example.org", "certs": [issued.certificate.decode()]}
            message = {
                "remote_addrs": [self.vip], "local": own, "remote": {"auth": "pubkey", "id": service.identity},
                "childless": "force",
            }  # fmt: skip
            await client.ask("load-conn", {"home": {**self.common, **message}})

    async def _believe(self, station: Station, root: bytes, certificate: bytes, key: bytes) -> None:
        await station.ask("load-cert", {"type": "X509", "flag": "CA", "data": root.decode()})
        await station.ask("load-key", {"type": "any", "data": key.decode()})

    def connect(self, client: Station) -> None:
        asyncio.run(_once(client, "initiate", {"ike": "home", "timeout": "8000"}))
        assert self.ends(client) == [self.vip]

    def ends(self, client: Station) -> list[str]:
        """The gateways' ends of its tunnels."""
        return sorted(sa["remote-host"].decode() for sa in asyncio.run(_sas(client)) if sa["state"] == b"ESTABLISHED")

    def drain(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = json.loads(self.gateway.ask("status", "--json").stdout).get("drain")
        return found

    def say(self, *words: str) -> str:
        said = self.gateway.ask("drain", *words)
        assert said.returncode == 0, said.stderr
        return said.stdout

    def steps(self) -> list[str]:
        return [event["step"] for event in self.gateway.events("DrainStepTaken")]

    def reached(self, step: str, *, within_s: float = 20) -> None:
        until(lambda: step in self.steps(), step, within_s=within_s)

    def worse(self) -> bool:
        return "(65535,0)" in self.gateway.upstream.ask("show route all")

    def opens(self, client: Station) -> bool:
        """A new client is answered."""
        return asyncio.run(_answered(client))


async def _once(station: Station, command: str, message: dict[str, Any]) -> None:
    station.vici = ViciClient(station.vici.path)  # the one before belongs to another event loop
    await station.ask(command, message)


async def _sas(station: Station) -> list[dict[str, Any]]:
    station.vici = ViciClient(station.vici.path)
    return await station.sas()


async def _answered(station: Station) -> bool:
    try:
        await _once(station, "initiate", {"ike": "home", "timeout": "2500"})
    except Exception:
        return False
    return True


def made() -> World:
    world = World()
    asyncio.run(world.boot())
    world.gateway.start()
    world.gateway.announced()
    return world


@in_namespace
def test_from_an_established_client_to_a_route_that_is_gone() -> None:
    world = made()
    world.connect(world.c)
    world.connect(world.nf)
    said = world.say("start", "--to", OTHER, *BASICS, "--dry-run")
    assert "2 tunnels: 2 would be redirected" in said
    assert "nobody would be cut" in said
    assert world.drain() is None, "said, and nothing done"
    world.say("start", "--to", OTHER, *BASICS)
    until(lambda: world.ends(world.c) == [OTHER], "the client that follows has moved", within_s=10)
    assert world.ends(world.nf) == [world.vip]
    assert world.gateway.upstream.prefixes() >= world.gateway.all_prefixes
    assert not world.worse()
    until(lambda: "1 tunnels left" in world.gateway.ask("status").stdout, "the next look", within_s=10)
    for word in ("moving", "new optics"):
        assert word in world.gateway.ask("status").stdout
    asyncio.run(_once(world.nf, "terminate", {"ike": "home"}))  # the other one goes by itself
    world.reached("degrading")
    until(world.worse, "GRACEFUL_SHUTDOWN", within_s=5)
    assert world.gateway.upstream.prefixes() >= world.gateway.all_prefixes
    until(lambda: world.opens(world.nf), "accepted while the route attracts", within_s=20)
    asyncio.run(_once(world.nf, "terminate", {"ike": "home"}))
    world.reached("done", within_s=30)
    assert not world.gateway.upstream.prefixes() & world.gateway.all_prefixes
    assert world.steps() == ["moving", "degrading", "withdrawing", "refusing", "done"]
    assert not world.opens(world.nf), "refused, by silence"
    assert {event["reason"] for event in world.gateway.events("PrefixWithdrawn")} == {"drained"}
    assert "drained" in world.gateway.ask("why").stdout
    assert world.ends(world.c) == [OTHER]

    assert world.say("abort")
    world.reached("ended")
    world.gateway.announced(within_s=10)
    assert not world.worse()
    # Its charon may still be at an earlier, unanswered handshake, which comes through now.
    until(lambda: world.ends(world.nf) == [world.vip] or world.opens(world.nf), "the door is open", within_s=20)
    assert world.drain() is None
    assert not (world.gateway.state_dir / "drain.json").exists()


@in_namespace
def test_who_cannot_follow_is_cut_and_comes_up_where_the_route_leads() -> None:
    world = made()
    world.connect(world.nf)
    world.say("start", "--to", OTHER, "--left", "delete", "--limit", "2 s", *BASICS)
    world.reached("degrading")
    assert world.ends(world.nf) == [world.vip], "not before the route is worse"
    world.lead_away()  # as BGP would
    until(lambda: world.gateway.events("TunnelsCut"), "a DELETE", within_s=60)
    until(lambda: world.ends(world.nf) == [], "it got it", within_s=15)
    world.reached("done", within_s=30)
    assert [event["count"] for event in world.gateway.events("TunnelsCut")] == [1]


@in_namespace
def test_an_agent_killed_in_the_middle_goes_on_and_an_abort_in_the_middle_undoes() -> None:
    world = made()
    world.connect(world.nf)
    world.say("start", "--to", OTHER, *BASICS)
    until(lambda: world.gateway.events("TunnelsMoved"), "asked", within_s=10)
    _kill(world)
    assert (world.drain() or {})["step"] == "moving"
    asyncio.run(_once(world.nf, "terminate", {"ike": "home"}))
    for step in ("degrading", "withdrawing", "done"):
        world.reached(step, within_s=30)
        _kill(world)
        gone = not world.gateway.upstream.prefixes() & world.gateway.all_prefixes
        assert gone or step == "degrading", "what is withdrawn stays withdrawn over a new agent"
    until(lambda: (world.drain() or {}).get("step") == "done", "where it was", within_s=20)
    assert not world.opens(world.nf)
    order = list(dict.fromkeys(world.steps()))
    assert order == ["moving", "degrading", "withdrawing", "refusing", "done"]

    world.say("abort")
    world.reached("ended", within_s=30)
    world.gateway.announced(within_s=10)
    # Its charon may still be at an earlier, unanswered handshake, which comes through now.
    until(lambda: world.ends(world.nf) == [world.vip] or world.opens(world.nf), "the door is open", within_s=20)
    withdrawals = world.gateway.upstream.withdrawals()

    world.say("start", "--to", OTHER, *BASICS)  # a second one, which is given up halfway
    until(lambda: world.gateway.events("TunnelsMoved")[1:], "asked", within_s=20)
    world.say("abort")
    until(lambda: world.drain() is None, "undone", within_s=10)
    assert world.ends(world.nf) == [world.vip]
    assert world.gateway.upstream.withdrawals() == withdrawals, "BGP never heard of it"


def _kill(world: World) -> None:
    """SIGKILL, and a new agent at once."""
    assert world.gateway.agent is not None
    world.gateway.signal_agent(signal.SIGKILL)
    world.gateway.agent.wait()
    before = len(world.gateway.events("AgentStarted"))
    world.gateway.start()
    until(lambda: len(world.gateway.events("AgentStarted")) > before, "a new agent", within_s=60)
    until(lambda: world.gateway.ask("status").returncode == 0, "it answers", within_s=30)


@in_namespace
def test_hold_announce_goes_before_a_drain_and_nothing_is_refused_then() -> None:
    world = made()
    world.say("start", *BASICS)
    world.reached("done", within_s=40)
    assert not world.opens(world.c)
    held = world.gateway.ask("hold", "announce", "--for", "1h", "--reason", "we need it")
    assert held.returncode == 0, held.stderr
    world.gateway.announced(within_s=5)
    assert not world.worse()
    until(lambda: world.opens(world.c), "the door is open", within_s=10)
    refused = world.gateway.ask("drain", "start", *BASICS)
    assert "one goes on already (done" in refused.stderr
