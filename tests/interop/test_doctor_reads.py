"""What the doctor reads means what it means to who made it: nftables' rules to the kernel, strongSwan's files to swanctl."""

from __future__ import annotations

import json
import re
import socket
import subprocess

import pytest

from site_agent.doctor.judge.nft_rules import Packet, Ruleset
from site_agent.doctor.read.patient import read_conf
from site_agent.doctor.read.sight import Sight
from tests.support.namespace import in_namespace
from tests.support.sick_machine import SickMachine, ip

pytestmark = pytest.mark.root

IKE_PORT = 4500
RULESETS = {
    "policy drop; ": True,
    "policy drop; udp dport { 500, 4500 } accept; ": False,
    "policy drop; udp dport 400-4499 accept; ": True,
    "policy accept; udp dport != 500 drop; ": True,
    "policy drop; meta l4proto udp jump own; ": False,
    "policy drop; ct state established,related accept; ": True,
    "policy accept; udp dport vmap { 500 : drop, 4500 : goto refuse }; ": True,
    "policy drop; udp dport @ports accept; ": False,
    "policy drop; ip6 nexthdr udp accept; ": True,
    "policy drop; ip protocol { tcp, udp } th dport 4500 accept; ": False,
    "policy accept; ip saddr 127.0.0.0/8 udp dport 4500 drop; ": None,
}


@in_namespace
def test_a_judged_packet_fares_in_the_kernel_as_judged() -> None:
    """The rules' meaning is the kernel's to say: the same packet is sent through them."""
    ip("link", "set", "lo", "up")
    packet = Packet(name="IKE", family="ip", protocol="udp", sport=40000, dport=IKE_PORT)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taker,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        taker.bind(("127.0.0.1", IKE_PORT))
        taker.setblocking(False)
        sender.bind(("127.0.0.1", packet.sport or 0))
        for text, expected in RULESETS.items():
            table = (
                "flush ruleset\ntable inet t {\n set ports { type inet_service; elements = { 500, 4500 }; }\n"
                " chain own { tcp dport 1 return; udp dport 4500 accept; }\n chain refuse { drop; }\n"
                f" chain i {{ type filter hook input priority 0; {text}}}\n}}\n"
            )
            subprocess.run(["nft", "-f", "-"], input=table, text=True, check=True)
            listed = subprocess.run(["nft", "--json", "list", "ruleset"], capture_output=True, check=True).stdout
            judged, _ = Ruleset(json.loads(listed)).dropped(packet, "input")
            sender.sendto(b"x", ("127.0.0.1", IKE_PORT))  # on loopback it is there, or gone, when this returns
            try:
                arrived = bool(taker.recv(16))
            except BlockingIOError:
                arrived = False
            assert judged is expected, text
            assert judged is None or judged is not arrived, f"{text}: the kernel does otherwise"


@in_namespace
def test_strongswans_files_mean_to_us_what_they_mean_to_swanctl() -> None:
    machine = SickMachine()
    folder = machine.paths.etc_dir / "swanctl"
    (folder / "conf.d" / "b.conf").write_text("connections { second { local_addrs = 192.0.2.8 } }\n")
    (folder / "conf.d" / "a.conf").write_text("connections { second { local_addrs = 192.0.2.7\n remote { auth = psk } } }\n")
    with machine.running():
        written = """
connections { first { local_addrs = 192.0.2.1 , 192.0.2.2 # both
    local { auth = psk
 id = "a b"
 }
    remote
    {
      auth = psk }
    children { net { dpd_action = clear } net { dpd_action = trap
 close_action=start } } } }
shape { local { id = "c \\"d\\"" } }
connections { third : shape { local_addrs = 192.0.2.3
  local { auth = psk } remote { auth = psk } } }
include conf.d/*.conf
"""
        with open(machine.swanctl_conf, "a") as file:
            file.write(written)
        machine.load()
        sight = Sight()
        ours = read_conf(sight, machine.swanctl_conf)
        assert ours is not None and not sight.unseen
        told = subprocess.run(
            ["swanctl", "--list-conns", "--raw"], env=machine.environment, capture_output=True, text=True, check=True
        ).stdout
        assert sorted(re.findall(r"event \{(\S+) ", told)) == sorted(ours.settings.names("connections"))
        for name in ("first", "second", "third"):
            (theirs,) = re.findall(rf"event \{{{name} \{{local_addrs=\[(.*?)\]", told)
            local = (ours.settings.get(f"connections.{name}.local_addrs") or "").split(",")
            assert theirs.split(" ") == [address.strip() for address in local], name
        assert ours.settings.get("connections.first.local.id") == "a b" and "id=a b" in told
        assert ours.settings.get("connections.third.local.id") == 'c "d"' and 'id=c "d"' in told
        net = "connections.first.children.net"
        assert "dpd_action=trap close_action=start" in told
        assert (ours.settings.get(f"{net}.dpd_action"), ours.settings.get(f"{net}.close_action")) == ("trap", "start")
