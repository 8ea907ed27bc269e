"""Each rule of the route lease, broken once: the property of `test_route_lease` must notice, or it proves nothing.

A mutant replaces one method, as narrowly as the rule is written. The named cases find each of them without chance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from anycast.lease_wire import Query, Renew
from anycast.model import SessionState
from exabgp_bridge import api
from exabgp_bridge.core import Bridge
from site_agent.announce.holder import RouteLease, TellBridge
from tests.property.test_route_lease import CASES, run
from tests.support.lease_world import LEASE, ROUTES

Mutation = Callable[[pytest.MonkeyPatch], None]
MUTANTS: dict[str, Mutation] = {}


def mutant(mutate: Mutation) -> Mutation:
    MUTANTS[mutate.__name__] = mutate
    return mutate


@mutant
def the_bridge_never_lapses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Bridge, "_end_lease", lambda self, reason: None)


@mutant
def a_renewal_counts_from_its_arrival(patch: pytest.MonkeyPatch) -> None:
    original: Any = Bridge._on_renew
    patch.setattr(
        Bridge, "_on_renew", lambda self, m, now: original(self, dataclasses.replace(m, expires_ns=now + LEASE), now)
    )


@mutant
def a_session_needs_no_renewal_of_its_own(patch: pytest.MonkeyPatch) -> None:
    def wanted(self: Any) -> Any:
        up = {n for n, s in self._sessions.items() if s.state is SessionState.UP}
        return {} if self._lease is None else {k: r for k, r in self._lease.routes.items() if r.neighbor in up}

    patch.setattr(Bridge, "_wanted", property(wanted))


@mutant
def an_unanswered_announcement_is_forgotten_with_its_session(patch: pytest.MonkeyPatch) -> None:
    original: Any = Bridge._on_state

    def on_state(self: Any, event: Any) -> None:
        original(self, event)
        if event.state is SessionState.DOWN:
            self._held = {key: route for key, route in self._held.items() if key[0] != event.neighbor}

    patch.setattr(Bridge, "_on_state", on_state)


@mutant
def a_withdrawal_without_attributes(patch: pytest.MonkeyPatch) -> None:
    original: Any = api._route_command

    def command(verb: str, route: Any, local_asn: int) -> Any:
        line = original(verb, route, local_asn)
        return line if verb == "announce" else b" ".join(line.split()[:5]) + b"\n"

    patch.setattr(api, "_route_command", command)


@mutant
def a_new_bridge_trusts_the_session_it_finds(patch: pytest.MonkeyPatch) -> None:
    original: Any = Bridge._on_neighbors

    def on_neighbors(self: Any, neighbors: Any) -> None:
        original(self, neighbors)
        for session in self._sessions.values():
            session.inherited = False

    patch.setattr(Bridge, "_on_neighbors", on_neighbors)


@mutant
def the_bridge_never_ends_exabgp(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Bridge, "_end_ns", property(lambda self: None))


@mutant
def a_grace_has_no_end(patch: pytest.MonkeyPatch) -> None:
    original: Any = Bridge._on_grace

    def on_grace(self: Any, grace: Any, now: int) -> None:
        original(self, grace, now)
        if self._lease is not None:
            self._lease.expires_ns = now + 1000 * LEASE

    patch.setattr(Bridge, "_on_grace", on_grace)


@mutant
def a_new_agents_renewal_keeps_the_old_grace(patch: pytest.MonkeyPatch) -> None:
    original: Any = Bridge._on_renew

    def on_renew(self: Any, renew: Any, now: int) -> None:
        before = self._lease.expires_ns if self._lease is not None else 0
        original(self, renew, now)
        if self._lease is not None:
            self._lease.expires_ns = max(before, self._lease.expires_ns)

    patch.setattr(Bridge, "_on_renew", on_renew)


@mutant
def the_agent_kills_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RouteLease, "_late", lambda self, now: None)


@mutant
def the_agent_waits_for_no_bridge(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RouteLease, "_contact_limit", property(lambda self: None, lambda self, value: None), raising=False)


@mutant
def the_agent_is_silent_without_evidence(patch: pytest.MonkeyPatch) -> None:
    original: Any = RouteLease._speak

    def speak(self: Any, now: float) -> Any:
        actions = original(self, now)
        if any(isinstance(a, TellBridge) and isinstance(a.message, Query) for a in actions):
            self._waiting.clear()
            return []
        return actions

    patch.setattr(RouteLease, "_speak", speak)


@mutant
def renewals_name_no_candidates(patch: pytest.MonkeyPatch) -> None:
    original: Any = RouteLease._renew

    def renew(self: Any, *arguments: Any) -> Any:
        (action,) = original(self, *arguments)
        assert isinstance(action.message, Renew)
        return [TellBridge(dataclasses.replace(action.message, candidates=()))]

    patch.setattr(RouteLease, "_renew", renew)


@mutant
def nothing_is_ever_announced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Bridge, "_wanted", property(lambda self: {}))


def survivors() -> list[str]:
    """The cases in which every invariant holds and health comes back."""
    held = []
    for name, steps in CASES.items():
        try:
            world = run(steps)
            world.recover()
            assert world.upstream == {route.key for route in ROUTES}
        except AssertionError:
            continue
        held.append(name)
    return held


def test_unmutated() -> None:
    assert survivors() == list(CASES)


@pytest.mark.parametrize("mutate", MUTANTS.values(), ids=MUTANTS)
def test_mutant_is_caught(mutate: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    assert survivors() != list(CASES), "no case notices the broken rule"
