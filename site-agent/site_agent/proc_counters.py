"""Codec of the counters under /proc that `load` checks read: bytes in, numbers out.

Any bytes parse or raise DecodeError; no look may end an agent because a kernel writes a file differently. Numbers are
taken only as the kernel writes them (no sign, no underscore, no exponent), columns only by the names in the file itself,
because both conntrack's and xfrm's lists have grown, shrunk and changed meaning over the years.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from anycast.errors import DecodeError

_HEX = re.compile(rb"[0-9a-f]{1,16}")
_DECIMAL = re.compile(rb"[0-9]{1,20}")
_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_]{0,63}")
_PSI = re.compile(rb"some avg10=([0-9]{1,3}\.[0-9]{2}) avg60=")
_PSI_TOTAL = re.compile(rb"some avg10=[0-9.]{4,6} avg60=[0-9.]{4,6} avg300=[0-9.]{4,6} total=([0-9]{1,20})\n")
_LOADAVG = re.compile(rb"(?:[0-9]{1,9}\.[0-9]{2} ){3}([0-9]{1,9})/[0-9]{1,9} ")
_MEMINFO = re.compile(rb"(MemTotal|MemAvailable): {1,20}([0-9]{1,20}) kB")


class Memory(NamedTuple):
    """Both in bytes."""

    total: int
    available: int
    """What can be had without swapping, by the kernel's own estimate (proc(5), MemAvailable)."""


def parse_number(data: bytes, field: str) -> int:
    """One decimal number on one line, as under /proc/sys. Raises DecodeError."""
    return _number(data.rstrip(b"\n"), _DECIMAL, 10, field, 0)


def parse_conntrack_stat(data: bytes) -> dict[str, int]:
    """The columns of /proc/net/stat/nf_conntrack, each summed over the CPUs. Raises DecodeError.

    `entries` is the whole table in every row, not a CPU's share, and left out.
    """
    head, *rows = data.splitlines() or [b""]
    names = [_name(word, 0) for word in head.split()]
    if not names or len(set(names)) != len(names):
        raise DecodeError("nf_conntrack", 0, "no names of columns")
    totals = dict.fromkeys(names, 0)
    offset = len(head) + 1
    for row in rows:
        words = row.split()
        if len(words) != len(names):
            raise DecodeError("nf_conntrack", offset, f"{len(words)} columns where {len(names)} are named")
        for name, word in zip(names, words, strict=True):
            totals[name] += _number(word, _HEX, 16, name, offset)
        offset += len(row) + 1
    totals.pop("entries", None)
    return totals


def parse_xfrm_stat(data: bytes) -> dict[str, int]:
    """The counters of /proc/net/xfrm_stat by name. Raises DecodeError."""
    counters: dict[str, int] = {}
    offset = 0
    for line in data.splitlines():
        words = line.split()
        if len(words) != 2:
            raise DecodeError("xfrm_stat", offset, "not a name and a number")
        name = _name(words[0], offset)
        counters[name] = _number(words[1], _DECIMAL, 10, name, offset)
        offset += len(line) + 1
    return counters


def parse_pressure(data: bytes) -> float:
    """`some avg10` of a /proc/pressure file: per cent of the last 10 s in which a task waited. Raises DecodeError."""
    found = _PSI.match(data)
    if found is None or (percent := float(found[1])) > 100:
        raise DecodeError("pressure", 0, "no `some avg10`")
    return percent


def parse_stalled(data: bytes) -> int:
    """`some total` of a /proc/pressure file: microseconds since boot in which a task waited. Raises DecodeError."""
    found = _PSI_TOTAL.match(data)
    if found is None:
        raise DecodeError("pressure", 0, "no `some total`")
    return int(found[1])


def parse_udp_drops(data: bytes, ports: frozenset[int]) -> int:
    """Datagrams that sockets bound to `ports` discarded, of /proc/net/udp or udp6. Raises DecodeError."""
    drops, offset = 0, 0
    for number, line in enumerate(data.splitlines()):
        words = line.split()
        if number and words:
            if len(words) != 13:
                raise DecodeError("udp", offset, f"{len(words)} columns where 13 are expected")
            port = words[1].rpartition(b":")[2].lower()
            if _number(port, _HEX, 16, "local port", offset) in ports:
                drops += _number(words[12], _DECIMAL, 10, "drops", offset)
        offset += len(line) + 1
    return drops


def parse_run_queue(data: bytes) -> int:
    """How many tasks want a CPU now, the one that reads among them, of /proc/loadavg. Raises DecodeError."""
    found = _LOADAVG.match(data)
    if found is None:
        raise DecodeError("loadavg", 0, "no count of runnable tasks")
    return int(found[1])


def parse_meminfo(data: bytes) -> Memory:
    """Of /proc/meminfo. Raises DecodeError."""
    found = {name: int(number) * 1024 for line in data.splitlines() for name, number in _MEMINFO.findall(line)}
    total, available = found.get(b"MemTotal", 0), found.get(b"MemAvailable")
    if total == 0 or available is None:
        raise DecodeError("meminfo", 0, "no MemTotal or no MemAvailable")
    return Memory(total, available)


def _name(word: bytes, offset: int) -> str:
    if _NAME.fullmatch(word) is None:
        raise DecodeError("name", offset)
    return word.decode("ascii")


def _number(word: bytes, form: re.Pattern[bytes], base: int, field: str, offset: int) -> int:
    if form.fullmatch(word) is None:
        raise DecodeError(field, offset, "not a number")
    return int(word, base)
