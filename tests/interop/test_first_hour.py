"""docs/first-hour.md shows what really happens: its commands are run on such a machine, and its lines are looked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import TREE
from tests.support.gateway import ENVIRONMENT
from tests.support.namespace import in_namespace
from tests.support.sick_machine import BASE, SickMachine, sysctl

pytestmark = pytest.mark.root

DOCUMENT = TREE / "docs" / "first-hour.md"
BLOCK = re.compile(r"^```console\n# (?P<command>site-agent [^\n]*)\n(?P<output>.*?)^```$", re.MULTILINE | re.DOTALL)
ELSEWHERE = "…"
"""A line that stands for others: what depends on the machine, or is of no use to the reader."""

STRONGSWAN_CONF = """
charon {
    load = random nonce x509 constraints pubkey pem pkcs8 openssl kdf kernel-netlink socket-default vici
}
"""
SWANCTL_CONF = """
connections {
    roadwarriors {
        local_addrs = 203.0.113.1
        pools = clients
        local {
            certs = gateway.crt
            id = vpn.example.org
        }
        remote {
            cacerts = clients.crt
        }
        children {
            net {
                local_ts = 192.0.2.0/28
                dpd_action = restart
            }
        }
    }
}
pools {
    clients {
        addrs = 203.0.113.64/27
    }
}
"""


def somebodys_gateway() -> SickMachine:
    """Debian's places, and mistakes that are often made."""
    machine = SickMachine()
    etc = Path("/etc/swanctl")
    for folder in ("x509", "x509ca", "private", *(each.name for each in (machine.paths.etc_dir / "swanctl").iterdir())):
        if "." not in folder:
            (etc / folder).mkdir(parents=True, exist_ok=True)
    (etc / "x509" / "gateway.crt").write_bytes(machine.certificate.read_bytes())
    (etc / "x509ca" / "clients.crt").write_bytes(machine.client_ca.read_bytes())
    (etc / "private" / "gateway.key").write_bytes(machine.key.read_bytes())
    (etc / "private" / "gateway.key").chmod(0o644)
    (etc / "swanctl.conf").write_text(SWANCTL_CONF)
    Path("/etc/strongswan.conf").write_text(STRONGSWAN_CONF)
    sysctl(f"net.ipv4.conf.{machine.document.uplink.name}.rp_filter", 1)
    machine.environment = {"PATH": os.environ["PATH"]}
    machine.paths = machine.paths.__class__(
        run_dir=Path("/run"), state_dir=machine.paths.state_dir, etc_dir=machine.paths.etc_dir
    )
    return machine


def comparable(line: str) -> str:
    """Numbers, dates and times are another machine's."""
    return re.sub(r"\d+", "0", " ".join(line.split()))


def blocks() -> Iterator[tuple[str, list[str]]]:
    for match in BLOCK.finditer(DOCUMENT.read_text()):
        yield match["command"], match["output"].splitlines()


@in_namespace
def test_the_first_hour_goes_as_it_is_written() -> None:
    ran = []
    with somebodys_gateway().running():
        for command, shown in blocks():
            if "--fleet" in command:
                continue  # shown for the command line's sake
            words = [sys.executable, "-m", "site_agent.cli", *command.split("#")[0].split()[1:]]
            done = subprocess.run(
                words, env={**ENVIRONMENT, "COLUMNS": "110"}, capture_output=True, text=True, check=False, timeout=60
            )
            said = [comparable(line) for line in done.stdout.splitlines()]
            (BASE / "said").write_text(done.stdout)
            at = 0
            for line in map(comparable, shown):
                if line and line != ELSEWHERE:
                    assert line in said[at:], f"`{command}` does not say: {line}\n{done.stdout}{done.stderr}"
                    at = said.index(line, at) + 1
            ran.append(command)
    assert len(ran) >= 2, "nothing in the document is a command with its output"
