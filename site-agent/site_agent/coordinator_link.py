"""The agent's end of the connection to the coordinator: called, introduced, reported to, called again.

It carries no lease: the route and the priority never wait for it, and its silence changes nothing but what is told here and
the tokens that end by themselves (rule 3). So everything in it may be slow or fail, behind a bulkhead.

A report goes out at each heartbeat, and at once when `changed` is called, yet not more often than every `PACE_S`: what
flutters must not fill a management network. Addresses are tried in turn, further apart each time, with jitter, so that a
fleet does not come back to a coordinator all at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import random
import ssl
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from anycast import link_wire
from anycast.document import Document
from anycast.errors import AnycastError, DecodeError, PeerError, first_failure
from anycast.events import AlarmCleared, AlarmRaised, Event
from anycast.link_offer import PACKED
from anycast.link_stream import read_message, read_sent
from anycast.link_wire import (
    Ack,
    ActivationSent,
    ContentHad,
    ContentWanted,
    DarknessTold,
    EventsKept,
    EventsTold,
    Hello,
    OfferPacked,
    OfferSent,
    OfferUnread,
    Report,
    Welcome,
)
from anycast.pki import tls
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity, Role
from anycast.pki.trust import Refused, judge
from anycast.policy.drain import Seen
from anycast.reasons import Reason
from anycast.runtime import boottime, heed_cancellation

CONNECT_LIMIT_S = 5.0
SILENT_LIMIT_S = 10.0
"""Every report is acknowledged, so that nothing for so long is nobody."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
PACE_S = 0.1
TOLD_AFTER_S = 10.0
"""A coordinator that is started anew is no alarm."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


Sent = OfferSent | OfferPacked | OfferUnread | ActivationSent | ContentWanted | DarknessTold | EventsKept


class CoordinatorLink:
    """Use from the event loop's thread only; `run` runs until cancelled."""

    def __init__(
        self,
        document: Document,
        *,
        instance: str,
        report: Callable[[int], Report],
        sent: Callable[[Sent], None],
        session: Callable[[int | None], None],
        happened: Callable[[Event], None],
        folder: MachineFolder,
    ) -> None:
        """`document.coordinator` is there; `report` makes the report of the given number, `sent` takes what is for the agent
        to judge, `session` the number of the connection that stands, or None."""
        assert document.coordinator is not None
        self._document, self._coordinator, self._instance = document, document.coordinator, instance
        self._report, self._sent, self._session, self._happened = report, sent, session, happened
        self._sessions = 0
        self._writer: asyncio.StreamWriter | None = None
        self._folder = folder
        self._changed = asyncio.Event()
        self._welcome: Welcome | None = None
        self._acked_at: float | None = None
        self._seen = ""
        self._away_since = self._welcomed_at = boottime()
        self._problem = ""
        self._alarm = False

    def changed(self) -> None:
        """Something that a report tells is new."""
        self._changed.set()

    def say(self, message: DarknessTold | ContentHad | EventsTold) -> None:
        """Over the connection that stands. Where none does it is lost, and said anew over the next."""
        if self._writer is not None:
            self._writer.write(link_wire.encode(message))

    @property
    def seen(self) -> Seen:
        """What observers outside say of the site's route, by the coordinator's last word; nothing where that is old."""
        fresh = self._acked_at is not None and boottime() - self._acked_at <= link_wire.FRESH_S
        return Seen(self._seen) if fresh and self._seen in set(Seen) else Seen.UNKNOWN

    def describe(self) -> dict[str, Any]:
        """For `status` and metrics."""
        welcome = self._welcome
        return {
            "name": self._coordinator.name,
            "connected": welcome is not None,
            "epoch": None if welcome is None else welcome.epoch,
            "heard_age_s": None if self._acked_at is None else boottime() - self._acked_at,
            "problem": self._problem,
            "seen": self.seen.value,
        }

    async def run(self) -> None:
        """Hold a connection for as long as that can be had."""
        wait_s = 0.0
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            try:
                while True:
                    stood_s = 0.0
                    for address in self._coordinator.addresses:
                        try:
                            # A task of its own: one whose TaskGroup has failed counts a cancellation that nobody takes
                            # back (Python 3.11), and its next timeout would end it, and this link, without a word.
                            await asyncio.create_task(self._converse(address))
                        except (AnycastError, OSError, TimeoutError, EOFError, ssl.SSLError) as exc:
                            self._problem = f"{address}: {_sentence(exc)}"
                            heed_cancellation()
                        finally:
                            if self._welcome is not None:
                                stood_s = boottime() - self._welcomed_at
                                self._welcome, self._away_since = None, boottime()
                    wait_s = next_wait(wait_s, stood_s)
                    await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))
            finally:
                watching.cancel()

    async def _watch(self) -> None:
        """The alarm comes late and goes at once."""
        while True:
            away = self._welcome is None and boottime() - self._away_since > TOLD_AFTER_S
            if away != self._alarm:
                self._alarm = away
                detail = f"{self._coordinator.name}: {self._problem or 'no answer'}; this gateway goes on as it is"
                told = AlarmRaised(reason=Reason.COORDINATOR_AWAY, detail=detail)
                self._happened(told if away else AlarmCleared(reason=Reason.COORDINATOR_AWAY))
            await asyncio.sleep(1.0)

    async def _converse(self, address: str) -> None:
        document = self._document
        me = Identity(document.fleet, Role.GATEWAY, document.gateway)
        loaded = tls.load(self._folder, me, link_wire.ALPN)  # anew each time: a renewed certificate is taken by itself
        async with asyncio.timeout(CONNECT_LIMIT_S):
            reader, writer = await asyncio.open_connection(
                address, self._coordinator.port, ssl=loaded.calling, server_hostname=self._coordinator.name
            )
        try:
            self._believe(writer.get_extra_info("ssl_object").getpeercert(binary_form=True), loaded)
            writer.write(link_wire.encode(self._hello()))
            async with asyncio.timeout(CONNECT_LIMIT_S):
                welcome = await read_message(reader)
            if not isinstance(welcome, Welcome) or not link_wire.OLDEST <= welcome.protocol <= link_wire.NEWEST:
                raise PeerError("coordinator", "does not begin with a welcome of a known protocol")
            self._welcome, self._problem, self._welcomed_at = welcome, "", boottime()
            self._writer, self._sessions = writer, self._sessions + 1
            self._session(self._sessions)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._speak(writer, welcome.heartbeat_s))
                group.create_task(self._listen(reader))
        except ExceptionGroup as found:
            raise first_failure(found) from None
        finally:
            if self._writer is writer:
                self._writer = None
                self._session(None)
            writer.transport.abort()

    def _believe(self, der: bytes | None, loaded: tls.Loaded) -> None:
        expected = Identity(self._document.fleet, Role.COORDINATOR, self._coordinator.name)
        judged = judge(der, loaded.own.trust, expected, None, datetime.datetime.now(datetime.UTC))
        if isinstance(judged, Refused):
            raise PeerError("coordinator", f"its certificate is refused: {judged.cause}: {judged.detail}")

    def _hello(self) -> Hello:
        document = self._document
        return Hello(
            protocols=tuple(range(link_wire.OLDEST, link_wire.NEWEST + 1)),
            fleet=document.fleet,
            site=document.site,
            gateway=document.gateway,
            agent=metadata.version("anycast-vpn"),
            instance=self._instance,
            boot=BOOT_ID.read_text().strip(),
            takes=(PACKED,),
        )

    async def _speak(self, writer: asyncio.StreamWriter, heartbeat_s: float) -> None:
        number = 0
        while True:
            self._changed.clear()
            number += 1
            writer.write(link_wire.encode(self._report(number)))
            async with asyncio.timeout(SILENT_LIMIT_S):
                await writer.drain()
            await asyncio.sleep(PACE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(heartbeat_s - PACE_S):
                    await self._changed.wait()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            message = await read_sent(reader, SILENT_LIMIT_S)
            if isinstance(message, Ack):
                self._acked_at, self._seen = boottime(), message.seen
            elif isinstance(message, Sent):
                self._sent(message)


def next_wait(wait_s: float, stood_s: float) -> float:
    """How long to wait before the next call, after a wait of `wait_s` and a connection that stood for `stood_s`; 0: none.

    One that outlived a heartbeat was a good one, however long it took to get it: a coordinator that was away for long and is
    then started anew once more must not be without its fleet for another `LONGEST_WAIT_S`. One that did not may be the work
    of a coordinator that dies of being called.
    """
    return FIRST_WAIT_S if stood_s > link_wire.HEARTBEAT_S else min(max(wait_s * 2, FIRST_WAIT_S), LONGEST_WAIT_S)


def _sentence(exc: Exception) -> str:
    match exc:
        case TimeoutError():
            return "no answer in time"
        case EOFError():
            return "the connection was ended"
        case DecodeError():
            return f"says what means nothing: {exc}"
        case ssl.SSLError():
            return f"TLS refuses: {exc.reason or exc}"
        case OSError():
            return os.strerror(exc.errno).lower() if exc.errno else str(exc)  # asyncio's own words hold a tuple
        case _:
            return str(exc)
