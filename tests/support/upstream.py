"""An upstream router: BIRD 2 in a network namespace of its own, at the far end of the gateway's uplink.

BIRD is the witness: what it imported is what the gateway announced. Use inside `in_namespace` only.
"""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from anycast.document import Document

NAMESPACE = "upstream"
POLL_S = 0.005


def until(condition: Callable[[], object], what: str, *, within_s: float) -> float:
    """Wait until `condition` holds and return how long it took, in seconds. Fails after `within_s`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > within_s:
            raise AssertionError(f"{what}: not within {within_s:g} s")
        time.sleep(POLL_S)
    return time.monotonic() - began


def birdc(control: Path, command: str) -> str:
    """What the BIRD behind `control` answers."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(control))
        file = sock.makefile("rw")
        file.readline()
        file.write(command + "\n")
        file.flush()
        lines = []
        for line in file:
            lines.append(line)
            if re.match(r"(0000|[89]\d\d\d|00(?:03|04|13|18)) ", line):
                break
        return "".join(lines)


class Upstream:
    """The other side of `document`'s uplink and inside, with one session for each of its neighbors."""

    def __init__(self, document: Document, folder: Path, *, md5_keys: dict[str, str]) -> None:
        self._control = folder / "bird.ctl"
        self.sessions = {n.name.replace("-", "_"): n for n in document.bgp.neighbors}
        uplink = document.uplink.name
        _ip("link", "set", "lo", "up")
        _ip("netns", "add", NAMESPACE)
        _ip("link", "add", uplink, "type", "veth", "peer", "name", "gw", "netns", NAMESPACE)
        _ip("link", "add", document.inside.name, "type", "veth", "peer", "name", "in", "netns", NAMESPACE)
        for interface in (document.uplink, document.inside):
            for address in interface.addresses:
                _ip("addr", "add", address, "dev", interface.name, *_nodad(address))
            _ip("link", "set", interface.name, "up")
        sides = {"outside": (document.uplink, "gw"), "inside": (document.inside, "in")}
        for neighbor in document.bgp.neighbors:
            interface, port = sides[neighbor.side]
            length = next(a.partition("/")[2] for a in interface.addresses if (":" in a) == (":" in neighbor.address))
            address = f"{neighbor.address}/{length}"
            _ip("-n", NAMESPACE, "addr", "add", address, "dev", port, *_nodad(address))
        for name in ("lo", "gw", "in"):
            _ip("-n", NAMESPACE, "link", "set", name, "up")
        config = folder / "bird.conf"
        config.write_text(_config(document, md5_keys))
        command = ["ip", "netns", "exec", NAMESPACE, "bird", "-f", "-c", str(config), "-s", str(self._control)]
        self.process = subprocess.Popen(command)
        until(self._control.exists, "BIRD's control socket", within_s=5)

    def ask(self, command: str) -> str:
        """One command of birdc; the text of its answer."""
        return birdc(self._control, command)

    def prefixes(self) -> set[str]:
        """What is imported now."""
        return set(re.findall(r"(?:1007-| )([0-9a-f.:]+/\d+) ", self.ask("show route")))

    def withdrawals(self) -> int:
        """WITHDRAWs received over all sessions since BIRD started."""
        counts = [re.search(r"Import withdraws: +(\d+)", self.ask(f"show protocols all {n}")) for n in self.sessions]
        return sum(int(count[1]) for count in counts if count is not None)


def _config(document: Document, md5_keys: dict[str, str]) -> str:
    text = "router id 198.51.100.1;\ntimeformat protocol iso long us;\nprotocol device {}\n"
    text += "protocol bfd bfd1 {}\n" if any(n.bfd for n in document.bgp.neighbors) else ""
    for neighbor in document.bgp.neighbors:
        (family,) = neighbor.families
        text += f"protocol bgp {neighbor.name.replace('-', '_')} {{\n"
        text += f"  local {neighbor.address} as {neighbor.asn};\n"
        text += f"  neighbor {neighbor.local_address} as {document.bgp.asn};\n"
        text += "  direct; connect retry time 1; connect delay time 1; error wait time 1, 1; error forget time 1;\n"
        text += "  ttl security on;\n" if neighbor.gtsm else ""
        if neighbor.bfd is not None:
            text += f"  bfd {{ interval {neighbor.bfd.interval_ms} ms; multiplier {neighbor.bfd.multiplier}; }};\n"
        text += f'  password "{md5_keys[neighbor.md5_key_file]}";\n' if neighbor.md5_key_file else ""
        text += f"  {family} {{ import all; export none; }};\n}}\n"
    return text


def _nodad(address: str) -> tuple[str, ...]:
    return ("nodad",) if ":" in address else ()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
