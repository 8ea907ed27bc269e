"""docs/baseline.md's table: `python -m anycast_lab.drills.baseline_table REPORT.json…`. Pure, but for `main`.

A cell is the median of its runs, and the least and the most where they differ. A run that was red counts where it was
measured: that a gap is longer than what a drill asserts is what the table is there to show.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FAULTS = {
    "power-off": "power off",
    "charon-sigkill": "charon killed",
    "handover": "planned handover",
    "address-power-off": "power off, this machine's own kernel, no tunnels",
}
GATEWAYS = {"mirror": "ours", "baseline": "documented", "baseline-tuned": "tuned"}
"""By what stands before the fault in a drill's name."""
_OURS = {"mirror-address-power-off": "vrrp-power-off"}
"""Where ours has another one."""
COLUMNS = {
    "outage_ms": "longest outage of a client, s",
    "gap_ms": "of it not the prober's own, s",
    "service_gap_ms": "gap of the service's address, s",
    "lost": "probes lost",
    "ike_sas_built": "IKE_SAs rebuilt",
    "connections_ended": "TCP connections ended",
    "withdrawals": "withdrawals at the router",
    "withdrawals_at_transit": "at the transit",
}
NUMBERS = "goes on at ESP number"
_AT_LEAST = "gaps_open"


def rows(reports: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Fault, gateways, runs, and a cell a column."""
    by_name: dict[str, list[Mapping[str, float | None]]] = {}
    for report in reports:
        if report["figures"]:
            by_name.setdefault(report["drill"], []).append(report["figures"])
    for fault, said in FAULTS.items():
        for prefix, whose in GATEWAYS.items():
            name = f"{prefix}-{fault}"
            if found := by_name.get(_OURS.get(name, name)):
                yield said, whose, str(len(found)), *(cell(name, found) for name in COLUMNS), numbers(found)


def cell(name: str, runs: Sequence[Mapping[str, float | None]]) -> str:
    """`> ` before what had not ended in any run when the drill did; ``-`` where no run has a figure."""
    values = [value for run in runs if (value := run[name]) is not None]
    if not values:
        return "-"
    show = _seconds if name.endswith("_ms") else "{:,.0f}".format
    middle, least, most = show(statistics.median(values)), show(min(values)), show(max(values))
    open_ended = name in ("outage_ms", "gap_ms") and any(run.get(_AT_LEAST) for run in runs)
    return ("> " if open_ended else "") + (middle if least == most else f"{middle} ({least} to {most})")


def numbers(runs: Sequence[Mapping[str, float | None]]) -> str:
    """Of the run whose SA had sent most."""
    pairs = [(run["number_before"], run["number_after"]) for run in runs]
    before, after = max(((b, a) for b, a in pairs if b is not None), default=(None, None))
    return "-" if before is None else f"{after:,.0f} after {before:,.0f}"


def _seconds(ms: float) -> str:
    return f"{ms / 1e3:.2f}" if ms < 10_000 else f"{ms / 1e3:.1f}"


def table(reports: Iterable[Mapping[str, Any]]) -> str:
    head = ("fault", "gateways", "runs", *COLUMNS.values(), NUMBERS)
    lines = [head, ("---",) * len(head), *rows(reports)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    reports = [report for path in sys.argv[1:] for report in json.loads(Path(path).read_text())]
    print(table(reports))


if __name__ == "__main__":
    main()
