"""What sites announce besides the service's prefixes, and with which attributes: the `announcements` section of fleet.yaml,
and `announce` of an upstream."""

from __future__ import annotations

import pydantic

from anycast.fleet.section import Section
from anycast.fleet.values import Community, Med, Name, Network, Prepend


class LastResort(Section):
    """A less-specific prefix, heard where nothing longer is left."""

    prefix: Network
    """All of it must be the fleet's, or it attracts what is others'."""
    sites: tuple[Name, ...] = pydantic.Field(min_length=1)
    """Who announces it."""


class Announcements(Section):
    last_resort: dict[Name, LastResort] = pydantic.Field(default_factory=dict)
    """Default: none."""
    communities: dict[Name, dict[Name, Community]] = pydantic.Field(default_factory=dict)
    """Vocabularies, one for each network that reads them: its words, and the community that each of them is there
    (``64511:90``, or large, ``64511:1:90``; RFC 1997, 8092). Default: none."""


class Announce(Section):
    """With which attributes a router hears everything."""

    prepend: Prepend = 0
    """Extra copies of the site's AS. Default: none."""
    med: Med | None = None
    """MULTI_EXIT_DISC. Default: as the gateway's role has it."""
    local_pref: Med | None = None
    """LOCAL_PREF, for routers inside of the site's own AS. Default: the router's own."""
    vocabulary: Name | None = None
    """Whose words `communities` are, of `announcements.communities`."""
    communities: tuple[Name, ...] = ()
    """Words of that vocabulary. Default: none."""
