"""How an examination looks to people: what is worst first, and each mending line alone on its line, to be copied."""

from __future__ import annotations

import os
import re
import sys
import textwrap

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from site_agent.doctor.examination import Examination
from site_agent.doctor.finding import Finding, Severity

STYLES = {Severity.WRONG: "bold red", Severity.RISKY: "yellow", Severity.NOTE: "cyan", Severity.OK: "green"}
UNBOUNDED = 1 << 16
_LOADS = re.compile(r"(?:\w+=\S+ )*(?:swanctl|systemctl|kill|apparmor_parser) ")
"""What has files read as they are by then: wanted after each change of them, and printed again."""
HEADINGS = {
    Severity.WRONG: "Wrong: clients are refused or lose tunnels by it",
    Severity.RISKY: "Risky: holds until load, an attack, an upgrade or a failure",
    Severity.NOTE: "Notes: may be meant so",
}


def show(examination: Examination) -> None:
    console = Console(highlight=False, width=_width())
    named = [f"charon pid {pid}" for pid in examination.pids]
    named += [f"perhaps charon pid {pid}, which may be of another network namespace" for pid in examination.uncertain]
    subject = ", ".join(named) or "no charon"
    gateway = f" as {examination.gateway}" if examination.gateway else ""
    _say(console, f"Examined [bold]{subject}[/]{escape(gateway)}; nothing was changed. Lines after $ mend, as root.")
    printed: set[str] = set()
    for severity, heading in HEADINGS.items():
        findings = [finding for finding in examination.findings if finding.severity is severity]
        if findings:
            _say(console, f"\n[{STYLES[severity]}]{heading}[/]")
            for finding in findings:
                _show_finding(console, finding, printed)
    mentioned = {f.id for f in examination.findings if f.severity is not Severity.OK}
    fine = dict.fromkeys(f.id for f in examination.findings if f.id not in mentioned)
    if fine:
        _say(console, f"\n[green]Nothing to mend[/]: {', '.join(fine)}")
    for missed in examination.unseen:
        needs = f" [bold](needs {escape(missed.needs)})[/]" if missed.needs else ""
        _say(console, f"[yellow]Not seen[/]: {escape(missed.what)}{needs}")
    counts = {severity: sum(f.severity is severity for f in examination.findings) for severity in HEADINGS}
    counts[Severity.OK] = len(fine)  # what is named above; in the JSON each look counts
    _say(console, "\n" + ", ".join(f"{count} {severity}" for severity, count in counts.items()))


def _say(console: Console, markup: str) -> None:
    """Wrapped at blanks, none of which is left at a line's end."""
    for line in Text.from_markup(markup).wrap(console, console.width):
        line.rstrip()
        console.print(line, soft_wrap=True)


def _show_finding(console: Console, finding: Finding, printed: set[str]) -> None:
    """`printed` are the lines that stand above already; those of this finding are added."""
    name = f"  {finding.id}  "
    room = max(20, console.width - len(name))
    body = [(line, "") for line in textwrap.wrap(finding.seen, room, break_on_hyphens=False)]
    body += [(line, "dim") for line in textwrap.wrap(finding.why, room, break_on_hyphens=False)]
    for number, (line, style) in enumerate(body):
        before = Text(name, STYLES[finding.severity]) if number == 0 else Text(" " * len(name))
        console.print(before.append(Text(line, style or "default")), soft_wrap=True)
    lines = [line for line in finding.mend if line not in printed or _LOADS.match(line)]
    for line in lines:
        # Never wrapped: a line that is broken where the terminal ends does something else when it is pasted.
        console.print(f"    $ {escape(line)}", soft_wrap=True)
    if finding.mend and not lines:
        console.print("    [dim]the lines above mend it, too[/]")
    printed.update(lines)


def _width() -> int | None:
    """None: the terminal's own. Piped, that of the terminal that is left (`| less`); without any, nothing is wrapped."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal():
        return None
    for stream in (sys.stderr, sys.stdin):
        try:
            return os.get_terminal_size(stream.fileno()).columns or UNBOUNDED
        except (OSError, ValueError):
            continue
    return UNBOUNDED
