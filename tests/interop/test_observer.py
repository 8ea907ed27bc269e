"""`anycast observe` beside a whole gateway: a real ExaBGP hears a real BIRD, and a drain goes on by what it sees.

    gateway ──BGP── BIRD (upstream) ──BGP, ADD-PATH── ExaBGP of the observer ── coordinator ── the gateway's drain
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from anycast.coordinator import api, observations
from anycast.coordinator.access import Role
from anycast.coordinator.rest import Rest
from tests.support.coordinator import kill
from tests.support.gateway import ENVIRONMENT
from tests.support.managed import running
from tests.support.managed_gateway import ROOT, World, fleet_text, quick
from tests.support.namespace import in_namespace
from tests.support.upstream import NAMESPACE

pytestmark = pytest.mark.root
OURS, ROUTER = "192.0.2.201", "192.0.2.202"
OBSERVERS = f"""
observers:
  outside:
    asn: 64496
    router_id: {OURS}
    peers:
      - {{asn: 64511, address: {ROUTER}, local_address: {OURS}}}
"""
SETTLE_S = 2
FAMILY = "{ import none; export all; add paths tx; next hop address %s; };"
STRAY = "protocol static stray { ipv4; route 203.0.113.0/28 blackhole { bgp_path.prepend(64501); }; }\n"
"""A path of fra's that does not come from its gateway: another router has it still."""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def listen_to(world: World) -> None:
    """The upstream's BIRD has one session more."""
    ip("link", "add", "obs", "type", "veth", "peer", "name", "obs", "netns", NAMESPACE)
    ip("addr", "add", f"{OURS}/30", "dev", "obs")
    ip("link", "set", "obs", "up")
    ip("-n", NAMESPACE, "addr", "add", f"{ROUTER}/30", "dev", "obs")
    ip("-n", NAMESPACE, "link", "set", "obs", "up")
    text = f"{STRAY}protocol bgp observer {{ local {ROUTER} as 64511; neighbor {OURS} as 64496; error wait time 1, 1;\n"
    text += f"  ipv4 {FAMILY % ROUTER} ipv6 {FAMILY % '2001:db8:1::1'} }}\n"
    conf = world.gateway.base / "bird.conf"
    conf.write_text(conf.read_text() + text)
    assert "Reconfigured" in world.gateway.upstream.ask("configure")
    world.gateway.upstream.ask("disable stray")


def seen(world: World) -> dict[str, str]:
    return {site.site: site.seen.value for site in world.service.status().sites}


@in_namespace
def test_a_drain_waits_until_nobody_outside_sees_the_route() -> None:
    quick()

    async def test() -> None:
        world = World()
        base, gateway = world.files.base, world.gateway
        listen_to(world)
        async with contextlib.AsyncExitStack() as stack:
            await world.serve(stack)
            runner = web.AppRunner(Rest(world.service).app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 4519).start()
            wanted = api.NewCredential(name="outside", role=Role.OBSERVER)
            token = (await world.service.add_credential(ROOT, wanted)).token
            (base / "outside.credential").write_text(token)
            (base / "outside.credential").chmod(0o600)
            (base / "fleet.yaml").write_text(fleet_text() + OBSERVERS)
            sin = await world.start()
            async with running(sin):
                await world.until(lambda: len(world.service.status().sites) == 2, "both are heard")
                assert set(seen(world).values()) == {"unknown"}, "nobody has looked"
                await world.apply(world.documents())

                words = ["observe", "fleet.yaml", "outside", "--run", "observer", "--coordinator", "http://127.0.0.1:4519"]
                words += ["--credential", "outside.credential"]
                command = [sys.executable, "-m", "anycast.cli.main", *words]
                observer = subprocess.Popen(command, cwd=base, env=ENVIRONMENT)
                stack.callback(kill, observer)
                await world.until(lambda: seen(world) == {"fra": "seen", "sin": "not_seen"}, "it sees", within_s=30)

                gateway.upstream.ask("enable stray")
                words = ("drain", "start", "--to", "203.0.113.9", "--reason", "new optics", "--settle", f"{SETTLE_S} s")
                assert (done := await asyncio.to_thread(gateway.ask, *words)).returncode == 0, done.stderr

                def steps() -> list[str]:
                    return [event["step"] for event in gateway.events("DrainStepTaken")]

                await world.until(lambda: "withdrawing" in steps(), "it withdraws")
                await world.until(lambda: "203.0.113.0/28" not in own_routes(world), "the gateway's own route is gone")
                await asyncio.sleep(2 * SETTLE_S)  # longer than it would wait for an observer that cannot tell
                assert steps()[-1] == "withdrawing", "somebody outside sees a route"
                assert seen(world)["fra"] == "seen"
                status = json.loads((await asyncio.to_thread(gateway.ask, "status", "--json")).stdout)
                assert "observer" in status["drain"]["waits_for"], status["drain"]

                gateway.upstream.ask("disable stray")
                await world.until(lambda: seen(world)["fra"] == "not_seen", "it is gone", within_s=5)
                await world.until(lambda: steps()[-1] in ("refusing", "done"), "the drain goes on", within_s=5)

                # A word that nobody repeats grows old, and an ExaBGP without an observer ends.
                observer.send_signal(signal.SIGKILL)
                await asyncio.to_thread(observer.wait)
                await world.until(
                    lambda: seen(world) == {"fra": "unknown", "sin": "unknown"}, "unknown", within_s=observations.GOOD_S + 2
                )
                await world.until(lambda: not exabgps(base), "its ExaBGP has ended", within_s=15)

    asyncio.run(test())


def own_routes(world: World) -> str:
    """What the gateway's own sessions brought the upstream."""
    sessions = world.gateway.upstream.sessions
    return "".join(world.gateway.upstream.ask(f"show route protocol {name}") for name in sessions)


def exabgps(base: Path) -> list[str]:
    """Command lines that name the observer's configuration."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"exabgp" in words and any(word.endswith(b"observer/exabgp.conf") for word in words):
                found.append(str(path))
    return found
