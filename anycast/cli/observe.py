"""`anycast observe`: see from outside whether the sites' routes are there, and tell the coordinator."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from anycast.cli.coordinator_client import DEFAULT, Target, ask
from anycast.cli.fleet import FleetFile
from anycast.cli.options import Credential, Root, Url
from anycast.errors import ConfigError, Problem
from anycast.fleet.loading import load
from anycast.fleet.schema import Fleet
from anycast.observer.process import Observing
from anycast.observer.seen import Sight


def observe(
    file: FleetFile,
    name: Annotated[str, typer.Argument(help="Of `observers` in the fleet file.")],
    run: Annotated[Path, typer.Option(help="Its ExaBGP's configuration and socket.")] = Path("/run/anycast-observer"),
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
) -> None:
    """Hear what routers outside have of the service, announce nothing, and tell the coordinator, until told to stop.

    It may run anywhere and needs no root: a BGP session with a router outside the sites, and a credential that
    `anycast access add NAME --role observer` makes. What it does not know is unknown, and never counts as "gone".
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    fleet = load(file)
    if name not in fleet.observers:
        known = ", ".join(fleet.observers) or "there is none"
        raise ConfigError([Problem("observers", f"{name} is no observer of this fleet ({known})", str(file))])
    target = Target(url, credential, root)

    def tell(word: dict[str, object]) -> None:
        ask(target, "POST", f"/v1/observers/{name}", word)

    async def until_told() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        observing = Observing(fleet.observers[name], sight_of(fleet, name), run, tell)
        task = asyncio.create_task(observing.run())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(until_told())


def sight_of(fleet: Fleet, name: str) -> Sight:
    """What the observer of that name is to tell apart."""
    prefixes = fleet.service.prefixes
    return Sight(
        {str(peer.address): peer.families for peer in fleet.observers[name].peers},
        [str(prefixes.of(family)) for family in prefixes.families],
        {site: each.asn for site, each in fleet.sites.items() if each.asn is not None},
    )
