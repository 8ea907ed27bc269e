"""VRP exports of validators: the JSON of routinator (``json``, ``jsonext``) and of rpki-client.

Both are one object with ``roas``, a list of objects with ``asn`` (``"AS64500"`` or 64500), ``prefix``, ``maxLength``;
besides them routinator says ``ta`` or ``source``, rpki-client ``ta`` and ``expires`` (Unix time). When it was made stands in
``metadata``: ``generated`` (Unix time) of routinator, ``buildtime`` (RFC 3339) of rpki-client. What else is there is
ignored. An export of the Internet has half a million VRPs, so only those that cover what is asked about are kept. Pure.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Set
from typing import Any, NamedTuple

from anycast.errors import ConfigError, Problem
from anycast.fleet.values import show
from anycast.prefixes.numbers import WIDTH, Range, read

_MOST_PROBLEMS = 20
_LONG4 = frozenset(map(str, range(8, 33)))
_LONG6 = frozenset(map(str, range(16, 129)))


class Vrp(NamedTuple):
    """Validated ROA payload (RFC 6811)."""

    asn: int
    prefix: str
    max_length: int
    anchor: str
    """The trust anchor's name; empty where the export does not say it."""

    @property
    def range(self) -> Range:
        found = read(self.prefix)
        assert found is not None
        return found


class Export(NamedTuple):
    generated: datetime.datetime | None
    """When the validator made it (UTC); None where it does not say."""
    total: int
    """VRPs in it."""
    expired: int
    """Of those about the fleet, how many are no longer valid: they are not in `vrps`."""
    vrps: tuple[Vrp, ...]
    """Those about the fleet."""


def decode_vrps(text: str, about: Set[Range], now: datetime.datetime, *, file: str = "vrps.json") -> Export:
    """`about`: the prefixes whose VRPs are kept. Raises ConfigError with what cannot be read."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as exc:
        what = f"is not JSON: {exc.msg.lower()}"
        raise ConfigError([Problem("", what, file, exc.lineno, exc.colno)]) from exc
    except (RecursionError, ValueError) as exc:
        raise ConfigError([Problem("", "is not a VRP export: too deep, or a number too long", file)]) from exc
    roas = found.get("roas") if isinstance(found, dict) else None
    if not isinstance(roas, list):
        what = "is no VRP export: an object with a list `roas`, as `routinator vrps -f json` and rpki-client -j write it"
        raise ConfigError([Problem("", what, file, 1, 1)])
    if not roas:
        what = "has no VRP at all, which is what a validator without trust anchors writes: nothing can be judged by it"
        raise ConfigError([Problem("roas", what, file)])
    kept: list[Vrp] = []
    expired = 0
    problems: list[Problem] = []
    heads = _heads(about)
    for number, roa in enumerate(roas):
        try:
            if _is_far(roa, heads) or (space := _space(roa)) not in about:
                continue
            if _expires(roa) <= now.timestamp():
                expired += 1
            else:
                kept.append(_vrp(roa, space))
        except ValueError as exc:
            problems.append(Problem(f"roas[{number}]", str(exc), file))
            if len(problems) == _MOST_PROBLEMS:
                break
    if problems:
        raise ConfigError(problems)
    unique = sorted(set(kept), key=lambda vrp: (vrp.range, vrp.asn, vrp.max_length, vrp.anchor))
    return Export(_generated(found.get("metadata")), len(roas), expired, tuple(unique))


def _heads(about: Set[Range]) -> Set[str]:
    """The first octets and 16-bit groups of prefixes that are long enough to have one."""
    four = {str(start >> 24) for family, start, length in about if family == "ipv4" and length >= 8}
    return four | {f"{start >> 112:x}" for family, start, length in about if family == "ipv6" and length >= 16}


def _is_far(roa: Any, heads: Set[str]) -> bool:
    """Whether a VRP is so obviously about others that it need not be read: nearly all of half a million are."""
    if not isinstance(roa, dict) or not isinstance(prefix := roa.get("prefix"), str):
        return False
    address, _, length = prefix.partition("/")
    if ":" in address:
        return length in _LONG6 and address.partition(":")[0].lower().lstrip("0") not in heads
    return length in _LONG4 and address.partition(".")[0] not in heads


def _space(roa: Any) -> Range:
    if not isinstance(roa, dict) or not isinstance(prefix := roa.get("prefix"), str):
        raise ValueError("is no VRP: an object with asn, prefix, maxLength")
    if "/" not in prefix or (space := read(prefix)) is None:
        raise ValueError(f"prefix: {show(prefix)} is not a prefix without bits beyond its length")
    return space


def _vrp(roa: dict[str, Any], space: Range) -> Vrp:
    most = roa.get("maxLength", space.length)
    if type(most) is not int or not space.length <= most <= WIDTH[space.family]:
        raise ValueError(f"maxLength: {show(str(most))} is not between {space.length} and {WIDTH[space.family]}")
    text = roa.get("asn")
    digits = text if isinstance(text, str) else str(text) if type(text) is int else ""
    digits = digits[2:] if digits[:2].upper() == "AS" else digits
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 10 or int(digits) > 4294967295:
        raise ValueError(f"asn: {show(str(text))} is not an AS number")
    return Vrp(int(digits), roa["prefix"], most, _anchor(roa))


def _anchor(roa: dict[str, Any]) -> str:
    if isinstance(name := roa.get("ta"), str):
        return name if name.isprintable() and len(name) < 64 else ""
    sources = roa.get("source")
    if isinstance(sources, list):
        for source in sources:
            if isinstance(source, dict) and isinstance(name := source.get("tal"), str):
                return name if name.isprintable() and len(name) < 64 else ""
    return ""


def _expires(roa: dict[str, Any]) -> float:
    """rpki-client's; where it is not said, never."""
    at = roa.get("expires")
    return at if isinstance(at, int | float) and not isinstance(at, bool) else float("inf")


def _generated(metadata: Any) -> datetime.datetime | None:
    if not isinstance(metadata, dict):
        return None
    try:
        if type(at := metadata.get("generated")) is int:
            return datetime.datetime.fromtimestamp(at, datetime.UTC)
        for key in ("buildtime", "generatedTime"):
            if isinstance(text := metadata.get(key), str):
                when = datetime.datetime.fromisoformat(text)
                return when if when.tzinfo is not None else when.replace(tzinfo=datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None


def spaces_around(ranges: Iterable[Range]) -> frozenset[Range]:
    """Every prefix that holds one of `ranges`: what `decode_vrps` is to keep."""
    found = set()
    for family, start, length in ranges:
        width = WIDTH[family]
        for n in range(length, -1, -1):
            around = Range(family, start >> (width - n) << (width - n), n)
            if around in found:
                break
            found.add(around)
    return frozenset(found)
