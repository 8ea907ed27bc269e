"""A coordinator's core with one agent a site that says what a test wants it to."""

from __future__ import annotations

from typing import Any

from anycast.model import Status
from anycast.policy.floors import Budget, SiteShare
from anycast.policy.ledger import Entry, Kind, Ledger, Site
from anycast.policy.token_times import HEARTBEAT_S, SETTLE_S, WINDOW_S
from anycast.policy.token_words import (
    AgentConnected,
    Reported,
    Send,
)
from anycast.policy.tokens import Tokens
from anycast.token_wire import Answer, Held, Look, Report

SITES = ("ams", "fra", "lon", "nyc", "sin", "tyo")


class Coordinator:
    """A core with one agent a site, each of which reports when `beat` is called."""

    def __init__(
        self, *, min_sites: int = 2, entries: tuple[Entry, ...] = (), more: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self.now = 5000.0
        budget = Budget(min_sites=min_sites, sites=tuple(SiteShare(name=name) for name in SITES))
        self.gateways = {f"{site}-gw1": site for site in SITES} | dict(more)
        self.core = Tokens(Ledger(budget, entries), self.gateways, leader="Lx", now=self.now)
        self.seq = 0
        self.quotes: dict[str, int] = {}
        self.answers: dict[str, Answer] = {}
        self.failing: dict[str, set[str]] = {gateway: set() for gateway in self.gateways}
        self.fields: dict[str, dict[str, Any]] = {gateway: {} for gateway in self.gateways}
        self.silent: set[str] = set()
        self.log: list[Any] = []
        for n, gateway in enumerate(self.gateways):
            self.tell(AgentConnected(gateway, n))

    def tell(self, event: Any) -> list[Any]:
        actions = self.core.handle(event, self.now)
        self.log += actions
        for action in actions:
            if isinstance(action, Send):
                self.answers[action.gateway] = action.answer
                self.quotes[action.gateway] = action.answer.n
        return actions

    def report(self, gateway: str, *, session: int | None = None, **fields: Any) -> list[Any]:
        self.seq += 1
        failing = self.failing[gateway]
        looks = tuple(
            Look(
                check=check,
                status=Status.FAILING if check in failing else Status.PASSING,
                reason="x",
                age_ms=0,
                span_ms=28_000,
            )
            for check in ("canary", "dns")
        )
        made: dict[str, Any] = {
            "seq": self.seq,
            "quotes": self.quotes.get(gateway, 0),
            "announcing": True,
            "reason": "healthy",
            "looks": looks,
            "asks": bool(failing),
        }
        report = Report(**made | self.fields[gateway] | fields)
        number = list(self.gateways).index(gateway) if session is None else session
        return self.tell(Reported(gateway, number, report))

    def beat(self, span: float) -> None:
        """All that are not silent report every heartbeat, for `span`."""
        end = self.now + span
        while self.now < end:
            for gateway in self.gateways:
                if gateway not in self.silent:
                    self.report(gateway)
            self.now += HEARTBEAT_S

    def given(self, site: str) -> list[Entry]:
        return self.core.ledger.of_site(site)

    def of(self, kind: type) -> list[Any]:
        return [action for action in self.log if isinstance(action, kind)]

    def refusal(self, site: str) -> str | None:
        return self.answers[f"{site}-gw1"].refused

    def state(self, site: str) -> Site:
        return self.core.standings(self.now)[site].state


def settled(**more: Any) -> Coordinator:
    made = Coordinator(**more)
    made.beat(SETTLE_S + 2 * HEARTBEAT_S)
    return made


def granted(**more: Any) -> Coordinator:
    """fra is dark by its token."""
    made = settled(**more)
    made.failing["fra-gw1"] = {"dns"}
    made.beat(WINDOW_S + 3 * HEARTBEAT_S)
    (entry,) = made.given("fra")
    assert (entry.id, entry.kind, entry.by, entry.gateways) == ("Lx-1", Kind.TOKEN, "dns", ("fra-gw1",))
    hold_token(made)
    made.beat(HEARTBEAT_S)
    return made


def hold_token(made: Coordinator, gateway: str = "fra-gw1", token: str = "Lx-1") -> None:
    made.fields[gateway] = {"held": (Held(id=token, kind="token", by="dns"),), "announcing": False, "reason": "token"}
