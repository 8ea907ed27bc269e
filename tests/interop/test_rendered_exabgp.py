"""The rendered exabgp.conf, read by ExaBGP's own parser."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from site_agent.render.exabgp import render_exabgp
from tests.support.documents import document
from tests.unit.test_rendered_files import pair

KEY_FILE = "/etc/anycast/secrets/bgp-fra-rtr.key"


def validate(conf: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "exabgp", "validate", "-nrv", str(conf)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("gateway", ["fra-gw1", "sin-gw1"])
def test_exabgp_takes_it_and_understands_the_same(gateway: str, tmp_path: Path) -> None:
    made = document(gateway)
    conf = tmp_path / "exabgp.conf"
    socket = tmp_path / "a folder" / "lease.sock"
    conf.write_text(render_exabgp(made, python=sys.executable, socket_path=socket, md5_keys={KEY_FILE: b'x{;"\\\n#k'}))
    done = validate(conf)
    assert done.returncode == 0, done.stdout + done.stderr
    understood = done.stdout + done.stderr
    for neighbor in made.bgp.neighbors:
        assert f"neighbor {neighbor.address} {{" in understood
        assert f"local-address {neighbor.local_address};" in understood
    sessions = len(made.bgp.neighbors)
    gtsm = sum(neighbor.gtsm for neighbor in made.bgp.neighbors)
    for line, times in {
        "hold-time 9;": sessions,
        "adj-rib-out false;": sessions,
        "graceful-restart disable;": sessions,
        "route-refresh disable;": sessions,
        "neighbor-changes;": sessions,
        "incoming-ttl 255;": gtsm,
        "outgoing-ttl 255;": gtsm,
        'md5-password "eHs7IlwKI2s=";': gtsm,
    }.items():
        assert understood.count(line) == times, line


def test_the_validation_can_refuse(tmp_path: Path) -> None:
    conf = tmp_path / "exabgp.conf"
    text = render_exabgp(document(), python=sys.executable, socket_path="/run/lease.sock", md5_keys={KEY_FILE: b"k"})
    conf.write_text(text.replace("hold-time 9;", "hold-tme 9;"))
    assert validate(conf).returncode != 0


def test_exabgp_takes_a_pairs_sessions_outside_and_inside(tmp_path: Path) -> None:
    made = pair("pair", "fra-gw1")
    conf = tmp_path / "exabgp.conf"
    conf.write_text(render_exabgp(made, python=sys.executable, socket_path="/run/lease.sock", md5_keys={}))
    done = validate(conf)
    assert done.returncode == 0, done.stdout + done.stderr
    understood = done.stdout + done.stderr
    assert {neighbor.side for neighbor in made.bgp.neighbors} == {"outside", "inside"}
    for neighbor in made.bgp.neighbors:
        assert f"neighbor {neighbor.address} {{" in understood
    assert understood.count("peer-as 64511;") == understood.count("peer-as 64601;") == 2
