"""Moves clients' tunnels to another site by VICI: which stand, `redirect` (RFC 5685), `terminate`.

charon tells nobody which clients understand a REDIRECT: it is neither in `list-sas` nor in the answer to `redirect`, which
counts what it found and not what will move (measured with 5.9.8, docs/drain.md). Known beforehand is only that IKEv1 has
none, that an IKE_SA which this end began is never redirected, and where there is no address of a client's family.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from anycast.errors import PeerError
from anycast.policy.drain import Tunnel
from site_agent.ike.vici_client import ViciClient

LIST_LIMIT_S = 5.0
ORDER_LIMIT_S = 2.0
"""For one `redirect` or `terminate`: charon only queues it."""
UP = frozenset({b"ESTABLISHED", b"REKEYING", b"REKEYED", b"PASSIVE"})
"""States of a tunnel that a client has; one that got a DELETE is DELETING until its client answers, or does not."""


class Redirector:
    """Use from the event loop's thread."""

    def __init__(self, vici: ViciClient, ends: Iterable[str], *, canary: str | None) -> None:
        """`ends`: where clients' tunnels end here. `canary` is the IKE identity of the client that is our own."""
        self._vici, self._ends, self._canary = vici, frozenset(map(ip_address, ends)), canary
        self._families: dict[str, int] = {}

    async def tunnels(self, to: Iterable[str]) -> tuple[Tunnel, ...]:
        """All that stand, by charon's word. Raises PeerError, TimeoutError."""
        found: dict[str, Tunnel] = {}
        families, targets = dict[str, int](), {ip_address(address).version for address in to}

        def take(event: Mapping[str, Any]) -> None:
            for ike_sa in event.values():
                if (local := self._end_of(ike_sa)) is not None:
                    name = ike_sa["uniqueid"].decode()
                    can = ike_sa.get("version") == b"2" and "initiator" not in ike_sa and local in targets
                    found[name], families[name] = Tunnel(name, can=can), local

        await self._vici.stream("list-sas", "list-sa", take, timeout_s=LIST_LIMIT_S)
        self._families = families
        return tuple(found.values())

    async def redirect(self, ids: Iterable[str], to: Iterable[str], *, stop: Callable[[], bool] = lambda: False) -> int:
        """How many were asked. One that has gone meanwhile is passed over. Raises TimeoutError where charon says nothing."""
        targets: dict[int, str] = {ip_address(address).version: address for address in to}
        known = [name for name in ids if self._families.get(name) in targets]
        return await self._each(known, lambda name: ("redirect", {"gateway": targets[self._families[name]]}), stop)

    async def delete(self, ids: Iterable[str], *, stop: Callable[[], bool] = lambda: False) -> int:
        """As `redirect`, with a DELETE. What charon waits for afterwards is not waited for."""
        return await self._each(ids, lambda _: ("terminate", {"timeout": "-1"}), stop)

    async def _each(
        self, ids: Iterable[str], order: Callable[[str], tuple[str, dict[str, str]]], stop: Callable[[], bool]
    ) -> int:
        count = 0
        for name in ids:
            if stop():
                break
            command, message = order(name)
            with contextlib.suppress(PeerError):
                await self._vici.request(command, {"ike-id": name, **message}, timeout_s=ORDER_LIMIT_S)
                count += 1
        return count

    def _end_of(self, ike_sa: Mapping[str, Any]) -> int | None:
        """IP version of a client's tunnel; None where it is nobody's, not up, or our own."""
        if ike_sa.get("state") not in UP or ike_sa.get("remote-id", b"").decode(errors="replace") == self._canary:
            return None
        try:
            local = ip_address(ike_sa["local-host"].decode())
        except (KeyError, ValueError):
            return None
        return local.version if local in self._ends else None
