"""What else on the machine starts, restarts, hides or hinders charon: units, packages, AppArmor, the host's name. Pure."""

from __future__ import annotations

import dataclasses
import re

from site_agent.doctor.finding import Finding, Kind, Severity

TWO_CHARONS = Kind(
    id="two_charons",
    looks_at="charons that run in this network namespace, and units that would start another",
    why="two charons fight for UDP 500 and for the kernel's policies, and each flushes what the other installed",
    worst=Severity.WRONG,
)
RESTARTS = Kind(
    id="restarts_charon",
    looks_at="unattended-upgrades and needrestart",
    why="an automatic upgrade at night restarts charon on every site at once, and with it every client loses its tunnel",
    worst=Severity.RISKY,
)
APPARMOR = Kind(
    id="apparmor",
    looks_at="AppArmor's profiles of charon and swanctl against the files that the agent renders",
    why="charon may not read its configuration and does not start",
    worst=Severity.WRONG,
)
HOSTNAME = Kind(
    id="hostname",
    looks_at="whether the host's own name resolves, at once",
    why="ExaBGP asks for it before its first session, and every session waits for the resolver's time-outs: 10 s and more",
    worst=Severity.RISKY,
)
KINDS = (TWO_CHARONS, RESTARTS, APPARMOR, HOSTNAME)

SLOW_S = 1.0
PACKAGES = ("strongswan", "libstrongswan", "libcharon", "charon-systemd")
"""As unattended-upgrades matches them: the beginning of a package's name."""
APPARMOR_FOLDER = "/etc/apparmor.d"
_ZERO = re.compile(r"0[smhd]?|")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServicesReading:
    charons: tuple[int, ...]
    """Pids that certainly are in our network namespace."""
    uncertain: tuple[int, ...]
    """Pids of which it could not be told whose network namespace they are in."""
    unit: str
    """systemd unit of the first of them; empty where none is known."""
    enabled_units: tuple[str, ...]
    """Units that start a charon at boot."""
    systemd: bool
    """This machine was booted by systemd; otherwise units start nothing."""
    ours: bool
    """There is a document: the agent starts charon."""
    upgrades: str
    """APT::Periodic::Unattended-Upgrade; empty or 0: none."""
    not_upgraded: tuple[str, ...]
    """Unattended-Upgrade::Package-Blacklist."""
    needrestart: bool
    """needrestart restarts services without asking, and no override spares charon's."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProfileReading:
    """One AppArmor profile that is enforced."""

    name: str
    """Its file's name below /etc/apparmor.d."""
    local: str
    """The operator's additions to it."""
    needed: tuple[str, ...]
    """Rules that must be among them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostnameReading:
    name: str
    took_s: float | None
    """None: it does not resolve."""


def judge(reading: ServicesReading) -> list[Finding]:
    return [*_charons(reading), _restarts(reading)]


def _charons(reading: ServicesReading) -> list[Finding]:
    """A charon that may be a stranger's is named without a line that ends it."""
    if not reading.uncertain:
        return [_beside(reading)]
    pids = ", ".join(map(str, reading.uncertain))
    note = TWO_CHARONS.found(Severity.NOTE, f"could not tell whose network namespace charon (pid {pids}) is in")
    return [finding for finding in (_beside(reading),) if finding.severity is not Severity.OK] + [note]


def _beside(reading: ServicesReading) -> Finding:
    units = reading.enabled_units if reading.systemd else ()
    extra = units if reading.ours else units[1:]
    if len(reading.charons) > 1:
        pids = ", ".join(map(str, reading.charons))
        mend = [_disable(unit) for unit in extra] or [f"kill {reading.charons[-1]}  # the younger one; ends its tunnels"]
        return TWO_CHARONS.found(Severity.WRONG, f"pids {pids} run beside each other", *mend)
    if extra:
        beside = "beside the agent's own" if reading.ours else f"beside {units[0]}"
        return TWO_CHARONS.found(
            Severity.WRONG, f"{', '.join(extra)} starts at boot, {beside}", *[_disable(unit) for unit in extra]
        )
    return TWO_CHARONS.ok("one charon" if reading.charons else "no charon runs")


def _disable(unit: str) -> str:
    return f"systemctl disable {unit}; systemctl mask {unit}; systemctl stop {unit}  # stopping it ends its tunnels"


def _restarts(reading: ServicesReading) -> Finding:
    exposed = []
    mend = []
    if _ZERO.fullmatch(reading.upgrades) is None and not spared(reading.not_upgraded):
        exposed.append("unattended-upgrades may upgrade strongSwan")
        names = " ".join(f'"{name}";' for name in PACKAGES)
        mend.append(
            f"echo 'Unattended-Upgrade::Package-Blacklist {{ {names} }};' > /etc/apt/apt.conf.d/90site-doctor"
            "  # then upgrade strongSwan yourself, one site after the other"
        )
    if reading.needrestart:
        exposed.append("needrestart restarts services without asking")
        mend.append(
            "mkdir -p /etc/needrestart/conf.d && echo '$nrconf{override_rc}{qr(^(strongswan|ipsec|charon|site-agent))} = 0;'"
            " > /etc/needrestart/conf.d/site-doctor.conf"
        )
    if not exposed:
        return RESTARTS.ok("nothing upgrades or restarts it by itself")
    if reading.ours and reading.unit == "site-agent.service" and not reading.needrestart:
        return RESTARTS.found(Severity.NOTE, f"{exposed[0]}; its package restarts the distribution's unit, not ours", *mend)
    return RESTARTS.found(Severity.RISKY, "; ".join(exposed), *mend)


def spared(patterns: tuple[str, ...]) -> bool:
    """Whether a blacklist of unattended-upgrades (regular expressions from the name's beginning) keeps strongSwan out."""
    for pattern in patterns:
        try:
            if re.match(pattern, "strongswan-charon"):
                return True
        except re.error:
            continue
    return False


def judge_profiles(readings: list[ProfileReading]) -> list[Finding]:
    found = []
    for reading in readings:
        have = {" ".join(line.split()) for line in reading.local.splitlines()}
        missing = [rule for rule in reading.needed if " ".join(rule.split()) not in have]
        if missing:
            lines = " ".join(f"'{rule}'" for rule in missing)
            mend = (
                f"printf '%s\\n' {lines} >> {APPARMOR_FOLDER}/local/{reading.name}",
                f"apparmor_parser -r {APPARMOR_FOLDER}/{reading.name}",
            )
            found.append(APPARMOR.found(Severity.WRONG, f"{reading.name} lacks {', '.join(missing)}", *mend))
    return found or [APPARMOR.ok("in nobody's way" if readings else "no profile of charon or swanctl is enforced")]


def judge_hostname(reading: HostnameReading) -> Finding:
    if reading.took_s is not None and reading.took_s < SLOW_S:
        return HOSTNAME.ok(reading.name)
    said = "does not resolve" if reading.took_s is None else f"took {reading.took_s:.1f} s to resolve"
    mend = f"echo '127.0.1.1 {reading.name}' >> /etc/hosts"
    return HOSTNAME.found(Severity.RISKY, f"{reading.name} {said}", mend)
