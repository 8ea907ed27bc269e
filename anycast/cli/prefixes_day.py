"""The day that a plan or a forecast is made on."""

from __future__ import annotations

import datetime
from typing import Annotated

import typer

from anycast.errors import ConfigError, Problem

On = Annotated[
    str | None,
    typer.Option(metavar="DAY", help="Plan as if on this day (YYYY-MM-DD, UTC). Default: today.", show_default=False),
]


def day_of(text: str | None) -> datetime.date:
    """What `--on` says; today where it says nothing. Raises ConfigError."""
    if text is None:
        return datetime.datetime.now(datetime.UTC).date()
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError as exc:
        raise ConfigError([Problem("--on", f"{text!r} is not a day (2026-11-29)")]) from exc
    if not 2000 <= day.year < 3000:
        raise ConfigError([Problem("--on", f"{day} is no day of this millennium")])
    return day
