"""A gateway whose vrrp process speaks BFD with BIRD, which runs BFD beside a BGP session in each family.

The router is BIRD in the namespace of `vrrp_pair.Lan`'s bridge. A second BIRD in gateway 1's namespace stands for ExaBGP: it
holds the BGP sessions, announces a prefix in each family, and knows nothing of BFD, so what ends a session is ours.
"""

from __future__ import annotations

import re
import socket
import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from anycast.errors import DecodeError
from site_agent.bfd import packet
from site_agent.vrrp import wire
from site_agent.vrrp.plan import BfdPeer, Plan
from tests.support.upstream import birdc
from tests.support.vrrp_pair import Lan, Process, inside, make_plan, wait

ROUTER = {4: "198.51.100.14", 6: "2001:db8:1::e"}
GATEWAY = {4: "198.51.100.1", 6: "2001:db8:1::1"}
PREFIX = {4: "203.0.113.0/28", 6: "2001:db8:a::/56"}
INTERVAL_US = 100_000
_BGP = "connect retry time 1; connect delay time 1; error wait time 1, 1; error forget time 1; direct;"


def peers(*, interval_us: int = INTERVAL_US, families: tuple[int, ...] = (4, 6), mult: int = 3) -> tuple[BfdPeer, ...]:
    """Gateway 1's, named ``v4`` and ``v6``."""
    return tuple(
        BfdPeer(
            name=f"v{family}",
            local=ip_address(GATEWAY[family]),
            remote=ip_address(ROUTER[family]),
            interface="eth1",
            desired_min_tx_us=interval_us,
            required_min_rx_us=interval_us,
            detect_mult=mult,
        )
        for family in families
    )


def only_bfd(**changed: Any) -> Plan:
    """A plan without a virtual router."""
    return make_plan(1, **{"links": (), "bfd": peers(), **changed})


class Bird:
    """One BIRD in a namespace. It ends with the test's process namespace."""

    def __init__(self, namespace: str, config: str) -> None:
        self._namespace = namespace
        self.config, self.control = Path(f"/run/bird-{namespace}.conf"), Path(f"/run/bird-{namespace}.ctl")
        self.config.write_text(config)
        self.start()

    def start(self) -> None:
        self.control.unlink(missing_ok=True)
        files = ["-c", str(self.config), "-s", str(self.control), "-P", f"/run/bird-{self._namespace}.pid"]
        self.process = subprocess.Popen(["ip", "netns", "exec", self._namespace, "bird", "-f", *files])
        wait(self.control.exists, f"BIRD in {self._namespace}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def ask(self, command: str) -> str:
        return birdc(self.control, command)


class Router(Bird):
    """The upstream router: what it says is what counts."""

    def __init__(self, *, interval_ms: int = 100) -> None:
        super().__init__("lan", _router(interval_ms))

    def configure(self, *, interval_ms: int) -> None:
        self.config.write_text(_router(interval_ms))
        answer = self.ask("configure")
        assert "Reconfigur" in answer, answer

    def sessions(self) -> dict[str, dict[str, str]]:
        """BFD sessions by ``v4`` and ``v6``: state, since, interval, timeout."""
        found = {}
        for row in map(str.split, self.ask("show bfd sessions").splitlines()):
            for family, address in GATEWAY.items():
                if row[:1] == [address]:
                    found[f"v{family}"] = {
                        "state": row[2], "since": " ".join(row[3:5]), "interval": row[5], "timeout": row[6]
                    }  # fmt: skip
        return found

    def states(self) -> set[str]:
        return {session["state"] for session in self.sessions().values()}

    def all_up(self) -> bool:
        return [session["state"] for session in self.sessions().values()] == ["Up", "Up"]

    def routes(self) -> set[str]:
        return set(re.findall(r"(\S+/\d+) ", self.ask("show route"))) & set(PREFIX.values())


def _router(interval_ms: int) -> str:
    text = f"""router id {ROUTER[4]};
timeformat protocol iso long us;
protocol device {{ scan time 1; }}
protocol bfd {{ interface "br0" {{ interval {interval_ms} ms; multiplier 3; }}; }}
"""
    for family in (4, 6):
        text += f"protocol bgp gw{family} {{ local {ROUTER[family]} as 64511; neighbor {GATEWAY[family]} as 64501; {_BGP}"
        text += f" bfd on; hold time 90; ipv{family} {{ import all; export none; }}; }}\n"
    return text


def speaker() -> Bird:
    """The BGP speaker beside gateway 1's vrrp process."""
    text = f"router id {GATEWAY[4]};\nprotocol device {{}}\n"
    for family in (4, 6):
        text += f"protocol static s{family} {{ ipv{family}; route {PREFIX[family]} blackhole; }}\n"
        text += f"protocol bgp up{family} {{ local {GATEWAY[family]} as 64501; neighbor {ROUTER[family]} as 64511; {_BGP}"
        text += f" hold time 90; ipv{family} {{ import none; export all; }}; }}\n"
    return Bird("gw1", text)


def states(process: Process) -> list[int | str]:
    """Of our sessions, as the process reported last."""
    status = process.status
    return [] if status is None else [one["state"] for one in status.bfd.values()]


def both_up(status: wire.Status) -> bool:
    return [one["state"] for one in status.bfd.values()] == ["up", "up"]


def come_up(router: Router, process: Process) -> None:
    process.wait("both sessions are up", both_up)
    wait(router.all_up, "BIRD sees both up")


class Tap:
    """Every BFD packet that gateway 1 sends: TTL, source port, content."""

    def __init__(self, lan: Lan) -> None:
        with inside("lan"):
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        self._sock.bind(("p1", 0))
        self._sock.setblocking(False)

    def read(self) -> list[tuple[int, int, packet.ControlPacket]]:
        """What has come since the last time."""
        found = []
        while True:
            try:
                frame, where = self._sock.recvfrom(2048)
            except BlockingIOError:
                return found
            if where[2] == socket.PACKET_OUTGOING:
                continue
            at, ttl = (34, frame[22]) if frame[12:14] == b"\x08\x00" and frame[23] == 17 else (54, frame[21])
            if frame[12:14] not in (b"\x08\x00", b"\x86\xdd") or frame[at + 2 : at + 4] != packet.PORT.to_bytes(2, "big"):
                continue
            try:
                found.append((ttl, int.from_bytes(frame[at : at + 2], "big"), packet.decode(frame[at + 8 :])))
            except DecodeError:
                continue

    def close(self) -> None:
        self._sock.close()
