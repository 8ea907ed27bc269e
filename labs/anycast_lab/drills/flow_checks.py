"""What a drill asserts of flows that are nearly silent (`flows`). Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from anycast_lab.drills.report import Checked


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FlowSeen:
    """One client's flow."""

    translated_to: str
    """The address that the server must see."""
    later_s: float
    """How long after a question the server speaks of itself."""
    events: Sequence[Mapping[str, Any]]
    """As `flows` records them."""


def flow_kept(flows: Mapping[str, FlowSeen], fault_ns: int, limit: float) -> Checked:
    """`limit` in milliseconds: until then after the fault nothing need come."""
    parts, passed = [], bool(flows)
    for client, flow in flows.items():
        problems = list(_problems(flow, fault_ns, int(limit * 1e6)))
        got = sum(one["what"] == "got" for one in flow.events)
        sources = ", ".join(sorted({one["from"] for one in flow.events if one["what"] == "got"}))
        parts.append("; ".join([f"{client}: {got} answers to {sources or 'nobody'}", *problems]))
        passed = passed and not problems
    text = "the translation of each flow outlives its gateway"
    return Checked(text, "; ".join(parts) or "no flow", f"{limit:g} ms after the fault", passed)


def _problems(flow: FlowSeen, fault_ns: int, gap_ns: int) -> list[str]:
    problems = [f"error: {one['said']}" for one in flow.events if one["what"] == "error"]
    got = [one for one in flow.events if one["what"] == "got"]
    sources = {one["from"] for one in got}
    if len(sources) != 1:
        problems.append(f"{len(sources)} sources")
    if wrong := [source for source in sources if source.partition(" ")[0] != flow.translated_to]:
        problems.append(f"not translated: {wrong[0]}")
    sent = {one["number"]: one["at_ns"] for one in flow.events if one["what"] == "sent" and one["later"]}
    end_ns = max((one["at_ns"] for one in flow.events), default=0)
    proof = 0
    for number, at_ns in sent.items():
        due_ns = at_ns + int(flow.later_s * 1e9)
        came = [one["at_ns"] for one in got if one["number"] == number and one["later"]]
        lost_rightly = fault_ns <= due_ns < fault_ns + gap_ns or fault_ns <= at_ns < fault_ns + gap_ns
        if not came and not lost_rightly and due_ns + gap_ns <= end_ns:
            problems.append(f"number {number} was never answered later")
        proof += bool(came) and at_ns < fault_ns and due_ns >= fault_ns + gap_ns
    if not proof:
        problems.append("nothing that was asked before the fault was answered after it")
    if not any(one["at_ns"] > fault_ns + gap_ns and not one["later"] for one in got):
        problems.append("nothing that was asked after the fault was answered")
    return problems

