"""The real bridge, with every renewal's arrival written down: CLOCK_BOOTTIME and the expiry that it carries, each in ns.

A benchmark mounts this over `exabgp_bridge/__main__.py` in its own gateway, because the lease's two ends know each other by
their processes and nothing can stand between them.
"""

from __future__ import annotations

import struct
import sys
import time

from anycast.lease_wire import Renew
from exabgp_bridge import shell

RECORD = struct.Struct("=QQ")
PATH = "/run/bench-renewals"


def main() -> None:
    names = vars(shell)  # what it imported is not its interface, so it is taken by name
    decode = names["decode_from_agent"]
    out = open(PATH, "ab", buffering=0)  # noqa: SIM115  # for as long as the process lives

    def stamped(packet: bytes) -> object:
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        message = decode(packet)
        if isinstance(message, Renew):
            out.write(RECORD.pack(now_ns, message.expires_ns))
        return message

    names["decode_from_agent"] = stamped
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    lease_ms, grace_ms = int(options["--lease-ms"]), int(options["--grace-ms"])
    sys.exit(shell.run(options["--socket"], lease_ms=lease_ms, grace_ms=grace_ms))


if __name__ == "__main__":
    main()
