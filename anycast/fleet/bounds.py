"""What a duration of fleet.yaml may be, said in one sentence where it is not. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from anycast.fleet.finding import Finding
from anycast.fleet.yaml_text import Path


def bounded(
    path: Path, value: datetime.timedelta, least: float, most: float, why: str, *, whole: bool = False
) -> Iterator[Finding]:
    """A finding where `value` is below `least` or above `most` seconds, or of whole seconds and not one."""
    low, high = datetime.timedelta(seconds=least), datetime.timedelta(seconds=most)
    if not low <= value <= high:
        yield Finding(path, f"{said(value)} is not between {said(low)} and {said(high)} ({why})")
    elif whole and value.microseconds:
        yield Finding(path, f"{said(value)} is not a whole number of seconds ({why})")


def said(span: datetime.timedelta) -> str:
    """`span` as the file writes it."""
    total = span.total_seconds()
    return f"{total:.0f} s" if total == int(total) else f"{span // datetime.timedelta(milliseconds=1)} ms"
