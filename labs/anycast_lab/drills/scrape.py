"""Print what an HTTP server of this node says: python -m anycast_lab.drills.scrape HOST:PORT /PATH

A module of ours, so it is a fork of a process that has imported it all (embedded/forked.py): an interpreter of its own takes
seconds in User Mode Linux.
"""

from __future__ import annotations

import http.client
import sys

TIMEOUT_S = 5


def main() -> None:
    connection = http.client.HTTPConnection(sys.argv[1], timeout=TIMEOUT_S)
    connection.request("GET", sys.argv[2])
    print(connection.getresponse().read().decode())


if __name__ == "__main__":
    main()
