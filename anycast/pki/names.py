"""Who a management certificate is for: one URI among its subject's alternative names, ``anycast://FLEET/ROLE/NAME``.

A chain says that an operator signed; role and name say what for. They are one value, so that nothing can check the one and
forget the other. Pure.
"""

from __future__ import annotations

import dataclasses
import enum

from anycast.errors import DecodeError
from anycast.model import NAME

_SCHEME = "anycast://"
EXPECTED = "lower case letters, digits and hyphens, 63 at most"


class Role(enum.StrEnum):
    """What a machine may do to others on the management network."""

    GATEWAY = "gateway"
    """One of a site's two: speaks to the other one and to the coordinator."""
    COORDINATOR = "coordinator"


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """A machine of a fleet."""

    fleet: str
    role: Role
    name: str

    @property
    def uri(self) -> str:
        """As it stands in the certificate."""
        return f"{_SCHEME}{self.fleet}/{self.role}/{self.name}"

    def __str__(self) -> str:
        return f"{self.role} {self.name} of fleet {self.fleet}"


def parse(uri: str) -> Identity:
    """Raises DecodeError for anything that `Identity.uri` would not have written."""
    parts = uri.removeprefix(_SCHEME).split("/") if uri.startswith(_SCHEME) else []
    if len(parts) != 3:
        raise DecodeError("name", 0, "is not anycast://FLEET/ROLE/NAME")
    fleet, role, name = parts
    if not NAME.fullmatch(fleet) or not NAME.fullmatch(name):
        raise DecodeError("name", 0, f"its fleet or name is not of {EXPECTED}")
    try:
        return Identity(fleet, Role(role), name)
    except ValueError as exc:
        raise DecodeError("name", 0, "names an unknown role") from exc
