"""Reads what `judge/bgp.py` judges: ExaBGP's configuration file, what BIRD or FRR say of their sessions, the agent of BFD's.

ExaBGP 5 tells the negotiated hold time to nobody who asks; BIRD and FRR do.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from anycast.document import Document
from anycast.errors import AnycastError
from site_agent import control
from site_agent.doctor.judge.bgp import Bfd, BgpReading
from site_agent.doctor.read.patient import Patient
from site_agent.doctor.read.sight import Sight
from site_agent.paths import Paths
from site_agent.procfs import same_namespace

_NEIGHBOR = re.compile(r"^\s*neighbor\s+([0-9a-fA-F:.]+)\s*\{(.*?)^\}", re.MULTILINE | re.DOTALL)
_HOLD_TIME = re.compile(r"^\s*hold-time\s+([0-9]+)\s*;", re.MULTILINE)
_BIRD_NEIGHBOR = re.compile(r"Neighbor address:\s+(\S+)")
_BIRD_HOLD = re.compile(r"Hold timer:\s+[0-9.]+/([0-9]+)")
EXABGP_DEFAULT_S = 180


def read_bgp(sight: Sight, patient: Patient) -> BgpReading | None:
    """None where nothing here speaks BGP."""
    document = patient.document
    file = patient.etc_dir / "exabgp.conf" if document is not None else _running_exabgp()
    text = None if file is None else sight.text_of(file, needs="root, or ExaBGP's group")
    configured = parse_exabgp(text or "")
    negotiated = {**_bird(sight), **_frr(sight)}
    if document is None and not configured and not negotiated:
        return None
    if document is not None and not negotiated:
        sight.miss("the hold time that each session agreed on: ExaBGP does not tell it")
    restart = ("systemctl restart exabgp  # withdraws its routes while it starts",)
    if document is not None:
        restart = (
            "systemctl restart site-agent && site-agent apply"
            "  # renders it anew and has ExaBGP read it: one WITHDRAW where a session changed",
        )
    return BgpReading(
        source=patient.source or "FLEET.yaml",
        document_s=None if document is None else document.bgp.hold_time_s,
        configured=configured or (negotiated if document is None else {}),
        config_file=str(file or ""),
        negotiated=negotiated,
        bfd=() if document is None else _bfd_sessions(sight, document),
        unguarded=()
        if document is None
        else tuple(n.name for n in document.bgp.neighbors if n.bfd is None and n.side == "outside"),
        restart=restart,
    )


def _bfd_sessions(sight: Sight, document: Document) -> tuple[Bfd, ...]:
    if not any(neighbor.bfd for neighbor in document.bgp.neighbors):
        return ()
    try:
        told = control.ask(Paths().control_socket, "status")
        states = {str(session["neighbor"]): session.get("bfd") for session in told["sessions"]}
    except (AnycastError, KeyError, TypeError, AttributeError):
        sight.miss("whether BFD is up: no agent answers", needs="root" if os.geteuid() else "")
        return ()
    return tuple(
        Bfd(name=n.name, router=n.address, gateway=n.local_address, state=str(states.get(n.address) or "not asked for"))
        for n in document.bgp.neighbors
        if n.bfd is not None
    )


def parse_exabgp(text: str) -> dict[str, int]:
    """Hold times in seconds by neighbor, of an ExaBGP configuration."""
    found = {}
    for neighbor, body in _NEIGHBOR.findall(text):
        said = _HOLD_TIME.search(body)
        found[neighbor] = EXABGP_DEFAULT_S if said is None else int(said[1])
    return found


def speaks_bgp(patient: Patient, reading: BgpReading | None) -> bool:
    return patient.document is not None or reading is not None


def _running_exabgp() -> Path | None:
    """The configuration that an ExaBGP of our network namespace was started with."""
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any("exabgp" in word for word in words[:3]) and same_namespace(int(process.name), "net"):
            for word in words:
                if word.endswith((".conf", ".ini")) and Path(word).is_absolute():
                    return Path(word)
    return None


def _bird(sight: Sight) -> dict[str, int]:
    if not any(Path(path).exists() for path in ("/run/bird/bird.ctl", "/run/bird.ctl")):
        return {}
    socket = "/run/bird/bird.ctl" if Path("/run/bird/bird.ctl").exists() else "/run/bird.ctl"
    told = sight.answer_of(["birdc", "-s", socket, "-r", "show", "protocols", "all"], needs="root, or group bird")
    found = {}
    for block in re.split(r"\n\n", told or ""):
        neighbor, hold = _BIRD_NEIGHBOR.search(block), _BIRD_HOLD.search(block)
        if neighbor is not None and hold is not None:
            found[neighbor[1]] = int(hold[1])
    return found


def _frr(sight: Sight) -> dict[str, int]:
    if not Path("/run/frr/bgpd.vty").exists():
        return {}
    told = sight.answer_of(["vtysh", "-c", "show bgp neighbors json"], needs="root, or group frrvty")
    try:
        neighbors = json.loads(told or "{}")
        return {
            name: int(each["bgpTimerHoldTimeMsecs"]) // 1000
            for name, each in neighbors.items()
            if isinstance(each, dict) and each.get("bgpState") == "Established" and "bgpTimerHoldTimeMsecs" in each
        }
    except (ValueError, AttributeError, TypeError):
        sight.miss("vtysh's answer cannot be understood")
        return {}
