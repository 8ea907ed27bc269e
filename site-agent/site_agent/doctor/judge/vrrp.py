"""The two gateways of a site and what lies between them: the other router's kind, the seal's keys, the pace. Pure."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping

from site_agent.doctor.finding import Finding, Kind, Severity
from site_agent.vrrp.pair_keys import OLD_AFTER_DAYS

INTEROP = Kind(
    id="vrrp_interop",
    looks_at="`vrrp.interop` of the fleet: whether advertisements are sealed",
    why="whoever can send on the link can become Active, a Backup is not heard, and every handover leaves a gap",
    worst=Severity.RISKY,
)
KEYS = Kind(
    id="vrrp_keys",
    looks_at="the pair's key file: there, understood, for root alone; the age of its keys; a rotation left half way",
    why="without it this gateway never serves the site's address; whoever has read it can speak as either gateway",
    worst=Severity.WRONG,
)
PEER_KEYS = Kind(
    id="vrrp_peer_keys",
    looks_at="advertisements that the running agent's vrrp process refuses for their seal while it hears nobody",
    why="two gateways with different keys do not hear each other, and both become Active",
    worst=Severity.WRONG,
)
PACE = Kind(
    id="vrrp_pace",
    looks_at="below 50 ms: real-time priority and locked memory of the vrrp process",
    why="an advertisement that a busy machine sends late makes the other gateway take over from one that serves well",
    worst=Severity.RISKY,
)
KINDS = (INTEROP, KEYS, PEER_KEYS, PACE)

FAST_MS = 50
"""Below, late ticks of an ordinary process are as long as the time after which a Backup takes over."""
HALF_WAY_DAYS = 7
"""For three steps on two gateways."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeldKey:
    id: int
    in_use: bool
    age_days: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeyFileReading:
    path: str
    problem: str = ""
    """Why it cannot be used; then there are no keys."""
    missing: bool = False
    untrusted: str = ""
    """The file or folder that others may write, or read."""
    keys: tuple[HeldKey, ...] = ()
    """Oldest first."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReading:
    """What the running agent says of its vrrp process, and the kernel of the process."""

    peer_silent: bool
    discarded: Mapping[str, int]
    """By ``path:cause``."""
    real_time: bool | None
    """None: could not be looked at."""
    locked: bool | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VrrpReading:
    site: str
    interop: str
    """``none`` where advertisements are sealed."""
    peer: str
    """The other gateway of this fleet; empty where the other router is none."""
    interval_ms: int
    key_file: KeyFileReading | None
    """None without a seal, or where it may not be looked at."""
    process: ProcessReading | None
    """None where no agent answers."""


def judge(reading: VrrpReading) -> Iterator[Finding]:
    yield _interop(reading)
    if (file := reading.key_file) is not None:
        yield from _keys(file)
        if reading.process is not None:
            yield _peer_keys(reading, file, reading.process)
    if (finding := _pace(reading)) is not None:
        yield finding


def _interop(reading: VrrpReading) -> Finding:
    if reading.interop == "none":
        return INTEROP.ok("sealed")
    seen = (
        f"interop: {reading.interop}: no seal, no word from a Backup, nothing made before it breaks; an advertisement from "
        "the link is believed whoever sent it"
    )
    if not reading.peer:
        return INTEROP.found(Severity.NOTE, f"{seen}; meant so where the other router is no gateway of this fleet")
    mend = f"# the other one, {reading.peer}, is a gateway of this fleet: remove `interop` from sites.{reading.site}.vrrp"
    return INTEROP.found(Severity.RISKY, seen, mend, "site-agent keys new  # then copy the file to the other one")


def _keys(file: KeyFileReading) -> Iterator[Finding]:
    path = shlex.quote(file.path)
    rotate = f"site-agent keys rotate {path}  # the next of three steps; it says what to copy where"
    if file.missing:
        new = f"site-agent keys new {path}  # on one gateway; then copy it to the other: scp -p"
        yield KEYS.found(Severity.WRONG, f"{file.path}: there is none", new)
    elif file.untrusted:
        place = shlex.quote(file.untrusted)
        mode = "600" if file.untrusted == file.path else "go-w"
        mend = [f"chown root: {place} && chmod {mode} {place}"]
        if file.untrusted == file.path:
            mend.append(rotate.replace("# the", "# others may have read it: the"))
        yield KEYS.found(Severity.WRONG, f"{file.untrusted}: {file.problem}", *mend)
    elif file.problem:
        mend = [f"# copy the other gateway's file to {file.path}, or remove both and make one:"]
        yield KEYS.found(Severity.WRONG, f"{file.path}: {file.problem}", *mend, f"site-agent keys new {path}")
    else:
        (used,) = (key for key in file.keys if key.in_use)
        newest = file.keys[-1]
        if used.age_days > OLD_AFTER_DAYS:
            seen = f"{file.path}: key {used.id} has sealed for {used.age_days} days: who has had a copy may have one still"
            yield KEYS.found(Severity.NOTE, seen, rotate)
        elif len(file.keys) > 1 and newest.age_days > HALF_WAY_DAYS:
            held = ", ".join(f"key {key.id}{' (in use)' if key.in_use else ''}" for key in file.keys)
            seen = f"{file.path}: {held}: a rotation was begun {newest.age_days} days ago and not ended"
            yield KEYS.found(Severity.NOTE, seen, rotate)
        else:
            yield KEYS.ok(f"{file.path}: key {used.id} in use, {used.age_days} days old")


def _peer_keys(reading: VrrpReading, file: KeyFileReading, process: ProcessReading) -> Finding:
    refused = sum(count for cause, count in process.discarded.items() if cause.endswith(":seal"))
    if not process.peer_silent or not refused:
        return PEER_KEYS.ok("the other gateway is heard" if not process.peer_silent else "nothing was refused for its seal")
    path, other = shlex.quote(file.path), reading.peer or "OTHER-GATEWAY"
    seen = f"{refused} advertisements were refused for their seal, and {other} is not heard: its keys are others, or none"
    copy = f"scp -p {path} root@{other}:{path}"
    return PEER_KEYS.found(Severity.WRONG, seen, "site-agent keys show  # on both: the fingerprints must be the same", copy,
                           "site-agent apply  # on both")  # fmt: skip


def _pace(reading: VrrpReading) -> Finding | None:
    if reading.interval_ms >= FAST_MS:
        return PACE.ok(f"{reading.interval_ms} ms between two advertisements")
    process = reading.process
    if process is None or process.real_time is None or process.locked is None:
        return None
    lacking = [name for name, there in (("real-time priority", process.real_time), ("locked memory", process.locked))
               if not there]  # fmt: skip
    if not lacking:
        return PACE.ok(f"{reading.interval_ms} ms, with real-time priority and locked memory")
    seen = f"{reading.interval_ms} ms between two advertisements, without {' and '.join(lacking)}"
    return PACE.found(
        Severity.RISKY,
        seen,
        "# run it by the unit of site-agent/systemd/, which grants CAP_SYS_NICE and CAP_IPC_LOCK; or in fleet.yaml",
        f"# sites.{reading.site}.vrrp.interval: {FAST_MS} ms or more",
    )
