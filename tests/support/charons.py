"""Two gateways' charons with the `ha` plugin and one charon that is many clients, on any kernel: kernel-libipsec does ESP.

Each has a network namespace and a /run of its own. Use inside `in_namespace` only. What a mirrored SA lacks, what a pool
remembers and what an IKE rekey does is charon's own; only the packets would differ.
"""

from __future__ import annotations

import asyncio
import collections
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anycast.errors import PeerError
from site_agent.ike.inner_address_words import Applied, Looked, Offer, TellPeer, Word
from site_agent.ike.inner_addresses import InnerAddresses, Limits
from site_agent.ike.pool_keeper import OfferRecord, PoolKeeper
from site_agent.ike.vici_client import Section, ViciClient

BASE = Path("/mnt")
VIP = "198.51.100.1"
INSIDE = ["192.0.2.0/25", "2001:db8:b::/64"]
IKE = ["aes256gcm16-prfsha256-curve25519"]
CHILD = {"esp_proposals": ["aes256gcm16"]}
CONNECTION: dict[str, Any] = {
    "vpn": {
        "version": "2", "local_addrs": [VIP], "proposals": IKE, "unique": "replace", "encap": "yes",
        "local": {"auth": "psk", "id": "vpn.example.org"}, "remote": {"auth": "psk"},
        "children": {"vpn": {"local_ts": INSIDE, **CHILD}},
    }
}  # fmt: skip
SETTINGS = """charon {{
    load = random nonce openssl md5 kdf eap-identity eap-md5 kernel-libipsec kernel-netlink socket-default vici {plugins}
    {more}
    threads = 32
    interfaces_ignore = mg
    retransmit_tries = 2
    retransmit_timeout = 1
    plugins {{
        vici {{ socket = unix://{folder}/vici }}
        kernel-netlink {{ roam_events = no }}
        {ha}
    }}
    filelog {{ f {{ path = {folder}/log
        flush_line = yes }} }}
}}
"""
HA = "ha {{ local = {}\n remote = {}\n segment_count = 1\n fifo_interface = yes\n monitor = no\n resync = no\n }}"


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def _listens(path: Path) -> bool:
    """The file is there before anybody may connect."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


class Daemon:
    """One charon in its namespace."""

    def __init__(self, name: str, *, ha: str = "") -> None:
        self.name, self.folder, self._ha = name, BASE / name, ha
        (self.folder / "run").mkdir(parents=True)
        self.vici = ViciClient(str(self.folder / "vici"))

    def start(self) -> None:
        for left in ("vici", "run/charon.pid"):
            (self.folder / left).unlink(missing_ok=True)
        more = "install_routes = no\n install_virtual_ip = no" if self._ha else ""
        settings = SETTINGS.format(plugins="ha" if self._ha else "", more=more, folder=self.folder, ha=self._ha)
        (self.folder / "strongswan.conf").write_text(settings)
        shell = f"mount --make-rprivate /; mount --bind {self.folder}/run /run; exec /usr/lib/ipsec/charon"
        command = ["ip", "netns", "exec", self.name, "unshare", "-m", "sh", "-c", shell]
        env = {**os.environ, "STRONGSWAN_CONF": str(self.folder / "strongswan.conf")}
        subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not _listens(self.folder / "vici"):
            assert time.monotonic() < deadline, f"{self.name}: charon does not start"
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        return int((self.folder / "run" / "charon.pid").read_text())

    async def ask(self, command: str, message: dict[str, Any] | None = None) -> Section:
        return await self.vici.request(command, message, timeout_s=15)

    async def load_secret(self) -> None:
        await self.ask("load-shared", {"id": "all", "type": "IKE", "data": "not a secret"})

    async def sas(self) -> list[Section]:
        found: list[Section] = []
        await self.vici.stream("list-sas", "list-sa", lambda event: found.extend(event.values()), timeout_s=10)
        return found


class Gateway(Daemon):
    """With its keeper and its core, driven by hand: `now` is the test's."""

    def __init__(self, name: str, rank: int, pools: tuple[str, ...], limits: Limits, *, own: str, peer: str) -> None:
        super().__init__(name, ha=HA.format(own, peer))
        self.record = OfferRecord(self.folder / "offer")
        self.keeper = PoolKeeper(
            self.vici,
            self.record,
            connections=lambda: CONNECTION,
            attributes={"dns": ["192.0.2.53"]},
            process=lambda: str(self.pid),
        )
        self.now = 0.0
        self.word = Word(active=False)
        """The last one to the other gateway, which a test carries there."""
        self.core = InnerAddresses(pools, rank, now=0.0, limits=limits)

    async def boot(self) -> None:
        self.start()
        await self.load_secret()
        await self.ask("load-conn", {name: {**message, "pools": []} for name, message in CONNECTION.items()})

    async def restart(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.vici.close()
        await asyncio.sleep(0.3)
        await self.boot()

    async def tell(self, event: Any) -> None:
        """One input; what the core offers is applied before this returns."""
        for action in self.core.handle(event, self.now):
            if isinstance(action, Offer):
                await self.keeper.apply(action.ranges)
                await self.tell(Applied(action.ranges))
            elif isinstance(action, TellPeer):
                self.word = action.word

    async def look(self) -> Looked:
        looked = await self.keeper.look(self.now)
        await self.tell(looked)
        await self.tell(await self.keeper.seen())
        return looked

    def switch(self, word: str) -> None:
        (self.folder / "run" / "charon.ha").write_text(word)


class Pair:
    def __init__(self, pools: tuple[str, ...], limits: Limits) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "charons", str(BASE)], check=True)
        Path("/run/netns").mkdir(exist_ok=True)
        self.gateways = (
            Gateway("g1", 0, pools, limits, own="192.0.2.253", peer="192.0.2.254"),
            Gateway("g2", 1, pools, limits, own="192.0.2.254", peer="192.0.2.253"),
        )
        self.clients = Daemon("c")
        ip("link add sw type bridge")
        ip("link set sw up")
        for number, name in enumerate(("g1", "g2", "c")):
            ip(f"netns add {name}")
            ip(f"link add sw{number} type veth peer name out netns {name}")
            ip(f"link set sw{number} master sw up")
            for words in ("link set lo up", "link set out up", f"addr add 198.51.100.{11 + number}/24 dev out"):
                ip(f"-n {name} {words}")
            ip(f"-n {name} route add default via 198.51.100.254")
        ip("link add mg netns g1 type veth peer name mg netns g2")
        for name, own in (("g1", "192.0.2.253"), ("g2", "192.0.2.254")):
            ip(f"-n {name} link set mg up")
            for inside in (f"192.0.2.{11 + (name == 'g2')}/32", f"2001:db8:b::{1 + (name == 'g2')}/128"):
                ip(f"-n {name} addr add {inside} dev lo")
            ip(f"-n {name} addr add {own}/30 dev mg")

    async def boot(self) -> None:
        for gateway in self.gateways:
            await gateway.boot()
        self.clients.start()
        await self.clients.load_secret()

    def move_vip(self, to: Gateway) -> None:
        for gateway in self.gateways:
            if self._has_vip(gateway):
                ip(f"-n {gateway.name} addr del {VIP}/32 dev out")
        ip(f"-n {to.name} addr add {VIP}/32 dev out")
        ip("-n c neigh flush all")

    def _has_vip(self, gateway: Gateway) -> bool:
        shown = subprocess.run(["ip", "-n", gateway.name, "addr", "show", "out"], capture_output=True, text=True, check=True)
        return f"{VIP}/32" in shown.stdout

    async def connect(self, identity: str, *, eap: str | None = None) -> list[str]:
        """A client of this identity, which proves itself as user `eap` where given; returns the inner addresses it got."""
        own = {"auth": "psk", "id": identity} if eap is None else {"auth": "eap", "id": identity, "eap_id": eap}
        message: dict[str, Any] = {
            "version": "2", "remote_addrs": [VIP], "proposals": IKE, "encap": "yes", "vips": ["0.0.0.0", "::"],
            "local": own, "remote": {"auth": "psk", "id": "vpn.example.org"},
            "children": {"net": {"remote_ts": INSIDE, **CHILD}},
        }  # fmt: skip
        await self.clients.ask("load-conn", {identity: message})
        await self.clients.ask("initiate", {"child": "net", "ike": identity, "timeout": "8000"})
        for ike_sa in await self.clients.sas():
            if ike_sa["local-id"] == identity.encode():
                return sorted(address.decode() for address in ike_sa["local-vips"])
        raise PeerError("charon", f"{identity} has no IKE_SA")

    async def until(self, what: str, true: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 15
        while not await true():
            assert time.monotonic() < deadline, what
            await asyncio.sleep(0.1)

    async def carried(self, gateway: Gateway) -> collections.Counter[str]:
        """How often each inner address is the far end of a CHILD_SA."""
        return collections.Counter(
            text.decode().partition("/")[0]
            for ike_sa in await gateway.sas()
            for child in ike_sa.get("child-sas", {}).values()
            if child["state"] == b"INSTALLED"
            for text in child.get("remote-ts", ())
        )
