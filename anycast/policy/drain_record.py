"""What is stored of a drain, as bytes. Pure.

Times are CLOCK_BOOTTIME, which starts anew with each boot: what is found in another boot goes on with its step as if that
began now. Its tunnels are gone then, so nothing is lost but time.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import math
from typing import Any

from anycast.errors import DecodeError
from anycast.policy.drain import Drain, Left, Plan, Step

VERSION = 1
MOST_PER_S, LONGEST_S, MOST_PREPEND = 1000.0, 7 * 86_400.0, 10
"""charon takes 1,000 redirects a second and more; a longer step is none; routers drop paths with many copies."""
LONGEST_TEXT = 200


def encode(drain: Drain, *, boot_id: str) -> bytes:
    text = json.dumps({"v": VERSION, "boot_id": boot_id, **dataclasses.asdict(drain)}, ensure_ascii=False, sort_keys=True)
    return text.encode(errors="replace") + b"\n"


def decode(data: bytes, *, boot_id: str, now: float) -> Drain:
    """Read what `encode` wrote. Unknown fields are passed over. Raises DecodeError."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise DecodeError("drain", 0, "not JSON") from exc
    if not isinstance(fields, dict) or fields.get("v") != VERSION or not isinstance(fields.get("plan"), dict):
        raise DecodeError("drain", 0, f'no object with "v": {VERSION} and a plan')
    try:
        here = fields.get("boot_id") == boot_id
        shown = fields.get("shown_at") if here else None
        return Drain(
            plan=check(plan_of(fields["plan"])),
            step=Step(fields["step"]),
            since=_number(fields, "since") if here else now,
            shown_at=None if shown is None else _number(fields, "shown_at"),
            told=fields.get("told") is True,
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise DecodeError("drain", 0, str(exc)) from exc


def plan_of(fields: dict[str, Any]) -> Plan:
    """Raises KeyError, TypeError, ValueError, DecodeError."""
    to, floats = fields["to"], [field.name for field in dataclasses.fields(Plan) if field.type == "float"]
    if not isinstance(to, list) or not all(isinstance(item, str) for item in to):
        raise ValueError("to is no list of addresses")
    prepend, community = fields.get("prepend", 0), fields.get("community", True)
    if type(prepend) is not int or type(community) is not bool:
        raise ValueError("prepend is no whole number, or community no flag")
    texts: dict[str, Any] = {name: _text(fields, name) for name in ("id", "by", "why")}
    numbers: dict[str, Any] = {name: _number(fields, name) for name in floats if name in fields}
    return Plan(**texts, **numbers, to=tuple(to), left=Left(fields["left"]), community=community, prepend=prepend)


def check(plan: Plan) -> Plan:
    """`plan`, if it can be gone by. Raises ValueError with a sentence for people."""
    families = [ipaddress.ip_address(text).version for text in plan.to]
    if len(set(families)) != len(families):
        raise ValueError("give one address a family to redirect to")
    for name in ("redirects_per_s", "deletes_per_s"):
        if not 0 < getattr(plan, name) <= MOST_PER_S:
            raise ValueError(f"{name} is not between 0 and {MOST_PER_S:g}")
    for name in ("follow_s", "move_limit_s", "settle_s", "cut_after_s", "cut_limit_s"):
        if not 0 <= getattr(plan, name) <= LONGEST_S:
            raise ValueError(f"{name} is not between 0 and {LONGEST_S:g} s")
    if not 0 <= plan.prepend <= MOST_PREPEND:
        raise ValueError(f"prepend is not between 0 and {MOST_PREPEND}")
    return plan


def _text(fields: dict[str, Any], name: str) -> str:
    if not isinstance(value := fields[name], str):
        raise ValueError(f"{name} is no text")
    return value[:LONGEST_TEXT].encode(errors="replace").decode()


def _number(fields: dict[str, Any], name: str) -> float:
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is no number")
    return float(value)
