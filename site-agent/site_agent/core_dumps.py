"""No core dump of a process that keys pass through: it would hold them, in a file or with whatever program collects dumps.

The agent asks for it before it starts anything, so charon and whatever else it starts inherit it; its own processes ask
again, as an agent of an earlier version may have started them.
"""

from __future__ import annotations

import resource


def leave_none() -> None:
    """One byte, because a program gets its dump at 0 as well (core(5)); and not PR_SET_DUMPABLE, with which the next agent
    could not see whose process this is."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    limit = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
