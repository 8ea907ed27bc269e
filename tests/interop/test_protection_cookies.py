"""The rendered thresholds against a real flood of half-open handshakes: charon demands cookies, keeps its workers, and a
real client connects in the middle of it; also where the flood comes from that client's own address (a carrier's NAT).

The machine's kernel need not have ESP: an IKE_SA is what a flood of handshakes could deny.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anycast.events import EvidenceChanged, ProtectionEnded, ProtectionStarted
from anycast.model import EvidenceClass
from anycast.policy.protection import COOKIE_THRESHOLD, COOKIE_THRESHOLD_IP, Protection
from anycast.reasons import Reason
from anycast_lab.machines.pki import Root
from site_agent.checks import half_open
from site_agent.checks.vici import ViciCheck
from site_agent.ike.vici_client import ViciClient
from tests.interop.test_rendered_strongswan import BASE, CHARON, Host, client_host, gateway_host, until, wire
from tests.support.gateway import ENVIRONMENT
from tests.support.namespace import in_namespace

pytestmark = [pytest.mark.root, pytest.mark.skipif(not CHARON.exists(), reason="missing: charon")]

RATE = 3000
"""IKE_SA_INITs a second: a hundred times the threshold in each second."""
FLOOD_S = 5.0
FORGET_S = 5
"""Instead of the rendered 30 s, after which charon forgets a half-open IKE_SA: what is waited for at the end."""


class Watch:
    """The agent's own check and core, asked by hand."""

    def __init__(self, socket: Path) -> None:
        self.protection = Protection()
        self.said: list[ProtectionStarted | ProtectionEnded] = []
        self.answered_s: list[float] = []
        self._socket = socket

    def look(self) -> bool:
        """Look once; whether cookies are demanded now."""

        async def ask() -> None:
            vici = ViciClient(str(self._socket))
            began = time.monotonic()
            for finding in await ViciCheck(vici).look():
                if finding.name == half_open.NAME:
                    seen = EvidenceChanged(
                        check=finding.name, evidence_class=EvidenceClass.LOAD, status=finding.status,
                        reason=finding.reason, detail=finding.detail,
                    )  # fmt: skip
                    if (news := self.protection.take(seen)) is not None:
                        self.said.append(news)
            self.answered_s.append(time.monotonic() - began)
            vici.close()

        asyncio.run(ask())
        return bool(self.protection.signs)


def half_open_now(gateway: Host) -> int:
    found = re.search(r"(\d+) half-open", gateway("swanctl", "--stats", "--uri", f"unix://{BASE}/run/charon.vici"))
    assert found is not None
    return int(found[1])


def a_client_connects_during_the_flood(source: str, *, of_everybody: bool) -> None:
    """`of_everybody`: cookies are demanded of all, not only of the address that the flood comes from."""
    gateways, clients = Root("gateways"), Root("clients")
    gateway, made = gateway_host(gateways, clients)
    conf = gateway.etc / "strongswan.conf"
    conf.write_text(re.sub(r"half_open_timeout = \d+", f"half_open_timeout = {FORGET_S}", conf.read_text()))
    client = client_host(gateways, clients)
    vip = made.service.vips[0]
    wire(gateway, client, vip)
    command = [sys.executable, "-m", "anycast_lab.flood", "--to", vip, "--kind", "init", "--rate", str(RATE)]
    command += ["--source", source, "--out", "/etc/anycast/out/flood.json"]
    with gateway.charon(gateway.run / "charon.vici"):
        gateway("swanctl", "--load-all", "--noprompt")
        watch = Watch(gateway.run / "charon.vici")
        assert not watch.look()
        flood = subprocess.Popen([*client.enter, *command], env=ENVIRONMENT)
        try:
            if of_everybody:
                until(watch.look, "cookies being demanded")
            else:
                until(lambda: half_open_now(gateway) >= COOKIE_THRESHOLD_IP, "cookies being demanded of one address")
            connected, began = 0, time.monotonic()
            while connected < 3 or time.monotonic() - began < FLOOD_S:
                with client.charon(Path("/run/charon.vici")):
                    client("swanctl", "--load-all", "--noprompt")
                    until(lambda: "ESTABLISHED" in client("swanctl", "--list-sas"), "an IKE_SA in the middle of the flood")
                connected += 1
            assert flood.poll() is None, "it went on all the time"
            # Not that the check says so still: what charon kept from before it demanded cookies it forgets, and goes on
            # demanding them while handshakes come. That `ike_probe` sees.
            watch.look()
            assert half_open_now(gateway) < 10 * COOKIE_THRESHOLD, "a cookie keeps no state"
            idle = re.search(r"worker threads: (\d+) total, (\d+) idle", gateway("swanctl", "--stats"))
            assert idle is None or int(idle[2]) > int(idle[1]) // 2, "no worker is starved"
        finally:
            flood.send_signal(signal.SIGTERM)
            flood.wait(10)
        sent = json.loads((BASE / "client" / "out" / "flood.json").read_text())
        assert sent["sent"] > RATE, "a flood"
        until(lambda: not watch.look(), "the end")
    if of_everybody:
        started, ended = watch.said
        assert isinstance(started, ProtectionStarted)
        assert started.reason is Reason.HALF_OPEN_HIGH
        assert isinstance(ended, ProtectionEnded)
    else:
        assert not watch.said
    assert max(watch.answered_s) < 1.0, "the control socket answers all the time"
    print(f"{connected} times connected; {sent['rate']:.0f}/s; VICI at most {max(watch.answered_s) * 1000:.0f} ms")


@in_namespace
def test_a_flood_from_everywhere() -> None:
    a_client_connects_during_the_flood("203.0.113.128/25", of_everybody=True)


@in_namespace
def test_a_flood_from_the_address_that_the_client_shares() -> None:
    a_client_connects_during_the_flood("198.51.100.64/30", of_everybody=False)  # .65 is the gateway's, and dropped
