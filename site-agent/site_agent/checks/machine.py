"""The checks of the machine itself, the same for every gateway: all of them `load`, none with a setting."""

from __future__ import annotations

from site_agent.checks.base import Check
from site_agent.checks.conntrack import ConntrackCheck
from site_agent.checks.memory import MemoryCheck
from site_agent.checks.pressure import PressureCheck
from site_agent.checks.xfrm_stat import XfrmStatCheck


def load_checks() -> list[Check]:
    """New ones, that have seen nothing yet."""
    return [ConntrackCheck(), XfrmStatCheck(), PressureCheck(), MemoryCheck()]
