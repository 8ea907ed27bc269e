"""`python -m anycast_lab.flood.stranger ADDRESS`: what somebody without a tunnel gets. Prints one JSON object.

One ICMP echo request, and one IKE_SA_INIT from an ordinary port; both are new flows to whoever tracks connections.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import struct
import subprocess

from anycast_lab.flood.packets import IKE_PORT, IKE_SA_INIT, ike_sa_init

PATIENCE_S = 2.0
"""A gateway answers both in milliseconds, a flooded one within User Mode Linux in more than a second."""
TRIES = 3
"""A queue under a flood loses some. Every one is another flow."""
NOTIFY, COOKIE = 41, 16390
"""RFC 7296, sections 3.2 and 3.10.1."""
HEADER = struct.Struct("!QQBBBBII")


def judge(answer: bytes, question: bytes) -> str:
    """`cookie`, `answered`, or `silent` where it is no answer to `question`."""
    if len(answer) < HEADER.size or answer[:8] != question[:8]:
        return "silent"
    _, _, following, _, exchange, _, _, _ = HEADER.unpack_from(answer)
    if exchange != IKE_SA_INIT:
        return "silent"
    first = answer[HEADER.size : HEADER.size + 8]
    if following == NOTIFY and len(first) == 8 and struct.unpack_from("!H", first, 6) == (COOKIE,):
        return "cookie"
    return "answered"


def ask_ike(target: str) -> str:
    for _ in range(TRIES):
        question = ike_sa_init(random.Random())
        with socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect((target, IKE_PORT))
            try:
                sock.send(question)
                if (said := judge(sock.recv(65536), question)) != "silent":
                    return said
            except OSError:  # nothing came, or an ICMP error, which is no answer either
                continue
    return "silent"


def ask_echo(target: str) -> bool:
    command = ["ping", "-q", "-c", str(TRIES), "-i", "0.2", "-W", str(PATIENCE_S), target]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="anycast-stranger", description=__doc__)
    parser.add_argument("address")
    options = parser.parse_args()
    print(json.dumps({"echo": ask_echo(options.address), "ike": ask_ike(options.address)}))


if __name__ == "__main__":
    main()
