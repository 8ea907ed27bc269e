"""What differs between two contents, per site, gateway and key: the words of `anycast diff` and of the history. Pure.

A gateway's document is compared key by key where both texts are at hand, else by its hash. A site or gateway that only one
of the two has is one difference. Values are JSON texts, so that nothing looks like something else (`"7"` and `7`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from anycast.content.canonical import Part, encode
from anycast.content.content import Content, Gateway, Site


class Difference(Part):
    site: str
    """Empty: of the whole fleet."""
    gateway: str
    """Empty: of the site."""
    key: str
    """Path inside it, with dots; what is of its document begins with ``document``. Empty: the site or gateway itself."""
    before: str | None
    """As JSON; None: it is not there."""
    after: str | None


Documents = Mapping[str, str]
"""The text of each gateway's document."""


Changed = tuple[str, str | None, str | None]
"""Key, before, after."""


def differences(before: Content | None, after: Content, was: Documents, will: Documents) -> tuple[Difference, ...]:
    """By site, gateway and key. `before`: None of a first content."""
    found = [
        Difference(site="", gateway="", key=key, before=old, after=new)
        for key, old, new in _changed(_of_fleet(before), _of_fleet(after))
    ]
    sites = {} if before is None else before.sites
    for site in sorted(sites.keys() | after.sites.keys()):
        found += _of_site(site, sites.get(site), after.sites.get(site), was, will)
    return tuple(found)


def line(difference: Difference) -> str:
    """For people: ``fra intent: announced -> drained``."""
    place = " ".join(part for part in (difference.site, difference.gateway, difference.key) if part)
    return f"{place}: {_plain(difference.before)} -> {_plain(difference.after)}"


def _of_site(name: str, old: Site | None, new: Site | None, was: Documents, will: Documents) -> Iterator[Difference]:
    if old is None or new is None:
        said = [None if each is None else encode(sorted(each.gateways)) for each in (old, new)]
        yield Difference(site=name, gateway="", key="", before=said[0], after=said[1])
        return
    if old == new:
        return
    for key, before, after in _changed(_of(old, "gateways"), _of(new, "gateways")):
        yield Difference(site=name, gateway="", key=key, before=before, after=after)
    for gateway in sorted(old.gateways.keys() | new.gateways.keys()):
        one, other = old.gateways.get(gateway), new.gateways.get(gateway)
        if one is None or other is None:
            said = [None if each is None else encode(each.document) for each in (one, other)]
            yield Difference(site=name, gateway=gateway, key="", before=said[0], after=said[1])
            continue
        for key, before, after in _of_gateway(one, other, was.get(gateway), will.get(gateway)):
            yield Difference(site=name, gateway=gateway, key=key, before=before, after=after)


def _of_gateway(one: Gateway, other: Gateway, was: str | None, will: str | None) -> Iterator[Changed]:
    yield from _changed(_of(one, "document"), _of(other, "document"))
    if one.document == other.document:
        return
    if was is None or will is None:
        yield "document", encode(one.document), encode(other.document)
    else:
        yield from _changed(dict(_flat("document", json.loads(was))), dict(_flat("document", json.loads(will))))


def _of_fleet(content: Content | None) -> dict[str, str]:
    return {} if content is None else _of(content, "sites", "after", "version", "requires", "fleet")


def _of(part: Part, *but: str) -> dict[str, str]:
    dumped = part.model_dump(mode="json", exclude=set(but))
    return dict(pair for key in sorted(dumped) for pair in _flat(key, dumped[key]))


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Changed]:
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)


def _flat(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every leaf by its path. Of a list of objects that have names each is found by its name, whatever its place."""
    if isinstance(value, dict) and value:
        for key in value:
            yield from _flat(f"{place}.{key}", value[key])
        return
    names = [each.get("name") for each in value if isinstance(each, dict)] if isinstance(value, list) else []
    if names and len(names) == len(value) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
        for name, each in zip(names, value, strict=True):
            yield from _flat(f"{place}[{name}]", each)
        return
    yield place, encode(value)


def _plain(value: str | None) -> str:
    """Without the quotes of a text that needs none."""
    if value is None:
        return "-"
    told = json.loads(value)
    return told if isinstance(told, str) and told and told.isprintable() else value
