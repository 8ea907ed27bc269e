"""From the command line to an observation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import typer

from site_agent import views
from site_agent.observe import view
from site_agent.observe.discovery import discover
from site_agent.observe.observer import Observer


def observe(*, vici: str | None, vips: Sequence[str], once: bool, for_s: float | None, as_json: bool) -> None:
    """Observe and print. Raises ValueError for a VIP that is no address."""
    asyncio.run(_observe(vici=vici, vips=vips, once=once, for_s=for_s, as_json=as_json))


async def _observe(*, vici: str | None, vips: Sequence[str], once: bool, for_s: float | None, as_json: bool) -> None:
    found = await discover(vici=vici, vips=vips)
    if as_json:
        observer = Observer(found)
    else:
        view.show_found(found)
        observer = Observer(found, view.show_news)
    await observer.run(once=once, for_s=for_s)
    if as_json:
        typer.echo(views.to_json(observer.account()))
    else:
        view.show_account(observer.account())
