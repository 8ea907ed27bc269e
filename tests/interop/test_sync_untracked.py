"""The mirror's channel between two machines and charon's datagrams on loopback: no entry in the kernel's connection table.

As for VRRP (test_vrrp_untracked.py) nothing is filled; the same table without its exceptions is loaded afterwards, and the
entries that come show that they were looked for in the right place.
"""

from __future__ import annotations

import subprocess
import sys

from site_agent.render.nftables import render_nftables, tracked
from tests.support.namespace import in_namespace
from tests.unit.test_rendered_files import pair

GATEWAYS = ("fra-gw1", "fra-gw2")
DOCUMENTS = {name: pair("pair-mirrored", name) for name in GATEWAYS}
OPERATOR = (
    "table inet filter { chain i { type filter hook input priority 0; policy accept; ct state established accept; }; }"
)
LISTEN = """
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    listener.accept()[0].sendall(b"heard")
"""
CALL = """
import socket, sys
ends = [(address, int(sys.argv[3])) for address in sys.argv[1:3]]
print(socket.create_connection(ends[1], 5, (ends[0][0], 0)).recv(5).decode())
"""
TELL = """
import socket
ends = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
for end, address in zip(ends, ("127.0.0.1", "127.0.0.2")):
    end.bind((address, 4510))
    end.settimeout(5)
for one, other in (ends, ends[::-1]):
    one.sendto(b"heard", other.getsockname())
    print(other.recv(5).decode())
"""
INTRUDE = """
import os, socket
charon = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
charon.bind(("127.0.0.1", 4510))
charon.settimeout(5)
os.setresuid(65534, 65534, 65534)
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"heard", charon.getsockname())
    print(charon.recv(5).decode())
except OSError as exc:
    print(type(exc).__name__)
"""


def run(name: str, *words: str, text: str = "") -> str:
    done = subprocess.run(["ip", "netns", "exec", name, *words], input=text, capture_output=True, text=True, check=True)
    return done.stdout


def entries(name: str) -> list[str]:
    """Ports of TCP 4517 and UDP 4510 in the connection table of `name`."""
    lines = run(name, "cat", "/proc/net/nf_conntrack").splitlines()
    return sorted({line.split()[2] for line in lines if "dport=4517 " in line or "dport=4510 " in line})


def load(name: str, text: str) -> None:
    run(name, "nft", "-c", "-f", "-", text=text)
    run(name, "nft", "-f", "-", text=text)


def machines() -> None:
    for name in GATEWAYS:
        subprocess.run(["ip", "netns", "add", name], check=True)
    cable = ("type", "veth", "peer", "name", "eth3", "netns", "fra-gw2")
    subprocess.run(["ip", "link", "add", "eth3", "netns", "fra-gw1", *cable], check=True)
    for name, document in DOCUMENTS.items():
        assert document.management is not None
        run(name, "ip", "link", "set", "lo", "up")
        run(name, "ip", "link", "set", "eth3", "up")
        run(name, "ip", "address", "add", document.management.addresses[0], "dev", "eth3")
        load(name, OPERATOR)


@in_namespace
def test_neither_the_channel_nor_charons_datagrams_are_tracked() -> None:
    machines()
    called = DOCUMENTS["fra-gw2"].sync
    assert called is not None and called.rank == 1
    port = str(called.port)
    listener = subprocess.Popen(
        ["ip", "netns", "exec", "fra-gw2", sys.executable, "-c", LISTEN, called.own_address, port],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert listener.stdout is not None and listener.stdout.readline() == "ready\n"

    def talk() -> None:
        assert run("fra-gw1", sys.executable, "-c", CALL, called.peer_address, called.own_address, port) == "heard\n"
        for name in GATEWAYS:
            assert run(name, sys.executable, "-c", TELL).split() == ["heard", "heard"]

    for name, document in DOCUMENTS.items():
        load(name, render_nftables(document))
    talk()
    assert [entries(name) for name in GATEWAYS] == [[], []]
    for name, document in DOCUMENTS.items():
        load(name, tracked(render_nftables(document)))
    talk()
    assert [entries(name) for name in GATEWAYS] == [["tcp", "udp"], ["tcp", "udp"]]
    listener.kill()


@in_namespace
def test_charon_is_handed_nothing_by_anybody_but_root() -> None:
    machines()
    assert run("fra-gw1", sys.executable, "-c", INTRUDE) == "heard\n", "it is the table that keeps it out"
    load("fra-gw1", render_nftables(DOCUMENTS["fra-gw1"]))
    assert run("fra-gw1", sys.executable, "-c", INTRUDE) == "PermissionError\n"
    assert run("fra-gw1", sys.executable, "-c", TELL).split() == ["heard", "heard"], "root's"
