"""How a gateway attracts traffic, by its document. Pure.

The compiler writes it into the content, and each agent holds its own document against it: so a content cannot call a site
announced whose documents announce nothing.
"""

from __future__ import annotations

from anycast.document import Document


def announces(document: Document) -> dict[str, tuple[str, ...]]:
    """By the name of each neighbor outside: what it hears while the site serves, as `announce/routes.py` has it."""
    heard: dict[str, tuple[str, ...]] = {}
    for neighbor in document.bgp.neighbors:
        if neighbor.side == "outside":
            told = neighbor.announces or document.service.prefixes
            prefixes = {prefix for prefix in told if ("ipv6" if ":" in prefix else "ipv4") in neighbor.families}
            heard[neighbor.name] = tuple(sorted(prefixes | set(heard.get(neighbor.name, ()))))
    return heard


def unicast(document: Document) -> dict[str, tuple[str, ...]]:
    """By the name of each neighbor outside: the site's own prefixes that it hears, also while the site is dark. They bring
    nobody here but who asked for this site, so they attract nothing that another site could take."""
    return {each.name: tuple(sorted(each.unicast)) for each in document.bgp.neighbors if each.unicast}


def holds(document: Document) -> tuple[str, ...]:
    """VIPs that come to it by VRRP alone: those of a site that announces nothing outside."""
    if document.vrrp is None or any(announces(document).values()):
        return ()
    return tuple(sorted(set(document.service.vips) & set(document.vrrp.virtual_addresses)))
