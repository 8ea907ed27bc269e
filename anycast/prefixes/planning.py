"""From the text of a fleet file and its records to a plan, with everything that is wrong with any of it. Pure."""

from __future__ import annotations

import dataclasses
import datetime

import pydantic

from anycast.errors import ConfigError, Problem
from anycast.fleet import yaml_text
from anycast.fleet.addressing import Addressing
from anycast.fleet.loading import located, read_tree
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
    except pydantic.ValidationError:
        read_tree(tree, file)
        raise
    wanted = declared(tree.value, addressing)
    before = nothing(wanted.fleet) if lock is None else lock
    planned = plan(wanted, before, today)
    fill(tree.value, planned.lock.held.values())
    unmet = wanted.wants.keys() - planned.lock.held.keys()
    problems = located(planned.findings, tree, file)
    try:
        fleet = read_tree(tree, file, unmet={tuple(key.split(".")) for key in unmet})
    except ConfigError as exc:
        problems += exc.problems
    if problems:
        raise ConfigError(sorted(set(problems), key=lambda each: (each.line, each.column, each.what)))
    return FilePlan(fleet, wanted, before, planned.lock, planned.changes)
