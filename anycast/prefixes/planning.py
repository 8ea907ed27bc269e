"""From the text of a fleet file and its records to a plan, with everything that is wrong with any of it. Pure."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterable
from typing import Any

import pydantic

from anycast.errors import ConfigError, Problem
from anycast.fleet import yaml_text
from anycast.fleet.addressing import Addressing, Block
from anycast.fleet.addressing_checks import blocks_overlap
from anycast.fleet.loading import in_order, located, plannable, read_tree
from anycast.fleet.schema import Fleet
from anycast.prefixes.allocation import Lock, nothing
from anycast.prefixes.filling import fill
from anycast.prefixes.planner import Change, plan
from anycast.prefixes.wants import Declared, declared


@dataclasses.dataclass(frozen=True, slots=True)
class FilePlan:
    """A plan of one fleet file that has nothing wrong."""

    fleet: Fleet
    """With all that it leaves out."""
    wanted: Declared
    before: Lock
    after: Lock
    """The same object as `before` where nothing changes."""
    changes: tuple[Change, ...]

    @property
    def changed(self) -> bool:
        """Whether the lock file would differ: a reason may, without any change."""
        return self.after is not self.before


def plan_file(text: str, lock: Lock | None, today: datetime.date, *, file: str = "fleet.yaml") -> FilePlan:
    """`lock`: None before the first plan. Raises ConfigError with every problem found; then nothing is to be written."""
    tree = yaml_text.parse(text, file=file)
    section = tree.value.get("addressing") if isinstance(tree.value, dict) else None
    if section is None:
        read_tree(tree, file)
        what = "has no addressing: nothing is planned without blocks to plan from (docs/prefixes.md)"
        raise ConfigError([Problem("", what, file, 1, 1)])
    try:
        addressing = Addressing.model_validate(section)
    except pydantic.ValidationError as exc:
        twice = located(blocks_overlap(_readable_blocks(section)), tree, file)
        if others := _read(tree, file, plannable(tree))[1]:
            raise ConfigError(in_order({*twice, *others})) from exc
        raise
    if twice := located(blocks_overlap(addressing.blocks), tree, file):
        raise ConfigError(in_order([*twice, *_read(tree, file, plannable(tree))[1]]))
    wanted = declared(tree.value, addressing)
    before = nothing(wanted.fleet) if lock is None else lock
    planned = plan(wanted, before, today)
    fill(tree.value, planned.lock.held.values())
    unmet = [want.path for key, want in wanted.wants.items() if not want.pin and key not in planned.lock.held]
    unmet += wanted.unsized
    fleet, others = _read(tree, file, unmet)
    problems = [*located(planned.findings, tree, file), *others]
    if problems or fleet is None:
        raise ConfigError(in_order(set(problems)))
    return FilePlan(fleet, wanted, before, planned.lock, planned.changes)


def _readable_blocks(section: Any) -> dict[str, Block]:
    """Of a section in which something cannot be read: what is wrong between the others is said in the same run."""
    found = {}
    blocks = section.get("blocks") if isinstance(section, dict) else None
    for name, block in blocks.items() if isinstance(blocks, dict) else ():
        with contextlib.suppress(pydantic.ValidationError):
            found[name] = Block.model_validate(block)
    return found


def records_of(text: str, lock: Lock | None, *, file: str = "fleet.yaml") -> tuple[Declared, Lock]:
    """What a file asks for and what its lock has, though no plan may come of it. Raises ConfigError where the blocks cannot
    be read."""
    tree = yaml_text.parse(text, file=file)
    section = tree.value.get("addressing") if isinstance(tree.value, dict) else None
    try:
        wanted = declared(tree.value, Addressing.model_validate(section))
    except pydantic.ValidationError as exc:
        read_tree(tree, file, unmet=plannable(tree))
        raise ConfigError([Problem("addressing", "cannot be read", file)]) from exc
    return wanted, nothing(wanted.fleet) if lock is None else lock


def _read(tree: yaml_text.Tree, file: str, unmet: Iterable[yaml_text.Path]) -> tuple[Fleet | None, list[Problem]]:
    """The fleet, or what else is wrong with a file of which it is known that these values are missing."""
    try:
        return read_tree(tree, file, unmet=unmet), []
    except ConfigError as exc:
        return None, exc.problems
