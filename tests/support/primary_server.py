"""Knot DNS as the primary of a few zones that take signed updates, on loopback, in a folder of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.upstream import until

SECRET = "c2l4dGVlbi1ieXRlcy1vZi1hLXNlY3JldC1mb3ItYS10ZXN0"
KEY_NAME = "fleet-update"
KEY_FILE = f'key "{KEY_NAME}" {{\n\talgorithm hmac-sha256;\n\tsecret "{SECRET}";\n}};\n'


class PrimaryServer:
    """Zones by name, each with the records it begins with (``host.example.org. 60 TXT "x"``)."""

    def __init__(self, folder: Path, address: str, port: int, zones: Mapping[str, Sequence[str]]) -> None:
        self.folder, self.address, self.port = folder, address, port
        folder.mkdir()
        for zone, records in zones.items():
            lines = [f"{zone}. 60 SOA ns.{zone}. hostmaster.{zone}. 1 60 60 60 60", f"{zone}. 60 NS ns.example.net."]
            (folder / f"{zone.replace('/', '_')}.zone").write_text("\n".join([*lines, *records]) + "\n")
        texts = "\n".join(
            f'  - domain: "{zone}"\n    file: "{folder}/{zone.replace("/", "_")}.zone"\n    acl: updates\n'
            "    zonefile-sync: -1\n    zonefile-load: whole\n    journal-content: changes"
            for zone in zones
        )
        (folder / "knot.conf").write_text(f"""
server:
  rundir: {folder}
  listen: {address}@{port}
  udp-workers: 1
  tcp-workers: 1
database:
  storage: {folder}
control:
  listen: {folder}/sock
log:
  - target: {folder}/log
    any: info
key:
  - id: {KEY_NAME}
    algorithm: hmac-sha256
    secret: {SECRET}
acl:
  - id: updates
    key: {KEY_NAME}
    action: update
zone:
{texts}
""")
        command = ["knotd", "-d", "-c", str(folder / "knot.conf")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 0, done.stderr
        until((folder / "sock").exists, "Knot's control socket", within_s=20)

    def control(self, *words: str) -> str:
        command = ["knotc", "-s", str(self.folder / "sock"), "-b", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def records(self, zone: str) -> set[str]:
        """``NAME TTL TYPE VALUE`` of everything but SOA and NS, by Knot's own word."""
        rows = [line.removeprefix(f"[{zone}.] ").split() for line in self.control("zone-read", zone).splitlines()]
        return {" ".join(row) for row in rows if row and row[2] not in ("SOA", "NS")}

    def edit(self, zone: str, *commands: Sequence[str]) -> None:
        """Somebody else's change: ``("set", "host", "60", "TXT", "x")``."""
        self.control("zone-begin", zone)
        for verb, *words in commands:
            self.control(f"zone-{verb}", zone, *words)
        self.control("zone-commit", zone)

    def stop(self) -> None:
        self.control("stop")
