"""Every kind of finding, by topic. docs/doctor.md has the same table; a test keeps them one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from site_agent.doctor.finding import Kind
from site_agent.doctor.judge import (
    bgp,
    certificates,
    charon,
    clock,
    connections,
    firewall,
    kernel,
    routes,
    services,
    sync,
    vrrp,
)

TOPICS: Mapping[str, tuple[Kind, ...]] = MappingProxyType(
    {
        "kernel": kernel.KINDS,
        "routes": routes.KINDS,
        "firewall": firewall.KINDS,
        "clock": clock.KINDS,
        "certificates": certificates.KINDS,
        "charon": charon.KINDS,
        "connections": connections.KINDS,
        "services": services.KINDS,
        "bgp": bgp.KINDS,
        "vrrp": vrrp.KINDS,
        "sync": sync.KINDS,
    }
)


def table() -> Iterator[str]:
    """The lines of the table in docs/doctor.md."""
    yield "| finding | topic | looks at | why it matters | at worst |"
    yield "| --- | --- | --- | --- | --- |"
    for topic, kinds in TOPICS.items():
        for kind in kinds:
            yield f"| `{kind.id}` | {topic} | {kind.looks_at} | {kind.why} | {kind.worst} |"
