"""Who holds a site's VRRP addresses, as each gateway's kernel has them; our own status is not asked.

No process is started in a node, so it may be asked every millisecond.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator
from pathlib import Path

from anycast.fleet.compile import compile_gateway
from anycast.fleet.schema import Fleet
from anycast_lab.runner import LabError, Runner

ACTIVE, BACKUP, PARTLY = "active", "backup", "partly"
"""All of the virtual addresses, none, or some: a change under way, or one that went wrong."""
_TENTATIVE = 0x40
"""linux/if_addr.h, IFA_F_TENTATIVE: there, but not to be used yet."""


def roles(runner: Runner, fleet: Fleet) -> dict[str, str]:
    """The role of every gateway whose site has a virtual router and that is powered on, by its name."""
    found = {}
    for site in fleet.sites.values():
        for gateway in site.gateways if site.vrrp is not None else ():
            with contextlib.suppress(LabError, OSError):  # powered off, also in this very moment
                found[gateway] = role(runner, fleet, gateway)
    return found


def role(runner: Runner, fleet: Fleet, gateway: str) -> str:
    """`gateway`'s role. Raises LabError or OSError where it is off, ValueError where its site has no virtual router."""
    vrrp = compile_gateway(fleet, gateway).vrrp
    if vrrp is None:
        raise ValueError(f"{gateway} has no part in a virtual router")
    wanted = {str(ipaddress.ip_address(address)) for address in vrrp.virtual_addresses}
    here = wanted & local_addresses(runner.pid(gateway))
    return ACTIVE if here == wanted else PARTLY if here else BACKUP


def actives(runner: Runner, fleet: Fleet, site: str) -> list[str]:
    """The gateways of `site` that hold at least one of its virtual addresses: one of them, where all is well."""
    return [name for name, word in roles(runner, fleet).items() if name in fleet.sites[site].gateways and word != BACKUP]


def local_addresses(pid: int) -> set[str]:
    """Every usable address in the network namespace of process `pid`, without its length. OSError where it has ended."""
    net = Path(f"/proc/{pid}/net")
    return {*_ipv4((net / "fib_trie").read_text()), *_ipv6((net / "if_inet6").read_text())}


def _ipv4(fib_trie: str) -> Iterator[str]:
    leaf = ""
    for line in fib_trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            leaf = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"]:
            yield leaf


def _ipv6(if_inet6: str) -> Iterator[str]:
    for line in if_inet6.splitlines():
        digits, _index, _length, _scope, flags, *_name = line.split()
        if not int(flags, 16) & _TENTATIVE:
            yield str(ipaddress.IPv6Address(bytes.fromhex(digits)))
