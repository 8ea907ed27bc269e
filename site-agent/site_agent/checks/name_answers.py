"""What one authoritative server said of the service's name, and what all of them together mean. Pure.

Clients reach the service by its name, so at every authoritative server the name must lead to exactly the VIPs: a missing
family costs those clients, a foreign address sends them (and whatever they offer) to somebody else, and one server of
several that still has yesterday's zone is the fault that nobody sees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv6Address

from anycast.reasons import Reason
from site_agent.checks.base import Finding, failing, passing

Address = IPv4Address | IPv6Address


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One server's answer for one family, or why there was none."""

    server: str
    addresses: frozenset[Address] = frozenset()
    authoritative: bool = True
    """RFC 1035 section 4.1.1, AA: without it the server only repeats what it once heard."""
    problem: str = ""
    """What it said instead of addresses, e.g. ``SERVFAIL``; empty for an answer, also for an empty one."""
    silent: bool = False
    """No answer within the time, or no way to the server; `problem` says which."""


def judge(name: str, identity: str, vips: Collection[Address], answers: Sequence[Answer]) -> Finding:
    """`answers` are each server's, one a family. A wrong answer outweighs a missing one: it misleads clients now.

    The finding's value is how many servers are wrong or silent.
    """
    servers = list(dict.fromkeys(answer.server for answer in answers))
    right, wrong, silent = list[str](), list[str](), list[str]()
    for server in servers:
        own = [answer for answer in answers if answer.server == server]
        if faults := _faults(own, frozenset(vips)):
            wrong.append(f"{server}: {', '.join(faults)}")
        elif any(answer.silent for answer in own):
            problems = dict.fromkeys(answer.problem for answer in own if answer.silent)
            silent.append(f"{server}: {', '.join(problems)}")
        else:
            right.append(server)
    value = float(len(wrong) + len(silent))
    if not wrong and not silent:
        leads = f"{identity} leads to {_text(vips)} at {', '.join(right)}"
        return passing(name, leads, value)
    told = "; ".join([*wrong, *silent, *([f"right at {', '.join(right)}"] if right else [])])
    return failing(name, Reason.DNS_WRONG if wrong else Reason.DNS_SILENT, f"{identity}: {told}", value)


def _faults(answers: Sequence[Answer], vips: frozenset[Address]) -> list[str]:
    """What is wrong with what one server said. Its silence is not, here."""
    spoken = [answer for answer in answers if not answer.silent]
    faults = list(dict.fromkeys(answer.problem for answer in spoken if answer.problem))
    if any(not answer.authoritative and not answer.problem for answer in spoken):
        faults.append("not authoritative")
    if faults:
        return faults  # addresses of a server that may not speak for the name prove nothing either way
    seen = frozenset[Address]().union(*(answer.addresses for answer in spoken))
    if foreign := seen - vips:
        faults.append(f"gives {_text(foreign)}")
    if len(spoken) == len(answers) and (missing := vips - seen):
        faults.append(f"lacks {_text(missing)}")
    return faults


def _text(addresses: Collection[Address]) -> str:
    return ", ".join(str(a) for a in sorted(addresses, key=lambda a: (a.version, int(a))))
