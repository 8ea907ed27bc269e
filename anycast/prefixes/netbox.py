"""A lock's records as objects of NetBox's REST interface (``/api/ipam/prefixes/``, ``ip-addresses/``, ``asns/``), and back
without loss. Pure.

What NetBox has no field for stands in custom fields, which an administrator makes once (docs/prefixes.md). A record that is
neither prefix nor address (router ids, SPI labels) is carried by one object of its site, in ``anycast_more``. What comes
back is NetBox's own value: what somebody changed there shows as a change. An object without ``anycast_key`` is others'.
What people write into fields of the fleet's objects that a lock has no place for stays theirs, and is named (`unkept`).
"""

from __future__ import annotations

import ipaddress
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from anycast.errors import ConfigError, Problem
from anycast.fleet.schema import Fleet
from anycast.fleet.values import show
from anycast.prefixes.allocation import ADDRESSES, PREFIXES, Kind, Lock
from anycast.prefixes.numbers import Range, read
from anycast.prefixes.record_table import lock_of_rows, rows_of

FIELDS = ("key", "kind", "source", "pinned", "since", "freed", "why")
"""Custom fields, each behind ``anycast_``: text, but for ``pinned`` (boolean) and ``more`` (JSON)."""
DESCRIPTION_LENGTH = 200
"""Of NetBox's field."""
_GENERATED = frozenset({
    "id", "url", "display_url", "display", "display_name", "family", "aggregate", "rir", "created", "last_updated",
    "children", "_depth", "custom_fields", "prefix", "address", "scope_id", "scope", "assigned_object_id",
    "assigned_object", "nat_outside",
})  # fmt: skip
"""What NetBox makes itself, what is a record's value, and what only repeats a field beside it."""
_ROLES = {Kind.VIP: "anycast", Kind.VRRP: "vrrp", Kind.SERVICE_ADDRESS: "loopback", Kind.TUNNEL: "loopback"}
"""Of IP addresses, as NetBox names them."""


class Foreign(NamedTuple):
    """An object that is not this fleet's."""

    range: Range
    text: str
    what: str
    """Its description."""


class Imported(NamedTuple):
    lock: Lock
    foreign: tuple[Foreign, ...]
    unkept: tuple[tuple[str, int], ...] = ()
    """Fields of the fleet's own objects that say what a lock does not keep, and of how many."""


def encode_objects(fleet: Fleet, lock: Lock, rir: str = "") -> dict[str, list[dict[str, Any]]]:
    """What to send, by endpoint: the bodies of POST requests. `rir`: the slug of the ASNs' RIR there, which NetBox wants of
    each; empty: none is written."""
    made: dict[str, list[dict[str, Any]]] = {"prefixes": [], "ip-addresses": [], "asns": _asns(fleet, rir)}
    rest: dict[str, list[dict[str, Any]]] = defaultdict(list)
    carriers: dict[str, dict[str, Any]] = {}
    for row in rows_of(lock):
        kind = Kind(row["kind"])
        body: dict[str, Any] = {
            **_fields(row),
            "custom_fields": {f"anycast_{name}": row.get(name) for name in FIELDS} | {"anycast_more": None},
        }
        site = row["key"].split(".")[1] if row["key"].startswith("sites.") else ""
        if kind in PREFIXES:
            made["prefixes"].append({"prefix": row["value"], **body})
        elif kind in ADDRESSES:
            made["ip-addresses"].append({"address": _with_length(row, lock), **body})
        else:
            rest[site].append(row)
            continue
        carriers.setdefault(site, body)
        carriers.setdefault("", body)
    for site, rows in rest.items():
        carrier = carriers.get(site) or carriers.get("")
        if carrier is None:
            raise ConfigError([Problem("", f"{rows[0]['key']} has no prefix or address that NetBox could keep it with")])
        fields = carrier["custom_fields"]
        fields["anycast_more"] = [*(fields["anycast_more"] or []), *rows]
    return made


def _fields(row: dict[str, Any]) -> dict[str, Any]:
    """NetBox's own fields of a record's object, beside its value."""
    kind = Kind(row["kind"])
    said = row.get("why", f"rests: {row['key']} gave it up")[:DESCRIPTION_LENGTH]
    made: dict[str, Any] = {"status": "deprecated" if "freed" in row else "active", "description": said}
    if kind in PREFIXES:
        made["is_pool"] = kind is Kind.POOL
    elif kind in ADDRESSES:
        made["role"] = _ROLES.get(kind, "")
    return made


def _asns(fleet: Fleet, rir: str) -> list[dict[str, Any]]:
    sites: dict[int, list[str]] = defaultdict(list)
    for name, site in fleet.sites.items():
        if site.asn is not None:
            sites[site.asn].append(name)
    return [
        {
            "asn": asn,
            **({"rir": {"slug": rir}} if rir else {}),
            "description": f"{fleet.fleet}: {', '.join(names)}"[:DESCRIPTION_LENGTH],
            "custom_fields": {"anycast_key": f"sites.{names[0]}.asn"},
        }
        for asn, names in sorted(sites.items())
    ]


def _with_length(row: dict[str, Any], lock: Lock) -> str:
    """NetBox wants the length of an address's subnet."""
    around = lock.held.get(row["source"])
    length = around.value.partition("/")[2] if around is not None and around.kind is Kind.SUBNET else ""
    return f"{row['value']}/{length or ipaddress.ip_address(row['value']).max_prefixlen}"


def decode_answers(answers: Iterable[tuple[str, str]], fleet: Fleet) -> Imported:
    """`answers`: names of files and their texts: lists that NetBox's interface answered (``?limit=0``), or what
    `encode_objects` made. Raises ConfigError with every object that means nothing."""
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    foreign: list[Foreign] = []
    own: list[tuple[dict[str, Any], dict[str, Any]]] = []
    problems: list[Problem] = []
    file = ""
    for file, text in answers:
        for place, item in _objects(text, file):
            try:
                found, other = _read(item, fleet)
            except ValueError as exc:
                problems.append(Problem(place, str(exc), file))
                continue
            rows += found
            own += [(found[0], item)] if found else []
            places += [f"{file}: {place}"] * len(found)
            foreign += [other] if other is not None else []
    if problems:
        raise ConfigError(problems)
    lock = lock_of_rows(fleet.fleet, rows, places, "")
    unkept = Counter(name for row, item in own for name in _unkept(row, item))
    return Imported(lock, tuple(sorted(foreign)), tuple(sorted(unkept.items())))


def _unkept(row: dict[str, Any], item: dict[str, Any]) -> Iterator[str]:
    """The names of an object's fields that say something else than the record does, which `row` is."""
    written = _fields(row)
    for name, value in item.items():
        said = value.get("value") if isinstance(value, dict) and "value" in value else value
        if name not in _GENERATED and (said or "") != (written.get(name) or ""):
            yield name.removesuffix("_type")
    yield from (f"custom field {name}" for name, value in _custom(item).items() if not name.startswith("anycast_") and value)


def _custom(item: dict[str, Any]) -> dict[str, Any]:
    fields = item.get("custom_fields") or {}
    if not isinstance(fields, dict):
        raise ValueError("custom_fields is no object")
    return fields


def _objects(text: str, file: str) -> list[tuple[str, Any]]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as exc:
        raise ConfigError([Problem("", f"is not JSON: {exc.msg.lower()}", file, exc.lineno, exc.colno)]) from exc
    except (RecursionError, ValueError) as exc:
        raise ConfigError([Problem("", "is no answer of NetBox: too deep, or a number too long", file)]) from exc
    if isinstance(found, dict) and isinstance(found.get("results"), list):
        if found.get("next") is not None:
            what = f"is one page of several ({len(found['results'])} of {found.get('count')} objects); ask with ?limit=0"
            raise ConfigError([Problem("next", what, file)])
        if type(count := found.get("count")) is int and count != len(found["results"]):
            what = f"has {len(found['results'])} of {count} objects; ask with ?limit=0"
            raise ConfigError([Problem("results", what, file)])
        return [(f"results[{i}]", item) for i, item in enumerate(found["results"])]
    if isinstance(found, list):
        return [(f"[{i}]", item) for i, item in enumerate(found)]
    if isinstance(found, dict) and found and all(isinstance(items, list) for items in found.values()):
        return [(f"{name}[{i}]", item) for name, items in found.items() for i, item in enumerate(items)]
    raise ConfigError([Problem("", "is no answer of NetBox: a list of objects, or an object with `results`", file, 1, 1)])


def _read(item: Any, fleet: Fleet) -> tuple[list[dict[str, Any]], Foreign | None]:
    """The records that an object carries; or, where it carries none, whose space it is."""
    if not isinstance(item, dict):
        raise ValueError("is no object")
    if "asn" in item and "prefix" not in item and "address" not in item:
        _check_asn(item, fleet)
        return [], None
    text = item.get("prefix", item.get("address"))
    if not isinstance(text, str) or "/" not in text:
        raise ValueError("is neither prefix, nor IP address, nor ASN of NetBox")
    found = read(text) if "prefix" in item else read(text.partition("/")[0])
    if found is None:
        raise ValueError(f"{show(text)} is neither a prefix nor an address")
    fields = _custom(item)
    if not fields.get("anycast_key"):
        return [], Foreign(found, text, _what(item))
    record = {name: fields[f"anycast_{name}"] for name in FIELDS if fields.get(f"anycast_{name}") is not None}
    record["value"] = text if "prefix" in item else text.partition("/")[0]
    record.setdefault("source", "")  # NetBox keeps no empty text
    if "freed" not in record:
        record.setdefault("why", "")
    else:
        for name in ("pinned", "since", "why"):
            record.pop(name, None)
    more = fields.get("anycast_more") or []
    if not isinstance(more, list) or not all(isinstance(each, dict) for each in more):
        raise ValueError("anycast_more is no list of records")
    return [record, *more], None


def _what(item: dict[str, Any]) -> str:
    """Somebody else's object, in their words; in a VRF it may be another space altogether."""
    said, vrf = item.get("description"), item.get("vrf")
    words = [said] if isinstance(said, str) and said else []
    if isinstance(vrf, dict):
        words.append(f"(VRF {show(str(vrf.get('name', vrf.get('id'))))})")
    return " ".join(words)


def _check_asn(item: dict[str, Any], fleet: Fleet) -> None:
    key = _custom(item).get("anycast_key")
    site = fleet.sites.get(key.split(".")[1]) if isinstance(key, str) and key.count(".") == 2 else None
    if site is not None and site.asn != item["asn"]:
        raise ValueError(f"{key} is {show(str(item['asn']))} there, and {site.asn} in the fleet file")
