"""The one input that every core has. Apart from `runtime`, which needs asyncio: the vrrp process must not carry that."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class TimerExpired:
    """The core's own deadline has passed. The only input that is not somebody else's news."""
