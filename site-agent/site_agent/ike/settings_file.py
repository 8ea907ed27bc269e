"""strongSwan's configuration format, as strongswan.conf(5) and swanctl.conf have it: text in, a tree out. Pure.

charon tells through VICI what its connections are, but neither its own settings nor `start_action` and `replay_window`
of a connection; those stand only in files. The grammar is that of src/libstrongswan/settings (sections, values, quoted
strings, `include`, references `name : other`). Including is the caller's business: it is asked with the pattern as written
and the name of the file that it stands in, and gives names and texts. Everything is bounded: depth, files, characters.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable

from anycast.errors import DecodeError

MAX_DEPTH = 32
MAX_INCLUDES = 10
"""How deep files may include each other: strongSwan's own MAX_INCLUDE_LEVEL."""
MAX_FILES = 512
"""Debian's strongswan.d has 90."""
MAX_CHARACTERS = 4 << 20

Include = Callable[[str, str], Iterable[tuple[str, str]]]
"""(pattern as written, name of the including file) -> (name, text) of each file it means."""

_TOKEN = re.compile(
    r"""(?P<space>[\t\r ]+|\#[^\n]*)|(?P<newline>\n)|(?P<mark>[{}=])|(?P<reference>:)|(?P<comma>,)"""
    r"""|(?P<name>[^\#{}=:,"\r\n\t ]+(?:::[^\#{}=:,"\r\n\t ]*)*)"""
)
_INCLUDE = re.compile(r'include[\t ]+(?![\t ]*=)(?:"((?:[^"\\]|\\.)*)"|((?:[^"\\#}\r\n\t ]|\\.)+))')
_VALUE = re.compile(r'[\t\r ]+|"((?:[^"\\]|\\.)*)"|([^#}"\r\n\t ]+)', re.DOTALL)
_ESCAPE = re.compile(r"\\(\r?\n|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}


@dataclasses.dataclass(slots=True)
class Section:
    """One `{ … }`, or a whole file. Later values replace earlier ones; sections of one name are one section."""

    values: dict[str, str] = dataclasses.field(default_factory=dict)
    sections: dict[str, Section] = dataclasses.field(default_factory=dict)
    references: list[str] = dataclasses.field(default_factory=list)
    """Dotted paths, from the root, of the sections whose values stand here where no own ones do."""


class Settings:
    """A parsed tree, asked by dotted paths."""

    def __init__(self, root: Section) -> None:
        self.root = root

    def get(self, path: str) -> str | None:
        """The value at `path` (``charon.plugins.ha.monitor``); None where it is not set."""
        *parents, key = path.split(".")
        for section in self._sections(parents):
            if key in section.values:
                return section.values[key]
        return None

    def names(self, path: str) -> list[str]:
        """The names of the sections below `path`, in the order of the file."""
        found: dict[str, None] = {}
        for section in self._sections(path.split(".") if path else []):
            found |= dict.fromkeys(section.sections)
        return list(found)

    def has(self, path: str) -> bool:
        """Whether there is a section at `path`."""
        return bool(self._sections(path.split(".")))

    def number(self, path: str, default: int) -> int:
        """A whole number; the default where it is not set or no number, as charon takes it."""
        try:
            return int(self.get(path) or "", 0)
        except ValueError:
            return default

    def enabled(self, path: str, default: bool) -> bool:
        """yes, true, enabled and 1 are true, their opposites false, everything else is the default (settings.c)."""
        word = (self.get(path) or "").lower()
        if word in ("1", "yes", "true", "enabled"):
            return True
        return False if word in ("0", "no", "false", "disabled") else default

    def _sections(self, path: list[str], depth: int = 0) -> list[Section]:
        """What stands at `path`, its own first, then what it refers to."""
        found = [self.root]
        for name in path:
            below = [section.sections[name] for section in found if name in section.sections]
            found = [each for section in below for each in (section, *self._referred(section, depth))]
        return found

    def _referred(self, section: Section, depth: int) -> list[Section]:
        if depth >= MAX_INCLUDES:  # references in a circle
            return []
        return [each for path in section.references for each in self._sections(path.split("."), depth + 1)]


def parse(name: str, text: str, include: Include = lambda pattern, file: ()) -> Settings:
    """The settings of a file. Raises DecodeError; the offset is that in the file that the error's field names."""
    root = Section()
    _Reader(include).read(name, text, root, 0)
    return Settings(root)


class _Reader:
    def __init__(self, include: Include) -> None:
        self._include, self._files, self._characters = include, 0, 0

    def read(self, file: str, text: str, into: Section, level: int) -> None:
        self._files, self._characters = self._files + 1, self._characters + len(text)
        if level > MAX_INCLUDES or self._files > MAX_FILES or self._characters > MAX_CHARACTERS:
            raise DecodeError(file, 0, "too many or too large files are included")
        open_sections = [into]
        at = 0
        while at < len(text):
            if (included := _INCLUDE.match(text, at)) is not None:
                quoted, plain = included.groups()
                for name, content in self._include(_unescaped(plain if quoted is None else quoted), file):
                    self.read(name, content, open_sections[-1], level + 1)
                at = included.end()
                continue
            token = _TOKEN.match(text, at)
            if token is None:
                raise DecodeError(file, at, "a string where a name should stand")
            at = token.end()
            if token["name"] is not None:
                at = self._statement(file, text, token["name"], at, open_sections)
            elif token["mark"] == "}" and len(open_sections) > 1:
                open_sections.pop()
            elif token["space"] is None and token["newline"] is None:
                raise DecodeError(file, token.start(), f"{token[0]!r} where a name should stand")
        if len(open_sections) > 1:
            raise DecodeError(file, len(text), "a section that is not closed")

    def _statement(self, file: str, text: str, name: str, at: int, open_sections: list[Section]) -> int:
        """What follows a name: `= value`, or `{`, perhaps with references and a newline before it."""
        references: list[str] = []
        referring = False
        while (token := _TOKEN.match(text, at)) is not None:
            at = token.end()
            if token["mark"] == "=" and not referring:
                value, at = _value(text, at)
                _set(open_sections[-1].values, name, value)
                return at
            if token["mark"] == "{":
                if len(open_sections) > MAX_DEPTH:
                    raise DecodeError(file, at, f"more than {MAX_DEPTH} sections inside each other")
                section = open_sections[-1].sections.setdefault(name, Section())
                section.references += references
                open_sections.append(section)
                return at
            if token["reference"] is not None:
                referring = True
            elif token["name"] is not None and referring:
                references.append(token["name"])
            elif token["mark"] is not None or token["name"] is not None:
                break
        raise DecodeError(file, at, f"{name} has neither a value nor a section")


def _set(values: dict[str, str], name: str, value: str | None) -> None:
    """Without a value it is as if it had never been set."""
    if value is None:
        values.pop(name, None)
    else:
        values[name] = value


def _value(text: str, at: int) -> tuple[str | None, int]:
    """The words up to the end of the line, a comment or the end of the section; and where that is."""
    words = []
    while (part := _VALUE.match(text, at)) is not None:
        if part[1] is not None:
            words.append(_unescaped(part[1]))
        elif part[2] is not None:
            words.append(part[2])
        at = part.end()
    return " ".join(words) if words else None, at


def _unescaped(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        return "" if match[1].endswith("\n") else _ESCAPED.get(match[1], match[1])

    return _ESCAPE.sub(one, text)
