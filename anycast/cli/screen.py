"""What may reach an operator's terminal of what gateways, observers and others have sent."""

from __future__ import annotations

import datetime
from typing import Any


def clean(text: str) -> str:
    """Without what steers a terminal (ECMA-48's control characters and whatever else is not printable)."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def cleaned(found: Any) -> Any:
    """All texts of a decoded JSON value, keys included."""
    if isinstance(found, str):
        return clean(found)
    if isinstance(found, list):
        return [cleaned(each) for each in found]
    if isinstance(found, dict):
        return {clean(key): cleaned(value) for key, value in found.items()}
    return found


def moment(at: float) -> str:
    """Seconds since 1970 as UTC, to the second."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
