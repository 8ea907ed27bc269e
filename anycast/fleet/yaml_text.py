"""YAML as people write it, read into text, lists and mappings, with the place of each.

YAML 1.1 guesses types: ``no`` becomes false, ``1:30`` ninety, ``0100`` sixty-four, ``1e3`` a thousand. Here nothing is
guessed: every scalar is the text that stands there, quoted or not, and the field that it belongs to says what it means
(`values.py`). A mapping with the same key twice is refused, which PyYAML would silently settle in favour of the last; the
first is kept, so that one run shows what else there is to repair.

Anchors, aliases, merge keys, tags and several documents in one file are refused: aliases make a small file a huge one and
give one value two places, and `defaults` is this format's own way not to repeat oneself. The tree is built from libyaml's
event stream rather than by PyYAML's recursive composer, so depth and size are bounded before anything is built.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import yaml

from anycast.errors import ConfigError, Problem

MAX_CHARACTERS = 8 << 20
"""A fleet of 1,000 sites is about 0.5 MB."""
MAX_DEPTH = 32
"""The deepest place of fleet.yaml is 6."""

Path = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[^\s\"'\\\x00-\x1f]{1,70}")
"""A key that a message can show as it is."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where something starts in the file, both counted from 1."""

    line: int
    column: int


@dataclasses.dataclass(frozen=True, slots=True)
class Tree:
    """What a file says, and where."""

    value: Any
    """str, list and dict only."""
    values: dict[Path, Place]
    """Where the value at a path starts."""
    keys: dict[Path, Place]
    """Where the key of a mapping's entry stands; no entry for items of lists."""
    problems: tuple[Problem, ...] = ()
    """What is refused although it could be read: second keys, anchors, aliases, tags, second documents."""
    unread: frozenset[Path] = frozenset()
    """Where an alias stands: nobody knows the value."""

    def place(self, path: Path, *, key: bool = False) -> Place:
        """Place of the value (or its key) at `path`, else of the nearest thing around it."""
        if key and path in self.keys:
            return self.keys[path]
        while path not in self.values and path:
            path = path[:-1]
        return self.values.get(path, Place(1, 1))


@dataclasses.dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been read."""

    path: Path
    value: list[Any] | dict[str, Any]
    key: str | None = None
    """Of a mapping: the key whose value comes next."""
    skip: bool = False
    """The key stood here before: its second value is read, and forgotten."""
    forgotten: bool = False
    """All of it belongs to such a second value."""
    lines: dict[str, int] = dataclasses.field(default_factory=dict)
    """Of a mapping: where each key stood first."""


def where(path: Path) -> str:
    """`path` in the document's own words: ``sites.fra.pools``, ``service.inside[1]``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f"{'.' if text else ''}{step if _PLAIN_KEY.fullmatch(step) else f'{step[:40]!a}'}"
    return text


def parse(text: str, *, file: str = "") -> Tree:
    """Read `text`. What is refused in it is in the tree's `problems`.

    Raises ConfigError at the first syntax error, with the problems before it.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError([Problem("", f"is longer than {MAX_CHARACTERS >> 20} million characters", file)])
    builder = _Builder(file)
    broken: Problem | None = None
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            builder.feed(event)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        what = f"not YAML: {exc.problem or exc.context}"
        if mark and text[mark.index : mark.index + 1] == "\t":
            what = "not YAML: a tab; indent with spaces"
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        broken = Problem("", what, file, line, column)
    except yaml.reader.ReaderError as exc:
        before = text.encode()[: exc.position].decode(errors="replace")
        broken = Problem("", f"not YAML: {exc.reason}", file, *_end_of(before))
    except UnicodeEncodeError as exc:
        broken = Problem("", "not text: half a surrogate pair", file, *_end_of(text[: exc.start]))
    if broken is not None:
        raise ConfigError([*builder.problems, broken])
    return Tree(builder.root, builder.values, builder.keys, tuple(builder.problems), frozenset(builder.unread))


def _end_of(text: str) -> tuple[int, int]:
    """Line and column of what follows `text`."""
    return text.count("\n") + 1, len(text) - text.rfind("\n")


class _TooDeep(yaml.MarkedYAMLError):  # type: ignore[misc]  # PyYAML carries no types
    """Raised to leave libyaml's event stream early."""


class _Builder:
    """Builds the tree from events, iteratively."""

    def __init__(self, file: str) -> None:
        self.root: Any = ""
        self.values: dict[Path, Place] = {}
        self.keys: dict[Path, Place] = {}
        self.problems: list[Problem] = []
        self.unread: set[Path] = set()
        self._file = file
        self._stack: list[_Open] = []
        self._documents = 0

    def feed(self, event: Any) -> None:
        place = Place(event.start_mark.line + 1, event.start_mark.column + 1)
        match event:
            case yaml.ScalarEvent():
                self._refuse_extras(event, place)
                self._scalar(event.value, place)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self._refuse_extras(event, place)
                self._open([] if isinstance(event, yaml.SequenceStartEvent) else {}, event, place)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self._stack.pop()
            case yaml.AliasEvent():
                self._complain(f"alias *{event.anchor}: aliases are not read; use `defaults`", place)
                if not self._forgets():
                    self.unread.add(self._next_path())
                self._scalar("", place, alias=True)
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents == 2:
                    self._complain("a second document begins here; one file holds one fleet", place)

    def _refuse_extras(self, event: Any, place: Place) -> None:
        if event.anchor is not None:
            self._complain(f"anchor &{event.anchor}: anchors are not read; use `defaults`", place)
        if event.tag is not None and event.tag != "!":
            self._complain(f"tag {event.tag}: tags are not read; write the value alone", place)

    def _complain(self, what: str, place: Place, path: Path | None = None) -> None:
        here = self._next_path() if path is None else path
        self.problems.append(Problem(where(here), what, self._file, place.line, place.column))

    def _next_path(self) -> Path:
        if not self._stack:
            return ()
        top = self._stack[-1]
        if isinstance(top.value, list):
            return (*top.path, len(top.value))
        return top.path if top.key is None else (*top.path, top.key)

    def _scalar(self, text: str, place: Place, *, alias: bool = False) -> None:
        top = self._stack[-1] if self._stack else None
        if top is None or isinstance(top.value, list) or top.key is not None:
            self._put(text, place)
        elif not alias:
            path = (*top.path, text)
            top.key, top.skip = text, text in top.lines
            if top.skip:
                self._complain(f"stands here a second time; first in line {top.lines[text]}", place, path)
                return
            top.lines[text] = place.line
            if not self._forgets():
                self.keys[path] = place
        else:
            top.key, top.skip = "", True

    def _open(self, value: list[Any] | dict[str, Any], event: Any, place: Place) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise _TooDeep(problem=f"nested deeper than {MAX_DEPTH}", problem_mark=event.start_mark)
        top = self._stack[-1] if self._stack else None
        path = self._next_path()
        if top is not None and isinstance(top.value, dict) and top.key is None:
            raise _TooDeep(problem="a key is a list or a mapping", problem_mark=event.start_mark)
        forgotten = self._forgets()
        self._put(value, place)
        self._stack.append(_Open(path, value, forgotten=forgotten))

    def _forgets(self) -> bool:
        """Whether what comes next is read only to find its end, and has no place in the tree."""
        if not self._stack:
            return self._documents > 1
        return self._stack[-1].forgotten or self._stack[-1].skip

    def _put(self, value: Any, place: Place) -> None:
        """Put a value where it belongs: the root, the open list's end, or under the open mapping's key."""
        if not self._forgets():
            self.values[self._next_path()] = place
        if not self._stack:
            if self._documents == 1:
                self.root = value
            return
        top = self._stack[-1]
        if isinstance(top.value, list):
            top.value.append(value)
            return
        if not top.skip and top.key is not None:
            top.value[top.key] = value
        top.key, top.skip = None, False
