"""Whether a gateway's alarm stands, as its event stream tells it, and in what time it was raised and cleared. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from anycast.reasons import Reason
from anycast_lab.drills.report import Checked
from anycast_lab.drills.timeline import Moment

RAISED, CLEARED = "AlarmRaised", "AlarmCleared"


def words(moments: Iterable[Moment], gateway: str, reason: Reason, since_ns: int = 0) -> list[Moment]:
    """What `gateway` said of the alarm from `since_ns` on, in order."""
    source = f"{gateway}/site-agent"
    said = (m for m in moments if m.source == source and m.event in (RAISED, CLEARED) and m.at_ns >= since_ns)
    return sorted(m for m in said if m.data.get("reason") == reason)


def stands(moments: Iterable[Moment], gateway: str, reason: Reason) -> bool:
    """As of the last thing said about it. An agent that starts anew begins without alarms."""
    source, state = f"{gateway}/site-agent", False
    for moment in sorted(moments):
        if moment.source != source:
            continue
        if moment.event == "AgentStarted":
            state = False
        elif moment.event in (RAISED, CLEARED) and moment.data.get("reason") == reason:
            state = moment.event == RAISED
    return state


def judge(
    moments: Sequence[Moment], reason: Reason, gateways: Sequence[str], *, fault_ns: int, heal_ns: int, limit_ms: float
) -> Checked:
    """Raised after the fault and before the heal, cleared after the heal and never raised again, each within the limit."""
    parts, passed = [], bool(gateways) and heal_ns > 0
    for gateway in gateways:
        said = words(moments, gateway, reason, fault_ns)
        raised = next((m.at_ns for m in said if m.event == RAISED and m.at_ns < heal_ns), None)
        healed = [m for m in said if m.at_ns >= heal_ns]
        cleared = healed[-1].at_ns if healed and healed[-1].event == CLEARED else None
        raised_ms = None if raised is None else (raised - fault_ns) / 1e6
        cleared_ms = None if cleared is None else (cleared - heal_ns) / 1e6
        parts.append(f"{gateway} {_said('raised', raised_ms)}, {_said('cleared', cleared_ms)}")
        passed = passed and all(ms is not None and ms <= limit_ms for ms in (raised_ms, cleared_ms))
    text = f"alarm {reason} after the fault, none after the heal"
    return Checked(text, "; ".join(parts), f"{limit_ms:g} ms each", passed)


def _said(what: str, ms: float | None) -> str:
    return f"never {what}" if ms is None else f"{what} after {ms:.0f} ms"
