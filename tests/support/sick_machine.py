"""A gateway whose machine can be made sick: real charon with the rendered files, real interfaces, a private /etc.

Use inside `in_namespace` only. Everything that a mending command may write to is the test's own: /etc is a copy, /root and
/sys/module are empty file systems, what only the host may set is a file bound over its place.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anycast_lab.machines.pki import Root, write_secret
from site_agent.doctor.examination import examine
from site_agent.doctor.finding import Finding, Severity
from site_agent.ike.charon_process import CHARON
from site_agent.ike.swanctl import SWANCTL
from site_agent.installation import install, make_directories
from site_agent.paths import Paths
from tests.support.documents import document
from tests.support.gateway import ENVIRONMENT
from tests.support.upstream import until

BASE = Path("/run/test")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def sysctl(name: str, value: int) -> None:
    subprocess.run(["sysctl", "-qw", f"{name}={value}"], check=True)


def bind(content: str, over: str) -> Path:
    """Put a file of the test's own in place of one of the kernel's; returns where its content is."""
    fake = BASE / "fake" / over.strip("/").replace("/", "-")
    fake.parent.mkdir(parents=True, exist_ok=True)
    fake.write_text(content)
    subprocess.run(["mount", "--bind", str(fake), over], check=True)
    return fake


class SickMachine:
    """fra-gw1 of the two-site fleet, healthy until a test does something to it."""

    def __init__(self) -> None:
        BASE.mkdir()
        for command in (
            "cp -a /etc /run/etc && mount --bind /run/etc /etc",
            "mount -t tmpfs none /root",
            "mount -t tmpfs none /sys/module && mkdir -p /sys/module/esp4 /sys/module/esp6",
            # No unit of the build machine's is this machine's.
            "rm -rf /etc/systemd/system/*.wants /etc/needrestart /etc/apt/apt.conf.d/*unattended* /etc/nftables.conf",
        ):
            subprocess.run(["sh", "-c", command], check=True)
        secrets = BASE / "secrets"
        self.vpn, self.clients = Root("gateways"), Root("clients")
        self.document = document(secrets=secrets)
        service = self.document.service
        issued = self.vpn.issue(service.identity)
        self.certificate, self.key, self.client_ca = map(Path, (service.certificate, service.private_key, service.client_ca))
        write_secret(self.certificate, issued.certificate)
        write_secret(self.key, issued.private_key)
        write_secret(self.client_ca, self.clients.certificate)
        self.md5_keys = [Path(each.md5_key_file) for each in self.document.bgp.neighbors if each.md5_key_file]
        for key in self.md5_keys:
            write_secret(key, b"correct horse battery staple")
        self.document_file = BASE / "document.json"
        self.document_file.write_bytes(self.document.canonical())
        self.paths = Paths(run_dir=BASE / "run", state_dir=BASE / "state", etc_dir=BASE / "etc")
        make_directories(self.paths)
        install(self.document, self.paths, limit_s=60)
        self.conf, self.swanctl_conf = self.paths.etc_dir / "strongswan.conf", self.paths.etc_dir / "swanctl/swanctl.conf"
        self.environment = {
            **os.environ,
            "STRONGSWAN_CONF": str(self.conf),
            "SWANCTL_DIR": str(self.paths.etc_dir / "swanctl"),
        }
        self._wire()
        self.charon: subprocess.Popen[bytes] | None = None

    def _wire(self) -> None:
        sysctl("net.ipv6.conf.default.accept_dad", 0)
        ip("link", "set", "lo", "up")
        for vip in self.document.service.vips:
            ip("addr", "add", vip, "dev", "lo")
        for interface in (self.document.uplink, self.document.inside):
            ip("link", "add", interface.name, "type", "veth", "peer", "name", f"{interface.name}-far")
            for name in (interface.name, f"{interface.name}-far"):
                ip("link", "set", name, "up")
            for address in interface.addresses:
                ip("addr", "add", address, "dev", interface.name, *(["nodad"] if ":" in address else []))
        ip("route", "add", "default", "dev", self.document.uplink.name)
        ip("-6", "route", "add", "default", "dev", self.document.uplink.name)
        subprocess.run(["sysctl", "-qp", str(self.paths.etc_dir / "sysctl.conf")], check=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[SickMachine]:
        """charon with the rendered connection loaded."""
        with open(BASE / "charon.out", "wb") as log:
            self.charon = subprocess.Popen([CHARON], env=self.environment, stdout=log, stderr=log)
        try:
            until(self.paths.vici_socket.exists, "charon's socket", within_s=20)
            self.load()
            yield self
        finally:
            self.charon.kill()
            self.charon.wait()

    def load(self) -> None:
        """Load connections and secrets again."""
        subprocess.run([SWANCTL, "--load-all", "--noprompt"], env=self.environment, check=True, capture_output=True)

    def ask(self, *more: str, planned: bool = True, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """`site-agent doctor` as an operator runs it."""
        words = ["--document", str(self.document_file)] if planned else []
        folders = ["--etc-dir", str(self.paths.etc_dir), "--state-dir", str(self.paths.state_dir)]
        command = [sys.executable, "-m", "site_agent.cli", "doctor", *words, *folders, *more]
        return subprocess.run([*prefix, *command], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60)

    def examined(self, *more: str, planned: bool = True, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
        """Its answer as JSON."""
        done = self.ask("--json", *more, planned=planned, prefix=prefix)
        assert not done.stderr, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == answer["exit_status"]
        return answer

    def found(self, kind: str, *, planned: bool = True) -> list[Finding]:
        """What is wrong or risky of one kind. In this process: starting another takes ten times as long as looking."""
        examination = examine(document=self.document if planned else None, source="", etc_dir=self.paths.etc_dir, vici=None)
        bad = (Severity.WRONG, Severity.RISKY)
        return [finding for finding in examination.findings if finding.id == kind and finding.severity in bad]


def mend(*lines: str) -> None:
    """Run the lines of a finding as they stand there, as root would paste them."""
    assert lines, "no way to mend it"
    environment = {**os.environ, "SYSTEMD_OFFLINE": "1"}
    for line in lines:
        done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)
        # There is no systemd to stop a unit, no AppArmor to load a profile into, and no agent here.
        expected = re.search(r"systemctl (stop|restart)|apparmor_parser|exabgp.pid", line)
        assert done.returncode == 0 or expected, f"{line}\n{done.stdout}{done.stderr}"


def names_mends_and_is_content(
    machine: SickMachine,
    kind: str,
    severity: str,
    fault: Callable[[], object],
    after: Callable[[], object] = lambda: None,
    *,
    planned: bool = True,
) -> None:
    """`after` is what a mend says in words: sign a certificate, start a daemon anew."""
    assert not machine.found(kind, planned=planned), f"{kind}: not content before the fault"
    fault()
    found = machine.found(kind, planned=planned)
    assert found and severity in {finding.severity for finding in found}, f"{kind}: {found}"
    for finding in found:
        mend(*finding.mend)
    after()
    assert not machine.found(kind, planned=planned), f"{kind}: still there after its own mend"
