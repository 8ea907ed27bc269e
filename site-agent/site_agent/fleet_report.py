"""What the coordinator is told of this gateway: made of the same snapshot that `site-agent status` shows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from anycast.link_wire import MOST_LEASED, CauseTold, ContentsTold, HoldTold, Report
from anycast.model import EvidenceClass

_WORD, _TEXT, _CAUSES, _NAMED = 128, 512, 16, 64
"""Bounds of the wire."""


def report_of(
    status: Mapping[str, Any],
    *,
    number: int,
    tunnels: int | None,
    decrypted: int | None,
    encrypted: int | None,
    established: int | None,
    contents: ContentsTold | None,
    leased: Mapping[str, int] | None = None,
) -> Report:
    """`status` is `snapshot.take`'s; what the wire has no room for is cut off."""
    vrrp, hold = status["vrrp"], status["hold"]
    causes = [] if status["route"]["announce"] else status["route"]["causes"]
    shared = [row for row in status["checks"] if row["class"] == EvidenceClass.SHARED.value]
    role: Literal["active", "backup", "none"] = "none"
    if vrrp is not None and vrrp["router"]:
        role = "active" if vrrp["role"] == "active" else "backup"
    return Report(
        number=number,
        document=status["document"]["hash"],
        generation=status["document"]["generation"],
        serving=status["verdict"]["serving"],
        announced=sum(route["announced"] for route in status["routes"]),
        routes=len(status["routes"]),
        causes=tuple(
            CauseTold(
                reason=str(cause["reason"])[:_WORD], check=str(cause["check"])[:_WORD], detail=str(cause["detail"])[:_TEXT]
            )
            for cause in causes[:_CAUSES]
        ),
        role=role,
        hold=None if hold is None else HoldTold(kind=hold["kind"], reason=hold["reason"][:_TEXT], left_s=hold["left_s"]),
        tunnels=tunnels,
        decrypted=decrypted,
        encrypted=encrypted,
        established=established,
        contents=contents,
        leased=None if leased is None else {pool: min(leased[pool], MOST_LEASED) for pool in list(leased)[:_NAMED]},
        own=tuple(dict.fromkeys(route["prefix"] for route in status["own_routes"] if route["announced"]))[:_NAMED],
        shared={row["check"][:_WORD]: row["status"] for row in shared[:_NAMED]},
        alarms={str(alarm["reason"])[:_WORD]: alarm["detail"][:_TEXT] for alarm in status["alarms"][:_NAMED]},
    )
