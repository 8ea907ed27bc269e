"""What a benchmark found, as one line of the table and one object of out/bench.json.

Durations are in us, ms or s; `ratio` is ours divided by the peer's, so below 1 is a win. Rates and counts say so in `unit`.
A peer that could not run, or that never does what is measured, has no figure; `peer_name` then says so in words.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One comparison. `ours` and `peer` are medians."""

    name: str
    unit: str
    ours: float
    p50: float
    p99: float
    peer: float | None
    peer_name: str
    ratio: float | None
    runs: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A figure that must not be worse than this; from labs/limits-bench.yml, where its reason stands."""

    name: str
    seen: float
    limit: float

    @property
    def kept(self) -> bool:
        return self.seen <= self.limit


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark hands back."""

    figures: Sequence[Figure]
    bounds: Sequence[Bound] = ()


def percentile(samples: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest sample that at least `share` (0..1) of all samples do not exceed."""
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def compare(name: str, unit: str, ours: Sequence[float], peer: Sequence[float], peer_name: str) -> Figure:
    """A figure from samples, which must not be empty for `ours`."""
    median = statistics.median(ours)
    peer_median = statistics.median(peer) if peer else None
    return Figure(
        name=name,
        unit=unit,
        ours=round(median, 3),
        p50=round(median, 3),
        p99=round(percentile(ours, 0.99), 3),
        peer=None if peer_median is None else round(peer_median, 3),
        peer_name=peer_name,
        ratio=round(median / peer_median, 6) if peer_median else None,
        runs=len(ours),
    )


def write(figures: Sequence[Figure], path: Path) -> None:
    """Replace `path` in one step, so that nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps([dataclasses.asdict(figure) for figure in figures], indent=1) + "\n")
    os.replace(new, path)


def table(figures: Sequence[Figure]) -> str:
    """The figures for people."""

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:g}"

    rows = [("benchmark", "ours", "p99", "unit", "peer", "ratio", "runs", "measured beside")]
    rows += [
        (f.name, text(f.ours), text(f.p99), f.unit, text(f.peer), text(f.ratio), str(f.runs), f.peer_name) for f in figures
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
