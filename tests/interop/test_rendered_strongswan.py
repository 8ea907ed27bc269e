"""Rendered strongSwan files, read by the real charon: gateway and client find each other, on port 4500 only.

The build machines' kernel has no ESP, so what is asserted is IKE; where the kernel has it, CHILD_SAs are too (the labs do
that everywhere).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from anycast.document import Document
from anycast.fleet.compile import compile_gateway
from anycast.fleet.loading import load
from anycast_lab.machines import client_profile
from anycast_lab.machines.pki import Root, write_secret
from site_agent.doctor.examination import examine
from site_agent.render.strongswan import FOLDERS, HA_LOCAL, HA_REMOTE, render_strongswan, strongswan_links
from site_agent.sync import ha_wire, numbers
from tests.support.documents import TREE, TWO_SITE, document
from tests.support.namespace import in_namespace

CHARON = Path("/usr/lib/ipsec/charon")
HA = Path("/usr/lib/ipsec/plugins/libstrongswan-ha.so")
PATIENCE_S = 20.0
HEARTBEAT_S = 1.0
"""charon.plugins.ha.heartbeat_delay, as it is by default."""
BASE = Path("/run/rendered")
"""On the namespace's private /run: gone with the test."""

pytestmark = pytest.mark.skipif(not CHARON.exists(), reason="missing: charon")


@dataclasses.dataclass
class Host:
    """A place to run charon: its environment, and how to get a command into its namespaces."""

    etc: Path
    run: Path
    enter: tuple[str, ...] = ()

    def __call__(self, *command: str) -> str:
        env = {**os.environ, "STRONGSWAN_CONF": str(self.etc / "strongswan.conf"), "SWANCTL_DIR": str(self.etc / "swanctl")}
        done = subprocess.run([*self.enter, *command], env=env, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def charon(self, socket: Path) -> Iterator[None]:
        env = {**os.environ, "STRONGSWAN_CONF": str(self.etc / "strongswan.conf")}
        process = subprocess.Popen([*self.enter, str(CHARON)], env=env, stderr=subprocess.DEVNULL)
        try:
            until(lambda: self.answers(socket), "charon's control socket")
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)

    def answers(self, socket: Path) -> bool:
        done = subprocess.run(
            [*self.enter, "swanctl", "--version", "--uri", f"unix://{socket}"], capture_output=True, check=False, timeout=10
        )
        return done.returncode == 0


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.05)


def write(etc: Path, files: dict[str, str], links: dict[str, str]) -> None:
    for folder in FOLDERS:
        (etc / folder).mkdir(parents=True)
    for name, text in files.items():
        (etc / name).parent.mkdir(parents=True, exist_ok=True)
        (etc / name).write_text(text)
    for name, target in links.items():
        (etc / name).symlink_to(target)


def gateway_host(gateways: Root, clients: Root, *, also: Sequence[str] = ()) -> tuple[Host, Document]:
    """`also`: names that make the certificate larger."""
    made = document(secrets=BASE / "secrets")
    issued = gateways.issue(made.service.identity, also=also)
    write_secret(Path(made.service.certificate), issued.certificate)
    write_secret(Path(made.service.private_key), issued.private_key)
    write_secret(Path(made.service.client_ca), clients.certificate)
    host = Host(BASE / "etc", BASE / "run")
    host.run.mkdir(parents=True)
    write(host.etc, render_strongswan(made, run_dir=host.run), strongswan_links(made))
    return host, made


@in_namespace
def test_charon_takes_the_gateways_files() -> None:
    host, made = gateway_host(Root("gateways"), Root("clients"))
    with host.charon(host.run / "charon.vici"):
        said = host("swanctl", "--load-all", "--noprompt")
        assert "failed" not in said
        assert "loaded private key" in said
        assert "successfully loaded 2 pools" in said
        connection = host("swanctl", "--list-conns", "--raw")
        assert "version=IKEv2" in connection
        assert f"local_addrs=[{' '.join(made.service.vips)}]" in connection
        assert f"local-ts=[{' '.join(made.service.inside)}]" in connection
        assert "cacerts=[CN=clients]" in connection
        loaded = re.findall(r"loaded plugins: (.*)", host("swanctl", "--stats"))[0].split()
        wanted = re.findall(r"^    load = (.*)", (host.etc / "strongswan.conf").read_text(), re.MULTILINE)[0].split()
        assert loaded == ["charon", *wanted], "every plugin asked for, and no other"
        log = (host.run / "charon.log").read_text()
        assert "providers loaded by OpenSSL: default\n" in log, "no legacy provider"
        assert "invalid" not in log


def client_host(gateways: Root, clients: Root, *, also: Sequence[str] = ()) -> Host:
    """The lab's client, whose files name /etc/anycast: bound there inside a mount namespace of its own."""
    fleet = load(TWO_SITE)
    assert fleet.lab is not None
    identity = "direct.clients.vpn.example.org"
    etc = BASE / "client"
    files = client_profile.render_client(fleet, fleet.lab.clients["direct"], identity)
    write(etc, files, dict([client_profile.KEY_LINK]))
    (etc / "out").mkdir()
    issued = clients.issue(identity, also=also)
    write_secret(etc / "secrets" / "client.crt", issued.certificate)
    write_secret(etc / "secrets" / "client.key", issued.private_key)
    write_secret(etc / "secrets" / "gateway-ca.crt", gateways.certificate)
    # /etc itself is not written to: the folder appears in a layer over it.
    scratch = BASE / "overlay"
    (scratch / "up").mkdir(parents=True)
    (scratch / "work").mkdir()
    script = (
        f"mount -t overlay overlay -o lowerdir=/etc,upperdir={scratch}/up,workdir={scratch}/work /etc;"
        f" mkdir -p /etc/anycast; mount --bind {etc} /etc/anycast;"
        " mount -t tmpfs tmpfs /run; echo ready; exec sleep 1000"
    )
    holder = subprocess.Popen(["unshare", "-mn", "sh", "-ec", script], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
    enter = ("nsenter", "-t", str(holder.pid), "-m", "-n")
    return Host(Path("/etc/anycast"), Path("/run"), enter)


def wire(gateway: Host, client: Host, vip: str) -> None:
    """A cable between the two, and the client's way to the VIP."""
    pid = client.enter[2]
    for command in (
        "ip link set lo up",
        f"ip address add {vip}/32 dev lo",
        f"ip link add eth1 type veth peer name eth0 netns {pid}",
        "ip address add 198.51.100.65/28 dev eth1",
        "ip link set eth1 up",
    ):
        gateway(*command.split())
    for command in (
        "ip link set lo up",
        "ip address add 198.51.100.66/28 dev eth0",
        "ip link set eth0 up",
        f"ip route add {vip} via 198.51.100.65",
    ):
        client(*command.split())


@in_namespace
def test_the_client_profile_meets_the_gateway_on_port_4500() -> None:
    gateways, clients = Root("gateways"), Root("clients")
    gateway, made = gateway_host(gateways, clients)
    client = client_host(gateways, clients)
    vip = made.service.vips[0]
    wire(gateway, client, vip)
    # Anything to or from port 500 is counted, on the gateway's side.
    gateway("iptables", "-A", "INPUT", "-p", "udp", "--dport", "500")
    gateway("iptables", "-A", "INPUT", "-p", "udp", "--dport", "4500")
    with gateway.charon(gateway.run / "charon.vici"):
        gateway("swanctl", "--load-all", "--noprompt")
        with client.charon(Path("/run/charon.vici")):
            client("swanctl", "--load-all", "--noprompt")
            # The client is the one that checks last: the gateway believes in the tunnel one message earlier.
            until(lambda: "ESTABLISHED" in client("swanctl", "--list-sas"), "an IKE_SA")
            sas = gateway("swanctl", "--list-sas")
            assert f"local  'vpn.example.org' @ {vip}[4500]" in sas
            assert "remote 'direct.clients.vpn.example.org' @ 198.51.100.66[4500]" in sas
            assert "AES_GCM_16-256/PRF_HMAC_SHA2_384/CURVE_25519" in sas
    counted = gateway("iptables", "-nvxL", "INPUT")
    packets = {m[2]: int(m[1]) for m in re.finditer(r"^\s*(\d+)\s.*dpt:(\d+)", counted, re.MULTILINE)}
    assert packets["500"] == 0
    assert packets["4500"] >= 2


@in_namespace
def test_a_vip_that_comes_when_charon_runs_already_is_served() -> None:
    """A Backup starts charon without the address that moves, and has it the moment it is Active."""
    gateways, clients = Root("gateways"), Root("clients")
    gateway, made = gateway_host(gateways, clients)
    client = client_host(gateways, clients)
    vip = made.service.vips[0]
    wire(gateway, client, vip)
    gateway("ip", "address", "del", f"{vip}/32", "dev", "lo")
    with gateway.charon(gateway.run / "charon.vici"):
        assert "failed" not in gateway("swanctl", "--load-all", "--noprompt")
        with client.charon(Path("/run/charon.vici")):
            client("swanctl", "--load-all", "--noprompt")
            assert "ESTABLISHED" not in client("swanctl", "--list-sas")
            gateway("ip", "address", "add", f"{vip}/32", "dev", "eth1")
            until(lambda: "ESTABLISHED" in client("swanctl", "--list-sas"), "an IKE_SA")
            assert f"local  'vpn.example.org' @ {vip}[4500]" in gateway("swanctl", "--list-sas")


def ip_fragments(host: Host) -> int:
    """IPv4 packets that `host`'s kernel cut, or put together."""
    names, values = (line.split() for line in host("cat", "/proc/net/snmp").splitlines() if line.startswith("Ip:"))
    return sum(int(value) for name, value in zip(names, values, strict=True) if name in ("FragCreates", "ReasmReqds"))


@in_namespace
def test_certificates_larger_than_a_path_of_1280_bytes_pass_it_in_ikes_own_fragments() -> None:
    """RFC 7383; what a path drops is IP's fragments, and a client behind such a path would never come in."""
    gateways, clients = Root("gateways"), Root("clients")
    many = [f"name-{number:03d}.clients.vpn.example.org" for number in range(100)]
    gateway, made = gateway_host(gateways, clients, also=many)
    client = client_host(gateways, clients, also=many)
    wire(gateway, client, made.service.vips[0])
    # Ours says nothing of messages and packets, so that a stranger's garbage writes no lines: another log beside it does.
    heard = gateway.run / "messages.log"
    (gateway.etc / "strongswan.d" / "log.conf").write_text(
        f"charon {{\n filelog {{\n messages {{\n path = {heard}\n flush_line = yes\n enc = 1\n }}\n }}\n}}\n"
    )
    gateway("ip", "link", "set", "eth1", "mtu", "1280")
    client("ip", "link", "set", "eth0", "mtu", "1280")
    with gateway.charon(gateway.run / "charon.vici"):
        gateway("swanctl", "--load-all", "--noprompt")
        with client.charon(Path("/run/charon.vici")):
            client("swanctl", "--load-all", "--noprompt")
            until(lambda: "ESTABLISHED" in client("swanctl", "--list-sas"), "an IKE_SA")
    log = heard.read_text()
    sent = re.findall(r"splitting IKE message \((\d+) bytes\) into (\d+) fragments", log)
    assert sent and all(int(size) > 1280 and int(count) >= 2 for size, count in sent), "the gateway's certificate"
    assert "received fragment #2 of" in log, "the client's"
    assert ip_fragments(gateway) == ip_fragments(client) == 0, "the network had nothing to cut"


def mirrored(gateways: Root, clients: Root) -> tuple[Host, Document]:
    """A gateway of a pair with a mirror, its files in place."""
    made = compile_gateway(load(TREE / "tests" / "data" / "pair-mirrored.fleet.yaml"), "fra-gw1")
    data = made.model_dump(mode="json")
    for field in ("certificate", "private_key", "client_ca"):
        data["service"][field] = str(BASE / "secrets" / Path(data["service"][field]).name)
    made = Document.model_validate(data)
    issued = gateways.issue(made.service.identity)
    write_secret(Path(made.service.certificate), issued.certificate)
    write_secret(Path(made.service.private_key), issued.private_key)
    write_secret(Path(made.service.client_ca), clients.certificate)
    host = Host(BASE / "etc", BASE / "run")
    host.run.mkdir(parents=True)
    write(host.etc, render_strongswan(made, run_dir=host.run), strongswan_links(made))
    return host, made


@in_namespace
@pytest.mark.skipif(not HA.exists(), reason="missing: libcharon-extra-plugins")
def test_charon_with_a_mirror_loads_the_plugin_and_takes_its_fifo() -> None:
    """What is rendered is all that the plugin needs: no file of Debian's about it is read."""
    host, made = mirrored(Root("gateways"), Root("clients"))
    host("ip", "link", "set", "lo", "up")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as relay,
        host.charon(host.run / "charon.vici"),
    ):
        relay.bind((HA_REMOTE, ha_wire.PORT))
        relay.settimeout(PATIENCE_S)
        assert "failed" not in host("swanctl", "--load-all", "--noprompt"), "the packet limits and hw_offload are understood"
        loaded = re.findall(r"loaded plugins: (.*)", host("swanctl", "--stats"))[0].split()
        wanted = re.findall(r"^    load = (.*)", (host.etc / "strongswan.conf").read_text(), re.MULTILINE)[0].split()
        assert loaded == ["charon", *wanted] and loaded[-1] == "ha"
        connection = host("swanctl", "--list-conns", "--raw")
        assert f"rekey_packets={numbers.REKEY_PACKETS}" in connection
        port = f"{ha_wire.PORT:04X}"
        bound = re.findall(
            rf"^ *\d+: ([0-9A-F]{{8}}:{port}) ([0-9A-F]{{8}}:[0-9A-F]{{4}}) ", host("cat", "/proc/net/udp"), re.MULTILINE
        )
        theirs, ours = f"0100007F:{port}", f"0200007F:{port}"
        assert sorted(bound) == [(theirs, ours), (ours, "00000000:0000")], "charon hears the sync process's end only"
        assert made.sync is not None
        ignored = {made.inside.name, made.management.name} if made.management is not None else set()
        assert (
            set(re.findall(r"interfaces_ignore = (.*)", (host.etc / "strongswan.conf").read_text())[0].split(", "))
            == ignored
        )
        doctor = examine(document=made, source="", etc_dir=host.etc, vici=str(host.run / "charon.vici"))
        judged = {each.id: each.severity.value for each in doctor.findings if each.id.startswith("sync_")}
        fine = dict.fromkeys(("sync_plugin", "sync_version", "sync_offload", "sync_begins"), "ok")
        assert judged == fine | {"sync_identity": "wrong"}, "no certificate was ever made here"
        # One command an open; the TAKE that follows is what a relay never carries.
        fifo = Path("/run/charon.ha")
        assert fifo.is_fifo()
        fifo.write_text("+1\n")
        data, source = relay.recvfrom(ha_wire.MAX_BYTES)
        assert source == (HA_LOCAL, ha_wire.PORT)
        assert ha_wire.decode_header(data).kind == ha_wire.MessageType.SEGMENT_TAKE
        relay.settimeout(HEARTBEAT_S * 1.5)
        with pytest.raises(TimeoutError):
            relay.recv(ha_wire.MAX_BYTES)  # no heartbeat: monitor is off
    log = (host.run / "charon.log").read_text()
    assert "HA segment 1 activated" in log
    assert "invalid" not in log and "HA config misses" not in log
