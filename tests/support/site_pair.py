"""A whole site on the native kernel: two gateways with real agents, charons and ExaBGPs, a router and a transit with BIRD.

    gw1 ─┐                                 The transit is the witness: what it was told, the world saw of a failover.
         ├─ lan (bridge, BIRD "router") ── transit (BIRD)
    gw2 ─┘

All links of a gateway end in bridges of the `lan` namespace. Each agent has a /run of its own. Inside `in_namespace` only.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anycast.document import Document, SharedChecks
from anycast.errors import PeerError
from anycast.fleet.compile import compile_gateway
from anycast.fleet.loading import load
from anycast_lab.machines.pki import Root, write_secret
from site_agent import control
from site_agent.render.sysctl import settings_of
from tests.support.documents import TREE
from tests.support.gateway import ENVIRONMENT
from tests.support.unit_file import bounding_set
from tests.support.upstream import birdc, until
from tests.support.vrrp_pair import inside, ip

PAIRS = TREE / "labs" / "topologies" / "two-site-pairs.fleet.yaml"
BASE = Path("/mnt")
HOLD_TIME_S = 3
PORT = 9999
TRANSIT_ASN = 64500


def site_document(gateway: str, secrets: Path, *, routed: bool = False, bfd: bool = False, **vrrp: Any) -> Document:
    """Of one gateway of the lab's first site: nothing outside is asked, nothing is mirrored, and a hold time that a test
    can wait for.

    `routed`: as on links of their own, each with its own next hop (the links themselves are the same LAN).
    """
    data = compile_gateway(load(PAIRS), gateway).model_dump(mode="json")
    data["service"]["checks"] = SharedChecks().model_dump(mode="json")
    for field in ("certificate", "private_key", "client_ca"):
        data["service"][field] = str(secrets / Path(data["service"][field]).name)
    data.pop("sync")
    data["bgp"]["hold_time_s"] = HOLD_TIME_S
    for neighbor in data["bgp"]["neighbors"]:
        neighbor |= {"md5_key_file": None, "gtsm": False} | ({} if bfd else {"bfd": None})
    data["vrrp"] |= {"keys_file": str(secrets / "vrrp.keys"), "witnesses": [], **vrrp}
    if routed:
        for neighbor in data["bgp"]["neighbors"]:
            neighbor["next_hop"] = dict.fromkeys(neighbor["next_hop"], neighbor["local_address"])
        data["vrrp"]["uplink"] = "routed"
        data["vrrp"]["paths"] = [path for path in data["vrrp"]["paths"] if path["path"] != "outside"]
    return Document.model_validate(data)


class Member:
    """One gateway: its namespace, its files, and its agent."""

    def __init__(self, n: int, secrets: Path, **vrrp: Any) -> None:
        self.n, self.name = n, f"gw{n}"
        self.document = site_document(f"fra-gw{n}", secrets, **vrrp)
        self.base = BASE / self.name
        self.base.mkdir()
        (self.base / "document.json").write_bytes(self.document.canonical())
        self.run_dir, self.state_dir = self.base / "run", self.base / "state"
        self.agent: subprocess.Popen[bytes] | None = None

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "site_agent.cli", *words]

    def start(self) -> None:
        folders = ["--run-dir", self.run_dir, "--state-dir", self.state_dir, "--etc-dir", self.base / "etc"]
        words = self.command("run", "--document", str(self.base / "document.json"), *map(str, folders))
        # charon's pid file is /run/charon.pid: two of them need two folders, which `ip netns exec` makes room for. The agent
        # may do what its unit grants, and no more.
        granted = bounding_set()
        script = f'mount -t tmpfs tmpfs /run; exec setpriv --no-new-privs --bounding-set={granted} --inh-caps={granted} "$@"'
        self.agent = subprocess.Popen(
            ["ip", "netns", "exec", self.name, "sh", "-c", script, "sh", *words], env=ENVIRONMENT, start_new_session=True
        )

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command line, as an operator has it."""
        command = [*self.command(*words), "--run-dir", str(self.run_dir)]
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=30)

    def status(self) -> dict[str, Any]:
        """What the agent says of itself; empty while none answers."""
        with contextlib.suppress(PeerError):
            return dict(control.ask(self.run_dir / "control.sock", "status"))
        return {}

    def vrrp(self) -> dict[str, Any]:
        return dict(self.status().get("vrrp") or {})

    def pid(self, name: str) -> int:
        """Of `charon`, `exabgp` or `vrrp`, as the agent recorded it."""
        if name == "vrrp":
            return int(json.loads((self.run_dir / "vrrp.json").read_text())["pid"])
        return int((self.run_dir / f"{name}.pid").read_text().split()[0])

    def pids(self) -> list[int]:
        """Every process in its namespace."""
        return [int(pid) for pid in ip(f"netns pids {self.name}").split()]

    def signal_all(self, number: signal.Signals) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def signal_agent(self, number: signal.Signals) -> None:
        assert self.agent is not None
        self.agent.send_signal(number)

    def power_off(self) -> None:
        """Everything stands still, its links go, and it ends: nobody sees a carrier fall and says so, nothing is closed."""
        self.signal_all(signal.SIGSTOP)
        for port in (f"o{self.n}", f"i{self.n}", f"m{self.n}"):
            ip(f"-n lan link set {port} down")
        self.signal_all(signal.SIGKILL)

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        path = self.state_dir / "events.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [record for record in records if record["event"] in kinds]

    def transitions(self) -> list[tuple[str, str]]:
        """Role and cause of each, oldest first."""
        return [(event["role"], event["cause"]) for event in self.events("VrrpStateChanged")]

    def holds(self) -> bool:
        """All virtual addresses are in its kernel."""
        wanted = set(self.document.vrrp.virtual_addresses) if self.document.vrrp is not None else set()
        return wanted <= self._addresses()

    def holds_none(self) -> bool:
        wanted = set(self.document.vrrp.virtual_addresses) if self.document.vrrp is not None else set()
        return not wanted & self._addresses()

    def _addresses(self) -> set[str]:
        links = json.loads(ip(f"-j -n {self.name} addr show"))
        return {entry["local"] for link in links for entry in link["addr_info"]}


class SitePair:
    """Made, wired and started by `with`; ends with the test's process namespace."""

    def __init__(self, **vrrp: Any) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(BASE)], check=True)
        secrets = BASE / "secrets"
        vpn, clients = Root("gateways"), Root("clients")
        self.one, self.two = (Member(n, secrets, **vrrp) for n in (1, 2))
        self.members = (self.one, self.two)
        issued = vpn.issue(self.one.document.service.identity)
        write_secret(secrets / "gateway.crt", issued.certificate)
        write_secret(secrets / "gateway.key", issued.private_key)
        write_secret(secrets / "client-ca.crt", clients.certificate)
        self.keys = secrets / "vrrp.keys"
        new = self.one.command("keys", "new", str(self.keys))
        subprocess.run(new, env=ENVIRONMENT, check=True, capture_output=True)
        self.prefixes = set(self.one.document.service.prefixes)

    def __enter__(self) -> SitePair:
        os.makedirs("/run/netns", exist_ok=True)
        ip("link set lo up")
        for name in ("lan", "transit", "gw1", "gw2"):
            ip(f"netns add {name}")
            ip(f"-n {name} link set lo up")
        # A link that is cut off its bridge has nobody at its end who answers for the router.
        subprocess.run(["ip", "netns", "exec", "lan", "sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1"], check=True)
        for bridge in ("outer", "inner", "mgmt"):
            ip(f"-n lan link add {bridge} type bridge forward_delay 0 mcast_snooping 0")
            ip(f"-n lan link set {bridge} up")
        for member in self.members:
            self._wire(member)
        self._address("lan", "outer", ["198.51.100.1/28", "2001:db8:1::1/64"])
        self._address("lan", "inner", ["192.0.2.10/28", "2001:db8:b::10/64"])
        ip("-n lan link add t0 type veth peer name r0 netns transit")
        self._address("lan", "t0", ["198.51.100.34/30", "2001:db8:f:1::2/64"])
        self._address("transit", "r0", ["198.51.100.33/30", "2001:db8:f:1::1/64"])
        self.router = Bird("lan", _router_config(self.members))
        self.transit = Bird("transit", _transit_config())
        self.one.start()  # who comes first is Active: nobody preempts
        until(lambda: self.one.vrrp().get("role") == "active", "the first is Active", within_s=40)
        self.two.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            return
        for member in self.members:  # the namespace ends with the test: what was said must be told now
            for event in member.events(
                "VrrpStateChanged", "AlarmRaised", "SiteVerdictChanged", "HolderKilled", "HolderExited"
            ):
                rest = {k: v for k, v in event.items() if k not in ("v", "boot_ns", "gateway")}
                print(member.name, json.dumps(rest), file=sys.stderr)
            for log in ("vrrp.log",):
                with contextlib.suppress(OSError):
                    print(member.name, (member.run_dir / log).read_text()[-2000:], file=sys.stderr)

    def up(self, *, within_s: float = 40) -> tuple[Member, Member]:
        """Routes at the transit over both sessions, the first Active. Returns it and the Backup."""
        until(lambda: self.transit.prefixes() >= self.prefixes, "announced", within_s=within_s)
        until(lambda: self.router.routes() == 4, "both gateways announce both families", within_s=within_s)
        until(lambda: sorted(m.vrrp().get("role", "") for m in self.members) == ["active", "backup"], "one Active",
              within_s=within_s)  # fmt: skip
        until(
            lambda: self.two.vrrp()["peer_active"] and self.one.vrrp()["peer"] == "fit", "they hear each other", within_s=5
        )
        return self.members

    def _wire(self, member: Member) -> None:
        n, document = member.n, member.document
        assert document.management is not None
        for interface, bridge in ((document.uplink, "outer"), (document.inside, "inner"), (document.management, "mgmt")):
            port = f"{bridge[0]}{n}"
            ip(f"-n lan link add {port} type veth peer name {interface.name} netns {member.name}")
            ip(f"-n lan link set {port} master {bridge} up")
            for setting in settings_of(interface.name, interface.name):
                subprocess.run(
                    ["ip", "netns", "exec", member.name, "sysctl", "-qw", f"{setting.name}={setting.value}"], check=True
                )
            self._address(member.name, interface.name, list(interface.addresses))

    @staticmethod
    def _address(namespace: str, interface: str, addresses: list[str]) -> None:
        for address in addresses:
            ip(f"-n {namespace} addr add {address} dev {interface}{' nodad' if ':' in address else ''}")
        ip(f"-n {namespace} link set {interface} up")


class Bird:
    """One BIRD in a namespace."""

    def __init__(self, namespace: str, config: str) -> None:
        self._control = BASE / f"{namespace}.ctl"
        path = BASE / f"{namespace}.conf"
        path.write_text(config)
        command = ["ip", "netns", "exec", namespace, "bird", "-f", "-c", str(path), "-s", str(self._control)]
        self.process = subprocess.Popen(command)
        until(self._control.exists, "BIRD's control socket", within_s=5)

    def ask(self, command: str) -> str:
        return birdc(self._control, command)

    def prefixes(self) -> set[str]:
        return set(re.findall(r"(?:1007-| )([0-9a-f.:]+/\d+) ", self.ask("show route")))

    def routes(self) -> int:
        """Paths, not prefixes."""
        return len(re.findall(r"unicast \[", self.ask("show route")))

    def heard(self) -> dict[str, int]:
        """Updates that changed something, and withdrawals, over all sessions since BIRD started. A changed attribute is an
        update; one that repeats what is known (the router has it from the other gateway now) is counted as ignored.
        """
        text = self.ask("show protocols all")
        return {
            "updates": sum(map(int, re.findall(r"Import updates:(?: +\d+){4} +(\d+)", text))),
            "withdraws": sum(map(int, re.findall(r"Import withdraws: +(\d+)", text))),
        }


def _router_config(members: tuple[Member, ...]) -> str:
    text = "router id 198.51.100.1;\nprotocol device {}\n"
    text += "protocol kernel { ipv4 { export all; }; learn off; }\nprotocol kernel { ipv6 { export all; }; learn off; }\n"
    if any(neighbor.bfd for neighbor in members[0].document.bgp.neighbors):
        text += 'protocol bfd { interface "outer" { interval 100 ms; multiplier 3; }; }\n'
    for member in members:
        for neighbor in member.document.bgp.neighbors:
            (family,) = neighbor.families
            text += f"protocol bgp {member.name}_{family} {{\n  local {neighbor.address} as {neighbor.asn};\n"
            text += f"  neighbor {neighbor.local_address} as {member.document.bgp.asn};\n"
            text += "  direct; connect retry time 1; connect delay time 1; error wait time 1, 1; error forget time 1;\n"
            text += "  bfd on;\n" if neighbor.bfd is not None else ""
            text += f"  hold time {HOLD_TIME_S};\n  {family} {{ import all; export none; }};\n}}\n"
    return text + _between(
        "198.51.100.34", "198.51.100.33", "2001:db8:f:1::2", "2001:db8:f:1::1", 64511, TRANSIT_ASN, out=True
    )


def _transit_config() -> str:
    text = "router id 198.51.100.33;\nprotocol device {}\n"
    return text + _between(
        "198.51.100.33", "198.51.100.34", "2001:db8:f:1::1", "2001:db8:f:1::2", TRANSIT_ASN, 64511, out=False
    )


def _between(own4: str, other4: str, own6: str, other6: str, own_asn: int, other_asn: int, *, out: bool) -> str:
    text = ""
    for family, own, other in (("ipv4", own4, other4), ("ipv6", own6, other6)):
        text += f"protocol bgp far_{family} {{\n  local {own} as {own_asn};\n  neighbor {other} as {other_asn};\n"
        text += "  direct; connect retry time 1; connect delay time 1;\n"
        flow = "import none; export where source = RTS_BGP;" if out else "import all; export none;"
        text += f"  {family} {{ {flow} }};\n}}\n"
    return text


class Probe:
    """Numbered UDP packets from the router to both VIPs, as its routing table has it: `lost` and `gap_s` afterwards."""

    def __init__(self, pair: SitePair, *, every_s: float = 0.001) -> None:
        self._every_s = every_s
        self._over = threading.Event()
        self.sent = 0
        self.sent_at: list[float] = []
        self._got: set[tuple[int, int]] = set()
        self._vips = pair.one.document.service.vips
        with inside("lan"):
            self._out = [
                socket.socket(socket.AF_INET6 if ":" in v else socket.AF_INET, socket.SOCK_DGRAM) for v in self._vips
            ]
        self._in = []
        for n in (1, 2):
            for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                with inside(f"gw{n}"):
                    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: nothing may be lost here
                sock.bind((anywhere, PORT))
                self._in.append(sock)
        self._sender = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Probe:
        self._sender.start()
        until(lambda: self.sent > 50, "probes", within_s=5)
        return self

    def __exit__(self, *exception: object) -> None:
        at = self.sent
        until(lambda: self.sent > at + 200, "the probes go on", within_s=20)
        self._over.set()
        self._sender.join()
        self._drain()
        select.select([], [], [], 0.1)
        self._drain()
        for sock in (*self._out, *self._in):
            sock.close()

    @property
    def lost(self) -> int:
        return len(self._vips) * self.sent - len(self._got)

    @property
    def gap_s(self) -> float:
        """The longest time in which nothing of one family arrived, by when it was sent."""
        worst = 0.0
        for family in (socket.AF_INET, socket.AF_INET6):
            arrived = sorted(number for got, number in self._got if got == family)
            times = [self.sent_at[number] for number in arrived] or [self.sent_at[0]]
            times = [self.sent_at[0], *times, self.sent_at[-1]]
            worst = max(worst, *(after - before for before, after in itertools.pairwise(times)))
        return worst

    def _drain(self) -> None:
        for sock in self._in:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._got.add((int(sock.family), int.from_bytes(sock.recv(16), "big")))

    def _send(self) -> None:
        due = time.monotonic()
        while not self._over.is_set():
            self.sent_at.append(time.monotonic())
            for vip, sock in zip(self._vips, self._out, strict=True):
                with contextlib.suppress(OSError):
                    sock.sendto(self.sent.to_bytes(8, "big"), (vip, PORT))
            self.sent += 1
            due += self._every_s
            time.sleep(max(0.0, due - time.monotonic()))


@contextlib.contextmanager
def unseen(pair: SitePair, *, by_router: bool = False) -> Iterator[None]:
    """No withdrawal and no changed attribute reaches the transit meanwhile; with `by_router` not even the gateways' own
    router, which has a session with each of them."""
    before, at_router = pair.transit.heard(), pair.router.heard()
    yield
    assert pair.transit.heard() == before, "BGP saw it"
    assert not by_router or pair.router.heard() == at_router, "the router saw it"
    assert pair.transit.prefixes() >= pair.prefixes
