"""Loads the gateway's own connection into charon beside whatever is there, and unloads only what it loaded itself.

`swanctl --load-all` makes charon's configuration equal to its files: it unloads every connection, key and secret that
it does not find in them. On a gateway whose charon carries an operator's own tunnels as well that ends those. So ours
go in by VICI, one by one:

    revocation lists, private key, pools      what the connection needs
    connection                                charon replaces one of the same name, established tunnels keep theirs
    list-conns, get-keys, get-pools           charon's own word that it has them
    unload                                    what an earlier load of ours put there and the file has no more

In a pair the pools are `pool_keeper`'s: then none of them is loaded here, and the connection gets the list of those that
charon hands out from now, which is none until they are offered.

Whatever charon refuses ends the load before the last step, with charon's words: the old connection is in force as it
was. A revocation list that charon does not take keeps nobody out who was let in before, so it is told and does not hold
the rest up.

What is ours is recorded beside charon's process record, with the process it was loaded into: a name that an operator
takes after charon's next start is theirs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

from anycast.errors import DecodeError, PeerError
from site_agent.ike.pool_keeper import OfferRecord
from site_agent.ike.swanctl_text import Node, connection_message, differences, parse, pool_message
from site_agent.ike.vici_client import ViciClient
from site_agent.patience import OneAtATime, read_file

KEY = Path("private/gateway.key")
"""Below SWANCTL_DIR; the link that `render/strongswan.py` names."""
REVOCATION_LISTS = "x509crl"
CALL_LIMIT_S = 10.0
"""A private key takes 1 ms, in User Mode Linux with a busy machine up to 1 s."""
READ_LIMIT_S = 5.0
"""For all files together; the operator's lie where they like, on a mount that has gone, too."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Everything that a load needs, read before charon is asked for anything."""

    connections: Node
    pools: Node
    messages: dict[str, Node]
    """Of `load-conn`, by connection."""
    key: bytes | None
    revocation_lists: dict[Path, bytes]
    complaints: list[str]
    """About revocation lists that cannot be read."""


class OwnConnections:
    """What the agent has loaded into charon. Use from the event loop's thread."""

    def __init__(self, vici: ViciClient, *, swanctl_dir: Path, record: Path, offers: OfferRecord | None = None) -> None:
        """`offers`: the record of a `PoolKeeper` that has charon's pools in hand; None where the file's pools are loaded."""
        self._vici, self._dir, self._record, self._offers = vici, swanctl_dir, record, offers
        self._reader = OneAtATime("swanctl files")
        self.names: frozenset[str] = frozenset()
        """Of the connections and pools in the file that was loaded last."""

    def has_loaded(self, process: str) -> bool:
        """An agent of ours, this one or one before it, has had this very process take its connections."""
        return self._former(process) is not None

    async def load(self, process: str) -> list[str]:
        """Load what the rendered file says into the charon that `process` identifies; returns what an operator must see.

        What it returns does not keep charon from serving, only the next load from knowing what is ours. Raises PeerError
        where charon refuses or does not have it afterwards, or a file cannot be read, and TimeoutError.
        """
        try:
            files = await self._reader.run(lambda: _read_files(self._dir), limit_s=READ_LIMIT_S)
        except TimeoutError:
            raise PeerError("swanctl", f"its files cannot be read within {READ_LIMIT_S:g} s: a disk hangs") from None
        try:
            return await self._load(process, files)
        except (KeyError, ValueError, TypeError, AttributeError) as exc:
            raise PeerError("charon", f"vici: an answer that cannot be understood: {exc!r}") from exc

    async def _load(self, process: str, files: _Files) -> list[str]:
        self.names = frozenset({*files.connections, *files.pools})
        complaints = list(files.complaints)
        for path, data in files.revocation_lists.items():
            try:
                await self._ask("load-cert", {"type": "X509_CRL", "flag": "NONE", "data": data})
            except PeerError as exc:
                complaints.append(f"{path}: {exc}")
        keys = []
        if files.key is not None:
            answer = await self._ask("load-key", {"type": "any", "data": files.key})
            keys = [answer["id"].decode()]
        pools = files.pools if self._offers is None else {}
        for name, section in pools.items():
            await self._ask("load-pool", {name: pool_message(section)})
        if self._offers is None:
            await self._load_connections(files.messages)
        else:
            async with self._offers.held():
                listed = self._offers.read(process)
                await self._load_connections({name: part | {"pools": listed} for name, part in files.messages.items()})
        await self._verify(files.connections, pools, keys)
        ours = {"conns": list(files.connections), "pools": list(pools), "keys": keys}
        return complaints + await self._unload_former(process, ours)

    async def _load_connections(self, messages: Mapping[str, Node]) -> None:
        for name, message in messages.items():
            await self._ask("load-conn", {name: message})

    async def _verify(self, connections: Node, pools: Node, keys: list[str]) -> None:
        listed: Node = {}
        await self._vici.stream("list-conns", "list-conn", listed.update, timeout_s=CALL_LIMIT_S)
        found = differences(connections, listed)
        has_keys = [key.decode() for key in (await self._ask("get-keys"))["keys"]]
        has_pools = await self._ask("get-pools")
        found += [f"private key {key} is not loaded" for key in keys if key not in has_keys]
        found += [f"pool {pool} is not loaded" for pool in pools if pool not in has_pools]
        if found:
            raise PeerError("charon", "; ".join(found))

    async def _unload_former(self, process: str, ours: dict[str, list[str]]) -> list[str]:
        former = self._former(process) or {}
        for kind, command, field in (
            ("conns", "unload-conn", "name"), ("pools", "unload-pool", "name"), ("keys", "unload-key", "id")
        ):  # fmt: skip
            for name in former.get(kind, set()).difference(ours[kind]):
                try:
                    await self._ask(command, {field: name})
                except PeerError:  # gone already, or a pool with clients in it: that one is asked again
                    if kind == "pools":
                        ours[kind].append(name)
        scratch = self._record.with_suffix(".new")
        try:
            scratch.write_text(json.dumps({"process": process, **ours}))
            scratch.replace(self._record)
        except OSError as exc:  # /run is full; charon has everything, and serves
            return [f"what was loaded cannot be recorded: {exc.strerror}: {self._record}"]
        return []

    def _former(self, process: str) -> dict[str, set[str]] | None:
        """What an earlier load into the same process recorded, by kind; None where the record means nothing."""
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(self._record.read_text())
            if isinstance(record, dict) and record.get("process") == process:
                return {
                    kind: {name for name in names if isinstance(name, str)}
                    for kind, names in record.items()
                    if isinstance(names, list)
                }
        return None

    async def _ask(self, command: str, message: Node | None = None) -> Node:
        return await self._vici.request(command, message, timeout_s=CALL_LIMIT_S)


def read_tree(folder: Path) -> tuple[Node, Node]:
    """The sections of the rendered connections and pools. May wait for disks. Raises PeerError."""
    try:
        tree = parse(_read(folder / "swanctl.conf").decode())
    except (DecodeError, UnicodeDecodeError) as exc:
        raise PeerError("swanctl.conf", str(exc)) from exc
    return tree.get("connections", {}), tree.get("pools", {})


def read_messages(connections: Node) -> dict[str, Node]:
    """Of `load-conn`, by connection, with the files that they name. May wait for disks. Raises PeerError."""
    return {name: connection_message(part, lambda path: _read(Path(path))) for name, part in connections.items()}


def _read_files(folder: Path) -> _Files:
    """May wait for disks. Raises PeerError."""
    connections, pools = read_tree(folder)
    lists: dict[Path, bytes] = {}
    complaints = []
    try:
        paths = sorted((folder / REVOCATION_LISTS).iterdir())
    except OSError:
        paths = []
    for path in paths:
        try:
            lists[path] = _read(path)
        except PeerError as exc:
            complaints.append(str(exc))
    key = folder / KEY
    return _Files(
        connections=connections,
        pools=pools,
        messages=read_messages(connections),
        key=_read(key) if os.path.lexists(key) else None,
        revocation_lists=lists,
        complaints=complaints,
    )


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as exc:
        raise PeerError("swanctl", f"{path}: {exc.strerror}") from exc
