"""Reads what `judge/vrrp.py` judges: the document, the pair's key file, and what a running agent says of its vrrp process.

A key is read to be understood, and then forgotten; nothing of it is kept or shown.
"""

from __future__ import annotations

import datetime
import os
import re
from pathlib import Path
from typing import Any

from anycast import trusted_file
from anycast.document import Document
from anycast.errors import DecodeError, PeerError
from site_agent import control
from site_agent.doctor.judge.vrrp import FAST_MS, HeldKey, KeyFileReading, ProcessReading, VrrpReading
from site_agent.doctor.read.sight import Sight
from site_agent.vrrp import pair_keys

_LOCKED = re.compile(r"^VmLck:\s+(\d+) kB", re.MULTILINE)


def read_vrrp(sight: Sight, document: Document | None, control_socket: Path) -> VrrpReading | None:
    """None where there is no virtual router."""
    if document is None or (vrrp := document.vrrp) is None:
        return None
    interval_ms = vrrp.interval_cs * 10
    process = _process(sight, control_socket, needed=interval_ms < FAST_MS or vrrp.keys_file is not None)
    return VrrpReading(
        site=document.site,
        interop=vrrp.interop,
        peer=vrrp.peer or "",
        interval_ms=interval_ms,
        key_file=None if vrrp.keys_file is None else _key_file(sight, Path(vrrp.keys_file)),
        process=process,
    )


def _key_file(sight: Sight, path: Path) -> KeyFileReading | None:
    try:
        keys = pair_keys.decode(trusted_file.read(path, secret=True))
    except (FileNotFoundError, NotADirectoryError):
        return KeyFileReading(path=str(path), problem="there is none", missing=True)
    except trusted_file.NotTrusted as exc:
        return KeyFileReading(path=str(path), problem=exc.what, untrusted=str(exc.place))
    except DecodeError as exc:
        return KeyFileReading(path=str(path), problem=f"no key file: {exc.field}: {exc.what}")
    except OSError as exc:
        sight.miss(f"{path}: {exc.strerror}", "root" if isinstance(exc, PermissionError) else "")
        return None
    now = datetime.datetime.now(datetime.UTC)
    held = (HeldKey(id=key.id, in_use=key.id == keys.in_use, age_days=(now - key.made).days) for key in keys.keys)
    return KeyFileReading(path=str(path), keys=tuple(held))


def _process(sight: Sight, control_socket: Path, *, needed: bool) -> ProcessReading | None:
    if not needed:
        return None
    what = "whether the other gateway has the same keys, and how the vrrp process runs"
    try:
        status: Any = control.ask(control_socket, "status").get("vrrp")
    except control.NobodyAnswers:
        sight.miss(f"{what}: no agent runs here")
        return None
    except PeerError as exc:
        sight.miss(f"{what}: {exc}", "root" if os.geteuid() != 0 else "")
        return None
    if not isinstance(status, dict) or not isinstance(status.get("discarded"), dict):
        return None
    real_time, locked = _privileges(sight, status.get("pid"))
    return ProcessReading(
        peer_silent=status.get("peer") == "silent", discarded=status["discarded"], real_time=real_time, locked=locked
    )


def _privileges(sight: Sight, pid: object) -> tuple[bool | None, bool | None]:
    if not isinstance(pid, int):
        return None, None
    try:
        real_time = os.sched_getscheduler(pid) in (os.SCHED_FIFO, os.SCHED_RR)
    except OSError:
        return None, None  # it has ended meanwhile
    found = _LOCKED.search(sight.text_of(f"/proc/{pid}/status") or "")
    return real_time, None if found is None else int(found[1]) > 0
