"""What every section of fleet.yaml has in common: unknown keys refused, values frozen, the two address families."""

from __future__ import annotations

from typing import Any, Self

import pydantic

from anycast.fleet.values import (
    FAMILIES,
    Address4,
    Address6,
    Family,
    Network4,
    Network6,
    wrong,
)


class Section(pydantic.BaseModel):
    """One mapping of fleet.yaml. A field's docstring says its unit and default."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class DualStack(Section):
    """A section with an ``ipv4`` and an ``ipv6`` key, of which at least one is written."""

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that are written, IPv4 first."""
        return tuple(family for family in FAMILIES if getattr(self, family) is not None)

    def of(self, family: Family) -> Any:
        """The value of `family`, which is one of `families`."""
        return getattr(self, family)

    @pydantic.model_validator(mode="after")
    def _some_family(self) -> Self:
        if not self.families:
            raise wrong("has neither ipv4 nor ipv6")
        return self


class Addresses(DualStack):
    """One address a family, without length."""

    ipv4: Address4 | None = None
    ipv6: Address6 | None = None


class Prefixes(DualStack):
    """One prefix a family, written canonically (no bits beyond its length)."""

    ipv4: Network4 | None = None
    ipv6: Network6 | None = None


NO_PREFIXES = Prefixes.model_construct()
"""Where nothing is written: of no family."""
NO_ADDRESSES = Addresses.model_construct()
