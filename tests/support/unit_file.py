"""The service unit, and what it permits the agent."""

from __future__ import annotations

import re

from tests.support.documents import TREE

UNIT = TREE / "site-agent" / "systemd" / "site-agent.service"


def bounding_set() -> str:
    """The unit's CapabilityBoundingSet as setpriv(1) writes it."""
    match = re.search(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert match is not None
    return ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in match[1].split())])
