"""Is one cause the same word on every screen: event log, /metrics, `status`, `why`? Pure: texts in, findings out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from anycast_lab.drills.report import Checked

SCREENS = ("log", "metric", "status", "why")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScreensSeen:
    """What the victim's screens said at one moment of a drill."""

    reason: str
    found_on: tuple[str, ...]
    """Of `SCREENS`, those that show the word."""
    details: tuple[str, ...]
    """What `status` says beside it."""
    left_s: float
    """How long the operator's hold or flap control's wait goes on, whichever `status` shows; 0 for neither."""


def read(reason: str, *, log: str, metric: str, status: str, why: str, since_ns: int) -> ScreensSeen:
    """Look for `reason` in the four texts as an operator's tools give them; of the log only what
    follows `since_ns` of CLOCK_BOOTTIME: the drills before this one said the same words.
    """
    records = [record for line in log.splitlines() if isinstance(record := _json(line), dict)]
    asked, told = _json(status), _json(why)
    found = {
        "log": any(_names(record, reason) for record in records if record.get("boot_ns", 0) >= since_ns),
        "metric": any(_stands(line, reason) for line in metric.splitlines()),
        "status": any(True for _ in _beside(asked, reason)),
        "why": any(True for _ in _beside(told, reason)),
    }
    return ScreensSeen(
        reason=reason,
        found_on=tuple(screen for screen in SCREENS if found[screen]),
        details=tuple(_beside(asked, reason)),
        left_s=_left_s(asked),
    )


def judge(seen: Sequence[ScreensSeen], reason: str, says: str) -> Checked:
    """On all four at one moment, with its time left where it has one; `says` stands beside the word."""
    text = f"{reason} is the same word in log, metric, status and why" + (f", with {says!r}" if says else "")
    best = max((one for one in seen if one.reason == reason), key=lambda one: len(one.found_on), default=None)
    if best is None:
        return Checked(text, "never looked", "all four", False)
    timed = reason in ("operator", "flap_delayed")
    said = not says or any(says in detail for detail in best.details)
    parts = [", ".join(best.found_on) or "none"]
    parts += [f"{best.left_s:.0f} s left"] if timed else []
    parts += [] if said else ["not with these words"]
    passed = set(best.found_on) == set(SCREENS) and said and (best.left_s > 0 or not timed)
    return Checked(text, "; ".join(parts), "all four" + (", with the time left" if timed else ""), passed)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _stands(line: str, reason: str) -> bool:
    """A gauge that is 1 now; the counters remember the drills before this one."""
    return f'reason="{reason}"' in line and line.endswith(" 1.0") and not line.startswith("anycast_events")


def _names(record: dict[str, Any], reason: str) -> bool:
    return any(True for _ in _beside(record, reason))


def _beside(value: Any, reason: str) -> Iterator[str]:
    """The `detail` of every object, at any depth, whose `reason` is the word."""
    if isinstance(value, dict):
        if value.get("reason") == reason:
            yield str(value.get("detail", ""))
        for part in value.values():
            yield from _beside(part, reason)
    elif isinstance(value, list):
        for part in value:
            yield from _beside(part, reason)


def _left_s(status: Any) -> float:
    if not isinstance(status, dict):
        return 0.0
    spans = [part.get("left_s", 0) for part in (status.get("hold"), status.get("flap")) if isinstance(part, dict)]
    return float(max(spans, default=0))
