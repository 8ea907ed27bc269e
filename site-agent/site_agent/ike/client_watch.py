"""From rounds of looks at charon's IKE_SAs to the events of clients that come, move and go. Pure.

A session is an identity with its inner addresses: it outlives the IKE_SA that a rekey replaces, and the gateway that it was
made on, because both gateways of a pair watch their own charon, and the Backup's copy names the same. So a failover costs
one event, `ClientsServed`, and no client is said to have come or gone by it.

A copy may not know its inner addresses between two rekeys; then whoever has the identity's session keeps it. What is missing
in one look is given another: a rekey has both IKE_SAs for a moment, or for a moment none that is up. A session that stands
is said again once a day, so a log that is cut at its beginning still names all who are connected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from anycast.events import ClientConnected, ClientGone, ClientMoved, ClientsServed, ClientStands, ClientWatchStarted, Event
from site_agent.ike.clients import Client

RESTATE_S = 86_400.0
MOST_EVENTS = 1000
"""Of one look; what is left follows with the next one. The event log queues 4,096."""

Key = tuple[str, tuple[str, ...]]


@dataclasses.dataclass(slots=True)
class _Session:
    name: str
    outer: str
    eap_identity: str
    said_at: float
    missed: bool = False


class ClientWatch:
    """Driven by looks: all clients that charon has, at a time in seconds."""

    def __init__(self) -> None:
        self._sessions: dict[Key, _Session] = {}
        self._serving: bool | None = None
        self._started = False

    def looked(self, clients: Iterable[Client], *, serving: bool, now: float) -> list[Event]:
        """`serving`: this gateway's role says so; without clients nothing else does."""
        seen, unknown = dict[Key, Client](), set[str]()
        for client in clients:
            if not client.inner:
                unknown.add(client.identity)
            elif (other := seen.get((client.identity, client.inner))) is None or client.age_s < other.age_s:
                seen[client.identity, client.inner] = client  # of two in a rekey, the younger one stays
        events: list[Event] = []
        if self._serving is None:
            events.append(ClientWatchStarted())
        for key, session in list(self._sessions.items()):
            if len(events) >= MOST_EVENTS:
                break
            if key not in seen and key[0] not in unknown:
                events += self._missed(key, session)
        for key, client in seen.items():
            if len(events) >= MOST_EVENTS:
                break
            events += self._present(key, client, now)
        if len(events) < MOST_EVENTS:
            self._started = True  # all that were there when it began have been named
        if serving != self._serving:
            self._serving = serving
            events.append(ClientsServed(serving=serving, clients=len(self._sessions)))
        return events

    def _missed(self, key: Key, session: _Session) -> list[Event]:
        if not session.missed:
            session.missed = True
            return []
        del self._sessions[key]
        return [ClientGone(session=session.name, identity=key[0], inner=key[1], outer=session.outer)]

    def _present(self, key: Key, client: Client, now: float) -> list[Event]:
        session = self._sessions.get(key)
        identity, inner = key
        if session is None:
            session = self._sessions[key] = _Session(client.spis, client.outer, client.eap_identity, now)
            return [_statement(ClientConnected if self._started else ClientStands, key, session, client)]
        session.missed = False
        if session.outer != client.outer:
            before, session.outer = session.outer, client.outer
            return [
                ClientMoved(session=session.name, identity=identity, inner=inner, outer=client.outer, outer_before=before)
            ]
        if now - session.said_at >= RESTATE_S:
            session.said_at = now
            return [_statement(ClientStands, key, session, client)]
        return []


def _statement(kind: type[ClientConnected] | type[ClientStands], key: Key, session: _Session, client: Client) -> Event:
    return kind(
        session=session.name,
        identity=key[0],
        eap_identity=session.eap_identity,
        inner=key[1],
        outer=session.outer,
        since_s=client.age_s,
    )
