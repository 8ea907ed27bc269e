"""What the clients of a crowd do, on their machine: connect, rekey, leave, and send packets through their tunnels.

    python -m anycast_lab.drills.crowd_actor up --child vpn NAME...
    python -m anycast_lab.drills.crowd_actor down NAME...
    python -m anycast_lab.drills.crowd_actor rekey NAME...
    python -m anycast_lab.drills.crowd_actor rekeys --child vpn --per-second 20 --out FILE NAME...
    python -m anycast_lab.drills.crowd_actor provoke --child vpn --rekey NAME --leave NAME --ip "address add …" NAME...
    python -m anycast_lab.drills.crowd_actor ping --to 192.0.2.10 --to 2001:db8:b::10 NAME=INNER[,INNER]...
    python -m anycast_lab.drills.crowd_actor probe --to … --interval-ms 50 --out FILE NAME=INNER[,INNER]...

NAME is that of a connection in charon. `up` and `ping` print what became of it, as JSON. `rekeys` (an IKE_SA, then its
CHILD_SA, then the next client's) and `probe` go on until SIGTERM, which also has `probe` write its record. What answers a
packet is the server's kernel. `provoke` waits for nothing: those with `--leave` are ended first, then the others connect
and those with `--rekey` rekey their CHILD_SA while an address of the machine comes or goes, of which charon tells everybody.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import vici

from anycast_lab.drills.probe import decode_reply, decode_reply_v6, encode_echo, encode_echo_v6

SOCKET = "/run/charon.vici"
CONNECTIONS = Path("/etc/anycast/crowd.json")
PARALLEL = 4
TRIES = 3
TIMEOUT_MS = 20_000
PING_ROUNDS, PING_WAIT_S, PING_EVERY_S = 4, 2.0, 0.002
FIRST_IDENT = 0x4000
_IP_PKTINFO, _IPV6_PKTINFO = 8, 50
"""linux/in.h, linux/in6.h."""


@contextlib.contextmanager
def charon() -> Iterator[vici.Session]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(SOCKET)
        yield vici.Session(sock)


def load(names: Sequence[str]) -> None:
    """Tell charon of these (`machines.client_profile.render_crowd`)."""
    connections = json.loads(CONNECTIONS.read_text())
    with charon() as session:
        for name in names:
            connection = connections[name]
            certificate = Path(connection["local"]["certs"])
            connection["local"]["certs"] = [certificate.read_bytes()]
            connection["remote"]["cacerts"] = [Path(connection["remote"]["cacerts"]).read_bytes()]
            session.load_key({"type": "any", "data": certificate.with_suffix(".key").read_bytes()})
            session.load_conn({name: connection})


def up(names: Sequence[str], child: str) -> dict[str, object]:
    """Connect all of them; who failed for good, and how often one had to try again."""
    load(names)
    left, lock = iter(names), threading.Lock()
    failed, again = dict[str, str](), dict[str, str]()

    def work() -> None:
        with charon() as session:
            while True:
                with lock:
                    name = next(left, None)
                if name is None:
                    return
                for attempt in range(TRIES):
                    message = {"ike": name, "child": child, "timeout": str(TIMEOUT_MS), "loglevel": "-1"}
                    try:
                        for _ in session.initiate(message):
                            pass
                        break
                    except vici.exception.CommandException as error:
                        (failed if attempt == TRIES - 1 else again)[name] = str(error)

    threads = [threading.Thread(target=work) for _ in range(PARALLEL)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"failed": failed, "again": again}


def down(names: Sequence[str]) -> None:
    with charon() as session:
        for name in names:
            with contextlib.suppress(vici.exception.CommandException):
                for _ in session.terminate({"ike": name, "force": "yes", "timeout": "1000", "loglevel": "-1"}):
                    pass


def rekey(names: Sequence[str]) -> None:
    """Each one's IKE_SA."""
    with charon() as session:
        for name in names:
            session.rekey({"ike": name})


def provoke(
    names: Sequence[str], child: str, rekeying: Sequence[str], leaving: Sequence[str], change: Sequence[str]
) -> None:
    down(leaving)
    load(names)
    with charon() as session:
        subprocess.run(["ip", *change], check=True)
        for name in rekeying:
            with contextlib.suppress(vici.exception.CommandException):  # rekeying already
                session.rekey({"ike": name, "child": child})
        for name in names:
            for _ in session.initiate({"ike": name, "child": child, "timeout": "-1", "loglevel": "-1"}):
                pass


def rekeys(names: Sequence[str], child: str, per_second: float, out: Path) -> None:
    """For ever. What charon cannot rekey now (it is rekeying) is not counted."""
    turns = itertools.cycle([message for name in names for message in ({"ike": name}, {"ike": name, "child": child})])
    count, due = 0, time.monotonic()
    with charon() as session:
        for message in turns:
            with contextlib.suppress(vici.exception.CommandException):
                session.rekey(message)
                count += 1
            due = max(due + 1 / per_second, time.monotonic() - 1)
            out.write_text(str(count))
            time.sleep(max(0.0, due - time.monotonic()))


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """From one inner address to the server of its family."""

    name: str
    source: str
    target: str

    @property
    def family(self) -> int:
        return socket.AF_INET6 if ":" in self.source else socket.AF_INET


def ways(words: Sequence[str], targets: Sequence[str]) -> list[Way]:
    """NAME=INNER[,INNER]… with the target of each address's family; an address without one is left out."""
    by_family = {":" in target: target for target in targets}
    found = []
    for word in words:
        name, _, inner = word.partition("=")
        found += [Way(name, one, by_family[":" in one]) for one in inner.split(",") if (":" in one) in by_family]
    return found


class Echoes:
    """Echo requests from many addresses over one raw socket a family; a way is known by its identifier."""

    def __init__(self, all_ways: Sequence[Way]) -> None:
        self._ways = all_ways
        kinds = ((int(socket.AF_INET), socket.IPPROTO_ICMP), (int(socket.AF_INET6), socket.IPPROTO_ICMPV6))
        self.sockets = {family: socket.socket(family, socket.SOCK_RAW, protocol) for family, protocol in kinds}
        for sock in self.sockets.values():
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def send(self, place: int, number: int) -> None:
        way, ident = self._ways[place], FIRST_IDENT + place
        if way.family == socket.AF_INET6:
            info = socket.inet_pton(socket.AF_INET6, way.source) + struct.pack("=I", 0)
            control = [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, info)]
            data = encode_echo_v6(ident, number)
        else:
            info = struct.pack("=I", 0) + socket.inet_aton(way.source) + bytes(4)
            control = [(socket.IPPROTO_IP, _IP_PKTINFO, info)]
            data = encode_echo(ident, number)
        with contextlib.suppress(OSError):  # no SA at the moment: a packet that is lost
            self.sockets[way.family].sendmsg([data], control, 0, (way.target, 0))

    def received(self, family: int) -> Iterator[tuple[int, int]]:
        """(place, number) of everything that has arrived."""
        decode, kind = (decode_reply_v6, 129) if family == socket.AF_INET6 else (decode_reply, 0)
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self.sockets[family].recv(2048)
                header = 0 if family == socket.AF_INET6 else (data[0] & 0x0F) * 4
                if len(data) < header + 8 or data[header] != kind:
                    continue
                ident = int.from_bytes(data[header + 4 : header + 6], "big")
                number = decode(data, ident)
                if number is not None and 0 <= (place := ident - FIRST_IDENT) < len(self._ways):
                    yield place, number


def ping(all_ways: Sequence[Way], rounds: int) -> dict[str, list[str]]:
    """Inner addresses through which no answer came, by client; each is asked `rounds` times at most."""
    echoes, silent = Echoes(all_ways), set(range(len(all_ways)))
    for number in range(rounds):
        for place in sorted(silent):
            echoes.send(place, number)
            time.sleep(PING_EVERY_S)
        end = time.monotonic() + PING_WAIT_S
        while silent and time.monotonic() < end:
            for family in echoes.sockets:
                silent -= {place for place, _number in echoes.received(family)}
            time.sleep(0.01)
    found: dict[str, list[str]] = {}
    for place in sorted(silent):
        found.setdefault(all_ways[place].name, []).append(all_ways[place].source)
    return found


def probe(all_ways: Sequence[Way], interval_s: float, out: Path) -> None:
    """Until SIGTERM: every way once an interval, evenly spread. The record has CLOCK_REALTIME in ns."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    echoes, selector = Echoes(all_ways), selectors.DefaultSelector()
    for family, sock in echoes.sockets.items():
        selector.register(sock, selectors.EVENT_READ, family)
    sent = [list[int]() for _ in all_ways]
    good = [dict[int, int]() for _ in all_ways]
    step, turn, due = interval_s / len(all_ways), 0, time.monotonic()
    out.with_suffix(".live").write_text("probing")
    stop_at = None
    while stop_at is None or time.monotonic() < stop_at:
        for key, _events in selector.select(max(0.0, due - time.monotonic()) if stop_at is None else 0.05):
            now = time.time_ns()
            for place, number in echoes.received(key.data):
                good[place].setdefault(number, now)
        if stop_at is None and time.monotonic() >= due:
            place = turn % len(all_ways)
            sent[place].append(time.time_ns())
            echoes.send(place, len(sent[place]) - 1)
            turn, due = turn + 1, max(due + step, time.monotonic() - interval_s)
        if stop_at is None and ended.is_set():
            stop_at = time.monotonic() + PING_WAIT_S / 4
    records = [
        {"name": w.name, "source": w.source, "sent_ns": sent[i], "good_ns": [good[i].get(n, 0) for n in range(len(sent[i]))]}
        for i, w in enumerate(all_ways)
    ]
    new = out.with_suffix(".new")
    new.write_text(json.dumps(records))
    new.replace(out)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="anycast-crowd", description=__doc__)
    parser.add_argument("do", choices=("up", "down", "rekey", "rekeys", "provoke", "ping", "probe"))
    parser.add_argument("names", nargs="+")
    parser.add_argument("--child", default="")
    parser.add_argument("--to", action="append", default=[])
    parser.add_argument("--rekey", action="append", default=[])
    parser.add_argument("--leave", action="append", default=[])
    parser.add_argument("--ip", type=str.split, default=[])
    parser.add_argument("--rounds", type=int, default=PING_ROUNDS)
    parser.add_argument("--per-second", type=float, default=1.0)
    parser.add_argument("--interval-ms", type=float, default=100.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    match options.do:
        case "up":
            json.dump(up(options.names, options.child), sys.stdout)
        case "down":
            down(options.names)
        case "rekey":
            rekey(options.names)
        case "rekeys":
            rekeys(options.names, options.child, options.per_second, options.out)
        case "provoke":
            provoke(options.names, options.child, options.rekey, options.leave, options.ip)
        case "ping":
            json.dump(ping(ways(options.names, options.to), options.rounds), sys.stdout)
        case "probe":
            probe(ways(options.names, options.to), options.interval_ms / 1e3, options.out)


if __name__ == "__main__":
    main()
