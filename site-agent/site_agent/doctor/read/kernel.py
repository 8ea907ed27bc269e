"""Reads what `judge/kernel.py` judges: /proc/sys, /proc/meminfo, charon's limits, and whether the kernel has ESP."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterable
from pathlib import Path

from anycast.errors import DecodeError, KernelError
from site_agent.doctor.judge.kernel import ConntrackReading, EspReading, FilesReading, SettingReading
from site_agent.doctor.read.sight import Sight
from site_agent.proc_counters import parse_meminfo
from site_agent.procfs import read_file
from site_agent.render.sysctl import Setting, proc_path

CONNTRACK_MAX = "/proc/sys/net/netfilter/nf_conntrack_max"
CONNTRACK_BUCKETS = "/proc/sys/net/netfilter/nf_conntrack_buckets"
_OPEN_FILES = re.compile(r"^Max open files +([0-9]+) +([0-9]+) ", re.MULTILINE)
_UNIT = re.compile(r"/([^/\n]+\.service)$", re.MULTILINE)


def read_settings(sight: Sight, settings: Iterable[Setting]) -> list[SettingReading]:
    """Those that this kernel has."""
    readings = []
    for setting in settings:
        found = sight.number_of(str(setting.path))
        joined = 0 if setting.joined is None else sight.number_of(str(proc_path(setting.joined)))
        if found is not None:
            readings.append(SettingReading(setting=setting, found=found, joined=joined or 0))
    return readings


def read_conntrack(sight: Sight, clients: int) -> ConntrackReading | None:
    """None where the kernel does not track connections."""
    maximum = sight.number_of(CONNTRACK_MAX)
    if maximum is None:
        return None
    try:
        memory = parse_meminfo(read_file("/proc/meminfo")).total
    except (KernelError, DecodeError) as exc:
        sight.miss(f"the machine's memory: {exc}")
        return None
    return ConntrackReading(maximum=maximum, buckets=sight.number_of(CONNTRACK_BUCKETS) or 0, memory=memory, clients=clients)


def read_esp(sight: Sight, families: tuple[int, ...], *, lab: bool) -> EspReading | None:
    """None where nothing tells. Asking the kernel itself would load a module, which is a change."""
    ready, loadable, told = set(), set(), False
    config = _kernel_config(sight)
    modules = Path("/lib/modules") / os.uname().release
    builtin, known = sight.text_of(modules / "modules.builtin"), sight.text_of(modules / "modules.dep")
    for family, option, module in ((4, "CONFIG_INET_ESP", "esp4"), (6, "CONFIG_INET6_ESP", "esp6")):
        value = re.search(rf"^{option}=([ym])$", config, re.MULTILINE) if config is not None else None
        loaded = Path(f"/sys/module/{module}").exists()
        if loaded or (value is not None and value[1] == "y") or f"/{module}.ko" in (builtin or ""):
            ready.add(family)
        elif f"/{module}.ko" in (known or ""):
            loadable.add(family)
        told = told or loaded or config is not None or known is not None
    if not told:
        sight.miss("whether this kernel has ESP: it shows neither its configuration nor its modules")
        return None
    return EspReading(families=families, ready=frozenset(ready), loadable=frozenset(loadable), lab=lab)


def read_files(sight: Sight, pid: int) -> FilesReading | None:
    """The limit of the running process."""
    limits = sight.text_of(f"/proc/{pid}/limits", needs="CAP_SYS_PTRACE")
    soft = _OPEN_FILES.search(limits or "")
    if soft is None:
        return None
    return FilesReading(pid=pid, unit=unit_of(sight, pid), soft_limit=int(soft[1]), hard_limit=int(soft[2]))


def unit_of(sight: Sight, pid: int) -> str:
    """The systemd unit that `pid` runs in; empty where it is in none."""
    unit = _UNIT.search(sight.text_of(f"/proc/{pid}/cgroup") or "")
    return unit[1] if unit is not None else ""


def _kernel_config(sight: Sight) -> str | None:
    packed = sight.bytes_of("/proc/config.gz")
    if packed is not None:
        try:
            return gzip.decompress(packed).decode(errors="replace")
        except (OSError, EOFError):
            sight.miss("/proc/config.gz cannot be unpacked")
    return sight.text_of(f"/boot/config-{os.uname().release}")
