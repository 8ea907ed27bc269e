"""The embedded runner on both kernels: the same commands, the same answers. Each lab is brought up once for the file.

left ── router ── right        192.0.2.0/28 and 192.0.2.16/28, 2001:db8:1::/64 and 2001:db8:2::/64
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anycast_lab.capture import pcap
from anycast_lab.control import launch
from anycast_lab.control.client import Client
from anycast_lab.embedded import kernel
from anycast_lab.runner import LabError
from tests.support.lab_watch import ends_with_us

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.xdist_group("embedded")]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
DEADLINE_S = 60.0
TOPOLOGY = """\
name: embedded
topology:
  defaults: {kind: linux, network-mode: none, env: {WHERE: lab}}
  nodes:
    left:
      exec:
        - ip addr add 192.0.2.2/28 dev eth1
        - ip addr add 2001:db8:1::2/64 dev eth1 nodad
        - ip route add default via 192.0.2.1
      sysctls: {net.ipv4.ip_default_ttl: 17}
    router:
      exec:
        - sh -c 'sysctl -qw net.ipv4.ip_forward=1; ip a add 192.0.2.1/28 dev eth1; ip a add 192.0.2.17/28 dev eth2'
        - sh -c 'echo booted >>/var/lib/boots; echo up >/run/up; setsid sleep 1000 </dev/null >/dev/null 2>&1 &'
    right:
      hostname: right.example.org
      exec:
        - ip addr add 192.0.2.18/28 dev eth1
        - ip route add default via 192.0.2.17
  links:
    - endpoints: ["left:eth1", "router:eth1"]
    - {endpoints: ["router:eth2", "right:eth1"], mtu: 1400}
"""


class Lab:
    def __init__(self, client: Client, topology: str, kernel: str) -> None:
        self.client, self.topology, self.kernel = client, topology, kernel

    def run(self, node: str, *argv: str, stdin: bytes = b"", timeout: float = DEADLINE_S, expect: int | None = 0) -> str:
        streams = {1: b"", 2: b""}

        def output(fd: int, data: bytes) -> None:
            streams[fd] += data

        data = base64.b64encode(stdin).decode()
        rc = self.client.ask("exec", node=node, argv=argv, stdin=data, timeout=timeout, output=output)["rc"]
        assert expect in (None, rc), (argv, rc, streams)
        return (streams[1] if expect == 0 else streams[1] + streams[2]).decode()

    def sh(self, node: str, script: str, **options: Any) -> str:
        return self.run(node, "sh", "-c", script, **options)

    def fault(self, kind: str, node: str, **fields: str) -> None:
        self.client.ask(kind, node=node, **fields)

    def answers(self, node: str, address: str) -> bool:
        return self.run(node, "ping", "-c", "1", "-W", "1", address, expect=None).count(" 0% packet loss") == 1

    def state(self, node: str) -> dict[str, Any]:
        return dict(self.client.ask("status")["nodes"][node])


def until(condition: Callable[[], bool]) -> None:
    """Ask until it is so; each question is an event of the lab, so nothing is hurried past."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "did not become true"


WITH_ESP = ["native", "uml"] if os.geteuid() == 0 and kernel.has_esp() else ["uml"]
"""User Mode Linux exists here for what this kernel may not have."""


@pytest.fixture(scope="module", params=["native", "uml"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("needs root to make namespaces")
    if request.param == "uml" and shutil.which("linux.uml") is None:
        pytest.skip("needs the package user-mode-linux")
    topology = tmp_path_factory.mktemp("topology") / "t.clab.yml"
    topology.write_text(TOPOLOGY)
    name = ends_with_us(f"embedded-{request.param}-{os.getpid()}")
    environment = os.environ | {"LAB_KERNEL": request.param}
    subprocess.run([ANYCAST, "lab", "up", "-t", topology, "-n", name], check=True, timeout=DEADLINE_S * 3, env=environment)
    try:
        client = Client.connect(name)
        yield Lab(client, str(topology), request.param)
        client.close()
    finally:
        assert launch.stop(name)


def test_commands_have_input_output_and_exit_status(lab: Lab) -> None:
    assert lab.run("left", "cat", stdin=b"x" * 300_000) == "x" * 300_000
    assert lab.sh("left", "echo out; echo err >&2; exit 3", expect=3) == "out\nerr\n"
    assert lab.sh("left", "kill -TERM $$", expect=-15) == ""
    assert lab.run("left", "no-such-program", expect=127) == "no-such-program: No such file or directory\n"
    assert lab.sh("left", "sleep 1000 & sleep 1000", timeout=0.2, expect=-9) == ""
    until(lambda: lab.state("left")["processes"] == 0)  # the timeout took the whole session


def test_the_command_line_passes_output_and_exit_status_on(lab: Lab) -> None:
    command = [ANYCAST, "lab", "exec", "-n", lab.client.name, "left", "sh", "-c", "echo out; echo err >&2; exit 3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    words = [ANYCAST, "lab", "exec", "-n", lab.client.name, "-i", "left", "cat"]
    done = subprocess.run(words, input="in\n", capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "in\n", "")


def test_status_for_programs(lab: Lab) -> None:
    command = [ANYCAST, "lab", "status", "-n", lab.client.name, "--json"]
    status = json.loads(subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=True).stdout)
    assert (status["state"], status["kernel"], status["esp"]) == ("up", lab.kernel, lab.kernel == "uml" or kernel.has_esp())
    router = {"group": "", "state": "on", "role": "", "processes": 1, "links": ["left:eth1", "right:eth1"]}
    assert status["nodes"]["router"] == router


def test_what_a_node_is(lab: Lab) -> None:
    assert lab.run("right", "hostname") == "right.example.org\n"
    assert lab.sh("left", "echo $WHERE $HOME; id -u; pwd") == "lab /root\n0\n/\n"
    assert lab.run("left", "cat", "/proc/sys/net/ipv4/ip_default_ttl") == "17\n"
    assert lab.run("right", "cat", "/proc/sys/net/ipv4/ip_default_ttl") == "64\n"
    assert json.loads(lab.run("right", "ip", "-j", "link", "show", "eth1"))[0]["mtu"] == 1400
    names = [link["ifname"] for link in json.loads(lab.run("router", "ip", "-j", "link"))]
    assert sorted(names) == ["eth1", "eth2", "lo"]
    assert lab.sh("left", "touch /usr/here && cat /proc/1/comm && ls /run") == "python\nlock\n"
    lab.run("left", "sysctl", "-w", "kernel.printk_ratelimit=7", expect=1)


def test_nodes_reach_each_other_and_have_files_of_their_own(lab: Lab) -> None:
    assert lab.answers("left", "192.0.2.18")
    lab.client.ask("put", node="left", path="/tmp/deep/er/file", data=base64.b64encode(b"\0text").decode(), mode=0o640)
    assert base64.b64decode(lab.client.ask("get", node="left", path="/tmp/deep/er/file")["data"]) == b"\0text"
    assert lab.run("left", "stat", "-c", "%a %U", "/tmp/deep/er/file") == "640 root\n"
    with pytest.raises(LabError, match="No such file"):
        lab.client.ask("get", node="right", path="/tmp/deep/er/file")


def test_our_own_commands_are_forks_that_behave_like_programs(lab: Lab) -> None:
    lab.run("left", "anycast", "--version")
    assert "No such command" in lab.run("left", "anycast", "no-such-command", expect=2)
    # json.tool is not ours and runs by exec; the same interpreter either way.
    assert lab.run("left", "python3", "-m", "json.tool", stdin=b"[1]") == "[\n    1\n]\n"
    script = "import sys, os; print(sys.prefix, os.path.realpath(sys.path[-1]).startswith('/opt/anycast'))"
    assert lab.run("left", "python", "-c", script) == "/opt/anycast/.venv True\n"


def test_an_unprivileged_user_can_read_and_run_the_product(lab: Lab) -> None:
    setpriv = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert lab.run("left", *setpriv, "python", "-c", "import exabgp_bridge, exabgp; print(1)") == "1\n"


def send_a_megabyte(lab: Lab) -> None:
    listen = "import socket; s = socket.create_server(('', 7)); print(len(s.accept()[0].makefile('rb').read()))"
    send = "import socket; s = socket.create_connection(('192.0.2.18', 7)); s.sendall(bytes(1 << 20)); s.shutdown(1)"
    lab.client.ask("put", node="right", path="/tmp/listen.py", data=base64.b64encode(listen.encode()).decode(), mode=0o644)
    lab.sh("right", "setsid python3 -u /tmp/listen.py >/tmp/got 2>&1 </dev/null &")
    until(lambda: ":7 " in lab.run("right", "ss", "-Hltn"))
    lab.run("left", "python3", "-c", send)
    until(lambda: lab.run("right", "cat", "/tmp/got", expect=None) == "1048576\n")


def test_tcp_has_its_checksums(lab: Lab) -> None:
    """A veth otherwise hands on packets whose checksum nobody ever fills in; captures and tunnels would see them so."""
    lab.sh("router", "setsid tcpdump -Uvvnc 20 -i eth1 tcp >/tmp/dump 2>/tmp/dump.err </dev/null &")
    until(lambda: "listening on" in lab.run("router", "cat", "/tmp/dump.err", expect=None))
    send_a_megabyte(lab)
    until(lambda: "20 packets captured" in lab.run("router", "cat", "/tmp/dump.err", expect=None))
    dump = lab.run("router", "cat", "/tmp/dump")
    assert "(correct)" in dump
    assert "incorrect" not in dump


def test_a_capture_is_shown_or_written(lab: Lab, tmp_path: Path) -> None:
    command = [ANYCAST, "lab", "capture", "-n", lab.client.name, "router", "eth1", "icmp"]
    lab.sh("left", "setsid ping -i 0.05 192.0.2.18 >/dev/null 2>&1 </dev/null &")
    try:
        shown = subprocess.run([*command, "--packets", "4"], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert shown.returncode == 0, shown.stderr
        assert len(re.findall(r"IP 192\.0\.2\.\d+ > 192\.0\.2\.\d+: ICMP echo", shown.stdout)) == 4, shown.stdout
        written = [*command, "--seconds", "1", "-w", str(tmp_path / "pcap")]
        subprocess.run(written, capture_output=True, timeout=DEADLINE_S, check=True)
        assert len(pcap.read((tmp_path / "pcap").read_bytes())) > 10
    finally:
        lab.run("left", "pkill", "ping")
    nowhere = [*command[:-2], "eth7"]
    refused = subprocess.run(nowhere, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert refused.returncode == 1 and "eth7" in refused.stderr, refused
    until(lambda: lab.state("router")["processes"] == 1)  # its own sleep


def test_what_a_node_sends_is_late_or_lost_until_it_is_said_otherwise(lab: Lab) -> None:
    def impair(*options: str) -> subprocess.CompletedProcess[str]:
        words = [ANYCAST, "lab", "impair", "-n", lab.client.name, "left", "eth1", *options]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=DEADLINE_S)

    def pinged() -> tuple[int, float]:
        """Percent lost, and the shortest round trip in ms."""
        said = lab.sh("left", "ping -c 10 -i 0.02 -W 1 192.0.2.18 || :")
        lost, times = re.search(r"([\d.]+)% packet loss", said), re.search(r"= ([\d.]+)/", said)
        assert lost is not None, said
        return round(float(lost[1])), float(times[1]) if times is not None else 0.0

    assert pinged()[0] == 0
    impaired = impair("--delay-ms", "150")
    if lab.kernel == "native" and impaired.returncode:  # not every machine's own has it
        assert impaired.stderr == (
            "anycast: left:eth1: this kernel has no netem (sch_netem); a lab with LAB_KERNEL=uml has\n"
        )
        assert (impair().returncode, pinged()[0]) == (0, 0)
        return
    assert impaired.returncode == 0, impaired.stderr
    lost, shortest = pinged()
    assert lost == 0 and shortest >= 150
    assert impair("--loss", "100").returncode == 0
    assert pinged()[0] == 100
    assert (impair().returncode, impair().returncode) == (0, 0), "a second time it changes nothing"
    lost, shortest = pinged()
    assert lost == 0 and shortest < 150


def test_links_down_and_mute(lab: Lab) -> None:
    def carrier(node: str, interface: str) -> str:
        return lab.run(node, "cat", f"/sys/class/net/{interface}/carrier").strip()

    lab.fault("link_mute", "left", interface="eth1")
    assert not lab.answers("left", "192.0.2.1")
    assert not lab.answers("router", "192.0.2.2")
    assert carrier("router", "eth1") == carrier("left", "eth1") == "1"
    lab.fault("link_unmute", "left", interface="eth1")
    assert lab.answers("left", "192.0.2.1")
    lab.fault("link_down", "left", interface="eth1")
    assert carrier("router", "eth1") == "0"
    lab.fault("link_up", "left", interface="eth1")
    lab.run("left", "ip", "route", "add", "default", "via", "192.0.2.1")  # the kernel dropped it with the link
    until(lambda: lab.answers("left", "192.0.2.18"))
    with pytest.raises(LabError, match="left has no link eth7"):
        lab.fault("link_down", "left", interface="eth7")


def test_frozen(lab: Lab) -> None:
    """Nothing runs, nothing is forwarded, and the neighbours see nothing but silence."""
    script = "while :; do echo >>/tmp/ticks; sleep 0.01; done"
    lab.sh("router", f"touch /tmp/ticks; setsid sh -c '{script}' >/dev/null 2>&1 </dev/null &")

    def ticks() -> int:
        return len(lab.client.ask("get", node="router", path="/tmp/ticks")["data"])

    until(lambda: ticks() > 8)
    lab.fault("freeze", "router")
    try:
        before = ticks()
        assert lab.state("router")["state"] == "frozen"
        assert not lab.answers("left", "192.0.2.18"), "a stopped namespace still forwards"
        assert not lab.answers("left", "192.0.2.1")
        assert lab.run("left", "cat", "/sys/class/net/eth1/carrier") == "1\n"
        with pytest.raises(LabError, match="router is frozen already"):
            lab.fault("freeze", "router")
        with pytest.raises(LabError, match="router is frozen: nothing"):
            lab.run("router", "true")
        assert ticks() == before, "a process ran"
    finally:
        lab.fault("thaw", "router")
    until(lambda: lab.answers("left", "192.0.2.18"))  # the neighbours had given the router up and ask for it anew
    until(lambda: ticks() > before)
    lab.run("router", "pkill", "-f", "ticks")


def test_power_cycle(lab: Lab) -> None:
    """Memory is lost, disks are not, the neighbours' ends stay plugged in, and the exec list runs again."""
    lab.sh("router", "echo mine >/tmp/file; ip route add 203.0.113.0/24 dev lo")
    lab.fault("power_off", "router")
    assert lab.state("router")["state"] == "off"
    assert lab.run("left", "cat", "/sys/class/net/eth1/carrier") == "0\n"
    assert "192.0.2.2" in lab.run("left", "ip", "addr")
    with pytest.raises(LabError, match="router is powered off"):
        lab.run("router", "true")
    lab.fault("power_on", "router")
    with pytest.raises(LabError, match="router is powered on already"):
        lab.fault("power_on", "router")
    assert lab.sh("router", "cat /var/lib/boots /run/up; ls /tmp") == "booted\nbooted\nup\n"
    assert "203.0.113.0" not in lab.run("router", "ip", "route")
    assert lab.state("router")["processes"] == 1
    lab.run("left", "ip", "route", "replace", "default", "via", "192.0.2.1")
    lab.run("right", "ip", "route", "replace", "default", "via", "192.0.2.17")
    until(lambda: lab.answers("left", "192.0.2.18"))


@pytest.mark.parametrize("lab", WITH_ESP, indirect=True)
def test_tcp_through_esp(lab: Lab) -> None:
    key = "0x" + "11" * 20
    for node, ours, theirs in (("left", "192.0.2.2", "192.0.2.18"), ("right", "192.0.2.18", "192.0.2.2")):
        for src, dst, direction in ((ours, theirs, "out"), (theirs, ours, "in")):
            spi = "0x1001" if src == "192.0.2.2" else "0x1002"
            lab.sh(node, f"ip xfrm state add src {src} dst {dst} proto esp spi {spi} mode transport reqid 1 "
                         f"aead 'rfc4106(gcm(aes))' {key} 128; ip xfrm policy add src {src} dst {dst} dir {direction} "
                         f"tmpl src {src} dst {dst} proto esp mode transport reqid 1")  # fmt: skip
    send_a_megabyte(lab)
    packets = re.findall(r"\(bytes\), (\d+)\(packets\)", lab.run("right", "ip", "-s", "xfrm", "state"))
    assert max(map(int, packets)) > 500, "a megabyte crossed in ESP"
    for node in ("left", "right"):
        lab.sh(node, "ip xfrm policy flush; ip xfrm state flush")


def test_unknown_things_are_sentences(lab: Lab) -> None:
    with pytest.raises(LabError, match="there is no node nowhere; the lab has left, router, right"):
        lab.run("nowhere", "true")
    with pytest.raises(LabError, match="has no fleet file"):
        lab.client.ask("drill", names=["charon-sigkill"])
    with pytest.raises(LabError, match="does not understand `dance`"):
        lab.client.ask("dance")
