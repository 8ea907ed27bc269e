"""From the text of fleet.yaml to a `Fleet`, or to every problem it has.

Three steps: YAML to text with places, text to values (`schema.py`), rules that join values (`checks.py`). Between the first
two, what a file with `addressing` leaves out is filled in from its lock file. Only what is not
YAML ends it at the first. A file with problems in the second still gets as much of the third as can be trusted: the parts
at fault are left out, the rules run on the rest, and what they say about a left-out part is dropped. So one run shows what
there is to repair.
"""

from __future__ import annotations

import difflib
import pathlib
import types
import typing
from collections.abc import Iterable, Sequence, Set
from typing import Any

import pydantic

from anycast.errors import ConfigError, Problem
from anycast.fleet import yaml_text
from anycast.fleet.addressing import ALL_USES, Addressing
from anycast.fleet.checks import check
from anycast.fleet.finding import Finding
from anycast.fleet.schema import Fleet
from anycast.fleet.section import Section
from anycast.fleet.values import show
from anycast.fleet.yaml_text import Path, Tree
from anycast.prefixes.allocation import Lock
from anycast.prefixes.filling import fill, of_another_fleet
from anycast.prefixes.lock import decode_lock
from anycast.prefixes.wants import declared


def load(path: str | pathlib.Path) -> Fleet:
    """Read the fleet file at `path`, with its lock file where it has blocks to plan from. Raises ConfigError with every
    problem found."""
    tree = yaml_text.parse(read_text(path), file=str(path))
    return _filled(tree, load_lock(lock_of(path)) if _plans(tree) else None, str(path))


def loads(text: str, *, file: str = "fleet.yaml", lock: Lock | None = None) -> Fleet:
    """Read a fleet from `text`; `file` names it in problems, `lock` has what it leaves out. Raises ConfigError with every
    problem found."""
    return _filled(yaml_text.parse(text, file=file), lock, file)


def read_text(path: str | pathlib.Path) -> str:
    """The text of a fleet file. Raises ConfigError."""
    name = str(path)
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as exc:
        raise ConfigError([Problem("", f"cannot be read: {exc.strerror}", name)]) from exc
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        column = exc.start - data.rfind(b"\n", 0, exc.start)
        raise ConfigError([Problem("", "not UTF-8", name, line, column)]) from exc


def lock_of(path: str | pathlib.Path) -> pathlib.Path:
    """Where the records of the fleet file at `path` are: ``fleet.lock``, ``two-site.fleet.lock``."""
    path = pathlib.Path(path)
    return path.with_suffix(".lock") if path.name else path / "fleet.lock"  # `.` is a folder, which reading it says


def load_lock(path: pathlib.Path) -> Lock | None:
    """None where there is none. Raises ConfigError."""
    try:
        return decode_lock(path.read_bytes().decode(), file=str(path))
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError([Problem("", f"cannot be read: {exc.strerror}", str(path))]) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError([Problem("", "not UTF-8", str(path))]) from exc


def _plans(tree: Tree) -> bool:
    return isinstance(tree.value, dict) and "addressing" in tree.value


def _filled(tree: Tree, lock: Lock | None, file: str) -> Fleet:
    if not _plans(tree):
        return read_tree(tree, file)
    try:
        addressing = Addressing.model_validate(tree.value["addressing"])
    except pydantic.ValidationError:
        return read_tree(tree, file, unmet=plannable(tree))  # which says so
    name = tree.value.get("fleet")
    if lock is not None and isinstance(name, str) and (strange := of_another_fleet(name, lock)) is not None:
        problems = located([strange], tree, file)
        try:
            read_tree(tree, file, unmet=declared(tree.value, addressing).unmet)
        except ConfigError as exc:
            problems += exc.problems
        raise ConfigError(in_order(problems))
    if lock is not None:
        fill(tree.value, lock.held.values())
    unmet = declared(tree.value, addressing).unmet
    if not unmet:
        return read_tree(tree, file)
    try:
        read_tree(tree, file, unmet=unmet)
    except ConfigError as exc:
        problems = exc.problems
    else:
        problems = []
    named = ", ".join(yaml_text.where(path) for path in unmet[:3]) + (" …" if len(unmet) > 3 else "")
    what = (
        f"{len(unmet)} values are neither written here nor in the lock file ({named}): `anycast prefixes apply` plans them"
    )
    raise ConfigError([*located([Finding(("addressing",), what, at_key=True)], tree, file), *problems])


def plannable(tree: Tree) -> Sequence[Path]:
    """What the file leaves out and blocks of every use would give, where its own blocks cannot be read."""
    return declared(tree.value, ALL_USES).unmet


def read_tree(tree: Tree, file: str, *, unmet: Iterable[Path] = ()) -> Fleet:
    """The fleet in `tree`. `unmet`: paths of values that are known to be missing. Raises ConfigError with every other
    problem; without any where nothing else is wrong."""
    lacking = {path[:length] for path in unmet for length in range(len(path) + 1)}
    try:
        fleet = Fleet.model_validate(tree.value)
    except pydantic.ValidationError as exc:
        errors = [error for error in _errors(exc) if not _follows(error, tree.value)]
        known = [error for error in errors if error["type"] in ("missing", "fleet") and tuple(error["loc"]) in lacking]
        findings = [_finding(error, tree.value) for error in errors if error not in known]
        findings = [finding for finding in findings if finding.path not in tree.unread]
        cut = {finding.path for finding in findings} | {_finding(error, tree.value).path for error in known}
        found = _check_the_rest(tree.value, cut | tree.unread)
        findings += [finding for finding in found if len(finding.path) < 3 or finding.path not in lacking]
    else:
        findings = [finding for finding in check(fleet) if not _judges(finding, tree.unread)]
        findings = [finding for finding in findings if len(finding.path) < 3 or finding.path not in lacking]
        if not findings and not tree.problems:
            return fleet
    raise ConfigError(in_order([*tree.problems, *located(findings, tree, file)]))


def located(findings: Iterable[Finding], tree: Tree, file: str) -> list[Problem]:
    """Where in the file `findings` are."""
    return [_problem(finding, tree, file) for finding in findings]


def _errors(exc: pydantic.ValidationError) -> list[Any]:
    return list(exc.errors(include_url=False, include_input=False))


def _follows(error: Any, data: Any) -> bool:
    """Whether `error` only says again that every entry of a list is at fault."""
    return error["type"] == "too_short" and bool(_at(data, error["loc"]))


def _check_the_rest(data: Any, faulty: set[Path]) -> list[Finding]:
    """Run the rules on what is left without the `faulty` parts.

    Where a part was required, the part around it goes too, one level a round.
    """
    cut = set(faulty)
    while () not in cut:
        before = len(cut)
        try:
            fleet = Fleet.model_validate(_without(data, (), cut))
        except pydantic.ValidationError as exc:
            cut |= {tuple(error["loc"])[:-1] for error in _errors(exc)}
            if len(cut) == before:
                break
        else:
            return [finding for finding in check(fleet) if not _judges(finding, cut)]
    return []


def _without(data: Any, here: Path, cut: set[Path]) -> Any:
    if isinstance(data, dict):
        return {k: _without(v, (*here, k), cut) for k, v in data.items() if (*here, k) not in cut}
    if isinstance(data, list):
        return [_without(v, (*here, i), cut) for i, v in enumerate(data) if (*here, i) not in cut]
    return data


def _judges(finding: Finding, cut: Set[Path]) -> bool:
    """Whether `finding` rests on something that was cut out: inside it, or around it."""
    paths = (finding.path, *finding.judged)
    return any(c[: len(p)] == p or p[: len(c)] == c for p in paths for c in cut)


def _finding(error: Any, data: Any) -> Finding:
    """Say one of pydantic's errors in this project's words."""
    path: Path = tuple(error["loc"])
    match error["type"]:
        case "extra_forbidden":
            return Finding(path, f"is not known here{_refused(str(path[-1])) or _did_you_mean(path)}", at_key=True)
        case "missing" if isinstance(path[-1], int):
            return Finding(path[:-1], "needs two values, one for each side")
        case "missing":
            return Finding(path[:-1], f"`{path[-1]}` is missing")
        case "too_short":
            return Finding(path, "is empty; it needs at least one entry")
        case "too_long" if path[-1] == "gateways":
            return Finding(path, f"are {len(_at(data, path))}; a site has one gateway or two", at_key=True)
        case "too_long":
            return Finding(path, f"has {error['ctx']['actual_length']} values; it needs two, one for each side")
        case "model_type" | "dict_type" | "tuple_type" as kind:
            wanted = "a list" if kind == "tuple_type" else "a mapping"
            found = _at(data, path)
            if not path and found == "":
                return Finding(path, "is empty; a fleet begins with `version: 1`")
            if found == "":
                return Finding(path, f"has no value; write {wanted} or leave the key out")
            noun = "a mapping" if isinstance(found, dict) else "a list" if isinstance(found, list) else show(found)
            return Finding(path, f"expected {wanted}, found {noun}")
    if path and path[-1] == "[key]":
        return Finding(path[:-1], error["msg"], at_key=True)
    return Finding(path, error["msg"])


def _at(data: Any, path: Path) -> Any:
    for step in path:
        data = data[step]
    return data


GIVEN_HERE = "inner addresses are given by the gateways alone, or two clients would have one after a failover"
REFUSED = {
    "radius": "clients prove themselves by certificate; what a RADIUS server gives does not outlive its gateway",
    "eap": "clients prove themselves by certificate; a failover keeps no EAP server's state",
    "framed": GIVEN_HERE,
    "dhcp": GIVEN_HERE,
    "xauth": "clients speak IKEv2 and prove themselves by certificate",
    "accounting": "who had which address is in the clients' log of each gateway (docs/clients.md)",
}
"""What other VPN gateways have and these cannot keep their promise with, by a word of its key; with the reason."""


def _refused(key: str) -> str:
    words = key.lower().replace("-", "_").split("_")
    return next((f": {why}" for word, why in REFUSED.items() if word in words), "")


def _did_you_mean(path: Path) -> str:
    known = list(_section_at(path[:-1]).model_fields)
    near = difflib.get_close_matches(str(path[-1]), known, n=1)
    return f"; did you mean `{near[0]}`?" if near else f"; known: {', '.join(known)}"


def _section_at(path: Path) -> type[Section]:
    """The section that stands at `path`, by the schema."""
    here: Any = Fleet
    for step in path:
        # Either a section, or dict[Name, Section], or an optional one of them.
        here = typing.get_args(here)[1] if typing.get_origin(here) is dict else here.model_fields[step].annotation
        if isinstance(here, types.UnionType):
            here = typing.get_args(here)[0]
    found: type[Section] = here
    return found


def _problem(finding: Finding, tree: Tree, file: str) -> Problem:
    place = tree.place(finding.path, key=finding.at_key)
    return Problem(yaml_text.where(finding.path), finding.what, file, place.line, place.column)


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """As they stand in the file."""
    return sorted(problems, key=lambda problem: (problem.line, problem.column, problem.what))
