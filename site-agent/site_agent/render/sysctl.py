"""The kernel settings that a gateway needs: one list, for the sysctl.d file and for judging a machine.

Pure. The agent itself changes no setting of the machine; `site-agent render --help` says how the file is put to use.
Each setting touches our two interfaces only where the kernel lets it; how it joins `all` with an interface's own is in
include/linux/inetdevice.h.
"""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath

from anycast.document import Document
from site_agent.render.templating import render

IPV6_FORWARDING = "net.ipv6.conf.all.forwarding"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One kernel setting, the value that is rendered, and why."""

    name: str
    """As sysctl(8) writes it: dots between the parts, and a slash for a dot in an interface's name."""
    value: int
    also: tuple[int, ...] = ()
    """Values of an operator's own that do as well."""
    reason: str
    """One sentence for people."""
    joined: str | None = None
    """Setting that the kernel joins with this one: what is in force is the larger of both."""

    @property
    def path(self) -> PurePosixPath:
        """Where it is read and written."""
        return proc_path(self.name)

    def suits(self, found: int, joined: int = 0) -> bool:
        """Does a machine do that has this value, and `joined` for the setting of that name?"""
        in_force = max(found, joined)
        return in_force == self.value or in_force in self.also


def proc_path(name: str) -> PurePosixPath:
    """The file of a setting that is written as sysctl(8) writes it."""
    return PurePosixPath("/proc/sys", name.translate(str.maketrans("./", "/.")))


def settings(document: Document) -> tuple[Setting, ...]:
    """What this gateway's kernel must be set to, in the order in which people read it."""
    return settings_of(document.uplink.name, document.inside.name, mirrored=document.sync is not None)


def settings_of(uplink: str, inside: str, *, mirrored: bool = False) -> tuple[Setting, ...]:
    """The same for a machine with these two interfaces, which may be one; `mirrored`: its tunnels have a copy elsewhere."""
    forwards = "a gateway forwards between tunnels and servers"
    found = [
        Setting(name="net.ipv4.ip_forward", value=1, reason=forwards),
        Setting(name=IPV6_FORWARDING, value=1, also=(2,), reason=forwards),
        Setting(
            name="net.ipv4.conf.all.send_redirects",
            value=0,
            reason="a redirect sends a neighbour past the gateway, out of the tunnel; one is sent unless both this and the "
            "interface's own are 0",
        ),
    ]
    uplink, inside = uplink.replace(".", "/"), inside.replace(".", "/")
    for name in dict.fromkeys((uplink, inside)):
        ipv4, ipv6 = f"net.ipv4.conf.{name}", f"net.ipv6.conf.{name}"
        found += [
            Setting(
                name=f"{ipv4}.rp_filter",
                joined="net.ipv4.conf.all.rp_filter",
                value=2,
                also=(0,),
                reason="with two ways out a client's packets arrive by one and its answers leave by the other, which strict "
                "filtering drops; the kernel takes the larger of this and `all`",
            ),
            Setting(
                name=f"{ipv4}.arp_ignore",
                joined="net.ipv4.conf.all.arp_ignore",
                value=1,
                also=(2, 3, 8),
                reason="an address on loopback, as the VIP is, is reached by route; without this every interface answers "
                "ARP for it",
            ),
            Setting(
                name=f"{ipv4}.arp_announce",
                joined="net.ipv4.conf.all.arp_announce",
                value=2,
                also=(1,),
                reason="what is sent from the VIP would be asked for with the VIP as ARP's sender, which many routers and "
                "servers do not answer because it is not of their subnet, and the Active's with an address that moves",
            ),
            Setting(
                name=f"{ipv4}.send_redirects",
                joined="net.ipv4.conf.all.send_redirects",
                value=0,
                reason="as for all.send_redirects",
            ),
            Setting(
                name=f"{ipv4}.accept_redirects",
                value=0,
                reason="a neighbour must not turn a gateway's traffic to itself",
            ),
            Setting(name=f"{ipv6}.accept_redirects", value=0, reason="as for IPv4"),
            Setting(name=f"{ipv6}.accept_ra", value=0, reason="a neighbour must not become a gateway's default route"),
        ]
    if mirrored:
        found += [
            Setting(
                name="net.core.xfrm_aevent_rseqth",
                value=100,
                reason="the kernel tells the mirror after so many packets of an SA, by default after 2, which is a message "
                "for each; an SA takes the value that holds when it is made",
            ),
            Setting(
                name="net.core.xfrm_aevent_etime",
                value=10,
                reason="and after so many tenths of a second where fewer packets came",
            ),
            Setting(
                name="net.netfilter.nf_conntrack_events",
                value=1,
                reason="by default a kernel tells of a flow only where somebody listened when it began, so a flow that was "
                "taken over would be mirrored no more; the sync process sets it, too",
            ),
        ]
    return tuple(found)


def render_sysctl(document: Document) -> str:
    """The text of a sysctl.d(5) file."""
    return render("sysctl.conf.j2", document=document, settings=settings(document))
