"""Who had which inner address at one moment, from the clients' log alone. Pure.

The log has what came, moved and went; the account of a moment is the fold of what is before it. A watcher that was killed
wrote no farewell, and a session that ended meanwhile no `ClientGone`: whoever the next watcher does not find is not in its
log again, so every start of a watcher is a new beginning. It ended at some time between the last record before that and it.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable
from ipaddress import ip_address

from anycast.trail import Record

STANDS = frozenset({"ClientConnected", "ClientStands"})
FORGOTTEN_S = 2 * 86_400
"""A session that has not been named for two of the daily restatements is not known of."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientAt:
    """One session as it was at the moment."""

    identity: str
    eap_identity: str
    inner: tuple[str, ...]
    outer: str
    since: datetime.datetime
    """When its IKE_SA came up, as far as this gateway knows."""
    session: str
    refused_rekey: datetime.datetime | None = None
    """When it was last found to refuse this gateway's rekeys; None: not since it came."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientsAccount:
    """What the log says of one moment."""

    at: datetime.datetime
    gateway: str
    serving: bool | None
    """This gateway served them; False: the other one did, and this one had copies. None: the log does not say."""
    known_since: datetime.datetime | None
    """The log's first record; None where it has none up to the moment."""
    clients: tuple[ClientAt, ...]


def account_at(records: Iterable[Record], moment: datetime.datetime) -> ClientsAccount:
    """`records` oldest first. What cannot be understood is passed over."""
    sessions: dict[tuple[str, tuple[str, ...]], tuple[datetime.datetime, ClientAt]] = {}
    serving: bool | None = None
    gateway, known_since = "", None
    for record in records:
        try:
            when = datetime.datetime.fromisoformat(record["at"])
            if when > moment:
                break
            known_since = known_since or when
            gateway = str(record.get("gateway", gateway))
            if record["event"] == "ClientsServed":
                serving = bool(record["serving"])
                continue
            if record["event"] == "ClientWatchStarted":
                sessions.clear()
                serving = None
                continue
            if record["event"] == "ClientRefusedRekey":
                for named in [named for named in sessions if named[0] == str(record["identity"])]:
                    said, client = sessions[named]
                    sessions[named] = said, dataclasses.replace(client, refused_rekey=when)
                continue
            key = str(record["identity"]), tuple(map(str, record["inner"]))
            if record["event"] in STANDS:
                since = when - datetime.timedelta(seconds=float(record["since_s"]))
                known = sessions.get(key)
                sessions[key] = (
                    when,
                    ClientAt(
                        identity=key[0],
                        eap_identity=str(record.get("eap_identity", "")),
                        inner=key[1],
                        outer=str(record["outer"]),
                        since=since if known is None else min(since, known[1].since),
                        session=str(record["session"]),
                        refused_rekey=None if known is None else known[1].refused_rekey,
                    ),
                )
            elif record["event"] == "ClientMoved" and key in sessions:
                said, client = sessions[key]
                sessions[key] = said, dataclasses.replace(client, outer=str(record["outer"]))
            elif record["event"] == "ClientGone":
                sessions.pop(key, None)
        except (KeyError, ValueError, TypeError, OverflowError):
            continue
    oldest = moment - datetime.timedelta(seconds=FORGOTTEN_S)
    clients = [client for said, client in sessions.values() if said >= oldest]
    clients.sort(key=_by_address)
    return ClientsAccount(at=moment, gateway=gateway, serving=serving, known_since=known_since, clients=tuple(clients))


def selected(account: ClientsAccount, text: str) -> ClientsAccount:
    """Only those with this address, inside or outside, or with this in their identity."""
    try:
        wanted = str(ip_address(text))
    except ValueError:
        wanted = text

    def has(client: ClientAt) -> bool:
        outer = client.outer.rpartition(":")[0].strip("[]")
        return wanted in client.inner or wanted == outer or wanted in client.identity or wanted in client.eap_identity

    return dataclasses.replace(account, clients=tuple(client for client in account.clients if has(client)))


def _by_address(client: ClientAt) -> tuple[int, int, str]:
    try:
        first = ip_address(client.inner[0])
    except (IndexError, ValueError):
        return 9, 0, client.identity
    return first.version, int(first), client.identity
