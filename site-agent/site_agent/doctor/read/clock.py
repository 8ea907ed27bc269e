"""Reads what `judge/clock.py` judges: adjtimex(2) without setting anything, and two files' times."""

from __future__ import annotations

import ctypes
import datetime
import struct
from pathlib import Path

from site_agent.doctor.judge.clock import ClockReading
from site_agent.doctor.read.sight import Sight

TIME_ERROR = 5
STA_UNSYNC = 0x40
"""linux/timex.h."""
_TIMEX_BYTES = 208
_MAXERROR_AT, _STATUS_AT = 24, 40
"""In struct timex on 64-bit machines: modes, offset, freq, maxerror, esterror, status."""
FILES = (Path("/var/lib/dpkg/status"), Path(__file__))


def read_clock(sight: Sight) -> ClockReading | None:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0: only read
    state = libc.adjtimex(buffer)
    if state < 0:
        sight.miss("the clock's state: adjtimex is refused")
        return None
    (max_error_us,) = struct.unpack_from("=q", buffer, _MAXERROR_AT)
    (status,) = struct.unpack_from("=i", buffer, _STATUS_AT)
    times = [(path.stat().st_mtime, path) for path in FILES if path.exists()]
    newest, file = max(times, default=(None, Path()))
    return ClockReading(
        now=datetime.datetime.now(datetime.UTC),
        synchronised=state != TIME_ERROR and not status & STA_UNSYNC,
        max_error_s=max_error_us / 1e6,
        newest=None if newest is None else datetime.datetime.fromtimestamp(newest, datetime.UTC),
        newest_file=str(file),
    )
