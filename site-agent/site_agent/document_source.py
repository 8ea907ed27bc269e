"""Where the agent's document comes from: compiled here from fleet.yaml (standalone), or read from a file.

A document that could be used is kept. A later start whose configuration has problems runs by the kept one and raises an
alarm: a bad configuration is never evidence that a gateway cannot serve (architecture, rule 2).
"""

from __future__ import annotations

import dataclasses
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
        known = ", ".join(each for site in loaded.sites.values() for each in site.gateways)
        host = "" if gateway else ", this host's name"
        what = f"no gateway is called {name}{host}; choose one with --gateway NAME: {known}"
        raise ConfigError([Problem("sites", what, str(fleet))]) from exc


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The document to run by, and what an operator must see of how it was chosen."""

    document: Document
    alarms: tuple[AlarmRaised, ...] = ()


def choose(paths: Paths, *, fleet: Path | None, document: Path | None, gateway: str | None) -> Choice:
    """Read the configuration; nothing is written, so a mistaken command line leaves nothing behind.

    Raises ConfigError where it has problems and no earlier document was kept.
    """
    if fleet is None and document is None and not paths.document.exists():
        raise ConfigError([Problem("", f"nothing to run by: give --fleet or --document; {paths.document} keeps none")])
    try:
        return Choice(document=from_fleet(fleet, gateway) if fleet is not None else from_file(document or paths.document))
    except ConfigError as refused:
        return _kept(paths, refused)


def put_in_place(choice: Choice, paths: Paths) -> Choice:
    """Install the files of the chosen document and keep it; of the kept one if the chosen cannot be installed.

    Raises ConfigError where neither can.
    """
    try:
        install(choice.document, paths)
    except ConfigError as refused:
        choice = _kept(paths, refused)
        install(choice.document, paths)
    if not choice.alarms:
        scratch = paths.document.with_suffix(".new")
        scratch.write_bytes(choice.document.canonical())
        scratch.replace(paths.document)
    return choice


def _kept(paths: Paths, refused: ConfigError) -> Choice:
    if not paths.document.exists():
        raise refused
    alarm = AlarmRaised(reason=Reason.CONFIG_REFUSED, detail=str(refused))
    return Choice(document=from_file(paths.document), alarms=(alarm,))
