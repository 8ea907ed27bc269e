"""What a document makes a vrrp process do: its plan. Pure; what only the machine knows is handed in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from ipaddress import ip_address, ip_interface

from anycast.document import Document, Vrrp, VrrpPath
from anycast.errors import PeerError
from site_agent.bfd.peers import bfd_peers
from site_agent.vrrp import plan as plans
from site_agent.vrrp.packet import Interop
from site_agent.vrrp.seal import Path

_PATHS = {"outside": Path.OUTSIDE, "inside": Path.INSIDE, "management": Path.MANAGEMENT}
_INTEROP = {
    "none": Interop.RFC9568,
    "keepalived": Interop.KEEPALIVED,
    "keepalived_as_v2": Interop.KEEPALIVED_AS_V2,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """What the process before this one leaves to it (`wire.Status`)."""

    until_ns: int = 0
    """CLOCK_BOOTTIME until which it goes on as the other one was; 0: it begins as Backup, BFD at Down."""
    active: bool = False
    """The other one was Active."""
    boot: int = 0
    taken: Mapping[str, list[int]] = dataclasses.field(default_factory=dict)
    bfd: Mapping[str, dict[str, int | str]] = dataclasses.field(default_factory=dict)


def has_router(document: Document) -> bool:
    """There is a virtual router to run."""
    return document.vrrp is not None and any(path.voices for path in document.vrrp.paths)


def wanted(document: Document) -> bool:
    """There is something for a vrrp process to do."""
    return has_router(document) or bool(bfd_peers(document))


def plan_of(
    document: Document,
    *,
    link_locals: Mapping[str, str],
    keys: tuple[dict[int, bytes], int],
    resume: Resume,
    boot_mark: str = "",
) -> plans.Plan:
    """`link_locals`: an IPv6 link-local address of each interface that has one. `keys` by id, and the one in use.

    Raises PeerError where a voice needs a link-local address that is not there yet.
    """
    vrrp, (by_id, in_use) = document.vrrp, keys
    return plans.Plan(
        advertisement_interval=100 if vrrp is None else vrrp.interval_cs,
        preempt=vrrp is not None and vrrp.preempt,
        preempt_delay_s=0.0 if vrrp is None else vrrp.preempt_delay_ms / 1000,
        router_id=0 if vrrp is None else vrrp.router_id,
        interop=Interop.RFC9568 if vrrp is None else _INTEROP[vrrp.interop],
        address_life_s=math.ceil(document.lease.duration_ms / 1000),
        links=() if vrrp is None else tuple(_link(vrrp, path, link_locals) for path in vrrp.paths if path.voices),
        keys=by_id,
        key_in_use=in_use,
        resume_until_ns=resume.until_ns,
        resume_backup=not resume.active,
        boot_after=resume.boot,
        boot_mark=boot_mark if by_id else "",
        taken=dict(resume.taken),
        bfd=bfd_peers(document),
        bfd_before=dict(resume.bfd) if resume.until_ns else {},
    )


def _link(vrrp: Vrrp, path: VrrpPath, link_locals: Mapping[str, str]) -> plans.Link:
    voices = []
    for voice in path.voices:
        if not (source := voice.source or link_locals.get(path.interface, "")):
            raise PeerError("vrrp", f"{path.interface} has no IPv6 link-local address yet")
        voices.append(
            plans.Voice(
                vrid=vrrp.vrid,
                source=ip_address(source),
                destination=ip_address(voice.destination),
                addresses=tuple(ip_interface(address) for address in voice.addresses),
                announced=tuple(ip_address(address) for address in voice.announced),
            )
        )
    return plans.Link(path=_PATHS[path.path], interface=path.interface, voices=tuple(voices))
