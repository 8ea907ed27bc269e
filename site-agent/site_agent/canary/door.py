"""Opens one connection to the caged charon's control socket for the agent, and hands it over.

That socket belongs to the unprivileged group that the cage runs as, and the service unit takes from the agent the
capability that would pass it all the same. So this program is started with that group (``python -I -S door.py FD PATH
SECONDS``), and the agent's own credentials stay as they are. It needs the standard library only, and ends at once.

FD is a SOCK_SEQPACKET socket to the agent. It is sent one packet: ``{connected: true}`` with the descriptor, or ``{failed:
"..."}``. For as many SECONDS it waits for a charon that is starting.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

POLL_S = 0.05


def main() -> None:
    agent, path, deadline = socket.socket(fileno=int(sys.argv[1])), sys.argv[2], time.monotonic() + float(sys.argv[3])
    while True:
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            door.connect(path)  # at once or never: unix(7) knows no connection in progress
        except OSError as exc:
            door.close()
            if time.monotonic() >= deadline or not os.path.isdir(os.path.dirname(path)):
                agent.send(json.dumps({"failed": f"its charon: {exc.strerror}"}).encode())
                return
            time.sleep(POLL_S)
        else:
            socket.send_fds(agent, [json.dumps({"connected": True}).encode()], [door.fileno()])
            return


if __name__ == "__main__":
    main()
