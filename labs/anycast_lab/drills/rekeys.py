"""Rekeys a machine's CHILD_SAs again and again, so that a fault finds one under way.

    python -m anycast_lab.drills.rekeys --child vpn --vici /run/charon.vici --every-s 0.1 --out FILE

One connection to charon's control socket: a process for each rekey would come once a second inside User Mode Linux. FILE has
how many charon agreed to so far. SIGTERM ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import time
from pathlib import Path

import vici

AGAIN_S = 0.5
"""Where charon does not answer."""


def run(child: str, path: str, every_s: float, out: Path) -> None:
    """For ever."""
    count = 0
    while True:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            session = vici.Session(sock)
            while True:
                with contextlib.suppress(vici.exception.CommandException):
                    session.rekey({"child": child})
                    count += 1
                    out.write_text(str(count))
                time.sleep(every_s)
        time.sleep(AGAIN_S)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="anycast-rekeys", description=__doc__)
    parser.add_argument("--child", required=True)
    parser.add_argument("--vici", required=True)
    parser.add_argument("--every-s", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    run(options.child, options.vici, options.every_s, options.out)


if __name__ == "__main__":
    main()
