"""From the fleet to the one content that its operators sign, beside the documents that it names. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from anycast.content import content
from anycast.content.attraction import announces, holds, unicast
from anycast.content.content import Content, Intent
from anycast.document import Document
from anycast.errors import ConfigError, Problem
from anycast.fleet.budget import Floor
from anycast.fleet.schema import Fleet


def compile_content(fleet: Fleet, documents: Mapping[str, Document]) -> Content:
    """`documents`: of all gateways (`compile_fleet`). What the content may follow is for a plan to say. Raises ConfigError
    where the file has no budget: what may be dark is never guessed."""
    if (budget := fleet.budget) is None:
        what = "is missing, and nothing is planned without one: `budget: {min_sites: N}`, sites that must always attract"
        raise ConfigError([Problem("budget", what)])
    return Content(
        version=content.VERSION,
        fleet=fleet.fleet,
        service=fleet.service.name,
        after=(),
        budget=content.Budget(
            min_sites=budget.min_sites,
            min_capacity=budget.min_capacity,
            regions={name: _floor(floor) for name, floor in budget.regions.items()},
            retiring=tuple(str(prefix) for prefix in budget.retiring),
        ),
        sites={
            name: content.Site(
                intent=Intent(site.intent),
                region=site.region,
                capacity=site.capacity,
                gateways={gateway: _gateway(documents[gateway]) for gateway in site.gateways},
            )
            for name, site in fleet.sites.items()
        },
    )


def _floor(floor: Floor) -> content.Floor:
    return content.Floor(min_sites=floor.min_sites, min_capacity=floor.min_capacity)


def _gateway(document: Document) -> content.Gateway:
    return content.Gateway(
        document=document.hash, announces=announces(document), unicast=unicast(document), holds=holds(document)
    )
