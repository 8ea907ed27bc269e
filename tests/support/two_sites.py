"""Two sites of one charon each, both with the VIP on `lo` and a unicast address of their own, and two charons that are
clients: `c` follows a REDIRECT, `nf` does not. ESP is kernel-libipsec's. Inside `in_namespace` only.

    g1 ─┐             Which site a client's VIP leads to is a route at the client: `lead`.
        ├─ bridge
    g2 ─┤
 c, nf ─┘
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from site_agent.ike.vici_client import Section
from tests.support import charons
from tests.support.charons import BASE, CHILD, CONNECTION, IKE, Daemon, ip

VIP = "203.0.113.201"
UNICAST = {"g1": "198.51.100.21", "g2": "198.51.100.22"}
POOLS = {"g1": "203.0.113.0/26", "g2": "203.0.113.64/26"}
FOLLOWS_NOT = "follow_redirects = no"


class Station(Daemon):
    def __init__(self, name: str, more: str = "", *, plugins: str = "") -> None:
        super().__init__(name)
        self._more, self._plugins = more, plugins

    def start(self) -> None:
        plain = charons.SETTINGS
        settings = plain.replace("{plugins}", f"{self._plugins} {{plugins}}")
        charons.SETTINGS = settings.replace("{more}", f"{self._more}\n    {{more}}")
        try:
            super().start()
        finally:
            charons.SETTINGS = plain

    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    async def of(self, identity: str) -> Section | None:
        """The one IKE_SA, up, with `identity` at either end."""
        found = [sa for sa in await self.sas() if identity.encode() in (sa["remote-id"], sa["local-id"])]
        up = [sa for sa in found if sa["state"] == b"ESTABLISHED"]
        return up[0] if len(up) == 1 else None

    async def redirect(self, identity: str, to: str) -> Section:
        return await self.ask("redirect", {"peer-id": identity, "gateway": to})

    async def delete(self, identity: str) -> None:
        sa = await self.of(identity)
        assert sa is not None
        await self.ask("terminate", {"ike-id": sa["uniqueid"].decode(), "timeout": "-1"})


class TwoSites:
    def __init__(self) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "charons", str(BASE)], check=True)
        Path("/run/netns").mkdir(exist_ok=True)
        self.g1, self.g2 = Station("g1"), Station("g2")
        self.c, self.nf = Station("c"), Station("nf", FOLLOWS_NOT)
        ip("link add sw type bridge")
        ip("link set sw up")
        for number, name in enumerate(("g1", "g2", "c", "nf")):
            ip(f"netns add {name}")
            ip(f"link add sw{number} type veth peer name out netns {name}")
            ip(f"link set sw{number} master sw up")
            for words in ("link set lo up", "link set out up", f"addr add 198.51.100.{11 + number}/24 dev out"):
                ip(f"-n {name} {words}")
        for number, name in enumerate(("g1", "g2")):
            for address in (VIP, UNICAST[name], f"192.0.2.{11 + number}"):
                ip(f"-n {name} addr add {address}/32 dev lo")

    def lead(self, client: Station, to: Station) -> None:
        """Where the network takes the client's packets for the VIP."""
        ip(f"-n {client.name} route replace {VIP} via 198.51.100.{11 if to is self.g1 else 12}")

    async def boot(self) -> None:
        for station in (self.g1, self.g2, self.c, self.nf):
            station.start()
            await station.load_secret()
        for site in (self.g1, self.g2):
            await site.ask("load-pool", {"p": {"addrs": POOLS[site.name]}})
            connection = {**CONNECTION["vpn"], "local_addrs": [VIP, UNICAST[site.name]], "pools": ["p"]}
            await site.ask("load-conn", {"vpn": connection})
        for client in (self.c, self.nf):
            self.lead(client, self.g1)

    async def connect(self, client: Station, identity: str, **more: Any) -> None:
        """It keeps its tunnel up, whatever ends it."""
        message: dict[str, Any] = {
            "version": "2", "remote_addrs": [VIP], "proposals": IKE, "encap": "yes", "vips": ["0.0.0.0"],
            "local": {"auth": "psk", "id": identity}, "remote": {"auth": "psk", "id": "vpn.example.org"},
            "children": {"net": {"remote_ts": ["192.0.2.0/25"], **CHILD, "close_action": "start", "dpd_action": "start"}},
            **more,
        }  # fmt: skip
        await client.ask("load-conn", {identity: message})
        await client.ask("initiate", {"child": "net", "ike": identity, "timeout": "8000"})
