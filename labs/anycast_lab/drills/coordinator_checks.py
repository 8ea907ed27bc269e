"""What the coordinator showed of the fleet while a drill ran, and what commands said. Pure.

`Moment`s of the source ``coordinator``: ``looked`` (it answered), ``site_state`` (a site is shown otherwise than at the look
before; `detail` is the state), ``coordinator_silent`` (no answer, or
that of one started anew: what was shown is not any more), ``ledger`` and ``rollout`` (another line, another step).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anycast_lab.drills.coordinator_steps import CoordinatorCheck, LedgerSaid, Said, StatusOnly, StatusShows
from anycast_lab.drills.limits import Limit
from anycast_lab.drills.report import Checked
from anycast_lab.drills.timeline import Moment

SOURCE, LOOKED, STATE, SILENT = "coordinator", "looked", "site_state", "coordinator_silent"
LEDGER, ROLLOUT = "ledger", "rollout"
UNHEARD = "unheard"
_SHOWN = 60
"""Characters of an answer that a report repeats."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A command of a `run` step, at its end."""

    rc: int
    text: str
    """Standard output, then standard error."""


def states(status: Mapping[str, Any], sites: Iterable[str]) -> dict[str, str]:
    """Each of `sites` as /v1/status, which `anycast status --json` prints, has it."""
    shown = {str(site["site"]): str(site["state"]) for site in status["sites"]}
    return {site: shown.get(site, UNHEARD) for site in sites}


def last(moments: Iterable[Moment], before_ns: int | None = None) -> dict[str, str]:
    """What is shown after these moments; nothing where it was silent since."""
    shown: dict[str, str] = {}
    for moment in sorted(m for m in moments if m.source == SOURCE and (before_ns is None or m.at_ns < before_ns)):
        if moment.event == SILENT:
            shown.clear()
        elif moment.event == STATE:
            shown[moment.subject] = moment.detail
    return shown


def judge(
    check: CoordinatorCheck,
    moments: Sequence[Moment],
    answers: Mapping[str, Answer],
    *,
    sites: Sequence[str],
    fault_ns: int,
    kernel: str,
    limits: Mapping[str, Limit],
) -> Checked:
    """`sites`: all of the fleet."""
    match check:
        case StatusShows():
            return _shows(check, moments, check.sites or sites, fault_ns, limits[check.limit].on(kernel))
        case StatusOnly():
            return _only(check, moments, check.sites or sites, fault_ns)
        case Said():
            return _said(check, answers.get(check.name))
        case LedgerSaid(text=text):
            lines = dict.fromkeys(
                m.detail for m in moments if m.source == SOURCE and m.event == LEDGER and m.at_ns >= fault_ns
            )
            said = next((line for line in lines if text in line), "; ".join(lines) or "nothing new")
            return Checked("the ledger says so", said, repr(text), any(text in line for line in lines))


def _shows(check: StatusShows, moments: Sequence[Moment], sites: Sequence[str], fault_ns: int, limit: float) -> Checked:
    since = fault_ns
    text = f"status shows {', '.join(sites)} {check.state} after the {check.after.replace('_', ' ')}"
    bound = f"{limit:g} ms"
    if check.after != "fault":
        taken = [m.at_ns for m in moments if m.source == "drill" and m.event == check.after]
        if not taken:
            return Checked(text, f"there was no {check.after}", bound, False)
        since = max(taken)
    # What one showed before it was started anew is no knowledge of this one.
    before = last(moments, since) if check.after != "coordinator_start" else {}
    took = dict[str, float]()
    for site in sites:
        if before.get(site) == check.state:
            took[site] = 0.0
            continue
        so = Moment(since, SOURCE, STATE, site, check.state)
        found = (m.at_ns for m in sorted(moments) if m.at_ns >= since and dataclasses.replace(m, at_ns=since) == so)
        if (at := next(found, None)) is not None:
            took[site] = (at - since) / 1e6
    if missing := [site for site in sites if site not in took]:
        return Checked(text, f"never: {', '.join(missing)}", bound, False)
    slowest = max(took, key=lambda site: took[site])
    return Checked(text, f"{slowest} last, after {took[slowest]:.0f} ms", bound, took[slowest] <= limit)


def _only(check: StatusOnly, moments: Sequence[Moment], sites: Sequence[str], fault_ns: int) -> Checked:
    text = f"status shows {', '.join(sites)} as nothing but {' or '.join(check.states)}"
    looks = sum(1 for m in moments if m.source == SOURCE and m.event == LOOKED and m.at_ns >= fault_ns)
    shown = [(site, state) for site, state in last(moments, fault_ns).items()]
    shown += [(m.subject, m.detail) for m in moments if m.source == SOURCE and m.event == STATE and m.at_ns >= fault_ns]
    wrong = dict.fromkeys(f"{site} {state}" for site, state in shown if site in sites and state not in check.states)
    seen = ", ".join(wrong) or f"{looks} looks, none otherwise"
    return Checked(text, seen, "at least one look", looks > 0 and not wrong)


def _said(check: Said, answer: Answer | None) -> Checked:
    text, wanted = f"`{check.name}` says so", f"status {check.rc}" + (f", {check.text!r}" if check.text else "")
    if answer is None:
        return Checked(text, "it was not run", wanted, False)
    passed = answer.rc == check.rc and check.text in answer.text
    # Where nobody asked what it said, that is not repeated: a credential, perhaps.
    told = f", {_around(check.text, answer.text)!r}" if check.text else ""
    return Checked(text, f"status {answer.rc}{told}", wanted, passed)


def _around(text: str, said: str) -> str:
    """The line that has it, or how it begins."""
    line = next((line for line in said.splitlines() if text in line), said)
    return line.strip()[:_SHOWN]
