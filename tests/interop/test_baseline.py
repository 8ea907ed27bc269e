"""labs/baseline: other people's daemons read what they are given there; its drills are those of docs/baseline.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anycast.fleet.loading import load
from anycast_lab import topology
from anycast_lab.drills.drill import Tier, load_drills
from anycast_lab.machines import prepare
from anycast_lab.machines.pki import Root, write_secret
from tests.support.namespace import in_namespace

TREE = Path(__file__).resolve().parents[2]
BASELINE = TREE / "labs/baseline"
TOPOLOGIES = {"documented": "baseline", "tuned": "baseline-tuned"}
GATEWAYS = ("gw1", "gw2")
EACH = pytest.mark.parametrize(("variant", "gateway"), [(v, g) for v in TOPOLOGIES for g in GATEWAYS])
CHARON = Path("/usr/lib/ipsec/charon")
LO = "ip link set lo up; for i in 1 2 3; do ip link add eth$i type veth peer name far$i; ip link set eth$i up; done; "


def filled(variant: str, gateway: str, file: str, to: Path, **instead: str) -> Path:
    """As `labs/baseline/start` writes it; `instead`: other folders than a lab's machine has."""
    words = [str(BASELINE / "fill"), variant, gateway, file]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert not re.search(r"@\w+@", done.stdout), "a value that no gateway has"
    text = done.stdout.replace("/etc/baseline/", f"{BASELINE}/")
    for old, new in instead.items():
        text = text.replace(old, new)
    path = to / file
    path.write_text(text)
    return path


def say(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, check=False, capture_output=True, text=True, timeout=60, env=env)


@EACH
def test_exabgp_takes_it(variant: str, gateway: str, tmp_path: Path) -> None:
    done = say(sys.executable, "-m", "exabgp", "validate", str(filled(variant, gateway, "exabgp.conf", tmp_path)))
    assert done.returncode == 0, done.stdout + done.stderr


@EACH
def test_its_healthchecks_know_every_option(variant: str, gateway: str, tmp_path: Path) -> None:
    """Run to their end: an interval of 0 is one announcement. ExaBGP itself never looks at what it starts."""
    conf = filled(variant, gateway, "exabgp.conf", tmp_path).read_text()
    for command in re.findall(r"^\s*run (.*);$", conf, re.MULTILINE):
        words = re.sub(r'--(?:interval|rise|fall) \S+|--cmd "[^"]+"', "", command).split()
        done = say(sys.executable, *words[1:], "--interval", "0", "--rise", "1", "--no-ack")
        address = words[words.index("--next-hop") + 1]
        assert f"next-hop {address}" in done.stdout, done.stdout + done.stderr


@pytest.mark.root
@EACH
def test_keepalived_takes_it(variant: str, gateway: str, tmp_path: Path) -> None:
    if shutil.which("keepalived") is None:
        pytest.skip("missing: keepalived")
    path = filled(variant, gateway, "keepalived.conf", tmp_path)
    done = say("unshare", "-n", "sh", "-c", f"{LO} exec keepalived --config-test --use-file {path}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.root
@EACH
def test_conntrackd_takes_it(variant: str, gateway: str, tmp_path: Path) -> None:
    """It has no test of its own: it reads the file, then finds that no daemon answers."""
    if shutil.which("conntrackd") is None:
        pytest.skip("missing: conntrackd")
    path = filled(variant, gateway, "conntrackd.conf", tmp_path)
    done = say("unshare", "-n", "sh", "-c", f"{LO} exec conntrackd -C {path} -s")
    said = done.stdout + done.stderr
    assert "can't connect" in said and "pars" not in said and "invalid" not in said and "WARNING" not in said, said


@pytest.mark.skipif(not CHARON.exists(), reason="missing: charon")
@in_namespace
def test_charon_takes_it_with_the_ha_plugin() -> None:
    base = Path("/run/baseline")
    (base / "private").mkdir(parents=True)
    issued, clients = Root("gateways").issue("vpn.example.org"), Root("clients")
    write_secret(base / "gateway.crt", issued.certificate)
    write_secret(base / "private/gateway.key", issued.private_key)
    write_secret(base / "client-ca.crt", clients.certificate)
    addresses = "ip address add 192.0.2.65 dev lo; ip address add 192.0.2.66 dev lo"
    subprocess.run(["sh", "-ec", f"ip link set lo up; {addresses}"], check=True)
    for variant in TOPOLOGIES:
        for gateway in GATEWAYS:
            settings = filled(variant, gateway, "strongswan.conf", base, **{"/var/log/": f"{base}/"})
            connections = filled(variant, gateway, "swanctl.conf", base, **{"/etc/anycast/secrets": str(base)})
            environment = {**os.environ, "STRONGSWAN_CONF": str(settings), "SWANCTL_DIR": str(base)}
            with subprocess.Popen([str(CHARON)], env=environment, stderr=subprocess.DEVNULL) as charon:
                try:
                    _loads(connections, environment)
                finally:
                    charon.terminate()


def _loads(connections: Path, environment: dict[str, str]) -> None:
    """charon, which is about to come up, takes them."""

    def swanctl(*words: str) -> subprocess.CompletedProcess[str]:
        return say("swanctl", *words, "--uri", "unix:///run/charon.vici", env=environment)

    end = time.monotonic() + 20
    while (stats := swanctl("--stats")).returncode:  # its socket is there before it listens
        assert time.monotonic() < end, "charon does not come up"
        time.sleep(0.1)
    assert re.search(r"loaded plugins:.*\bha\b", stats.stdout) and Path("/run/charon.ha").is_fifo(), stats.stdout
    told = swanctl("--load-all", "--file", str(connections))
    assert told.returncode == 0 and "successfully loaded 1 connections" in told.stdout, told.stdout + told.stderr


def test_its_drills_measure_and_are_what_the_document_tells() -> None:
    drills = load_drills()
    told = (TREE / "docs/baseline.md").read_text()
    ours = {"power-off": "mirror-power-off", "charon-sigkill": "mirror-charon-sigkill", "handover": "mirror-handover"}
    for fault, own in ours.items():
        faults = []
        for name, place in ((own, "site-pair"), *((f"{place}-{fault}", place) for place in TOPOLOGIES.values())):
            drill = drills[name]
            assert f"`{name}`" in told and drill.measures and drill.topology == place
            assert drill.foreign == (place != "site-pair")
            faults.append(drill.steps[:2])
            if drill.foreign:
                assert drill.tier is Tier.BENCH and len(drill.checks) == 1, "a figure, no verdict"
        assert faults[0] == faults[1] == faults[2], "the same load, as long, before the fault"


@pytest.mark.parametrize("name", TOPOLOGIES.values())
def test_its_addresses_are_those_of_site_pair(name: str) -> None:
    """The same machines: what differs is what runs on the gateways."""
    labs = TREE / "labs/topologies"
    theirs, ours = (load(prepare.fleet_file(labs / f"{one}.clab.yml")) for one in (name, "site-pair"))
    assert theirs.lab is not None and ours.lab is not None
    assert (theirs.service.vips, theirs.service.prefixes) == (ours.service.vips, ours.service.prefixes)
    assert theirs.lab.clients == ours.lab.clients
    here, there = theirs.sites["home"], ours.sites["home"]
    assert here.vrrp is not None and there.vrrp is not None
    assert (here.uplink, here.pools, here.vrrp.outside) == (there.uplink, there.pools, there.vrrp.outside)
    assert here.gateways["gw1"].uplink == there.gateways["gw1"].uplink
    nodes = topology.load(labs / f"{name}.clab.yml").nodes
    assert set(nodes) == set(topology.load(labs / "site-pair.clab.yml").nodes) - {"crowd"}
    variant = {"baseline": "documented", "baseline-tuned": "tuned"}[name]
    assert nodes["gw1"].env["BASELINE"] == variant
