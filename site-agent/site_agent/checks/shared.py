"""The checks of class `shared` that a document asks for, put together: the coordinator's business, once there is one."""

from __future__ import annotations

from collections.abc import Callable

from anycast.document import Document
from site_agent.bfd.peers import bfd_peers
from site_agent.checks.base import Check
from site_agent.checks.bfd import BfdCheck, Standings
from site_agent.checks.dns import NAME as DNS
from site_agent.checks.dns import DnsCheck
from site_agent.checks.exec import ExecCheck
from site_agent.checks.reachability import NAME as REACHABILITY
from site_agent.checks.reachability import ReachabilityCheck
from site_agent.checks.upstreams import UpstreamsCheck


def shared_checks(document: Document, upstreams: UpstreamsCheck, bfd: Callable[[], Standings]) -> list[Check]:
    """All of them, `upstreams` (which the agent wakes by events) among them. They have seen nothing yet.

    `bfd` gives what the vrrp process reported last of its sessions.
    """
    asked = document.service.checks
    checks: list[Check] = [upstreams] if document.bgp.neighbors else []
    if peers := bfd_peers(document):
        checks.append(BfdCheck(peers, bfd))
    if asked.dns_servers:
        service, limit_s = document.service, _limit_s(document, DNS, DnsCheck.timing.timeout_s)
        checks.append(DnsCheck(service.identity, service.vips, asked.dns_servers, timeout_s=limit_s))
    if asked.reachability:
        limit_s = _limit_s(document, REACHABILITY, ReachabilityCheck.timing.timeout_s)
        checks.append(ReachabilityCheck(asked.reachability, timeout_s=limit_s))
    return [*checks, *(ExecCheck(definition) for definition in document.agent.exec_checks)]


def _limit_s(document: Document, check: str, own_s: float) -> float:
    """The time limit that the runner will keep: a check that waits for others shares it out among its tries."""
    timing = document.agent.timings.get(check)
    return own_s if timing is None or timing.timeout_ms is None else timing.timeout_ms / 1000
