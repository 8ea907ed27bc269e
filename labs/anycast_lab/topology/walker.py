"""YAML that still knows its lines, walked with every problem collected instead of stopping at the first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.resolver import Resolver

from anycast.errors import ConfigError, Problem

EMBEDDED = "is not supported by the embedded runner"
_TEXT = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "timestamp"))
_PLAIN = {yaml.MappingNode: "tag:yaml.org,2002:map", yaml.SequenceNode: "tag:yaml.org,2002:seq"}
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_DEPTH, _SIZE = 32, 10_000
_NESTING = 100
"""Levels of brackets and indentation; the parser below recurses over them. A topology needs eight."""


def compose(text: str, path: Path) -> yaml.Node | None:
    """Raises ConfigError where `text` is not one YAML document."""
    try:
        _refuse_deep(text)
        root: yaml.Node | None = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as exc:
        line, column = _place(exc, text)
        what = getattr(exc, "problem", None) or getattr(exc, "reason", None) or str(exc)
        raise ConfigError([Problem("", f"is not YAML: {what}", str(path), line, column)]) from exc
    return root


def _place(exc: yaml.YAMLError, text: str) -> tuple[int, int]:
    if (mark := getattr(exc, "problem_mark", None)) is not None:
        return mark.line + 1, mark.column + 1
    before = text.encode()[: getattr(exc, "position", 0)]  # a character that YAML has not
    return before.count(b"\n") + 1, len(before) - before.rfind(b"\n")


def _refuse_deep(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _NESTING:
                raise yaml.MarkedYAMLError(None, None, f"more than {_NESTING} levels", event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class Walker:
    def __init__(self, path: Path) -> None:
        self.path, self.problems = path, list[Problem]()

    def refuse(self, node: yaml.Node | None, where: str, what: str) -> None:
        line, column = (node.start_mark.line + 1, node.start_mark.column + 1) if node is not None else (1, 1)
        problem = Problem(where, what, str(self.path), line, column)
        if problem not in self.problems:  # what stands in a group is met once a node
            self.problems.append(problem)

    def pairs(self, node: yaml.Node | None, where: str) -> Iterator[tuple[yaml.ScalarNode, str, yaml.Node]]:
        """key node, key, value node of a mapping; nothing for null."""
        if node is None or is_null(node):
            return
        if not isinstance(node, yaml.MappingNode) or self.tagged(node, where):
            self.refuse(node, where, "must be a mapping")
            return
        seen = set[str]()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.refuse(key, where, "a key must be a plain word")
            elif key.value == "<<":
                self.refuse(key, where, "YAML merge keys are not supported; use `defaults`, `kinds` or `groups`")
            elif key.value in seen:
                self.refuse(key, where, f"key `{key.value}` stands here twice")
            else:
                seen.add(key.value)
                yield key, key.value, value

    def definitions(self, node: yaml.Node | None, where: str) -> Iterator[tuple[yaml.ScalarNode, str, yaml.Node]]:
        """`pairs`, none of whose values may be null: containerlab 0.79 panics at those."""
        for key, word, value in self.pairs(node, where):
            if is_null(value):
                self.refuse(value, f"{where}.{word}", "must be a mapping")
            yield key, word, value

    def sequence(self, node: yaml.Node | None, where: str) -> list[yaml.Node]:
        if node is None or is_null(node):
            return []
        if not isinstance(node, yaml.SequenceNode) or self.tagged(node, where):
            self.refuse(node, where, "must be a list")
            return []
        return list(node.value)

    def items(self, node: yaml.Node, where: str) -> list[tuple[yaml.Node, str]]:
        return [(item, self.text(item, f"{where}[{index}]")) for index, item in enumerate(self.sequence(node, where))]

    def text(self, node: yaml.Node, where: str) -> str:
        if self.tagged(node, where):
            return ""
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _TEXT:
            self.refuse(node, where, "must be text")
            return ""
        if "\0" in node.value:
            self.refuse(node, where, "has a NUL character")
        return str(node.value)

    def texts(self, node: yaml.Node, where: str) -> dict[str, str]:
        """A mapping of texts; null is an empty one, as containerlab reads it."""
        pairs = self.pairs(node, where)
        return {word: "" if is_null(value) else self.text(value, f"{where}.{word}") for _, word, value in pairs}

    def number(self, node: yaml.Node, where: str, within: range) -> int | None:
        text = self.text(node, where)
        quoted = isinstance(node, yaml.ScalarNode) and bool(node.style)  # text, and no number, to containerlab
        if quoted or not _NUMBER.fullmatch(text) or int(text) not in within:
            self.refuse(node, where, f"`{text}` is not within {within.start}..{within.stop - 1}")
            return None
        return int(text)

    def anything(self, node: yaml.Node, where: str) -> Any:
        """Mappings, lists and texts as they stand; null is None."""
        self._left = _SIZE
        return self._anything(node, where, _DEPTH)

    def _anything(self, node: yaml.Node, where: str, depth: int) -> Any:
        self._left -= 1
        if depth == 0 or self._left < 0:  # an alias may stand for its own parent, or for very many
            self.refuse(node, where, f"is deeper than {_DEPTH} levels or has more than {_SIZE} values")
            return None
        if isinstance(node, yaml.MappingNode):
            return {word: self._anything(value, where, depth - 1) for _, word, value in self.pairs(node, where)}
        if isinstance(node, yaml.SequenceNode):
            return [self._anything(value, where, depth - 1) for value in self.sequence(node, where)]
        return None if is_null(node) else self.text(node, where)

    def tagged(self, node: yaml.Node, where: str) -> bool:
        """Whether the file gives the value a YAML type by hand."""
        if isinstance(node, yaml.ScalarNode):
            plain = Resolver().resolve(yaml.ScalarNode, node.value, (not node.style, bool(node.style)))
        else:
            plain = _PLAIN[type(node)]
        if node.tag != plain:
            self.refuse(node, where, f"the YAML tag {node.tag} is not supported")
        return bool(node.tag != plain)


def is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")
