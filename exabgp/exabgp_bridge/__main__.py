"""`python -m exabgp_bridge --socket PATH --lease-ms N --grace-ms N`, started by ExaBGP as its helper process."""

from __future__ import annotations

import argparse
import sys

from exabgp_bridge.shell import run


def main() -> int:
    """Parse the command line that the renderer wrote and serve until ExaBGP closes our standard input."""
    parser = argparse.ArgumentParser(prog="exabgp_bridge", description=__doc__)
    parser.add_argument("--socket", required=True, help="the agent's SOCK_SEQPACKET socket")
    parser.add_argument("--lease-ms", type=int, required=True, help="the document's lease.duration_ms")
    parser.add_argument("--grace-ms", type=int, required=True, help="the document's lease.grace_ms")
    options = parser.parse_args()
    return run(options.socket, lease_ms=options.lease_ms, grace_ms=options.grace_ms)


if __name__ == "__main__":
    sys.exit(main())
