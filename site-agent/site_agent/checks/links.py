"""Can the uplink and the inside interface carry packets? The kernel says so, and no outsider can cause it: a fact.

A gateway without its uplink serves nobody, and one without its inside interface takes clients in and leads them nowhere.
With the uplink gone the BGP session ends too, but only with its hold time, and a gateway with a second upstream
would go on attracting clients through it; the fact acts at once and names the interface.

A change is an event (RTM_NEWLINK, RTM_DELLINK); each event about one of the interfaces only causes a look, so a lost event
costs one interval. Nothing here asks whether anybody is at the other end: packets that get no answer are
other checks' affair, and not facts.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence

from anycast.errors import DecodeError, KernelError
from anycast.model import EvidenceClass
from anycast.reasons import Reason
from site_agent.checks.base import Finding, Timing, failing, passing
from site_agent.netlink import link
from site_agent.netlink.messages import Message
from site_agent.netlink.transport import EventSocket, request

NAME = "links"


class LinksCheck:
    """Reports `links`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.FACT}
    timing = Timing(interval_s=1.0, timeout_s=1.0, rise=1, fall=1)

    def __init__(self, interfaces: Iterable[str]) -> None:
        """`interfaces` by name. Raises ValueError for one that cannot be a name."""
        self._requests = {name: link.encode_get_link(name) for name in interfaces}

    async def look(self) -> Sequence[Finding]:
        troubles = {name: await self._trouble(name) for name in self._requests}
        if any(troubles.values()):
            told = ", ".join(f"{name}: {trouble}" for name, trouble in troubles.items() if trouble)
            return [failing(NAME, Reason.LINK_DOWN, told)]
        return [passing(NAME, f"{', '.join(troubles)} up")]

    def watch(self, look_now: Callable[[], None]) -> EventSocket:
        """Call `look_now` whenever one of the interfaces changed. Close what it returns."""

        def on_message(message: Message) -> None:
            if message.kind not in (link.RTM_NEWLINK, link.RTM_DELLINK):
                return
            try:
                ours = link.decode_link(message.payload).name in self._requests
            except DecodeError:
                ours = True  # what it meant is lost: look
            if ours:
                look_now()

        return EventSocket(socket.NETLINK_ROUTE, link.RTMGRP_LINK, on_message, look_now)

    async def _trouble(self, name: str) -> str:
        try:
            answers = await request(socket.NETLINK_ROUTE, link.RTM_GETLINK, self._requests[name])
        except KernelError as exc:
            if exc.errno == errno.ENODEV:
                return "gone"
            raise
        if not answers:
            raise KernelError(errno.ENODATA, f"{name}: the kernel acknowledged and told nothing")
        return link.decode_link(memoryview(answers[0])).trouble
