"""A flow that is nearly silent, through a translation that must outlive its gateway: the far side speaks first.

    python -m anycast_lab.drills.flows serve --port 5002
    python -m anycast_lab.drills.flows udp --to 192.0.2.10 --port 5002 --every-s 20 --later-s 10 --out FILE
    python -m anycast_lab.drills.flows tcp --to 192.0.2.10 --port 5002 --later-s 600 --out FILE

The near side's own packet would make a lost translation anew, often with the same port, and hide the loss. So the server
answers each datagram at once and once more `later-s` after it, and over TCP it is silent for `later-s` and speaks then; only
a translation that is still there brings that to the client. The record, written at each event, has what came when
(CLOCK_REALTIME) and from where the server was spoken to. SIGTERM ends each.
"""

from __future__ import annotations

import argparse
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any


def serve(port: int) -> None:
    """Both protocols, for ever."""
    threading.Thread(target=_serve_tcp, args=(port,), daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", port))
        while True:
            data, client = sock.recvfrom(2048)
            asked = json.loads(data)
            sock.sendto(_answer(asked["number"], client, later=False), client)
            late = threading.Timer(asked["later_s"], sock.sendto, (_answer(asked["number"], client, later=True), client))
            late.daemon = True
            late.start()


def _answer(number: int, client: tuple[str, int], *, later: bool) -> bytes:
    return json.dumps({"number": number, "from": f"{client[0]} {client[1]}", "later": later}).encode() + b"\n"


def _serve_tcp(port: int) -> None:
    with socket.create_server(("", port)) as listener:
        while True:
            sock, client = listener.accept()
            threading.Thread(target=_speak, args=(sock, client), daemon=True).start()


def _speak(sock: socket.socket, client: tuple[str, int]) -> None:
    with sock, sock.makefile("rb") as lines:
        for line in lines:
            asked = json.loads(line)
            time.sleep(asked["later_s"])
            sock.sendall(_answer(asked["number"], client, later=asked["later_s"] > 0))


class Record:
    def __init__(self, out: Path) -> None:
        self._out, self._events = out, list[dict[str, Any]]()

    def add(self, **event: Any) -> None:
        self._events.append({"at_ns": time.time_ns(), **event})
        temporary = self._out.with_name(self._out.name + ".new")
        temporary.write_text(json.dumps(self._events))
        temporary.replace(self._out)


def ask_by_udp(host: str, port: int, every_s: float, later_s: float, out: Path) -> None:
    record, number, due = Record(out), 0, time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, port))
        while True:
            if (wait := due - time.monotonic()) <= 0:
                sock.send(json.dumps({"number": number, "later_s": later_s}).encode())
                record.add(what="sent", number=number, later=True)
                number, due = number + 1, due + every_s
                continue
            sock.settimeout(wait)
            try:
                record.add(what="got", **json.loads(sock.recv(2048)))
            except TimeoutError:
                continue
            except OSError as error:  # an ICMP error is an answer, too
                record.add(what="error", said=str(error))


def ask_by_tcp(host: str, port: int, later_s: float, out: Path) -> None:
    """One question whose answer takes so long, then one that is answered at once."""
    record = Record(out)
    try:
        with socket.create_connection((host, port), timeout=10) as sock, sock.makefile("rb") as lines:
            sock.settimeout(None)
            for number, wait in ((0, later_s), (1, 0.0)):
                sock.sendall(json.dumps({"number": number, "later_s": wait}).encode() + b"\n")
                record.add(what="sent", number=number, later=wait > 0)
                record.add(what="got", **json.loads(lines.readline()))
    except (OSError, ValueError) as error:
        record.add(what="error", said=str(error))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="anycast-flows", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    server, udp, tcp = verbs.add_parser("serve"), verbs.add_parser("udp"), verbs.add_parser("tcp")
    for verb in (server, udp, tcp):
        verb.add_argument("--port", type=int, required=True)
    for verb in (udp, tcp):
        verb.add_argument("--to", required=True)
        verb.add_argument("--later-s", type=float, required=True)
        verb.add_argument("--out", type=Path, required=True)
    udp.add_argument("--every-s", type=float, required=True)
    options = parser.parse_args(argv)
    match options.verb:
        case "serve":
            serve(options.port)
        case "udp":
            ask_by_udp(options.to, options.port, options.every_s, options.later_s, options.out)
        case "tcp":
            ask_by_tcp(options.to, options.port, options.later_s, options.out)


if __name__ == "__main__":
    main()
