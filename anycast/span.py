"""A time span as people write it on a command line: `2h`, `90 s`, `1.5 min`. Pure."""

from __future__ import annotations

import re

PATTERN = r"(\d{1,9}(?:\.\d{1,9})?)\s*(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?)"
"""Number and unit."""
UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
"""By the unit's first letter."""


def parse_span(text: str) -> float:
    """Seconds. Raises ValueError."""
    if (match := re.fullmatch(PATTERN, text.strip(), re.ASCII)) is None:
        raise ValueError(f"{text!r} is no time span")
    return float(match[1]) * UNIT_S[match[2][0]]
