"""Who the site's virtual router hears, by the rendered table in the native kernel: the other gateway, and nobody else."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from site_agent.render.nftables import render_nftables
from tests.support.namespace import in_namespace
from tests.unit.test_rendered_files import pair

pytestmark = [pytest.mark.root, pytest.mark.alone]

SENDER = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
sender.bind((sys.argv[1], 0))
sender.sendto(bytes([0x31, int(sys.argv[2]), 0, 1, 0, 100, 0, 0, 198, 51, 100, 4]), ("198.51.100.2", 0))
"""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout


@in_namespace
def test_a_stranger_is_dropped_by_id_and_address_and_another_virtual_router_is_not() -> None:
    run("ip", "netns", "add", "lan")
    run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "lan", "netns", "lan")
    run("ip", "addr", "add", "198.51.100.2/28", "dev", "eth1")
    run("ip", "link", "set", "eth1", "up")
    for address in ("198.51.100.3/28", "198.51.100.9/28"):
        run("ip", "-n", "lan", "addr", "add", address, "dev", "lan")
    run("ip", "-n", "lan", "link", "set", "lan", "up")
    subprocess.run(["nft", "-f", "-"], input=render_nftables(pair("pair", "fra-gw1")), text=True, check=True)

    def dropped(source: str, vrid: int) -> int:
        """How many of one advertisement sent; the answer to a ping behind it says that it has arrived."""
        before = counted()
        run("ip", "netns", "exec", "lan", sys.executable, "-c", SENDER, source, str(vrid))
        run("ip", "netns", "exec", "lan", "ping", "-c", "1", "-W", "5", "198.51.100.2")
        return counted() - before

    def counted() -> int:
        chain = run("nft", "list", "chain", "inet", "anycast", "vrrp_peers")
        return sum(int(packets) for packets in re.findall(r"counter packets (\d+)", chain))

    assert dropped("198.51.100.9", 51) == 1
    assert dropped("198.51.100.3", 51) == 0, "the other gateway"
    assert dropped("198.51.100.9", 52) == 0, "somebody else's virtual router"
