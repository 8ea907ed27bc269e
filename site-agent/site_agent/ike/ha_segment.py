"""charon's one `ha` segment: switched by its FIFO, read back through VICI.

The FIFO takes one command and answers nothing (strongSwan, src/libcharon/plugins/ha/ha_ctl.c: opens, reads up to 8 bytes,
closes), so what became of it is seen in the state of the IKE_SAs: ESTABLISHED where the segment is active, PASSIVE where it
is not. Without any IKE_SA there is nothing to see, and nothing that could be wrong.
"""

from __future__ import annotations

import asyncio
import collections
import errno
import os
from collections.abc import Iterable
from pathlib import Path

from anycast.errors import PeerError
from site_agent.ike.vici_client import Section, ViciClient

FIFO = Path("/run/charon.ha")
"""Compiled into the plugin: IPSEC_PIDDIR."""
LIST_LIMIT_S = 3.0
CONFIRMATIONS = 4
"""In vain, before the segment is switched once more: 0.14 s. charon takes a command in a thread of its own."""
FIFO_PAUSE_S = 0.05
"""Between two commands: charon opens the FIFO anew for each."""
PASSIVE, ESTABLISHED = "PASSIVE", "ESTABLISHED"


def switch(active: bool, fifo: Path = FIFO) -> None:
    """Activate or passivate segment 1. Returns when charon has it to read. Raises PeerError where nobody reads.

    Never waits: without a reader, opening a FIFO for writing fails (fifo(7), O_NONBLOCK). Between two commands charon does
    not have it open for a moment, so try again soon.
    """
    try:
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as exc:
        why = "charon does not read it" if exc.errno == errno.ENXIO else exc.strerror
        raise PeerError("charon", f"{fifo}: {why}") from None
    try:
        os.write(descriptor, b"+1\n" if active else b"-1\n")
    except OSError as exc:
        raise PeerError("charon", f"{fifo}: {exc.strerror}") from None
    finally:
        os.close(descriptor)


async def states(vici: ViciClient, connections: frozenset[str] | None = None) -> collections.Counter[str]:
    """How many IKE_SAs are in each state. `connections`: only those of these names. Raises PeerError, TimeoutError."""
    found: collections.Counter[str] = collections.Counter()

    def take(section: Section) -> None:
        for name, ike_sa in section.items():
            if connections is None or name in connections:
                found[ike_sa["state"].decode()] += 1

    await vici.stream("list-sas", "list-sa", take, {"noblock": "yes"}, timeout_s=LIST_LIMIT_S)
    return found


async def confirm(vici: ViciClient, *, active: bool, connections: frozenset[str] | None = None) -> str:
    """That charon is what it was told to be, in words. Raises PeerError where it is not, or not yet; TimeoutError."""
    found = await states(vici, connections)
    wrong = PASSIVE if active else ESTABLISHED
    if found[wrong]:
        raise PeerError("charon", f"{found[wrong]} of {found.total()} IKE_SAs are {wrong}")
    return f"{found.total()} IKE_SAs"


class Segment:
    """The segment of one charon, for IKE_SAs of these connections. Raises PeerError and TimeoutError as the functions do."""

    def __init__(self, vici: ViciClient, fifo: Path, connections: Iterable[str]) -> None:
        self._vici, self._fifo, self._connections = vici, fifo, frozenset(connections)
        self._in_vain = 0

    def switch(self, active: bool) -> None:
        self._in_vain = 0
        switch(active, self._fifo)

    async def confirm(self, active: bool) -> str:
        """That it is as it was switched, or have it so by the next attempt.

        charon reads what it is handed in a thread of its own, so `+1` can come before the last IKE_SA, which is PASSIVE; and
        a charon whose segment is passive takes clients all the same when packets get to it: they are ESTABLISHED. A command
        touches none of these, because the segment does not change by it. The opposite one first makes it a change. charon
        throws away what comes before it has done the one before, so each attempt says it again.
        """
        try:
            return await confirm(self._vici, active=active, connections=self._connections)
        except PeerError:
            self._in_vain += 1
            if self._in_vain % CONFIRMATIONS == 0:
                switch(not active, self._fifo)
                await asyncio.sleep(FIFO_PAUSE_S)
            switch(active, self._fifo)
            raise
