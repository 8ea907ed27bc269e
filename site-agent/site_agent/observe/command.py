"""From the command line to an observation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import typer

from site_agent import standing, views
from site_agent.observe import view
from site_agent.observe.decisions import Act
from site_agent.observe.discovery import Found, discover
from site_agent.observe.observer import Observer
from site_agent.paths import Paths
from site_agent.standing import Standing

EXIT = {Act.ANNOUNCE: 0, Act.STAY_WITHDRAWN: 1, Act.CANNOT_TELL: 2}


def observe(
    *,
    vici: str | None,
    vips: Sequence[str],
    links: Sequence[str],
    once: bool,
    for_s: float | None,
    as_json: bool,
    paths: Paths,
) -> int:
    """Observe and print; the exit status: 0, or with `once` 0 would announce, 1 would not, 2 cannot tell.

    `paths` is where an agent would have left a hold.

    Raises ValueError for a VIP that is no address or a link that cannot be an interface's name.
    """
    found = asyncio.run(discover(vici=vici, vips=vips, links=links))
    would = asyncio.run(_observe(found, standing.read(paths), once=once, for_s=for_s, as_json=as_json))
    return EXIT[would] if once else 0


async def _observe(found: Found, left: Standing, *, once: bool, for_s: float | None, as_json: bool) -> Act:
    if as_json:
        observer = Observer(found, standing=left)
    else:
        view.show_found(found)
        observer = Observer(found, view.show_news, left)
    await observer.run(once=once, for_s=for_s)
    account = observer.account()
    if as_json:
        typer.echo(views.to_json(account))
    else:
        view.show_account(account)
    return Act(account["would"])
