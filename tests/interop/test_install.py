"""The installer on a fresh Debian, made by mmdebstrap from this machine's own package sources.

It stands for "a stranger's machine": it has a policy-rc.d and an enabled unit of its own, an odd pip.conf, and an
administrator who presses Ctrl-C. Afterwards it must be enabled for nothing new, and a second run must do nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tree import TREE, tracked

pytestmark = [pytest.mark.root, pytest.mark.long]

CLONE = "/srv/clone"
SECOND_RUN_S = 2.0
ENTER = """
set -e
mount --make-rprivate /
mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"; mount -t tmpfs tmpfs "$0/run"
exec chroot "$0" "$@"
"""
POLICY = b"#!/bin/sh\n# an operator's own\nexit 0\n"
UNPRIVILEGED = "64180"


class FreshMachine:
    def __init__(self, root: Path) -> None:
        self.root = root

    def start(self, *command: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", ENTER, str(self.root), *command],
            env=os.environ | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, **env: str) -> tuple[int, str]:
        process = self.start(*command, **env)
        output, _ = process.communicate(timeout=600)
        return process.returncode, output

    def enabled(self) -> set[str]:
        """Everything that would start something at the next boot."""
        units = (self.root / "etc/systemd/system").rglob("*")
        scripts = self.root.glob("etc/rc?.d/S*")
        return {str(path.relative_to(self.root)) for path in (*units, *scripts) if path.is_symlink()}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshMachine]:
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is missing: it makes the fresh Debian")
    root = tmp_path_factory.mktemp("fresh") / "root"
    root.parent.chmod(0o755)
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    sources = [p for p in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list") if os.path.exists(p)]
    # In a mount namespace of its own; what mmdebstrap mounts ends with it.
    command = ["mmdebstrap", "--quiet", "--variant=minbase", release["VERSION_CODENAME"], str(root), *sources]
    subprocess.run(["unshare", "--mount", *command], check=True)
    for name in ("resolv.conf", "hosts"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    if os.path.isdir("/usr/local/share/ca-certificates"):
        shutil.copytree("/usr/local/share/ca-certificates", root / "usr/local/share/ca-certificates", dirs_exist_ok=True)
    clone = root / CLONE[1:]
    clone.mkdir(parents=True)
    for path in tracked():
        target = clone / path.relative_to(TREE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_bytes(POLICY)
    policy.chmod(0o711)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (root / "etc/systemd/system/mine.service").write_text("[Service]\nExecStart=/bin/true\n")
    (wants / "mine.service").symlink_to("/etc/systemd/system/mine.service")
    (root / "etc/pip.conf").write_text("[install]\nuser = true\n")
    yield FreshMachine(root)
    shutil.rmtree(root)


def unharmed(machine: FreshMachine, before: set[str]) -> None:
    assert machine.enabled() == before
    policy = machine.root / "usr/sbin/policy-rc.d"
    assert policy.read_bytes() == POLICY
    assert policy.stat().st_mode & 0o777 == 0o711
    assert not list(policy.parent.glob("policy-rc.d?*"))


def test_without_root_it_says_one_sentence(machine: FreshMachine) -> None:
    status, output = machine.run("setpriv", f"--reuid={UNPRIVILEGED}", "--clear-groups", f"{CLONE}/install/install.sh")
    assert status == 1
    assert len(output.splitlines()) == 1
    assert "must be run as root" in output


def test_an_interrupted_run_leaves_the_machine_as_it_was(machine: FreshMachine) -> None:
    before = machine.enabled()
    # exec in the namespace: the signal reaches the installer itself, apt goes on to its end.
    process = machine.start(f"{CLONE}/install/install.sh")
    assert process.stdout is not None
    assert any("Setting up" in line for line in process.stdout), "nothing was installed"
    assert (machine.root / "usr/sbin/policy-rc.d").read_bytes() != POLICY, "services could start while apt runs"
    process.send_signal(signal.SIGTERM)
    process.stdout.read()
    assert process.wait() == 128 + signal.SIGTERM
    unharmed(machine, before)


def test_it_installs_enables_nothing_and_then_has_nothing_to_do(machine: FreshMachine) -> None:
    before = machine.enabled()
    status, output = machine.run(f"{CLONE}/install/install.sh", PIP_TARGET="/tmp/elsewhere", PIP_USER="1")
    assert status == 0, output
    unharmed(machine, before)
    assert not (machine.root / "tmp/elsewhere").exists()

    started = time.monotonic()
    status, output = machine.run(f"{CLONE}/install/install.sh")
    assert time.monotonic() - started < SECOND_RUN_S
    assert status == 0
    assert [line.partition("] ")[2] for line in output.splitlines()] == [
        "Debian packages: all there",
        ".venv: requirements.txt as pinned",
        "installed",
    ]


def test_another_user_can_run_the_product_from_another_place(machine: FreshMachine) -> None:
    """ExaBGP's account sees the tree at /opt/anycast only, and cannot read the place it was installed in."""
    imports = "import anycast, exabgp_bridge, exabgp, site_agent, anycast_lab; print(exabgp_bridge.__file__)"
    script = (
        f"mkdir -p /opt/anycast && mount --bind {CLONE} /opt/anycast && chmod 700 /srv && "
        f"exec setpriv --reuid={UNPRIVILEGED} --clear-groups /opt/anycast/.venv/bin/python -c '{imports}'"
    )
    status, output = machine.run("sh", "-c", script)
    (machine.root / "srv").chmod(0o755)
    assert status == 0, output
    assert output.startswith("/opt/anycast/")
