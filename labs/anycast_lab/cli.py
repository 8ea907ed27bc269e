"""`anycast lab …`: bring a topology up, look at it, run commands and drills in it."""

from __future__ import annotations

import base64
import contextlib
import datetime
import enum
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.table import Table

from anycast.errors import AnycastError
from anycast_lab import blank
from anycast_lab.containerlab import prepared
from anycast_lab.control import launch
from anycast_lab.control.client import Client
from anycast_lab.embedded import kernel
from anycast_lab.runner import RUNNERS, LabError, Progress
from anycast_lab.topology import Topology, load

TOPOLOGIES = launch.CHECKOUT / "labs/topologies"
EXIT_DRILL_FAILED = 1

app = typer.Typer(
    help="Labs: real daemons in network namespaces, faults, and what the outside saw. LAB_KERNEL=native or uml in the "
    "environment says on which kernel: this machine's (the default where it has ESP) or User Mode Linux.",
    no_args_is_help=True,
)


def _lab_name(name: str) -> str:
    """A lab's name becomes a folder below /run."""
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise typer.BadParameter(f"{name!r} is no name for a lab: letters, digits, - _ . and at most 64 of them")
    return name


def _runner(name: str) -> str:
    if name not in RUNNERS:
        raise typer.BadParameter(f"there is no runner {name!r}; there are {', '.join(RUNNERS)}")
    return name


TopologyOption = Annotated[Path, typer.Option("--topology", "-t", help="A containerlab file.")]
NameOption = Annotated[
    str,
    typer.Option(
        "--name",
        "-n",
        envvar="LAB_NAME",
        callback=_lab_name,
        help="To have one topology up twice; default: the topology's name.",
    ),
]


def _no_topology(given: bool) -> None:
    if given:
        raise typer.BadParameter(
            "a drill names its own topology, so there is none to give; --name says which running lab to use"
        )


NoTopology = Annotated[bool, typer.Option("--topology", "-t", hidden=True, is_eager=True, callback=_no_topology)]
RunnerOption = Annotated[
    str,
    typer.Option(
        "--runner",
        callback=_runner,
        help="embedded: namespaces, nothing to prepare. containerlab: containers, in User Mode Linux; see docs/labs.md.",
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]
_DEFAULT = TOPOLOGIES / "two-site.clab.yml"


@app.command()
def up(
    topology: TopologyOption = _DEFAULT,
    name: NameOption = "",
    json_: JsonFlag = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave a lab that does not come up as it is, to look into it.")
    ] = False,
    runner: RunnerOption = "embedded",
) -> None:
    """Bring the lab up; returns when routes stand and clients are connected. Ctrl-C leaves nothing behind."""
    loaded = load(topology)
    status = _up(loaded, name or loaded.name, _progress(), keep=keep, runner=runner)
    if json_:
        print(json.dumps(status))


@app.command()
def down(topology: TopologyOption = _DEFAULT, name: NameOption = "") -> None:
    """End the lab at once and leave nothing behind."""
    name = name or load(topology).name
    print(f"lab {name} is down" if launch.stop(name) else f"lab {name} was not up")


@app.command()
def status(topology: TopologyOption = _DEFAULT, name: NameOption = "", json_: JsonFlag = False) -> None:
    """Nodes, their state, who holds a site's VRRP addresses, their links, and what the coordinator shows of the sites."""
    with _client(topology, name) as client:
        answer = client.ask("status")
    if json_:
        print(json.dumps(answer))
        return
    esp = "ESP" if answer["esp"] else "no ESP"
    title = f"lab {name or answer['lab']}: {answer['state']}, {answer['kernel']} kernel, {esp}"
    table = Table("node", "group", "state", "VRRP", "processes", "links to", title=title)
    for word, node in answer["nodes"].items():
        row = (word, node["group"], node["state"], node["role"], str(node["processes"]), " ".join(node["links"]))
        table.add_row(*row)
    Console().print(table)
    if (coordinator := answer["coordinator"]) is not None:
        print(f"coordinator at {coordinator['node']}: {_shown(coordinator)}")


def _shown(coordinator: dict[str, Any]) -> str:
    if not coordinator["answers"]:
        return "does not answer"
    states = dict[str, list[str]]()
    for site, state in coordinator["sites"].items():
        states.setdefault(state, []).append(site)
    return "; ".join(f"{state} {', '.join(sites)}" for state, sites in states.items())


@app.command("exec", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def exec_(
    node: Annotated[str, typer.Argument(help="A node of the topology.")],
    command: Annotated[list[str], typer.Argument(help="What to run in it, with its arguments.")],
    with_input: Annotated[
        bool, typer.Option("--input", "-i", help="Give it what comes on standard input, to its end.")
    ] = False,
    topology: TopologyOption = _DEFAULT,
    name: NameOption = "",
) -> None:
    """Run a command in a node; its output and exit status are this command's own. `--` before the command is passed over."""
    command = command[1:] if command[0] == "--" else command
    if not command:
        raise typer.BadParameter("there is no command after --", param_hint="COMMAND")

    def output(fd: int, data: bytes) -> None:
        stream = sys.stdout.buffer if fd == 1 else sys.stderr.buffer
        stream.write(data)
        stream.flush()

    given: dict[str, Any] = {"stdin": base64.b64encode(sys.stdin.buffer.read()).decode()} if with_input else {}
    with _client(topology, name) as client:
        rc = client.ask("exec", node=node, argv=command, output=output, **given)["rc"]
    raise typer.Exit(rc if rc >= 0 else 128 - rc)


class FaultKind(enum.StrEnum):
    POWER_OFF = "power_off"
    POWER_ON = "power_on"
    FREEZE = "freeze"
    THAW = "thaw"
    LINK_DOWN = "link_down"
    LINK_UP = "link_up"
    LINK_MUTE = "link_mute"
    LINK_UNMUTE = "link_unmute"


@app.command()
def fault(
    kind: Annotated[FaultKind, typer.Argument(help="What to do to the node, or to one of its links.")],
    node: Annotated[str, typer.Argument(help="A node of the topology.")],
    interface: Annotated[str | None, typer.Argument(help="For the link_… ones.")] = None,
    topology: TopologyOption = _DEFAULT,
    name: NameOption = "",
) -> None:
    """Break something by hand, or mend it."""
    if kind.value.startswith("link_") != (interface is not None):
        wants = "one of the node's interfaces (eth1)" if interface is None else "no interface: it acts on the whole node"
        raise typer.BadParameter(f"{kind.value} needs {wants}", param_hint="INTERFACE")
    with _client(topology, name) as client:
        fields: dict[str, Any] = {"interface": interface} if interface else {}
        client.ask(kind.value, node=node, **fields)


@app.command()
def impair(
    node: Annotated[str, typer.Argument(help="A node of the topology.")],
    interface: Annotated[str, typer.Argument(help="What it sends there is impaired.")],
    delay_ms: Annotated[float, typer.Option(min=0, max=60_000, help="Milliseconds that each packet is late.")] = 0,
    jitter_ms: Annotated[float, typer.Option(min=0, max=60_000, help="Milliseconds more or less; reorders packets.")] = 0,
    loss: Annotated[float, typer.Option(min=0, max=100, help="Percent of the packets.")] = 0,
    topology: TopologyOption = _DEFAULT,
    name: NameOption = "",
) -> None:
    """Delay, reorder or lose what a node sends on one link (netem); without an option: no longer."""
    wanted = {"delay_ms": delay_ms, "jitter_ms": jitter_ms, "loss_percent": loss}
    with _client(topology, name) as client:
        client.ask("impair", node=node, interface=interface, impairment=wanted if any(wanted.values()) else None)


@app.command(context_settings={"ignore_unknown_options": True})
def capture(
    node: Annotated[str, typer.Argument(help="A node of the topology.")],
    interface: Annotated[str, typer.Argument(help="One of its interfaces; any: all of them.")],
    expression: Annotated[
        list[str] | None, typer.Argument(metavar="[FILTER]...", help="As of tcpdump: esp or udp port 4500.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", "-w", metavar="FILE", help="A capture file, not text; - is standard output.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="For so long; until interrupted without.")] = 0,
    packets: Annotated[int, typer.Option(min=0, help="Until there are so many.")] = 0,
    topology: TopologyOption = _DEFAULT,
    name: NameOption = "",
) -> None:
    """Show what a node's interface carries, or write it: `anycast lab capture transit any -w - | wireshark -k -i -`."""
    with _client(topology, name) as client, contextlib.ExitStack() as stack:
        packets_to = sys.stdout.buffer
        if write is not None and str(write) != "-":
            packets_to = stack.enter_context(_new_file(write))

        def output(fd: int, data: bytes) -> None:
            stream = packets_to if fd == 1 else sys.stderr.buffer
            stream.write(data)
            stream.flush()

        wanted: dict[str, Any] = {"seconds": seconds, "packets": packets, "decoded": write is None}
        wanted |= {"node": node, "interface": interface, "expression": expression or []}
        rc = client.ask("capture", output=output, **wanted)["rc"]
    if rc:
        raise typer.Exit(EXIT_DRILL_FAILED)


def _new_file(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as exc:
        raise typer.BadParameter(f"{path}: {exc.strerror}", param_hint="--write") from exc


@app.command()
def drills(json_: JsonFlag = False) -> None:
    """What can be rehearsed."""
    from anycast_lab.drills.drill import load_drills

    known = load_drills()
    if json_:
        rows = [
            {"name": n, "topology": d.topology, "tier": d.tier, "kernel": d.kernel, "message": d.message}
            for n, d in known.items()
        ]
        print(json.dumps(rows))
        return
    table = Table("drill", "what happens", "tier", "topology", "kernel")
    for name, drill in known.items():
        table.add_row(name, _first_sentence(drill.message), str(drill.tier), str(drill.topology), str(drill.kernel))
    Console().print(table)


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".") + "."


@app.command()
def drill(
    names: Annotated[list[str], typer.Argument(help="One or more of `anycast lab drills`.")],
    name: NameOption = "",
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the reports there, a JSON list.")] = None,
    topology: NoTopology = False,
    runner: RunnerOption = "embedded",
) -> None:
    """Run drills, in the running lab or in one brought up for them; exit status 1 when one came out wrong."""
    assert not topology  # its callback has refused it
    from anycast_lab import show
    from anycast_lab.drills import drill as drill_file

    known = drill_file.load_drills()
    if unknown := [word for word in names if word not in known]:
        raise LabError(f"there is no drill {', '.join(unknown)}; there are {', '.join(known)}")
    progress, reports = _progress(), list[dict[str, Any]]()
    places = {word: (known[word].topology, known[word].kernel == "native") for word in names}
    for place in dict.fromkeys(places.values()):
        loaded, wanted = load(TOPOLOGIES / f"{place[0]}.clab.yml"), [word for word in names if places[word] == place]
        with _borrowed(loaded, name or loaded.name, progress, native=place[1], runner=runner) as client:
            for word in wanted:  # one at a time: what is known is shown and written before the next begins
                reports += client.ask("drill", names=[word], progress=progress)
                show.report(Console(), reports[-1])
                if json_ is not None:
                    json_.write_text(json.dumps(reports, indent=1) + "\n")
    if not all(report["as_expected"] for report in reports):
        raise typer.Exit(EXIT_DRILL_FAILED)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What `lab drill --json` wrote.")],
    second: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The same of another run.")],
) -> None:
    """Whether two runs of the same drills, one of each runner for example, had one outcome and one order of events."""
    from anycast_lab.drills import same_story

    runs = [json.loads(path.read_text()) for path in (first, second)]
    if not (both := same_story.pairs(*runs)):
        raise LabError(f"{first} and {second} have no drill in common")
    told = [same_story.differences(one, other) for one, other in both]
    for (one, other), differences in zip(both, told, strict=True):
        words = "the same" if not differences else f"{len(differences)} differences"
        print(f"{one['drill']} ({one['runner']}, {other['runner']}): {words}")
        print(*(f"  {difference}\n" for difference in differences), sep="", end="")
    if any(told):
        raise typer.Exit(EXIT_DRILL_FAILED)


@app.command()
def graph(
    output: Annotated[Path, typer.Option("--output", "-o", help="The SVG file to write; it is replaced whole.")],
    topology: TopologyOption = _DEFAULT,
    name: NameOption = "",
    live: Annotated[
        bool,
        typer.Option("--live", help="Of the running lab, now: roles, verdicts, dead cables, where clients' packets go."),
    ] = False,
) -> None:
    """A picture of the topology and its fleet: sites, gateways, routers, clients and the cables between them."""
    from anycast.fleet.loading import load as load_fleet
    from anycast.pki import files
    from anycast_lab.machines.prepare import fleet_file
    from anycast_lab.picture.draw import draw
    from anycast_lab.picture.look import look

    loaded = load(topology)
    fleet = load_fleet(fleet_file(loaded.path))
    if fleet.lab is None:
        raise LabError(f"{fleet_file(loaded.path)} has no `lab` section, so it does not say what stands around the gateways")
    seen = None
    if live:
        with _client(topology, name) as client:
            seen = look(client, loaded, fleet, datetime.datetime.now(datetime.UTC))
    files.write(output, draw(loaded, fleet, seen).encode(), files.PUBLIC)
    print(f"{output} shows {loaded.name}{f' at {seen.at}' if seen else ''}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(callback=_lab_name, help="The fleet's, the lab's and the files' name.")],
    sites: Annotated[int, typer.Option(min=1, max=len(blank.SITES), help="How many sites.")] = 2,
    pairs: Annotated[bool, typer.Option("--pairs", help="Two gateways a site instead of one.")] = False,
    upstreams: Annotated[int, typer.Option(min=1, max=blank.MOST_UPSTREAMS, help="Upstream routers of each site.")] = 1,
    folder: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Where the two files are written.")] = Path(),
) -> None:
    """Write a fleet file and its topology of this shape, in documentation space, to begin an own lab with."""
    shape = blank.Shape(name, sites, pairs, upstreams)
    texts = {folder / f"{name}.fleet.yaml": blank.fleet(shape), folder / f"{name}.clab.yml": blank.topology(shape)}
    if there := [str(path) for path in texts if path.exists()]:
        raise LabError(f"{', '.join(there)} is there already, and is not written over")
    for path, text in texts.items():
        path.write_text(text)
        print(f"wrote {path}")
    fleet_path, topology_path = texts
    print(f"next: anycast check {fleet_path}; sudo anycast lab up -t {topology_path}")


@app.command()
def demo(name: NameOption = "") -> None:
    """Two sites, two clients; charon is killed; the clients move; `why` explains it. The lab is gone afterwards."""
    from anycast.fleet.loading import load as load_fleet
    from anycast_lab import demo as story
    from anycast_lab.machines.prepare import fleet_file

    progress, topology = _progress(), load(_DEFAULT)
    fleet = load_fleet(fleet_file(topology.path))
    with _borrowed(topology, name or topology.name, progress) as client:
        held = story.tell(client, fleet, Console(), progress)
    if not held:
        raise typer.Exit(EXIT_DRILL_FAILED)


def _up(
    topology: Topology, name: str, progress: Progress, *, keep: bool = False, native: bool = False, runner: str = "embedded"
) -> dict[str, Any]:
    esp = kernel.has_esp()
    chosen = "native" if native else kernel.choose(esp=esp)
    if runner == "containerlab":
        if native or os.environ.get("LAB_KERNEL") == "native":
            raise LabError(prepared.not_natively(esp=esp))
        chosen = "uml"
    progress(f"lab {name}: {'this kernel' if chosen == 'native' else 'User Mode Linux'}, {runner} runner")
    if runner == "containerlab" and not prepared.is_current():
        progress("the images hold other sources than this tree: `sudo labs/images/build --disk` makes them anew")
    # SIGTERM and a closed terminal like Ctrl-C: a lab that did not come up must not stay half up.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    client = Client(name, launch.start(name, topology, chosen, esp=esp, runner=runner))
    try:
        status: dict[str, Any] = client.ask("up", progress=progress)
    except BaseException as exc:  # also Ctrl-C: nothing half up stays
        if not (keep and isinstance(exc, AnycastError)):
            launch.stop(name)
        raise
    finally:
        client.close()
    progress(f"lab {name} is up")
    return status


@contextlib.contextmanager
def _borrowed(
    topology: Topology, name: str, progress: Progress, *, native: bool = False, runner: str = "embedded"
) -> Iterator[Client]:
    """The running lab, or one of our own that ends with the block: on this kernel where its drills need that."""
    ours = (sock := launch.connect(name)) is None
    if sock is not None:
        sock.close()
    else:
        _up(topology, name, progress, native=native, runner=runner)
    try:
        client = Client.connect(name)
        try:
            yield client
        finally:
            client.close()
    finally:
        if ours:
            launch.stop(name)


@contextlib.contextmanager
def _client(topology: Path, name: str) -> Iterator[Client]:
    client = Client.connect(name or load(topology).name)
    try:
        yield client
    finally:
        client.close()


def _progress() -> Progress:
    """Lines on stderr with the seconds since now: stdout is for results."""
    start = time.monotonic()
    return lambda text: print(f"[{time.monotonic() - start:6.1f} s] {text}", file=sys.stderr, flush=True)
