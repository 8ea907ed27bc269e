"""`stages`: what a node waits for while the lab comes up (types/stages.go, core/dependency_manager)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import yaml

from anycast_lab.topology.model import STAGES, Node, Wait
from anycast_lab.topology.walker import EMBEDDED, Walker

LATER = ("healthy", "exit")


@dataclasses.dataclass(frozen=True, slots=True)
class WrittenWait:
    """`stage` waits for `wait`, as it stands in the file at `node`."""

    stage: str
    wait: Wait
    node: yaml.Node


def read(walker: Walker, node: yaml.Node, where: str) -> tuple[WrittenWait, ...]:
    found = list[WrittenWait]()
    for key, stage, body in walker.pairs(node, where):
        place = f"{where}.{stage}"
        if stage in LATER:
            walker.refuse(key, place, EMBEDDED)
        elif stage not in STAGES:
            walker.refuse(key, place, f"is not a stage ({', '.join(STAGES)})")
        else:
            for inner, word, value in walker.pairs(body, place):
                if word != "wait-for":
                    walker.refuse(inner, f"{place}.{word}", EMBEDDED)
                    continue
                for index, item in enumerate(walker.sequence(value, f"{place}.wait-for")):
                    if (wait := _wait(walker, item, f"{place}.wait-for[{index}]")) is not None:
                        found.append(WrittenWait(stage, wait, item))
    return tuple(found)


def _wait(walker: Walker, node: yaml.Node, where: str) -> Wait | None:
    values = dict[str, str]()
    for key, word, value in walker.pairs(node, where):
        if word in ("node", "stage"):
            values[word] = walker.text(value, f"{where}.{word}")
        else:
            walker.refuse(key, f"{where}.{word}", "is not a part of `wait-for`, only `node` and `stage`")
    if values.keys() != {"node", "stage"}:
        walker.refuse(node, where, "needs a `node` and a `stage`")
        return None
    if values["stage"] not in STAGES:
        what = EMBEDDED if values["stage"] in LATER else f"is not a stage ({', '.join(STAGES)})"
        walker.refuse(node, where, f"stage `{values['stage']}` {what}")
        return None
    return Wait(values["node"], values["stage"])


def check(walker: Walker, nodes: Mapping[str, Node], written: Iterable[WrittenWait]) -> None:
    """Nodes that are not there, and circles: each stage comes after the node's own earlier ones and what it waits for."""
    for one in written:
        if one.wait.node not in nodes:
            walker.refuse(one.node, "wait-for", f"`{one.wait.node}` is not among topology.nodes")
    if (circle := _circle(nodes)) is not None:
        steps = " after ".join(f"{stage} of {name}" for name, stage in circle)
        at = next((one.node for one in written if one.wait.node in {name for name, _ in circle}), None)
        walker.refuse(at, "wait-for", f"goes in a circle: {steps}")


def _circle(nodes: Mapping[str, Node]) -> list[tuple[str, str]] | None:
    before = dict[tuple[str, str], list[tuple[str, str]]]()
    for name, node in nodes.items():
        for index, stage in enumerate(STAGES):
            own = [(name, STAGES[index - 1])] if index else []
            before[name, stage] = own + [(wait.node, wait.stage) for wait in node.waits.get(stage, ()) if wait.node in nodes]
    done = set[tuple[str, str]]()
    for start in before:
        path, pending = list[tuple[str, str]](), [start]  # depth first, without recursion: a file may have very many nodes
        while pending:
            step = pending[-1]
            if path and path[-1] == step:
                done.add(step)
                path.pop()
                pending.pop()
            elif step in done:
                pending.pop()
            elif step in path:
                return [*path[path.index(step) :], step]
            else:
                path.append(step)
                pending += [other for other in before[step] if other not in done]
    return None
