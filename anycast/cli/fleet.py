"""`anycast check` and `anycast compile`: what fleet.yaml says, before anything runs by it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from anycast.document import Document
from anycast.errors import ConfigError, Problem
from anycast.fleet.compile import compile_fleet
from anycast.fleet.loading import load

FleetFile = Annotated[Path, typer.Argument(metavar="FILE", help="The fleet file (YAML).")]


def check(file: FleetFile) -> None:
    """Say every problem of a fleet file, with line and column. Changes nothing; exit status 2 where there are any."""
    documents = compile_fleet(load(file))
    sites = len({document.site for document in documents.values()})
    print(f"{file}: good: {_count(sites, 'site')}, {_count(len(documents), 'gateway')}")


def compile_(
    file: FleetFile,
    gateway: Annotated[str | None, typer.Option("--gateway", "-g", help="Only this gateway.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Write DIR/GATEWAY.json. Without it, print."),
    ] = None,
) -> None:
    """Compile a fleet file to its gateways' documents. Nothing is written where the file has problems."""
    documents = compile_fleet(load(file))
    if gateway is not None:
        if gateway not in documents:
            known = ", ".join(documents)
            raise ConfigError([Problem("sites", f"has no gateway {gateway}; there are {known}", str(file))])
        documents = {gateway: documents[gateway]}
    if out is None:
        for document in documents.values():
            print(_text(document), end="")
        return
    for name, document in documents.items():
        path = out / f"{name}.json"
        try:
            out.mkdir(parents=True, exist_ok=True)
            scratch = path.with_name(f".{path.name}.new")
            scratch.write_text(_text(document))
            os.replace(scratch, path)
        except OSError as exc:
            raise ConfigError([Problem("", f"cannot be written: {exc.strerror}", str(path))]) from exc
        print(f"{path}  {document.hash}")


def _text(document: Document) -> str:
    """For eyes and diffs. `hash` is over the canonical form, which any reader of this text comes back to."""
    return json.dumps(document.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
