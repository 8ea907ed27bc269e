"""What containerlab's own loader reads (`labs/tools/load`), and its own test topologies as files of ours.

    python -m tests.support.containerlab_readings

writes tests/data/containerlab/topologies and readings.json anew; features/ are files of ours. The topologies are
containerlab's own (BSD-3-Clause, LICENSE beside them) except for what no file of this project may hold: addresses become
documentation ones, image names lose their registry. The loader then reads these files, so both sides see the same.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anycast_lab.topology import Endpoint, Topology, words
from tests.support.tree import TREE

TOOLS = TREE / "labs/tools"
DATA = TREE / "tests/data/containerlab"
TOPOLOGIES, FEATURES, READINGS = DATA / "topologies", DATA / "features", DATA / "readings.json"
VARIABLES = {"SITE": "fra", "EMPTY": "", "NUMBER": "1400"}
"""The environment that the loaders read with, beside none."""
_NOT_OURS = ("is of kind", "a startup-config or a licence", "a runtime of its own")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}(\d{1,3})(?!\.?\w)")
_IPV6 = re.compile(r"(?<![\w:])[0-9a-f]{1,4}:[0-9a-f:]*:([0-9a-f]*)(?![\w:])")


@functools.cache
def build() -> Path:
    """The loader; a minute the first time on a machine, a second afterwards."""
    target = TREE / ".cache/containerlab/load"
    target.parent.mkdir(parents=True, exist_ok=True)
    environ = {**os.environ, "CGO_ENABLED": "0"}
    subprocess.run(["go", "build", "-trimpath", "-o", target, "./load"], cwd=TOOLS, env=environ, check=True)
    return target


def read(paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """containerlab's reading of `paths`, by their names relative to `folder`. In a network namespace without a route."""
    names = [str(path.relative_to(folder)) for path in paths]
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **VARIABLES}
    command = ["unshare", "--net", "--map-root-user", build(), *names]
    done = subprocess.run(command, cwd=folder, env=environ, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.replace(str(folder), "FOLDER"))
    return {"containerlab": told["containerlab"], **told["readings"]}


def source() -> Path:
    """The containerlab that go.mod pins, in Go's module cache."""
    command = ["go", "list", "-m", "-f", "{{.Dir}}", "github.com/srl-labs/containerlab"]
    return Path(subprocess.run(command, cwd=TOOLS, check=True, capture_output=True, text=True).stdout.strip())


def ours(text: str) -> str:
    """Without foreign addresses and registries."""
    text = re.sub(r"(image: *)[a-z0-9-]+\.[a-z0-9.-]+/", r"\1", text)
    text = _IPV4.sub(lambda match: f"192.0.2.{match[1]}", text)

    def documentation(match: re.Match[str]) -> str:
        try:
            ipaddress.IPv6Address(match.group())
        except ValueError:
            return match.group()
        return f"2001:db8::{match[1]}"

    return _IPV6.sub(documentation, text)


def copy(target: Path) -> list[Path]:
    """containerlab's test topologies and the files they name, as `ours`."""
    origin, found = source(), list[Path]()
    for folder in ("tests", "core/test_data"):
        for path in sorted((origin / folder).rglob("*")):
            topology = path.suffix in (".yml", ".yaml")
            if path.is_file() and (topology or path.name.startswith("envfile")):
                copied = target / path.relative_to(origin)
                copied.parent.mkdir(parents=True, exist_ok=True)
                copied.write_text(ours(path.read_text()))
                found += [copied] if topology else []
    return found


def plain(reading: dict[str, Any]) -> dict[str, Any]:
    """A reading of containerlab's in the words of `as_containerlab`."""
    nodes = dict[str, Any]()
    for name, node in reading["nodes"].items():
        nodes[name] = {word: node[word] for word in ("kind", "group", "long_name", "network_mode")}
        if node["kind"] == "linux":  # in a bridge nothing runs
            assert not node["stage_execs"], "which the loader refuses"
            nodes[name] |= {
                **{word: node[word] for word in ("hostname", "image", "env", "sysctls", "startup_delay", "wait_for")},
                "main": words.split(node["entrypoint"]) + words.split(node["cmd"]),
                "exec": [words.split(line) for line in node["exec"] or ()],
                "binds": sorted(node["binds"] or ()),
            }
    links = [(link["type"], link["mtu"], link.get("vars", {}), link["endpoints"]) for link in reading.get("links", [])]
    return _told(reading["name"], nodes, links)


def as_containerlab(topology: Topology, folder: Path) -> dict[str, Any]:
    """Our reading, as if the file lay in `folder`."""
    nodes = dict[str, Any]()
    lab_dir = folder / f"clab-{topology.name}"
    for name, node in topology.nodes.items():
        nodes[name] = {"kind": node.kind, "group": node.group, "network_mode": node.network_mode}
        nodes[name]["long_name"] = topology.long_name(name)
        if node.kind == "linux":
            waits = {stage: [{"node": w.node, "stage": w.stage} for w in found] for stage, found in node.waits.items()}
            nodes[name] |= {
                **{"hostname": node.hostname, "image": node.image, "env": node.env, "sysctls": node.sysctls},
                **{"startup_delay": node.startup_delay, "wait_for": waits, "main": list(node.main)},
                **{"exec": [list(line) for line in topology.commands(name, lab_dir)], "binds": sorted(node.binds)},
            }
    links = [("veth", link.mtu, link.vars, [_end(end) for end in link.ends()]) for link in topology.links]
    links += [("dummy", dummy.mtu, dummy.vars, [_end(dummy.end)]) for dummy in topology.dummies]
    return _told(topology.name, nodes, links)


def _end(end: Endpoint) -> dict[str, str]:
    told = {"node": end.node, "interface": end.interface, "ipv4": end.ipv4, "ipv6": end.ipv6}
    return {word: value for word, value in told.items() if value}


def _told(name: str, nodes: dict[str, Any], links: list[Any]) -> dict[str, Any]:
    def as_text(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: as_text(inner) for key, inner in sorted(value.items())}
        return [as_text(inner) for inner in value] if isinstance(value, list | tuple) else str(value)

    return {"name": name, "nodes": nodes, "links": sorted(as_text(links), key=repr)}


def main() -> None:
    shutil.rmtree(TOPOLOGIES, ignore_errors=True)
    found = copy(TOPOLOGIES)
    readings = read([*found, *FEATURES.glob("*.clab.yml")], DATA)
    for path in found:
        error = readings[str(path.relative_to(DATA))].get("error", "")
        if any(word in error for word in _NOT_OURS) or "topology" not in path.read_text():
            del readings[str(path.relative_to(DATA))]
            path.unlink()
    for folder in sorted((path for path in TOPOLOGIES.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    READINGS.write_text(json.dumps(readings, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
