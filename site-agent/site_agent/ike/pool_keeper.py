"""Has charon hand out inner addresses from the ranges that `inner_addresses` offers, and no others.

One pool a range, under the range's name, and the connection's list of pools says which of them count:

    unload, load-pool   a range that was not on the list, anew: what it remembers of clients is older than what is known
    record, load-conn   the list, in one step: charon looks at it for each new client; tunnels that stand keep theirs
    unload-pool         what is off the list, as soon as nobody has an address of it

A pool with leases can be neither replaced nor unloaded, but off the list it hands out nothing, takes its leases back all the
same (a client's IKE_SA keeps the list it was made with), and goes later (measured, 5.9.8). Loading a connection anew ends
nothing, and an IKE rekey keeps its virtual address.

The agent loads the same connection when the operator changes it. Both take the list from the record below, under its lock,
so neither puts an older one back. The record belongs to one charon process; a new one hands out nothing until it is offered.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path

from anycast.errors import PeerError
from site_agent.ike.address_ranges import Range, Ranges, address_number, parse_address, parse_range
from site_agent.ike.inner_address_words import Looked, PoolsSeen
from site_agent.ike.swanctl_text import Node
from site_agent.ike.vici_client import Section, ViciClient

PREFIX = "inner-"
"""Of our pools' names; what follows is the range."""
CALL_LIMIT_S = 5.0
LIST_LIMIT_S = 10.0
"""20,000 IKE_SAs take about 2 s."""
LOCK_LIMIT_S = 2.0
LOCK_POLL_S = 0.01


class OfferRecord:
    """The list of pools that charon has, as it was loaded last, with the process it was loaded into."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Nobody else loads the connection meanwhile. Raises PeerError where somebody does for too long."""
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            for _ in range(int(LOCK_LIMIT_S / LOCK_POLL_S)):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(LOCK_POLL_S)
            else:
                raise PeerError("charon", "its connection is being loaded by another process, for too long")
            yield
        finally:
            os.close(descriptor)

    def read(self, process: str) -> list[str]:
        """The pools' names; none where the record is of another process, or there is none."""
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(self._path.read_text())
            if isinstance(record, dict) and record.get("process") == process:
                return [name for name in record.get("pools", ()) if isinstance(name, str)]
        return []

    def write(self, process: str, names: Iterable[str]) -> None:
        """Raises PeerError."""
        scratch = self._path.with_suffix(".new")
        try:
            scratch.write_text(json.dumps({"process": process, "pools": list(names)}))
            scratch.replace(self._path)
        except OSError as exc:
            raise PeerError("charon", f"its pools cannot be recorded: {exc.strerror}: {self._path}") from exc


class PoolKeeper:
    """One charon's pools. Its calls must not overlap."""

    def __init__(
        self,
        vici: ViciClient,
        record: OfferRecord,
        *,
        connections: Callable[[], Mapping[str, Node]],
        attributes: Node,
        process: Callable[[], str],
    ) -> None:
        """`connections`: their `load-conn` messages, without a list of pools; `attributes`: what a pool has
        beside its range, e.g. ``dns``; `process` identifies the charon of now, as in `own_connections`."""
        self._vici, self._record = vici, record
        self._connections, self._attributes, self._process = connections, attributes, process

    async def apply(self, offer: tuple[Range, ...]) -> None:
        """charon hands out from these ranges alone when this returns. Safe to repeat; after a failure what it hands out from
        is the old list or the new one. Raises PeerError, TimeoutError."""
        process = self._process()
        wanted = {pool_name(one): one for one in offer}
        async with self._record.held():
            listed = self._record.read(process)
            loaded = await self._loaded()
            for name in wanted.keys() - set(listed):
                if name in loaded:
                    await self._ask("unload-pool", {"name": name})
                await self._ask("load-pool", {name: {"addrs": str(wanted[name]), **self._attributes}})
            if list(wanted) != listed:
                # Whoever dies between the two leaves a record of what it wanted: the next one applies it, or another.
                self._record.write(process, wanted)
                for name, message in self._connections().items():
                    await self._ask("load-conn", {name: {**message, "pools": list(wanted)}})
        for name, pool in loaded.items():
            if name not in wanted and pool.get("online") == b"0":
                with contextlib.suppress(PeerError):  # somebody has an address of it after all
                    await self._ask("unload-pool", {"name": name})

    async def seen(self) -> PoolsSeen:
        """How much of each loaded range has been handed out. Raises PeerError, TimeoutError."""
        try:
            pools = await self._loaded()
            return PoolsSeen({_range(name): int(pool["online"]) + int(pool["offline"]) for name, pool in pools.items()})
        except (KeyError, ValueError, TypeError) as exc:
            raise PeerError("charon", f"get-pools: cannot be understood: {exc!r}") from exc

    async def look(self, began: float, also: Callable[[str, Section], None] = lambda _name, _ike_sa: None) -> Looked:
        """All addresses in use in this charon. `began` is now; `also` is given each IKE_SA, with its connection's name.

        Raises PeerError, TimeoutError.
        """
        ours = self._connections().keys()
        numbers: set[int] = set()
        networks: list[Range] = []

        def take(event: Section) -> None:
            for connection, ike_sa in event.items():
                if connection not in ours:  # an operator's own tunnel may lead anywhere, also through a pool
                    continue
                also(connection, ike_sa)
                numbers.update(parse_address(address.decode()) for address in ike_sa.get("remote-vips", ()))
                for child in ike_sa.get("child-sas", {}).values():
                    networks.extend(_selector(text) for text in child.get("remote-ts", ()))

        try:
            await self._vici.stream("list-sas", "list-sa", take, {"noblock": "yes"}, timeout_s=LIST_LIMIT_S)
            pools = await self._loaded(leases=True)
            for pool in pools.values():
                for lease in pool.get("leases", {}).values():
                    if lease["status"] == b"online":
                        numbers.add(parse_address(lease["address"].decode()))
            listed = tuple(_range(name) for name in self._record.read(self._process()))
            loaded = tuple(_range(name) for name in pools)
        except (KeyError, ValueError, TypeError, AttributeError) as exc:
            raise PeerError("charon", f"its addresses cannot be understood: {exc!r}") from exc
        return Looked(began=began, uses=Ranges((*(Range(n, n) for n in numbers), *networks)), listed=listed, loaded=loaded)

    async def _loaded(self, *, leases: bool = False) -> dict[str, Node]:
        answer = await self._ask("get-pools", {"leases": "yes"} if leases else None)
        return {name: pool for name, pool in answer.items() if name.startswith(PREFIX)}

    async def _ask(self, command: str, message: Node | None = None) -> Node:
        return await self._vici.request(command, message, timeout_s=CALL_LIMIT_S)


def pool_name(one: Range) -> str:
    """As swanctl lists it."""
    return f"{PREFIX}{one}"


def _range(name: str) -> Range:
    return parse_range(name.removeprefix(PREFIX))


def _selector(text: bytes) -> Range:
    """The addresses that a remote traffic selector covers, as charon prints it: network or range, protocol, ports."""
    span = text.decode().partition("[")[0]
    if ".." in span:
        return parse_range(span.replace("..", "-"))
    network = ip_network(span)
    return Range(address_number(network.network_address), address_number(network.broadcast_address))
