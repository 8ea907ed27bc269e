"""One vrrp process as its agent has it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import IO

from anycast.errors import DecodeError
from site_agent import priority
from site_agent.socket_child import SocketChild
from site_agent.vrrp import plan as plans
from site_agent.vrrp import wire


class Child(SocketChild):
    """Starts at once. Raises PeerError where it cannot. Use from the event loop's thread only."""

    def __init__(
        self,
        plan: plans.Plan,
        *,
        log: IO[bytes] | int,
        heard: Callable[[Child, wire.Message], None],
        ended: Callable[[Child, int], None],
    ) -> None:
        self.plan, self._heard = plan, heard
        super().__init__(
            "vrrp",
            plans.encode(plan),
            options=("-S",),  # nothing of what is installed beside us is looked at, which would be memory to lock
            nice=priority.HOLDS_THE_LEASE,  # until it has asked for more
            log=log,
            said=self._on_packet,
            ended=lambda status: ended(self, status),
        )

    def tell(self, message: wire.Message) -> None:
        """As `send`."""
        self.send(wire.encode(message))

    def _on_packet(self, data: bytes) -> None:
        with contextlib.suppress(DecodeError):
            self._heard(self, wire.decode(data))
