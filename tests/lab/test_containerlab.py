"""The containerlab runner: real containerlab and dockerd inside User Mode Linux, with what `labs/images/build` made.

All is `long`: a lab takes minutes. What has to be prepared (`labs/containerlab install`, `labs/images/build --disk`)
is prepared by the first test that needs it, or is there already.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast_lab.containerlab import images
from anycast_lab.control.launch import CHECKOUT
from tests.support.containerlab_images import prepare
from tests.support.host import unchanged
from tests.support.lab_watch import ends_with_us
from tests.support.namespace import in_namespace

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.long]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
UP_S = 900
"""An end to waiting; the bound stands in labs/limits.yml."""
SMALL = """\
name: small
topology:
  defaults: {kind: linux, network-mode: none}
  nodes:
    a: {image: anycast/gateway:lab, exec: [ip addr add 192.0.2.1/24 dev eth1]}
    b: {image: %s, exec: [ip addr add 192.0.2.2/24 dev eth1]}
    c: {image: anycast/router:lab}
  links:
    - endpoints: ["a:eth1", "b:eth1"]
"""
SECRET = "^-----BEGIN ([A-Z ]*PRIVATE KEY|CERTIFICATE)"


def anycast(*words: str, expect: int = 0) -> str:
    done = subprocess.run([ANYCAST, "lab", *words], capture_output=True, text=True, timeout=UP_S, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout if expect == 0 else done.stdout + done.stderr


@contextlib.contextmanager
def lab(topology: Path, name: str) -> Iterator[str]:
    name = ends_with_us(name)
    anycast("up", "--runner", "containerlab", "-t", str(topology), "-n", name)
    try:
        yield name
    finally:
        anycast("down", "-n", name)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    prepare()
    file = tmp_path_factory.mktemp("small") / "small.clab.yml"
    file.write_text(SMALL % "anycast/client:lab")
    with lab(file, f"small-{os.getpid()}") as name:
        yield name


ROLE_OF = {"a": "gateway", "b": "client", "c": "router"}


@pytest.mark.parametrize("node", ROLE_OF)
def test_an_image_holds_its_list_and_no_secret(small: str, node: str) -> None:
    have = anycast("exec", "-n", small, node, "--", "dpkg-query", "-W", "-f", "${Package}\n").split()
    wanted = images.packages((images.IMAGES / f"{ROLE_OF[node]}.packages").read_text())
    assert set(wanted) <= set(have)
    folders = ("/etc", "/opt", "/root", "/home", "/srv", "/usr", "/var")
    search = ("exec", "-n", small, node, "--", "grep", "-rlIE", SECRET, *folders)
    found = subprocess.run([ANYCAST, "lab", *search], capture_output=True, text=True, timeout=UP_S, check=False)
    assert found.returncode == 1 and not found.stdout, "no file holds a key or a certificate"


def test_our_code_is_a_wheel_of_the_image(small: str) -> None:
    where = anycast("exec", "-n", small, "a", "--", "python", "-c", "import site_agent; print(site_agent.__file__)")
    assert where.startswith("/opt/anycast/lib/python3")
    pins = dict(line.split("==") for line in (CHECKOUT / "requirements.txt").read_text().splitlines() if "==" in line)
    code = (
        "import importlib.metadata, json, sys; print(json.dumps({n: importlib.metadata.version(n) for n in sys.argv[1:]}))"
    )
    assert json.loads(anycast("exec", "-n", small, "a", "--", "python", "-c", code, *pins)) == pins


def test_a_process_may_have_real_time_priority(small: str) -> None:
    """As VRRP takes it. A group of cgroup v1's `cpu` would have no time for it in this kernel."""
    anycast("exec", "-n", small, "a", "--", "chrt", "--fifo", "10", "true")


def test_a_power_cycle_keeps_cables_and_forgets_memory(small: str) -> None:
    anycast("exec", "-n", small, "b", "--", "touch", "/run/memory", "/var/lib/disk")
    ping = ("exec", "-n", small, "a", "--", "ping", "-c1", "-W2", "192.0.2.2")
    anycast(*ping)
    anycast("fault", "-n", small, "power_off", "b")
    assert "is powered off" in anycast("exec", "-n", small, "b", "--", "true", expect=1)
    anycast(*ping, expect=1)
    anycast("fault", "-n", small, "power_on", "b")
    anycast(*ping)
    assert (
        anycast("exec", "-n", small, "b", "--", "ls", "/run/memory", "/var/lib/disk", expect=2).split()[0] == "/var/lib/disk"
    )


def test_an_impaired_link(small: str) -> None:
    anycast("impair", "-n", small, "b", "eth1", "--delay-ms", "300")
    said = anycast("exec", "-n", small, "a", "--", "ping", "-c1", "-W2", "192.0.2.2")
    assert float(said.split("time=")[1].split()[0]) >= 300
    anycast("impair", "-n", small, "b", "eth1", "--loss", "100")
    anycast("exec", "-n", small, "a", "--", "ping", "-c1", "-W1", "192.0.2.2", expect=1)
    anycast("impair", "-n", small, "b", "eth1")
    anycast("exec", "-n", small, "a", "--", "ping", "-c1", "-W2", "192.0.2.2")


def test_a_silent_link_and_a_frozen_node(small: str) -> None:
    ping = ("exec", "-n", small, "a", "--", "ping", "-c1", "-W2", "192.0.2.2")
    # The neighbour that was asked for in vain is given up a second after that ping, and with it the next one's first packet.
    again = ("exec", "-n", small, "a", "--", "ping", "-c4", "-W2", "192.0.2.2")
    for fault, mend, end in (
        ("link_mute", "link_unmute", ("eth1",)),
        ("link_down", "link_up", ("eth1",)),
        ("freeze", "thaw", ()),
    ):
        anycast("fault", "-n", small, fault, "b", *end)
        anycast(*ping, expect=1)
        anycast("fault", "-n", small, mend, "b", *end)
        anycast(*again)


@contextlib.contextmanager
def _file(text: str) -> Iterator[str]:
    """Not below /run, which a lab does not see."""
    with tempfile.TemporaryDirectory(prefix="containerlab-") as folder:
        path = Path(folder, "small.clab.yml")
        path.write_text(text)
        yield str(path)


@in_namespace
def test_a_deploy_that_fails_names_the_node_and_leaves_the_host_as_it_was() -> None:
    prepare()
    for image, command, told in (
        ("anycast/nowhere:lab", "ip addr", "no image anycast/nowhere:lab"),
        ("anycast/client:lab", "false", "false"),
    ):
        with _file((SMALL % image).replace("ip addr add 192.0.2.2/24 dev eth1", command)) as file, unchanged():
            said = anycast("up", "--runner", "containerlab", "-t", file, expect=1)
        assert "b: " in said and told in said


@in_namespace
def test_the_host_is_as_it_was_after_a_crash() -> None:
    prepare()
    with _file(SMALL % "anycast/client:lab") as file, unchanged():
        up = subprocess.Popen(
            [ANYCAST, "lab", "up", "--runner", "containerlab", "-t", file], stderr=subprocess.PIPE, text=True
        )
        assert up.stderr is not None
        assert any("containerlab creates" in line for line in up.stderr), "killed in the middle of a deploy"
        up.send_signal(signal.SIGKILL)
        up.wait()
        anycast("down", "-t", file)
