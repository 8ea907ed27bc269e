"""Knot DNS, the authoritative server, at one address of this namespace. Use inside `in_namespace` only."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.support.upstream import until

ZONE = "example.org"
IDENTITY = f"vpn.{ZONE}"


class NameServer:
    """Serves `ZONE` as it is told. Its files lie on the namespace's private /run."""

    def __init__(self, address: str, *records: str) -> None:
        """`records` as in `serve`."""
        self.address, self._serial = address, 0
        self._folder = Path("/run", f"knot-{address.replace(':', '-')}")
        self._folder.mkdir()
        (self._folder / "knot.conf").write_text(f"""
server:
  rundir: {self._folder}
  listen: {address}@53
  udp-workers: 1
  tcp-workers: 1
control:
  listen: {self._socket}
log:
  - target: {self._folder}/log
    any: info
zone:
  - domain: {ZONE}
    file: {self._folder}/zone
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
""")
        self._write(*records)
        subprocess.run(["knotd", "-d", "-c", str(self._folder / "knot.conf")], check=True, timeout=20)
        until(self._socket.exists, "Knot's control socket", within_s=20)

    @property
    def _socket(self) -> Path:
        return self._folder / "sock"

    def serve(self, *records: str) -> None:
        """Have it answer for these (``A 203.0.113.1``) of `IDENTITY`, or as they say themselves (``NAME: NS ...``).

        A zone that cannot be read leaves the one before in force, or none: SERVFAIL.
        """
        self._write(*records)
        subprocess.run(["knotc", "-s", str(self._socket), "-b", "zone-reload", ZONE], check=False, timeout=20)

    def signal(self, number: signal.Signals) -> None:
        subprocess.run(["kill", f"-{int(number)}", (self._folder / "knot.pid").read_text().strip()], check=True)

    def _write(self, *records: str) -> None:
        self._serial += 1
        lines = [f"{ZONE}. 60 SOA ns.{ZONE}. hostmaster.{ZONE}. {self._serial} 60 60 60 60", f"{ZONE}. 60 NS ns.{ZONE}."]
        for record in records:
            name, _, rest = record.rpartition(": ")
            lines.append(f"{name or IDENTITY + '.'} 60 {rest}")
        (self._folder / "zone").write_text("\n".join(lines) + "\n")
