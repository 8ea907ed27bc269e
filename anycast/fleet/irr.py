"""The `irr` section of fleet.yaml: in whose name, and in which routing registry, route objects stand."""

from __future__ import annotations

import pydantic

from anycast.fleet.section import Section
from anycast.fleet.values import RpslName


class Irr(Section):
    source: RpslName
    """The registry, as its objects name it: ``RIPE``, ``RADB``."""
    mnt_by: tuple[RpslName, ...] = pydantic.Field(min_length=1)
    """The maintainers of the objects."""
