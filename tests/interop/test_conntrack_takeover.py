"""Real packets through a gateway that dies: translated UDP and TCP go on through the other, which lets nothing new in."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from site_agent.sync.numbers_words import Role
from tests.support.conntrack_pair import (
    CLIENT,
    CLIENT6,
    ONE,
    OTHER,
    SERVER,
    SERVER6,
    TRANSLATED,
    inside,
    mirrored,
    run,
    settle,
    table,
)
from tests.support.namespace import in_namespace

TRIES = 3
RULES = """
table ip t {{
  chain n {{ type nat hook postrouting priority 100; ip saddr 192.0.2.0/24 snat to 198.51.100.77; }}
  chain f {{ type filter hook forward priority 0; policy drop; ct state invalid drop; ct state established accept; {new} }}
  chain m {{ type filter hook forward priority 1; udp dport 7000 ct mark set 21; }}
}}
table ip6 t {{
  chain f {{ type filter hook forward priority 0; policy drop; meta l4proto icmpv6 accept;
    ct state established accept; {new} }}
}}
"""


def built() -> None:
    for name in ("client", "server", ONE, OTHER):
        run(f"ip netns add {name}", f"ip -n {name} link set lo up")
    for name, new in ((ONE, "ct state new accept;"), (OTHER, "")):
        run(
            f"ip netns exec {name} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
            f"ip netns exec {name} sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0",
            f"ip netns exec {name} sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=0",
            f"echo '{RULES.format(new=new)}' | ip netns exec {name} nft -f -",
        )
    run(
        "ip link add up0 netns client type veth peer name left netns gw1",
        "ip link add up0 netns server type veth peer name right netns gw1",
    )
    for name, address, address6, via, via6 in (
        ("client", CLIENT, CLIENT6, "192.0.2.1", "2001:db8:5::1"),
        ("server", SERVER, SERVER6, "198.51.100.1", "2001:db8:6::1"),
    ):
        run(f"ip -n {name} address add {address}/24 dev up0", f"ip -n {name} address add {address6}/64 dev up0 nodad",
            f"ip -n {name} link set up0 up", f"ip -n {name} route add default via {via}",
            f"ip -n {name} route add default via {via6}")  # fmt: skip
    addressed(ONE)


def addressed(name: str) -> None:
    for device, *addresses in (
        ("left", "192.0.2.1/24", "2001:db8:5::1/64"),
        ("right", "198.51.100.1/24", f"{TRANSLATED}/32", "2001:db8:6::1/64"),
    ):
        for address in addresses:
            run(f"ip -n {name} address add {address} dev {device} {'nodad' if ':' in address else ''}")
        run(f"ip -n {name} link set {device} up")


def take_over() -> None:
    """The wires go to the other gateway: what a virtual MAC and address do."""
    for device in ("left", "right"):
        run(f"ip -n {ONE} link set {device} netns {OTHER}")
    addressed(OTHER)


class Flows:
    """Two ends of a TCP connection and of UDP flows of both families."""

    def __init__(self) -> None:
        with inside("server"):
            listener = socket.create_server((SERVER, 7001))
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.udp6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with inside("client"):
            self.client_udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.client_udp6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            self.client = socket.create_connection((SERVER, 7001), timeout=3)
        self.server, self.seen = listener.accept()
        listener.close()
        self.udp.bind((SERVER, 7000))
        self.udp6.bind((SERVER6, 7000))
        for each in (self.client, self.server, self.udp, self.udp6, self.client_udp, self.client_udp6):
            each.settimeout(3)

    def talk(self) -> tuple[object, ...]:
        """Both ways over each; whom the server saw."""
        data = bytes(60_000)
        for one, other in ((self.client, self.server), (self.server, self.client)):
            one.sendall(data)
            got = 0
            while got < len(data):
                got += len(other.recv(65_536))
        seen = []
        for here, there, address in (
            (self.client_udp, self.udp, (SERVER, 7000)),
            (self.client_udp6, self.udp6, (SERVER6, 7000)),
        ):
            source = answered(here, there, address)
            there.sendto(b"back", source)
            assert here.recv(100) == b"back"
            seen.append(source[:2])
        return *seen, self.client.getsockname()[0]

    def close(self) -> None:
        for each in (self.client, self.server, self.udp, self.udp6, self.client_udp, self.client_udp6):
            each.close()


def answered(here: socket.socket, there: socket.socket, address: tuple[str, int]) -> tuple[str, int]:
    """Whom the other end sees. UDP's first packet may be lost on links that are just coming up. Raises TimeoutError."""
    for _ in range(TRIES):
        here.sendto(b"there", address)
        with contextlib.suppress(TimeoutError):
            return there.recvfrom(100)[1]  # type: ignore[no-any-return]
    raise TimeoutError


@in_namespace
def test_translated_flows_go_on_through_the_other_gateway() -> None:
    async def test() -> None:
        built()
        async with mirrored() as (one, other):
            flows = Flows()
            with contextlib.closing(flows):
                before = flows.talk()
                assert flows.seen[0] == TRANSLATED == before[0][0] and before[1][0] == CLIENT6  # type: ignore[index]
                await settle(one, other)
                applied = other.mirror.copier.applied
                take_over()
                other.becomes(Role.ACTIVE)
                await settle(one, other)
                assert flows.talk() == before, "from the same translated address and port"
                assert other.mirror.copier.applied == applied, "nothing was left to commit"
                marks = {key[2:5]: values["mark"] for key, values in table(OTHER).items()}
                assert marks[17, before[0][1], 7000] == 21, "a mark that the rules set before"  # type: ignore[index]
                flows.client.close()
                assert flows.server.recv(10) == b"", "and it can be closed"

    asyncio.run(asyncio.wait_for(test(), 30))


@in_namespace
def test_without_the_mirror_none_goes_on() -> None:
    async def test() -> None:
        built()
        async with mirrored(connect=False) as (one, other):
            one.cut = True
            flows = Flows()
            with contextlib.closing(flows):
                flows.talk()
                take_over()
                other.becomes(Role.ACTIVE)
                for each in (flows.client, flows.server, flows.udp, flows.client_udp):
                    each.settimeout(0.3)
                with contextlib.suppress(TimeoutError):
                    flows.talk()
                    raise AssertionError("the other gateway lets unknown flows through: the test above proves nothing")

    asyncio.run(asyncio.wait_for(test(), 30))
