"""Where the agent's document comes from: compiled here from fleet.yaml (standalone), or read from a file.

A document that could be used is kept. A later start whose configuration has problems runs by the kept one and raises an
alarm: a bad configuration is never evidence that a gateway cannot serve (architecture, rule 2).
"""

from __future__ import annotations

import socket
from pathlib import Path

import pydantic

from anycast.document import KNOWN_REQUIREMENTS, Document
from anycast.errors import ConfigError, Problem
from anycast.events import AlarmRaised
from anycast.fleet.compile import compile_gateway
from anycast.fleet.loading import load
from anycast.reasons import Reason
from site_agent.installation import install
from site_agent.paths import Paths


def from_fleet(fleet: Path, gateway: str | None) -> Document:
    """Compile the document of `gateway` (None: the one named as this host). Raises ConfigError."""
    loaded = load(fleet)
    name = gateway or socket.gethostname()
    try:
        return compile_gateway(loaded, name)
    except KeyError as exc:
        raise ConfigError([Problem("sites", f"has no gateway {name}", str(fleet))]) from exc


def from_file(path: Path) -> Document:
    """Read a compiled document. Raises ConfigError."""
    try:
        document = Document.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise ConfigError([Problem("", f"cannot be read: {exc.strerror}", str(path))]) from exc
    except pydantic.ValidationError as exc:
        problems = [Problem(".".join(map(str, e["loc"])), e["msg"], str(path)) for e in exc.errors()]
        raise ConfigError(problems) from exc
    if unknown := sorted(set(document.requires) - KNOWN_REQUIREMENTS):
        raise ConfigError([Problem("requires", f"{', '.join(unknown)} is unknown to this version", str(path))])
    return document


def usable_document(
    paths: Paths, *, fleet: Path | None, document: Path | None, gateway: str | None
) -> tuple[Document, tuple[AlarmRaised, ...]]:
    """The document to run by, its files installed and itself kept, and the alarms that go with it.

    Raises ConfigError where the configuration has problems and no earlier document was kept.
    """
    try:
        wanted = from_fleet(fleet, gateway) if fleet is not None else from_file(document or paths.document)
        install(wanted, paths)
    except ConfigError as refused:
        if not paths.document.exists():
            raise
        kept = from_file(paths.document)
        install(kept, paths)
        return kept, (AlarmRaised(reason=Reason.CONFIG_REFUSED, detail=str(refused)),)
    scratch = paths.document.with_suffix(".new")
    scratch.write_bytes(wanted.canonical())
    scratch.replace(paths.document)
    return wanted, ()
