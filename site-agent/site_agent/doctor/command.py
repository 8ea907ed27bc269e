"""From the command line to an examination."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import typer

from anycast.document import Document
from site_agent import views
from site_agent.doctor import view
from site_agent.doctor.examination import examine
from site_agent.doctor.finding import Severity, Unseen
from site_agent.document_source import from_file, from_fleet
from site_agent.paths import Paths


def doctor(
    *, fleet: Path | None, gateway: str | None, document: Path | None, vici: str | None, paths: Paths, as_json: bool
) -> int:
    """Examine and print; returns the exit status. Raises ConfigError for a fleet or document that cannot be used."""
    planned, unseen = _planned(fleet, gateway, document, paths)
    examination = examine(
        document=planned, source=str(fleet or ""), etc_dir=paths.etc_dir.absolute(), vici=vici, unseen=unseen,
        control_socket=paths.control_socket,
    )
    if as_json:
        counts = {severity.value: sum(f.severity is severity for f in examination.findings) for severity in Severity}
        answer = dataclasses.asdict(examination) | {"counts": counts, "exit_status": examination.exit_status}
        typer.echo(views.to_json(answer))
    else:
        view.show(examination)
    return examination.exit_status


def _planned(
    fleet: Path | None, gateway: str | None, document: Path | None, paths: Paths
) -> tuple[Document | None, tuple[Unseen, ...]]:
    """What is given, otherwise what the agent of this machine runs by, if one ever did."""
    if fleet is not None:
        return from_fleet(fleet, gateway), ()
    if document is not None:
        return from_file(document), ()
    try:
        paths.document.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        return None, ()
    except OSError as exc:
        what = f"what the agent of this machine runs by: {paths.document}: {exc.strerror}; judged as somebody's gateway"
        return None, (Unseen(what=what, needs="root"),)
    return from_file(paths.document), ()
