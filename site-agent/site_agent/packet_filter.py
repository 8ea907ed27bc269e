"""Loads the rendered nftables table into the kernel: whole, or without its rules against connection tracking.

The operator's own rules are asked first (`untracking.py`): where they would drop, or no longer translate, what is not
tracked, our table goes in without these rules. Then `nft -c`, so that a file that nft does not understand is told in
nft's words and nothing is touched; then one transaction that replaces our table and no other, which the kernel takes
whole or not at all. That it was taken, and that nobody has flushed it since, is what `checks/packet_filter.py` asks the
kernel for. The table stays when the agent ends, as the tunnels do.

A kernel may have no inet family at all (User Mode Linux has none). It is told apart from a refused file by asking for
the smallest table there could be. Such a gateway serves without the table; there is no second implementation by
iptables, because the tunnels do not depend on it.

All of this waits for other programs: it is called in a thread that nobody waits for at the end (`patience.py`).
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

from anycast.document import Document
from site_agent.doctor.judge.nft_rules import Ruleset
from site_agent.render.nftables import TABLE, marker, tracked
from site_agent.untracking import Obstacle, obstacles, without

NFT = "/usr/sbin/nft"
LIMIT_S = 3.0
"""Loading takes 10 ms natively, four starts of nft 0.3 s in User Mode Linux, a list of 10,000 rules 0.3 s."""
_SMALLEST = "table inet anycast_probe { chain any { type filter hook prerouting priority raw; }; }\n"
LEGACY = (Path("/proc/net/ip_tables_names"), Path("/proc/net/ip6_tables_names"))
"""Names of the older ip_tables' tables, whose rules nft does not show; empty or not there where it was never used."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PacketFilter:
    """What came of loading the table."""

    marker: str
    """The chain that is there while what was loaded is in force."""
    refused: str = ""
    """nft's words where it did not take the file."""
    available: bool = True
    """False where the kernel has nothing to load a table into."""
    obstacles: tuple[Obstacle, ...] = ()
    """Why it went in without the rules against connection tracking; none where it is whole."""


def judge(document: Document) -> tuple[Obstacle, ...]:
    """What of the operator's rules keeps the gateway's packets tracked. Never raises for what nft says."""
    if any(_text(path).strip() for path in LEGACY):
        seen = "rules of ip_tables are in force, which nft does not show"
        return (Obstacle(seen, "move them to nft: iptables-legacy-save | iptables-nft-restore; then boot without them"),)
    listed, complaint = _run("--json", "list", "ruleset")
    if complaint:
        return (Obstacle(f"your rules could not be listed: {complaint}", "nft --json list ruleset"),)
    try:
        return tuple(obstacles(Ruleset(without(json.loads(listed), TABLE)), document))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        return (Obstacle(f"nft's list of your rules cannot be understood: {exc!r}", "nft --json list ruleset"),)


def load_packet_filter(path: Path, document: Document) -> PacketFilter:
    """Replace our table by the one in `path`, or by what of it the operator's rules bear. Never raises for what nft says."""
    try:
        whole = path.read_text()
    except OSError as exc:
        return PacketFilter(marker="unread", refused=f"{path}: {exc.strerror}")
    found = judge(document)
    text = tracked(whole) if found else whole
    refused = _run("-c", "-f", "-", text=text)[1] or _run("-f", "-", text=text)[1]
    available = not refused or not _run("-c", "-f", "-", text=_SMALLEST)[1]
    return PacketFilter(marker=marker(text), refused=refused, available=available, obstacles=found)


def _run(*words: str, text: str = "") -> tuple[str, str]:
    """Run nft. What it says, and its complaint in one line, or nothing where it did what it was told."""
    try:
        done = subprocess.run([NFT, *words], input=text, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except OSError as exc:
        return "", f"{NFT}: {exc.strerror}"
    except subprocess.TimeoutExpired:
        return "", f"{NFT}: no answer within {LIMIT_S:g} s"
    if done.returncode == 0:
        return done.stdout, ""
    said = done.stderr.strip().splitlines()
    return "", said[0] if said else f"{NFT} exited with {done.returncode}"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
