"""`site-agent render`: what a document renders to, and how that differs from what is installed. Writes nothing unless told
where.

BGP's MD5 keys are in one of the files. They are replaced by a number before anything is shown or compared for people,
the same number for the same key, so that a changed key shows as a change and as nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anycast.errors import ConfigError, Problem
from site_agent.document_source import from_file, from_fleet
from site_agent.inclusion import Need, needs
from site_agent.installation import RenderedFile, rendered_files
from site_agent.paths import Paths
from site_agent.render.strongswan import strongswan_links

_KEY = re.compile(r'(?<=md5-password ")[^"]*(?=")')


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One rendered file beside the installed one, both without keys."""

    path: Path
    text: str
    state: str
    """``same``, ``differs`` or ``missing``."""
    diff: str
    """Unified; empty where the state is `same`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """What `render` tells."""

    gateway: str
    files: list[Comparison]
    needs: list[Need]

    @property
    def same(self) -> bool:
        return all(file.state == "same" for file in self.files)

    def to_json(self) -> dict[str, Any]:
        files = [dataclasses.asdict(file) | {"path": str(file.path)} for file in self.files]
        return {"gateway": self.gateway, "same": self.same, "files": files, "needs": [*map(dataclasses.asdict, self.needs)]}


def render(
    paths: Paths, *, fleet: Path | None, document: Path | None, gateway: str | None, output: Path | None
) -> Rendering:
    """Render and compare; with `output`, write the files below it as they would be installed. Raises ConfigError."""
    if fleet is None and document is None and not paths.document.exists():
        what = f"nothing to render: give --fleet or --document; {paths.document} keeps none"
        raise ConfigError([Problem("", what)])
    made = from_fleet(fleet, gateway) if fleet is not None else from_file(document or paths.document)
    files = rendered_files(made, paths)
    if output is not None:
        _write(files, paths, output)
    links = [_compare(paths.etc_dir / name, f"{target}\n", _link_text) for name, target in strongswan_links(made).items()]
    compared = [_compare(file.path, file.text, Path.read_text) for file in files]
    return Rendering(gateway=made.gateway, files=compared + links, needs=needs(paths))


def mask(rendered: str, installed: str) -> tuple[str, str]:
    """Both texts with each key replaced by its number in the order of appearance."""
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return numbers.setdefault(match[0], f"(key {len(numbers) + 1}, not shown)")

    return _KEY.sub(number, rendered), _KEY.sub(number, installed)


def _compare(path: Path, text: str, read: Any) -> Comparison:
    try:
        installed, state = read(path), "differs"
    except FileNotFoundError:
        installed, state = "", "missing"
    except OSError as exc:
        raise ConfigError([Problem("", f"cannot be read: {exc.strerror}", str(path))]) from exc
    if installed == text:
        state = "same"
    shown, was = mask(text, installed)
    diff = difflib.unified_diff(
        was.splitlines(keepends=True), shown.splitlines(keepends=True), f"{path} (installed)", f"{path} (rendered)"
    )
    return Comparison(path=path, text=shown, state=state, diff="".join(diff))


def _link_text(path: Path) -> str:
    return f"{path.readlink()}\n"


def _write(files: list[RenderedFile], paths: Paths, output: Path) -> None:
    """Each file anew, in folders that nobody else can write to: it follows no link, and opens nothing that lies there."""
    try:
        output.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _folder(output) as top:
            for file in files:
                with contextlib.ExitStack() as stack:
                    folder = top
                    *above, name = file.path.relative_to(paths.etc_dir).parts
                    for part in above:
                        with contextlib.suppress(FileExistsError):
                            os.mkdir(part, 0o700, dir_fd=folder)
                        folder = stack.enter_context(_folder(output / part, part, folder))
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder)
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    with open(os.open(name, flags, 0o600, dir_fd=folder), "w") as opened:
                        opened.write(file.text)
                        if file.mode & 0o004:  # a file without keys
                            os.fchmod(opened.fileno(), file.mode)
    except OSError as exc:
        raise ConfigError([Problem("--output", f"cannot be written: {exc.strerror}", str(exc.filename or output))]) from exc


@contextlib.contextmanager
def _folder(path: Path, name: str | None = None, above: int | None = None) -> Iterator[int]:
    """A folder that is ours alone, opened by `name` in `above` where these are given. Raises OSError, ConfigError."""
    opened = os.open(name or path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        status = os.fstat(opened)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            what = "others own it or may write to it, and the files have keys: give a folder of your own (it is made, 0700)"
            raise ConfigError([Problem("--output", what, str(path))])
        yield opened
    finally:
        os.close(opened)
