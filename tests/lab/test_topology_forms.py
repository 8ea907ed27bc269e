"""What the loader reads the embedded runner does, on both kernels: bridges, dummies, waits, main processes, env-files.

a:eth1 ── sw ── b:eth1           192.0.2.0/28
b:eth2 ── inner (a bridge in c)  192.0.2.16/28
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast_lab.control import launch
from anycast_lab.control.client import Client
from anycast_lab.runner import LabError
from tests.lab.test_embedded import Lab, until
from tests.support.lab_watch import ends_with_us

pytestmark = [pytest.mark.root, pytest.mark.lab]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
DEADLINE_S = 180.0
TOPOLOGY = """\
name: forms
prefix: ""
topology:
  defaults:
    kind: linux
    binds: [__clabNodeDir__/own:/own]
  groups:
    quiet: {network-mode: none}
  nodes:
    a:
      group: quiet
      env-files: [a.env]
      env: {GIVEN: "${GIVEN}"}
      labels: {colour: red}
      cmd: sh -c 'echo "$FROM_FILE $GIVEN $CLAB_LABEL_COLOUR $CLAB_LABEL_CLAB_NODE_LONGNAME $CLAB_INTFS"; exec sleep 1000'
      exec:
        - ip addr add 192.0.2.1/28 dev eth1
        - ip addr add 192.0.2.33/32 dev d0
        - ip route add 192.0.2.48/28 dev d0
        - sh -c "echo __clabNodeName__ of __clabLabName__ >/own/name"
    b:
      group: quiet
      startup-delay: 1
      stages: {create: {wait-for: [{node: a, stage: configure}]}}
      exec: [ip addr add 192.0.2.2/28 dev eth1, ip addr add 192.0.2.18/28 dev eth2]
    c:
      entrypoint: sh
      exec: [ip addr add 192.0.2.17/28 dev inner]
    sw: {kind: bridge}
    inner|c: {kind: bridge, network-mode: "container:c"}
  links:
    - {type: veth, endpoints: [{node: a, interface: eth1, mac: "02:00:00:00:00:0a"}, {node: sw, interface: to-a}]}
    - endpoints: ["b:eth1", "sw:to-b"]
    - {endpoints: ["inner|c:to-b", "b:eth2"], mtu: 1400}
    - {type: dummy, mtu: 1300, endpoint: {node: a, interface: d0, mac: "02:00:00:00:00:0d"}}
"""


def up(folder: Path, topology: str, kernel: str, name: str) -> subprocess.CompletedProcess[str]:
    path = folder / "t.clab.yml"
    path.write_text(topology)
    (folder / "a.env").write_text("FROM_FILE='of a file'\nGIVEN=hidden by env\n")
    command = [ANYCAST, "lab", "up", "-t", path, "-n", name]
    environment = os.environ | {"LAB_KERNEL": kernel, "GIVEN": "given here"}
    return subprocess.run(command, check=False, timeout=DEADLINE_S, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module", params=["native", pytest.param("uml", marks=pytest.mark.long)])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("needs root to make namespaces")
    if request.param == "uml" and shutil.which("linux.uml") is None:
        pytest.skip("needs the package user-mode-linux")
    name = ends_with_us(f"forms-{request.param}-{os.getpid()}")
    done = up(tmp_path_factory.mktemp("forms"), TOPOLOGY, request.param, name)
    try:
        assert done.returncode == 0, done.stderr
        assert "no management network here, as if `network-mode: none` stood at c" in done.stderr
        assert "b is created in 1 s" in done.stderr
        client = Client.connect(name)
        yield Lab(client, "", request.param)
        client.close()
    finally:
        launch.stop(name)


def interface(lab: Lab, node: str, name: str) -> dict[str, object]:
    return dict(json.loads(lab.run(node, "ip", "-j", "-d", "link", "show", name))[0])


def test_a_bridge_of_the_labs_own_joins_what_is_cabled_to_it(lab: Lab) -> None:
    until(lambda: lab.answers("a", "192.0.2.2"))
    assert interface(lab, "a", "eth1")["address"] == "02:00:00:00:00:0a"
    assert interface(lab, "b", "eth1")["mtu"] == 9500
    assert lab.state("sw") == {"group": "", "state": "bridge", "role": "", "processes": 0, "links": ["a:eth1", "b:eth1"]}
    with pytest.raises(LabError, match="sw is a bridge: nothing runs in it"):
        lab.run("sw", "true")
    lab.fault("link_down", "sw", interface="to-b")
    assert not lab.answers("a", "192.0.2.2")
    lab.fault("link_up", "sw", interface="to-b")
    until(lambda: lab.answers("a", "192.0.2.2"))


def test_a_bridge_in_a_machine_lives_and_dies_with_it(lab: Lab) -> None:
    until(lambda: lab.answers("b", "192.0.2.17"))
    assert interface(lab, "c", "to-b")["master"] == "inner"
    lab.fault("power_off", "c")
    assert not lab.answers("b", "192.0.2.17")
    assert interface(lab, "b", "eth2")["operstate"] == "DOWN"
    lab.fault("power_on", "c")
    until(lambda: lab.answers("b", "192.0.2.17"))
    assert interface(lab, "c", "to-b")["mtu"] == 1400
    lab.fault("freeze", "c")
    assert not lab.answers("b", "192.0.2.17")
    lab.fault("thaw", "c")
    until(lambda: lab.answers("b", "192.0.2.17"))


def test_a_dummy_swallows_what_is_sent_there(lab: Lab) -> None:
    device = interface(lab, "a", "d0")
    assert (device["mtu"], device["address"]) == (1300, "02:00:00:00:00:0d")
    assert {"UP", "NOARP", "LOWER_UP"} <= set(device["flags"])  # type: ignore[call-overload]
    assert lab.answers("a", "192.0.2.33")
    said = lab.run("a", "ping", "-c", "1", "-W", "1", "192.0.2.49", expect=1)
    assert "100% packet loss" in said and "nreachable" not in said


def test_one_node_waits_for_another_and_then_for_its_delay(lab: Lab) -> None:
    born = {node: int(lab.run(node, "cut", "-d", " ", "-f", "22", "/proc/1/stat")) for node in ("a", "b")}
    assert born["b"] - born["a"] >= os.sysconf("SC_CLK_TCK"), "ticks of the node's init, which is created with it"


def test_a_main_process_has_its_environment_and_comes_back(lab: Lab) -> None:
    said = "of a file given here red a 2\n"
    until(lambda: lab.run("a", "cat", "/var/log/main.log") == said)
    lab.run("a", "pkill", "sleep")
    until(lambda: lab.run("a", "cat", "/var/log/main.log") == said * 2)
    assert lab.run("c", "pgrep", "-x", "sh"), "a shell without input waits"
    assert lab.run("a", "cat", "/own/name") == "a of clab-forms\n"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("binds: [/no/such/folder:/x]", "a: bind source /no/such/folder does not exist"),
        ("sysctls: {net.no.such: 1}", "a: sysctl net.no.such = 1: No such file or directory"),
        ("exec: [sh -c 'echo why >&2; exit 3']", "a: `sh -c echo why >&2; exit 3` ended with 3: why"),
    ],
)
def test_a_lab_that_cannot_come_up_says_at_which_node_and_is_gone(tmp_path: Path, line: str, sentence: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make namespaces")
    name = ends_with_us(f"failing-{os.getpid()}")
    text = f"name: failing\ntopology: {{nodes: {{b: {{kind: linux, network-mode: none}}, a: {{kind: linux, {line}}}}}}}\n"
    done = up(tmp_path, text, "native", name)
    assert done.returncode != 0 and sentence in done.stderr.replace("\n", " "), done.stderr
    assert launch.connect(name) is None
