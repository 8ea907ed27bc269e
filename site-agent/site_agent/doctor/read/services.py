"""Reads what `judge/services.py` judges. systemd is not asked but its folders: enabling is a link in one of them."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from pathlib import Path

from site_agent.doctor.judge.services import APPARMOR_FOLDER, HostnameReading, ProfileReading, ServicesReading
from site_agent.doctor.read.kernel import unit_of
from site_agent.doctor.read.patient import Patient
from site_agent.doctor.read.sight import Sight

UNITS = ("strongswan.service", "strongswan-starter.service", "strongswan-swanctl.service", "ipsec.service")
SYSTEMD_FOLDER = Path("/etc/systemd/system")
NEEDRESTART_FOLDER = Path("/etc/needrestart")
RESOLVE_LIMIT_S = 3.0
_RESTART = re.compile(r"^\s*\$nrconf\{restart\}\s*=\s*['\"]a['\"]", re.MULTILINE)
_SPARED = re.compile(r"^\s*\$nrconf\{override_rc\}.*(?:strongswan|charon).*=\s*0", re.MULTILINE)
_BLACKLIST = re.compile(r'^Unattended-Upgrade::Package-Blacklist:: "(.*)";$', re.MULTILINE)
_PERIODIC = re.compile(r'^APT::Periodic::Unattended-Upgrade "(.*)";$', re.MULTILINE)


def read_services(sight: Sight, patient: Patient) -> ServicesReading:
    apt = sight.answer_of(["apt-config", "dump"]) or ""
    periodic = _PERIODIC.search(apt)
    restart = "\n".join(
        text
        for path in (NEEDRESTART_FOLDER / "needrestart.conf", *sight.files_in(NEEDRESTART_FOLDER / "conf.d"))
        if (text := sight.text_of(path)) is not None
    )
    return ServicesReading(
        charons=patient.pids,
        uncertain=patient.uncertain,
        unit=unit_of(sight, patient.pids[0]) if patient.pids else "",
        enabled_units=tuple(unit for unit in UNITS if _enabled(unit)),
        systemd=Path("/run/systemd/system").is_dir(),  # sd_booted(3)
        ours=patient.document is not None,
        upgrades=periodic[1] if periodic is not None else "",
        not_upgraded=tuple(_BLACKLIST.findall(apt)),
        needrestart=_RESTART.search(restart) is not None and _SPARED.search(restart) is None,
    )


def read_profiles(sight: Sight, patient: Patient) -> list[ProfileReading]:
    """Profiles that are enforced and meet files of ours; none where AppArmor is off or nothing is rendered."""
    document = patient.document
    if document is None or (sight.text_of("/sys/module/apparmor/parameters/enabled") or "N").strip() != "Y":
        return []
    secrets = sorted({str(Path(file).parent) for file in (document.service.certificate, document.service.private_key)})
    wanted = {
        "usr.lib.ipsec.charon": (f"{patient.etc_dir}/** r,", "/run/site-agent/charon.* rw,"),
        "usr.sbin.swanctl": (
            f"{patient.etc_dir}/** r,",
            "/run/site-agent/charon.vici rw,",
            *(f"{folder}/** r," for folder in secrets),
        ),
    }
    folder = Path(APPARMOR_FOLDER)
    return [
        ProfileReading(name=name, local=sight.text_of(folder / "local" / name) or "", needed=needed)
        for name, needed in wanted.items()
        if (folder / name).exists() and not (folder / "disable" / name).exists()
    ]


def read_hostname() -> HostnameReading:
    """Asked as ExaBGP asks, but by a child that can be ended."""
    name = socket.gethostname()
    began = time.monotonic()
    try:
        done = subprocess.run(
            ["getent", "ahosts", name], capture_output=True, timeout=RESOLVE_LIMIT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return HostnameReading(name=name, took_s=None)
    return HostnameReading(name=name, took_s=time.monotonic() - began if done.returncode == 0 else None)


def _enabled(unit: str) -> bool:
    masked = SYSTEMD_FOLDER / unit
    if masked.is_symlink() and str(masked.readlink()) == "/dev/null":
        return False
    return any(SYSTEMD_FOLDER.glob(f"*.wants/{unit}"))
