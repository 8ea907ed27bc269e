"""What bounds a machine that falls silent: BGP's hold time and BFD. Pure.

The hold time: what the document says, what ExaBGP was told, what each session agreed on. RFC 4271 section 4.2: the smaller
of both ends' proposals counts, 0 means never, 1 and 2 are refused. BFD: what the agent reports of each session.
"""

from __future__ import annotations

import dataclasses

from site_agent.doctor.finding import Finding, Kind, Severity

LONG = Kind(
    id="hold_time_long",
    looks_at="the BGP hold time that is configured",
    why="a machine that freezes or loses power keeps its route for that long, and its clients have no gateway meanwhile",
    worst=Severity.WRONG,
)
DIFFERS = Kind(
    id="hold_time_differs",
    looks_at="the hold time in ExaBGP's running configuration and of each session, against the document's",
    why="the route of a frozen machine stays for another time than the one that was planned with",
    worst=Severity.WRONG,
)
BFD = Kind(
    id="bfd",
    looks_at="the BFD sessions that the document asks for, as the running agent sees them",
    why="a gateway that loses power attracts its clients until BGP's hold time is over",
    worst=Severity.RISKY,
)
KINDS = (LONG, DIFFERS, BFD)

LONGEST_S = 30
"""A client's own dead peer detection takes about this long; a longer hold time is what it waits for."""
SHORTEST_S = 3
"""RFC 4271 section 4.2."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bfd:
    """One session that the document asks for."""

    name: str
    router: str
    gateway: str
    """Addresses."""
    state: str
    """As the agent reports it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BgpReading:
    source: str
    """The fleet file that the document was made of; where only the document is here, a name to be replaced."""
    document_s: int | None
    """What the document says; None without one."""
    configured: dict[str, int]
    """By neighbor, in seconds, as the BGP speaker's own configuration file has it."""
    config_file: str
    negotiated: dict[str, int]
    """By neighbor, in seconds, where the BGP speaker tells."""
    bfd: tuple[Bfd, ...] = ()
    """Empty where the document asks for none, or no agent could be asked."""
    unguarded: tuple[str, ...] = ()
    """Names of the upstreams that the document has no BFD with."""
    restart: tuple[str, ...]
    """How its file is made anew, where there is a document to make it of, and how the speaker is made to read it."""


def judge(reading: BgpReading) -> list[Finding]:
    found = []
    planned = {"the document": reading.document_s} if reading.document_s is not None else {}
    for name, seconds in (planned or reading.configured).items():
        if seconds == 0 or seconds > LONGEST_S:
            said = "never ends a silent session" if seconds == 0 else f"is {seconds} s"
            edit = (
                f"sed -i -E 's/(hold_time: *)[0-9]+ *(s|min|m)?/\\19 s/' {reading.source}  # then compile it anew"
                if planned
                else f"sed -i -E 's/hold-time [0-9]+;/hold-time 9;/' {reading.config_file}"
            )
            severity = Severity.WRONG if seconds == 0 else Severity.RISKY
            found.append(LONG.found(severity, f"{name}: hold time {said}", edit, *([] if planned else reading.restart)))
    if not found and (planned or reading.configured):
        found.append(LONG.ok(", ".join(f"{name} {seconds} s" for name, seconds in (planned or reading.configured).items())))
    return found + _differing(reading) + _bfd(reading)


def _bfd(reading: BgpReading) -> list[Finding]:
    found = []
    for session in reading.bfd:
        if session.state != "up":
            seen = f"the session with {session.name} ({session.router}) is {session.state}"
            found.append(
                BFD.found(
                    Severity.RISKY,
                    seen,
                    f"# at {session.router}, if it is BIRD: `protocol bfd {{}}`, and `bfd on;` for {session.gateway}",
                    f"tcpdump -nc4 'udp port 3784 and host {session.router}'  # both ways, TTL 255; what drops it?",
                )
            )
    if reading.unguarded:
        names = ", ".join(reading.unguarded)
        found.append(
            BFD.found(Severity.NOTE, f"none with {names}: a machine without power attracts for {reading.document_s} s")
        )
    if reading.bfd and not found:
        found.append(BFD.ok(f"up: {', '.join(session.name for session in reading.bfd)}"))
    return found


def _differing(reading: BgpReading) -> list[Finding]:
    found = []
    for neighbor, seconds in reading.configured.items():
        if reading.document_s is not None and seconds != reading.document_s:
            seen = f"{reading.config_file}: {neighbor} has {seconds} s, the document {reading.document_s} s"
            found.append(DIFFERS.found(Severity.WRONG, seen, *reading.restart))
    for neighbor, seconds in reading.negotiated.items():
        expected = reading.document_s if reading.document_s is not None else reading.configured.get(neighbor, seconds)
        if seconds < expected:
            # The other end proposed less: nothing to mend here, but what bounds a frozen machine is theirs.
            found.append(DIFFERS.found(Severity.NOTE, f"{neighbor} proposed less: the session runs with {seconds} s"))
        elif seconds > expected:
            seen = f"the session to {neighbor} runs with {seconds} s, {expected} s is configured: it is older than that"
            found.append(DIFFERS.found(Severity.WRONG, seen, *reading.restart))
    if not found and reading.configured:
        found.append(DIFFERS.ok("as configured" if reading.negotiated else "as configured; no session tells its own"))
    return found
