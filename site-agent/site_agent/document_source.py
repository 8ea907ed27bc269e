"""Where the agent's document comes from: compiled here from fleet.yaml (standalone), or read from a file.

A document that could be used is kept. A later start whose configuration has problems runs by the kept one and raises an
alarm: a bad configuration is never evidence that a gateway cannot serve (architecture, rule 2).
"""

from __future__ import annotations

import dataclasses
import socket
import time
from pathlib import Path

import pydantic

from anycast.document import KNOWN_REQUIREMENTS, Document
from anycast.errors import ConfigError, DecodeError, PeerError, Problem
from anycast.events import AlarmRaised
from anycast.fleet.compile import compile_gateway
from anycast.fleet.loading import load
from anycast.reasons import Reason
from site_agent import content_store
from site_agent.installation import install
from site_agent.paths import Paths

READING_LIMIT_S = 5.0
"""A third of the usual restart grace; of a shorter one, a third of that. Without any, a restart withdraws anyhow."""


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
        if any(e["type"] == "json_invalid" for e in exc.errors()):
            what = "is no compiled document, which is JSON; give YAML with --fleet"
            raise ConfigError([Problem("", what, str(path))]) from exc
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


def managed(paths: Paths) -> Document | None:
    """What a coordinator's content says, under its generation; None where none was ever active. Raises ConfigError."""
    try:
        active = content_store.load(paths.contents).active
        return None if active is None else active.runs
    except DecodeError as exc:
        raise ConfigError([Problem("", exc.what, str(paths.contents))]) from exc


def choose(paths: Paths, *, fleet: Path | None, document: Path | None, gateway: str | None) -> Choice:
    """Read the configuration; nothing is written, so a mistaken command line leaves nothing behind.

    A gateway that has taken a content runs by it, whatever fleet.yaml says here by now: the coordinator's operators decide.
    Raises ConfigError where it has problems and no earlier document was kept.
    """
    try:
        if (taken := managed(paths)) is not None:
            return Choice(document=taken)
    except ConfigError as refused:
        return _kept(paths, refused)
    if fleet is None and document is None and not _keeps_one(paths):
        raise ConfigError([Problem("", f"nothing to run by: give --fleet or --document; {paths.document} keeps none")])
    try:
        return Choice(document=from_fleet(fleet, gateway) if fleet is not None else from_file(document or paths.document))
    except ConfigError as refused:
        return _kept(paths, refused)


def put_in_place(choice: Choice, paths: Paths) -> Choice:
    """Install the files of the chosen document and keep it; of the kept one if the chosen cannot be installed.

    A predecessor's route stands for its restart grace, and the way from here to the first renewal must fit into it: a
    third is what ExaBGP's reading of a changed file may take. Where it takes longer, every file stays as it is, with
    the document that it was made of. Raises ConfigError where neither document can be used.
    """
    third_s = choice.document.lease.grace_ms / 3000
    until = time.monotonic() + min(third_s or READING_LIMIT_S, READING_LIMIT_S)
    try:
        install(choice.document, paths, limit_s=until - time.monotonic())
    except ConfigError as refused:
        choice = _kept(paths, refused)
        try:
            install(choice.document, paths, limit_s=max(until - time.monotonic(), 0.1))
        except PeerError as late:
            choice = _as_installed(choice, late)
    except PeerError as late:
        unread = ConfigError([Problem("bgp", f"{late}; the files stay as they were, a restart tries again")])
        choice = _as_installed(choice, late) if choice.alarms else _kept(paths, unread)
    if not choice.alarms:
        scratch = paths.document.with_suffix(".new")
        scratch.write_bytes(choice.document.canonical())
        scratch.replace(paths.document)
    return choice


def _as_installed(choice: Choice, late: PeerError) -> Choice:
    """The kept document renders to something else than before (an upgrade), and that was not read in time either."""
    alarm = AlarmRaised(reason=Reason.CONFIG_REFUSED, detail=f"{choice.alarms[0].detail}; and {late}: the files stay")
    return dataclasses.replace(choice, alarms=(alarm,))


def _keeps_one(paths: Paths) -> bool:
    """Raises ConfigError where that cannot be seen."""
    try:
        return paths.document.exists()
    except OSError as exc:  # PermissionError where somebody but root may not enter the folder
        what = f"cannot be looked for ({exc.strerror}); site-agent runs as root"
        raise ConfigError([Problem("", what, str(paths.document))]) from exc


def _kept(paths: Paths, refused: ConfigError) -> Choice:
    if not _keeps_one(paths):
        raise refused
    alarm = AlarmRaised(reason=Reason.CONFIG_REFUSED, detail=str(refused))
    return Choice(document=from_file(paths.document), alarms=(alarm,))
