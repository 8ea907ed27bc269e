"""Two sync processes with a real charon each, and a client: the mirror without agents. On the native kernel, which has no
ESP, the client gets an IKE_SA and no CHILD_SA. Inside `in_namespace` only.

    gw1 ─┐
         ├─ lan (bridge)     gw1 and gw2 are joined by a management link of their own.
    gw2 ─┤
    cl  ─┘
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from site_agent.ike import ha_segment
from site_agent.ike.vici_client import Section, ViciClient
from site_agent.procfs import read_stat
from site_agent.sync import agent_wire
from site_agent.sync import plan as plans
from site_agent.sync.versions import Versions
from tests.support.documents import TREE
from tests.support.sync_pair import FLEET, Root
from tests.support.vrrp_pair import ip

BASE = Path("/mnt")
POOL6 = "2001:db8:c::/112"
"""Large enough that a Backup keeps a part of its share, whatever the Active borrows."""
VIP, CLIENT, POOL, INSIDE = "203.0.113.1", "198.51.100.66", "203.0.113.64/27", "192.0.2.0/28"
MANAGEMENT = {"gw1": "192.0.2.65", "gw2": "192.0.2.66"}
UPLINK = {"gw1": "198.51.100.2", "gw2": "198.51.100.3"}
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{TREE}:{TREE / 'site-agent'}"}
T = TypeVar("T")

_STRONGSWAN = """charon {
  load_modular = no
  load = random nonce aes sha2 hmac kdf gcm openssl pem x509 pubkey curve25519 kernel-netlink socket-default vici attr %s
  interfaces_ignore = eth3
  filelog { f { path = %s
      default = 1
      flush_line = yes } }
  plugins {
    vici { socket = unix://%s }
    kernel-netlink { roam_events = no }
    ha {
      local = 127.0.0.1
      remote = 127.0.0.2
      segment_count = 1
      fifo_interface = yes
      monitor = no
      resync = no
      buflen = 8192
    }
  }
}
"""


_SWANCTL = f"""connections {{
  vpn {{
    version = 2
    proposals = aes256gcm16-prfsha256-curve25519
    local_addrs = {VIP}
    local {{
      auth = psk
      id = gw
    }}
    remote {{
      auth = psk
      id = %any
    }}
    children {{
      net {{
        local_ts = {INSIDE}
        esp_proposals = aes256gcm16
        replay_window = 2048
      }}
    }}
  }}
}}
pools {{
  pool {{
    addrs = {POOL}
  }}
  pool6 {{
    addrs = {POOL6}
  }}
}}
"""


class Charon:
    """One of them, in a namespace and with a /run of its own. `connections` go in by VICI."""

    def __init__(self, namespace: str, *plugins: str) -> None:
        self.namespace, self.folder = namespace, BASE / namespace
        self.folder.mkdir(exist_ok=True)
        self._conf = self.folder / "strongswan.conf"
        self._conf.write_text(_STRONGSWAN % (" ".join(plugins), self.folder / "charon.log", self.folder / "charon.vici"))
        self.vici = str(self.folder / "charon.vici")
        # Who keeps the mount namespace: one charon after the other has the same /run.
        script = "mount -t tmpfs tmpfs /run; touch /run/ready; exec sleep infinity"
        self._keeper = subprocess.Popen(["ip", "netns", "exec", namespace, "sh", "-c", script])
        wait(Path(f"/proc/{self._keeper.pid}/root/run/ready").exists, "a /run of its own")
        self.start()

    def start(self) -> None:
        self.spawn()
        wait(self._listens, f"charon's socket at {self.namespace}")

    def _listens(self) -> bool:
        """The socket's file is there before anybody listens."""
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            sock.connect(self.vici)
            return True
        return False

    def spawn(self) -> None:
        """It may have no sockets yet when this returns."""
        Path(self.vici).unlink(missing_ok=True)
        self.process = subprocess.Popen(
            ["nsenter", "-t", str(self._keeper.pid), "-m", "-n", "/usr/lib/ipsec/charon"],
            env={**os.environ, "STRONGSWAN_CONF": str(self._conf)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def identity(self) -> str:
        """As the agent says it."""
        stat = read_stat(self.process.pid)
        assert stat is not None
        return f"{self.process.pid} {stat.start_ticks}"

    @property
    def fifo(self) -> str:
        return f"/proc/{self._keeper.pid}/root/run/charon.ha"

    def ask(self, command: str, message: Section | None = None) -> Section:
        async def asked() -> Section:
            vici = ViciClient(self.vici)
            try:
                return await vici.request(command, message, timeout_s=10)
            finally:
                vici.close()

        return asyncio.run(asked())

    def spis(self) -> set[bytes]:
        """Initiator's and responder's of each IKE_SA."""

        async def asked() -> set[bytes]:
            vici, found = ViciClient(self.vici), set[bytes]()
            try:
                await vici.stream("list-sas", "list-sa", lambda event: found.update(
                    ike_sa["initiator-spi"] + ike_sa["responder-spi"] for ike_sa in event.values()
                ), timeout_s=10)  # fmt: skip
                return found
            finally:
                vici.close()

        return asyncio.run(asked())

    def states(self) -> dict[str, int]:
        """How many IKE_SAs are in which state."""

        async def asked() -> dict[str, int]:
            vici = ViciClient(self.vici)
            try:
                return dict(await ha_segment.states(vici))
            finally:
                vici.close()

        return asyncio.run(asked())

    def load(self, *, local: str, remote: str, **connection: Any) -> None:
        self.ask("load-shared", {"type": "IKE", "data": "secret"})
        self.ask("load-conn", {"vpn": {
            "version": "2", "proposals": ["aes256gcm16-prfsha256-curve25519"],
            "local": {"auth": "psk", "id": local}, "remote": {"auth": "psk", "id": remote}, **connection,
        }})  # fmt: skip


class Gateway:
    """A charon with the plugin, and a sync process whose agent the test is."""

    def __init__(self, name: str, peer: str, rank: int, pki: Path) -> None:
        self.name = name
        self.charon = Charon(name, "ha")
        self.equip()
        self.plan = plans.Plan(
            fleet=FLEET, gateway=name, peer=peer, rank=rank, own_address=MANAGEMENT[name], peer_address=MANAGEMENT[peer],
            port=4517, vips=(VIP,), pools=(POOL, POOL6), own=tuple(UPLINK.values()), connections=("vpn",),
            vici=self.charon.vici, fifo=self.charon.fifo,
            pki=str(pki / name), pin=str(self.charon.folder / "peer.pin"),
            versions=Versions(agent="1", charon="", ha=0, generation=0, content="same"),
            swanctl=str(self.charon.folder / "swanctl"), offers=str(self.charon.folder / "pools"),
            clients=str(self.charon.folder / "clients.jsonl"), clients_max_bytes=1 << 20,
        )  # fmt: skip
        self.active: bool | None = None
        self.said: list[agent_wire.Message] = []
        self.start()

    def equip(self) -> None:
        """What an agent loads into its charon."""
        self.charon.load(
            local="gw", remote="%any", local_addrs=[VIP],
            children={"net": {"local_ts": [INSIDE], "esp_proposals": ["aes256gcm16"], "replay_window": "2048"}},
        )  # fmt: skip
        folder = self.charon.folder / "swanctl"
        folder.mkdir(exist_ok=True)
        (folder / "swanctl.conf").write_text(_SWANCTL)

    def start(self) -> None:
        self.agent, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.agent.setblocking(False)
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, sys.executable, "-m", "site_agent.sync", str(other.fileno())],
            stdin=subprocess.PIPE, pass_fds=[other.fileno()], env=ENVIRONMENT,
        )  # fmt: skip
        other.close()
        assert self.process.stdin is not None
        self.process.stdin.write(plans.encode(self.plan))
        self.process.stdin.close()
        if self.active is not None:
            self.role(active=self.active)

    def tell(self, message: agent_wire.Message) -> None:
        self.agent.send(agent_wire.encode(message))

    def role(self, *, active: bool) -> None:
        self.active = active
        self.tell(agent_wire.RoleIs(active=active, charon=self.charon.identity))

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while data := self.agent.recv(agent_wire.LONGEST):
                self.said.append(agent_wire.decode(data))

    @property
    def status(self) -> agent_wire.Status | None:
        self.read()
        return next((message for message in reversed(self.said) if isinstance(message, agent_wire.Status)), None)

    def steps(self) -> list[str]:
        """Names of the steps taken, since the last `forget`."""
        self.read()
        return [message.step for message in self.said if isinstance(message, agent_wire.StepTaken)]

    def forget(self) -> None:
        self.read()
        self.said.clear()

    def is_settled(self, *, active: bool) -> bool:
        """It has settled in that role after the last `forget`."""
        self.read()
        settled = [message.active for message in self.said if isinstance(message, agent_wire.Settled)]
        return bool(settled) and settled[-1] is active

    def blocked(self) -> bool:
        """The gate stands before the pool."""
        return "action block priority 1 " in ip(f"netns exec {self.name} ip xfrm policy show dir out")


def wait(what: Callable[[], T], why: str, within: float = 20.0) -> T:
    """Until `what` is true."""
    until = time.monotonic() + within
    while not (found := what()):
        assert time.monotonic() < until, why
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def mirror_pair() -> Iterator[tuple[Gateway, Gateway, Charon]]:
    """gw1 Active, gw2 Backup, connected and settled; and a client that has nothing yet."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(BASE)], check=True)
    os.makedirs("/run/netns", exist_ok=True)
    ip("link set lo up")
    for name in ("lan", "gw1", "gw2", "cl"):
        ip(f"netns add {name}")
        ip(f"-n {name} link set lo up")
    ip("-n lan link add br0 type bridge forward_delay 0 mcast_snooping 0")
    ip("-n lan link set br0 up")
    for name, address in (*UPLINK.items(), ("cl", CLIENT)):
        ip(f"-n lan link add {name} type veth peer name eth1 netns {name}")
        ip(f"-n lan link set {name} master br0 up")
        ip(f"-n {name} addr add {address}/24 dev eth1")
        ip(f"-n {name} link set eth1 up")
    ip("-n gw1 link add eth3 type veth peer name eth3 netns gw2")
    for name, address in MANAGEMENT.items():
        ip(f"-n {name} addr add {address}/29 dev eth3")
        ip(f"-n {name} link set eth3 up")
    ip("-n cl route add 203.0.113.0/24 dev eth1")
    ip(f"-n gw1 addr add {VIP}/32 dev eth1")
    root = Root(BASE / "pki" / "root")
    for name in MANAGEMENT:
        root.equip(BASE / "pki" / name, name)
    one = Gateway("gw1", "gw2", 0, BASE / "pki")
    two = Gateway("gw2", "gw1", 1, BASE / "pki")
    one.role(active=True)
    two.role(active=False)
    for gateway in (one, two):
        wait(lambda gateway=gateway: gateway.status and gateway.status.connected and gateway.status.settled, gateway.name)
    client = Charon("cl")
    client.load(
        local="roamer", remote="gw", local_addrs=[CLIENT], remote_addrs=[VIP], vips=["0.0.0.0", "::"],
        children={"net": {"remote_ts": [INSIDE], "esp_proposals": ["aes256gcm16"]}},
    )  # fmt: skip
    yield one, two, client
