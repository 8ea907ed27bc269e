"""What a drill asserts of tunnels that outlive a gateway: their SAs, their numbers, the TCP inside them. Pure."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from anycast_lab.capture.numbers import Numbers, Reuse, Takeover
from anycast_lab.drills.crowd_checks import CrowdSeen
from anycast_lab.drills.crowd_checks import moments as crowd_moments
from anycast_lab.drills.flow_checks import FlowSeen
from anycast_lab.drills.report import Checked
from anycast_lab.drills.timeline import Moment

_IKE_SA = re.compile(r"^\S+: #\d+, (\w+), IKEv2, ([0-9a-f]{16})_i\*? ([0-9a-f]{16})_r\*?$", re.MULTILINE)
_BUILT = re.compile(r"\bIKE_SA \S+ established between ")
_SHOWN = 3
"""How many reused numbers a report names."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IkeSa:
    """As `swanctl --list-sas` shows one."""

    state: str
    spis: tuple[str, str]
    """The initiator's and the responder's."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IkeSeen:
    """One client's IKE_SAs."""

    before: tuple[IkeSa, ...]
    after: tuple[IkeSa, ...]
    built: int
    """How many its charon has built anew in between; a rekey builds none."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One client's download from a second before the fault to the drill's end."""

    connection: str
    """Both ends; empty where nobody answered."""
    bytes: int
    ended: str
    """Why before the drill's end; empty where it went on."""
    wrong_at: int | None
    stall_ms: float
    """The longest time without a byte."""
    stall_from_ns: int
    stall_to_ns: int
    """0 where it had not ended."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A secret where none must be."""

    place: str
    """A gateway and a path, or whatever else it was."""
    name: str
    """Its kind: esp, ike or key."""
    form: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What was looked for, where, and what was found."""

    secrets: Mapping[str, int]
    """How many of each kind were known."""
    places: int
    found: tuple[Found, ...]
    cores: tuple[str, ...]
    """Which processes with keys would leave a core dump."""
    problems: tuple[str, ...]
    """Why a look that found nothing proves nothing."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MirrorSeen:
    """Everything that was seen of the tunnels, by client or gateway."""

    ike: Mapping[str, IkeSeen]
    downloads: Mapping[str, Download]
    numbers: Numbers
    flows: Mapping[str, FlowSeen] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...]
    """Why the captures cannot be trusted; none where all is well."""
    crowd: CrowdSeen | None = None
    """None where none has connected."""


def ike_sas(listed: str) -> tuple[IkeSa, ...]:
    """Of the output of `swanctl --list-sas`; those that are half open have no responder's SPI yet, and count for nothing."""
    found = (IkeSa(state=m[1], spis=(m[2], m[3])) for m in _IKE_SA.finditer(listed))
    return tuple(one for one in found if int(one.spis[1], 16))


def ike_sas_built(log: str) -> int:
    """IKE_SAs that a client's charon says to have established, rekeyed ones not counted."""
    return len(_BUILT.findall(log))


def judge_download(record: Mapping[str, Any], from_ns: int, to_ns: int) -> Download:
    """Read a record of `stream fetch` between two times; the last byte before the first one begins a stall, too."""
    arrivals: Sequence[tuple[int, int]] = record["arrivals"]
    times = [at for at, _total in arrivals if at <= to_ns]
    before = [at for at in times if at < from_ns][-1:]
    times = [*before, *(at for at in times if at >= from_ns)]
    gaps = [(b - a, a, b) for a, b in itertools.pairwise(times)]
    if times:
        gaps.append((max(0, to_ns - times[-1]), times[-1], 0))
    stall, begin, end = max(gaps, default=(to_ns - from_ns, from_ns, 0))
    return Download(
        connection=" from ".join(record["connection"]) if all(record["connection"]) else "",
        bytes=arrivals[-1][1] if arrivals else 0,
        ended=record["ended"],
        wrong_at=record["wrong_at"],
        stall_ms=round(stall / 1e6, 1),
        stall_from_ns=begin,
        stall_to_ns=end,
    )


def tcp_continues(seen: MirrorSeen, limit: float) -> Checked:
    """`limit` in milliseconds."""
    parts, passed = [], bool(seen.downloads)
    for client, one in seen.downloads.items():
        said = (
            f"longest stall {one.stall_ms:.0f} ms" if one.stall_to_ns else f"stalled for {one.stall_ms:.0f} ms until the end"
        )
        said = f"{said}, {one.bytes:,} bytes" if one.connection else "no connection"
        said += f", ended: {one.ended}" if one.ended else ""
        said += "" if one.wrong_at is None else f", wrong from byte {one.wrong_at:,} on"
        parts.append(f"{client}: {said}")
        whole = bool(one.connection) and not one.ended and one.wrong_at is None
        passed = passed and whole and one.bytes > 0 and one.stall_ms <= limit
    text = "each client's TCP connection goes on, every byte right"
    return Checked(text, "; ".join(parts) or "no download", f"{limit:g} ms", passed)


def no_number_twice(seen: MirrorSeen) -> Checked:
    """Nothing is proved where no gateway went on under an SA of the other one.

    Who goes on below what had been sent before uses numbers that were used before the capture began.
    """
    found = seen.numbers
    packets = ", ".join(f"{count:,} packets of {gateway}" for gateway, count in found.packets.items())
    said = [f"{packets} under {found.sas} SAs; {len(found.numbers_twice)} numbers and {len(found.ivs_twice)} IVs twice"]
    said += [_reuse(one) for one in (*found.numbers_twice[:_SHOWN], *found.ivs_twice[:_SHOWN])]
    said += [_takeover(one) for one in found.takeovers if one.own is None]
    said += [
        f"{_takeover(one)}, below its own {one.own:,}" for one in found.takeovers if one.own is not None and one.jump <= 0
    ][:_SHOWN]
    if by_turns := sum(one.own is not None for one in found.takeovers):
        said.append(f"{by_turns} times one went on where it had been itself")
    if not found.takeovers:
        said.append("no gateway went on under an SA of the other one")
    passed = not found.numbers_twice and not found.ivs_twice and not seen.problems
    passed = passed and bool(found.takeovers) and all(found.packets.values())
    passed = passed and all(takeover.jump > 0 for takeover in found.takeovers)
    text = "no ESP sequence number and no explicit IV is used twice"
    return Checked(text, "; ".join([*said, *seen.problems]), "0 of both, and a takeover", passed)


def _reuse(one: Reuse) -> str:
    return f"{one.sequence:,} under {one.spi:08x} to {one.destination} by {one.first[0]}, then by {one.again[0]}"


def _takeover(one: Takeover) -> str:
    return f"{one.gateway} goes on under {one.spi:08x} at {one.first:,} after {one.before:,}"


def sent_to_client(seen: MirrorSeen) -> Checked:
    """Who goes on under a client's SA sends to where its peer sent last, also where the client had moved just before."""
    takeovers = seen.numbers.takeovers
    said = [
        f"{one.gateway} sends {one.spi:08x} to {one.destination}, and the client was at {one.elsewhere}"
        for one in takeovers
        if one.elsewhere is not None
    ]
    passed = bool(takeovers) and not said and not seen.problems
    found = "; ".join([*said, *seen.problems]) or (f"{len(takeovers)} SAs" if takeovers else "no takeover")
    return Checked("the new Active sends to where each client is", found, "no packet elsewhere", passed)


def same_ike_sa(seen: MirrorSeen) -> Checked:
    parts, passed = [], bool(seen.ike)
    for client, ike in seen.ike.items():
        before, after = ({one.spis for one in sas if one.state == "ESTABLISHED"} for sas in (ike.before, ike.after))
        same = "the same" if before and before == after else "another" if after else "none"
        parts.append(f"{client}: {same} ({len(before)} before, {len(after)} after, {ike.built} built anew)")
        passed = passed and len(before) == 1 and len(after) == 1 and ike.built == 0
    return Checked("each client keeps its IKE_SA", "; ".join(parts) or "no client", "0 built anew", passed)


def built_once(seen: MirrorSeen, took_ms: Mapping[str, float], limit: float) -> Checked:
    """`took_ms`: by client, from the fault to the first good packet."""
    parts, passed = [], bool(seen.ike)
    for client, ike in seen.ike.items():
        there = [one for one in ike.after if one.state == "ESTABLISHED"]
        took = took_ms.get(client)
        parts.append(f"{client}: {ike.built} built, {len(there)} there, {'never' if took is None else f'{took:.0f} ms'}")
        passed = passed and ike.built == 1 and len(there) == 1 and took is not None and 0 < took <= limit
    return Checked("who was about to connect does so once", "; ".join(parts) or "no client", f"1 in {limit:g} ms", passed)


def no_secret_told(told: Told, at: str = "") -> Checked:
    """`at`: only what was found in this file counts."""
    found = [one for one in told.found if one.place.partition(" ")[2].startswith(at)]
    known = ", ".join(f"{count} {name}" for name, count in told.secrets.items()) or "none"
    said = [f"{one.name} as {one.form} in {one.place}" for one in found] or [f"in none of {told.places} places"]
    text = f"no secret of the tunnels and gateways is told{f' in {at}' if at else ''}"
    passed = not found and not told.problems and told.places > 0
    return Checked(text, "; ".join([f"known: {known}", *said, *told.problems]), "0 found", passed)


def no_core(told: Told) -> Checked:
    found = "; ".join((*told.cores, *told.problems)) or "none would"
    return Checked("no process with keys leaves a core dump", found, "none", not told.cores and not told.problems)


def moments(seen: MirrorSeen) -> Iterator[Moment]:
    """For the timeline: where another gateway went on under an SA, and the longest stall of each download."""
    for one in (one for one in seen.numbers.takeovers if one.own is None):
        yield Moment(one.at_ns, one.gateway, "first_packet_of_takeover", str(one.destination), _takeover(one))
    for client, download in seen.downloads.items():
        if download.connection and download.stall_from_ns:
            yield Moment(download.stall_from_ns, client, "download_stalls")
            if download.stall_to_ns:
                yield Moment(download.stall_to_ns, client, "download_goes_on", "", f"after {download.stall_ms:.0f} ms")
    if seen.crowd is not None:
        yield from crowd_moments(seen.crowd)
