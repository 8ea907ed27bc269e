"""A plan for eyes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from anycast.cli.screen import clean
from anycast.content.content import Budget
from anycast.policy.plan import Plan
from anycast.policy.plan_view import Announcement, LedgerView
from anycast.policy.whatif import Verdict
from anycast.policy.worst_case import WorstCase

_MOST = 40
"""Rows of one table; the rest is counted. `--json` has all."""


def lines(plan: Plan, worst: WorstCase) -> Iterator[str]:
    """What `anycast plan` prints. Why a site is dark, its gateway may have said."""
    return map(clean, _lines(plan, worst))


def _lines(plan: Plan, worst: WorstCase) -> Iterator[str]:
    if plan.empty and not plan.problems:
        yield f"fleet {plan.fleet}: nothing to do"
        return
    yield f"fleet {plan.fleet}: {len(plan.changes)} site{'' if len(plan.changes) == 1 else 's'} to change"
    yield from _section("sites", ("site", "what", "before", "after", "documents"), [
        (each.site, ", ".join(each.what), each.before or "-", each.after or "-", ", ".join(each.documents) or "-")
        for each in plan.changes
    ])  # fmt: skip
    changing = [row for row in plan.announcements if row.changes]
    same = len(plan.announcements) - len(changing)
    rows = [(row.site, _neighbor(row), _heard(row, before=True), _heard(row, before=False), _seen(row)) for row in changing]
    yield from _section("announcements", ("site", "neighbor", "before", "after", "seen now"), rows)
    yield f"  {same} more stay as they are"
    yield ""
    yield from _moves(plan)
    yield from _capacity(plan)
    yield f"worst    {worst.verdict}" + (f": {worst.unknown}" if worst.verdict is Verdict.UNKNOWN else "")
    yield from (f"         {each}" for each in worst.breaks)
    yield f"budget   {'none' if plan.budget_before is None else _budget(plan.budget_before)} -> {_budget(plan.budget_after)}"
    yield f"ledger   before: {_ledger(plan.ledger_before)}"
    yield f"         after:  {_ledger(plan.ledger_after)}"
    if plan.left_behind:
        yield f"not heard, and behind: {', '.join(plan.left_behind)}"
    yield f"plan     {plan.hash}"


def _moves(plan: Plan) -> Iterator[str]:
    moves = plan.moves
    yield f"tunnels  at most {moves.worst} move{_unknown(moves.unknown)}"
    for what, sites in (("lose their site", moves.cut), ("may move", moves.may_move)):
        if sites:
            yield f"         {what}: {', '.join(f'{site} {count}' for site, count in list(sites.items())[:_MOST])}"


def _capacity(plan: Plan) -> Iterator[str]:
    capacity = plan.capacity
    tunnels = f"{capacity.tunnels} tunnels now{_unknown(capacity.uncounted)}"
    if capacity.worst is None:
        yield f"capacity no site attracts; {tunnels}"
    elif capacity.unwritten:
        yield f"capacity unknown at {_few(capacity.unwritten)}; {tunnels}"
    else:
        site, left = capacity.worst
        short = "" if left >= capacity.tunnels else f": {capacity.tunnels - left} TOO FEW"
        yield f"capacity {capacity.total}; without {site}, the worst to lose, {left}{short}; {tunnels}"


def _neighbor(row: Announcement) -> str:
    return f"{row.neighbor} (unicast)" if row.unicast else row.neighbor


def _heard(row: Announcement, *, before: bool) -> str:
    prefixes, worse = (row.before, row.worse_before) if before else (row.after, row.worse_after)
    return (_few(prefixes, 3) or "-") + (" (worse)" if worse and prefixes else "")


def _seen(row: Announcement) -> str:
    return "unknown" if row.seen is None else _few(row.seen, 3) or "nothing"


def _budget(budget: Budget) -> str:
    regions = "".join(f", {name} {floor.min_sites}" for name, floor in budget.regions.items())
    tunnels = "" if budget.min_capacity is None else f", {budget.min_capacity} tunnels"
    return f"{budget.min_sites} sites{tunnels}{regions}"


def _ledger(ledger: LedgerView) -> str:
    who = ", ".join(f"{site} {each.why}" for site, each in sorted(ledger.dark.items())[:_MOST])
    return f"dark {len(ledger.dark)} of {ledger.allowed} allowed{f': {who}' if who else ''}"


def _unknown(sites: Sequence[str]) -> str:
    return f", and nobody knows how many at {_few(sites)}" if sites else ""


def _few(words: Sequence[str], most: int = 10) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def _section(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield ""
    yield title
    table = [head, *rows[:_MOST]]
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    for line in table:
        yield "  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
    if len(rows) > _MOST:
        yield f"  and {len(rows) - _MOST} more"
