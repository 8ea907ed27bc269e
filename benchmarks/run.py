"""`./bench [NAME...] [--soak]`: runs what `bench_*.py` files define and writes out/bench.json.

A benchmark file holds `BENCHMARKS`, a mapping from name to `Benchmark`. Each measures ours and its peers in the same run,
because figures from two runs compare two machines. A benchmark that raises, or that breaks a bound of labs/limits-bench.yml,
fails this command; the others still run.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks import report

HERE = Path(__file__).resolve().parent
TREE = HERE.parent

Benchmark = Callable[[bool], report.Result]
"""Called with whether --soak was asked for."""


def discover() -> dict[str, Benchmark]:
    """Every benchmark by name, in the order of the files and of their definitions."""
    found: dict[str, Benchmark] = {}
    for path in sorted(HERE.glob("bench_*.py")):
        benchmarks: dict[str, Benchmark] = importlib.import_module(f"benchmarks.{path.stem}").BENCHMARKS
        twice = found.keys() & benchmarks.keys()
        assert not twice, f"{path.name}: {twice} exist already"
        found |= benchmarks
    return found


def main() -> int:
    known = discover()
    parser = argparse.ArgumentParser(prog="./bench", description="Measures ours beside peers; writes out/bench.json.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all by default: {', '.join(known)}")
    parser.add_argument("--soak", action="store_true", help="also the ten-minute runs")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)} (there are: {', '.join(known)})")
    figures: list[report.Figure] = []
    failed: list[str] = []
    started = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started us in the background, ignoring SIGINT
        signal.signal(number, signal.default_int_handler)
    for name in arguments.names or known:
        print(f"[{time.monotonic() - started:4.0f} s] {name}", flush=True)
        try:
            result = known[name](arguments.soak)
        except Exception:  # one benchmark's end is not the others'; it is shown whole and fails the command
            traceback.print_exc()
            failed.append(f"{name} could not be measured")
            continue
        figures += result.figures
        failed += [f"{b.name}: {b.seen:g} is above {b.limit:g}" for b in result.bounds if not b.kept]
    report.write(figures, TREE / "out" / "bench.json")
    print(f"\n{report.table(figures)}")
    for line in failed:
        print(f"FAILED {line}")
    print(f"{len(figures)} figures in out/bench.json, {len(failed)} failed, {time.monotonic() - started:.0f} s")
    return 1 if failed or not figures else 0


if __name__ == "__main__":
    sys.exit(main())
