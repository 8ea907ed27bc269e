"""The `announcements` section of fleet.yaml: what sites announce besides the service's prefixes."""

from __future__ import annotations

import pydantic

from anycast.fleet.section import Section
from anycast.fleet.values import Name, Network


class LastResort(Section):
    """A less-specific prefix, heard where nothing longer is left."""

    prefix: Network
    """All of it must be the fleet's, or it attracts what is others'."""
    sites: tuple[Name, ...] = pydantic.Field(min_length=1)
    """Who announces it."""


class Announcements(Section):
    last_resort: dict[Name, LastResort] = pydantic.Field(default_factory=dict)
    """Default: none."""
