"""Whose signature counts: the public keys of a fleet's operators, the revoked ones among them.

The list is kept beside the management root and installed on each gateway by root, as a revocation list is
(docs/content.md). It is numbered; a gateway takes no older one, and none that forgets a revocation. A list that is missing
is an error, never an empty one. Pure.
"""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Literal, Self

import pydantic

from anycast.content.canonical import Name, Part, decode, encode, understood
from anycast.content.signature import Base64, key_id
from anycast.errors import DecodeError
from anycast.model import NAME

VERSION: Literal[1] = 1
_LINE = re.compile(rf"anycast-operator ({NAME.pattern}) ([A-Za-z0-9+/]{{43}}=)")


class Operator(Part):
    """One key. A person may have several, one after the other."""

    name: Name
    public: Base64
    revoked: Annotated[str, pydantic.StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")] | None = None
    """When, UTC."""

    @property
    def key(self) -> str:
        return key_id(self.public)

    @property
    def line(self) -> str:
        """What one hands to whoever keeps the list."""
        return f"anycast-operator {self.name} {self.public}"


class Operators(Part):
    version: Literal[1]
    requires: tuple[str, ...] = ()
    fleet: Name
    number: Annotated[int, pydantic.Field(ge=1)]
    """Grows with each change."""
    operators: tuple[Operator, ...]

    @pydantic.model_validator(mode="after")
    def _keys_are_keys(self) -> Self:
        try:
            keys = [operator.key for operator in self.operators]
        except DecodeError as exc:
            raise ValueError(exc.what) from exc
        if len(keys) != len(set(keys)):
            raise ValueError("one key stands twice")
        return self

    def of(self, key: str) -> Operator | None:
        return next((operator for operator in self.operators if operator.key == key), None)

    @property
    def data(self) -> bytes:
        return encode(self.model_dump(mode="json")).encode() + b"\n"

    def trusting(self, new: Operator) -> Operators:
        """Raises DecodeError where the key is in it already; a revoked one never comes back."""
        if (known := self.of(new.key)) is not None:
            what = f"is revoked since {known.revoked}, and never comes back" if known.revoked else "is trusted already"
            raise DecodeError(new.name, 0, f"this key ({known.name}, {new.key}) {what}")
        return self.model_copy(update={"number": self.number + 1, "operators": (*self.operators, new)})

    def revoking(self, name: str, key: str | None, now: datetime.datetime) -> tuple[Operators, tuple[Operator, ...]]:
        """The list without trust in the keys of `name` (or the one that begins with `key`), and what is new of it."""
        named = [each for each in self.operators if each.name == name and (key is None or each.key.startswith(key))]
        if not named:
            known = ", ".join(sorted({each.name for each in self.operators})) or "nobody"
            raise DecodeError(name, 0, f"has no {'such ' if key else ''}key in this list; it has {known}")
        ended = tuple(
            each.model_copy(update={"revoked": f"{now:%Y-%m-%dT%H:%M:%SZ}"}) for each in named if each.revoked is None
        )
        if not ended:
            return self, ()
        changed = {each.key: each for each in ended}
        after = tuple(changed.get(each.key, each) for each in self.operators)
        return self.model_copy(update={"number": self.number + 1, "operators": after}), ended


def none_yet(fleet: str) -> Operators:
    """A fleet's list before its first operator. Number 1, so that the first that is trusted makes it 2."""
    return Operators(version=VERSION, fleet=fleet, number=1, operators=())


def decode_operators(data: bytes) -> Operators:
    """Raises DecodeError."""
    found = decode(data.removesuffix(b"\n"), "operators", Operators)
    understood("operators", found.requires)
    return found


def decode_line(text: str) -> Operator:
    """What `Operator.line` wrote. Raises DecodeError."""
    match = _LINE.fullmatch(text.strip())
    if match is None:
        raise DecodeError("operator", 0, "is not one line `anycast-operator NAME KEY`, as `anycast operator new` prints it")
    operator = Operator(name=match[1], public=match[2])
    key_id(operator.public)
    return operator


def replacing(before: Operators | None, after: Operators) -> None:
    """Raises DecodeError where a gateway that has `before` must not take `after`."""
    if before is None or before == after:
        return
    if after.fleet != before.fleet:
        raise DecodeError("operators", 0, f"is of fleet {after.fleet}, and this machine is of {before.fleet}")
    if after.number <= before.number:
        raise DecodeError("operators", 0, f"is list {after.number}, and list {before.number} is installed")
    for each in before.operators:
        now = after.of(each.key)
        if each.revoked is not None and (now is None or now.revoked is None):
            raise DecodeError("operators", 0, f"forgets that {each.name}'s key {each.key} is revoked")
