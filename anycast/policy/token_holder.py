"""The agent's half of a token: asks for it, is dark only while it is good, and says when it has ended. Pure.

    SiteCore ──▶ darkened() ──▶ RoutePolicy ──▶ RouteLease
                    ▲
    TokenHolder ────┘ dark(now)

Theory of operation
-------------------
While a check of class `shared` fails here, each report asks. A grant answers one report, and is good for `TOKEN_LIFE_S`
from when *that report* was sent, by this machine's CLOCK_BOOTTIME: however long it was under way, it extends nothing. The
token is renewed by the same exchange at every heartbeat. It ends, and the site announces again, as soon as the check does
not fail, when the time is over (the coordinator is gone, refuses, or is cut off), when it is recalled, and when this process
finds a gap between its own ticks: stopped or frozen, it may have missed all of that.

What may still make this gateway dark is bound to one connection: with a new one every earlier request is void, so that a
report never says "announcing" while an older grant could yet make it untrue. A grant that cannot be used (late, void, the
check passes meanwhile, more sites dark than the gateway's own document allows) has ended before it began, and is reported as
ended like every other, until the coordinator acknowledges it. Until then nothing new is asked for.

Facts never wait for this: `darkened` lets a verdict that does not serve pass as it is, and no token makes one serve.
"""

from __future__ import annotations

import dataclasses

from anycast.model import Cause, Evidence, EvidenceClass, Status
from anycast.policy.floors import Budget, broken_by
from anycast.policy.ledger import Kind
from anycast.policy.token_times import GAP_S, HEARTBEAT_S, TOKEN_LIFE_S
from anycast.policy.token_words import (
    Answered,
    CoordinatorConnected,
    CoordinatorGone,
    EndWanted,
    RouteStands,
    SendReport,
    SlotEnded,
    TokenBegan,
    TokenEnded,
)
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.timer import TimerExpired
from anycast.token_wire import MAX_ENDED, MAX_HELD, MAX_LOOKS, MAX_SPAN_MS, Answer, Grant, Held, Look, Report

NEVER_ASK = frozenset({"upstreams", "bfd"})
"""A session that is down has already taken away what it carried; to withdraw from the others would only add to it."""

Input = Evidence | RouteStands | SlotEnded | CoordinatorConnected | CoordinatorGone | Answered | TimerExpired
Action = SendReport | TokenBegan | TokenEnded | EndWanted


@dataclasses.dataclass(frozen=True, slots=True)
class _Token:
    id: str
    check: str
    until: float


class TokenHolder:
    """Times are CLOCK_BOOTTIME seconds. Evidence that is not `shared` is passed over."""

    def __init__(self, budget: Budget, site: str, spans: dict[str, float], *, now: float) -> None:
        """`spans`: of each check, the seconds that a fault may stand before it says so."""
        self.budget, self._site, self._spans = budget, site, dict(spans)
        self._looks: dict[str, Evidence] = {}
        self._trusted_since = self._ticked = now
        self._beat_at = now
        self._stands = RouteStands(serving=False, announcing=False, reason=Reason.NO_EVIDENCE_YET)
        self._announcing = False
        self._session: int | None = None
        self._seq = 0
        self._quotes = 0
        self._asked: dict[int, float] = {}
        """When each report that asked was sent, of those that may still be granted."""
        self._token: _Token | None = None
        self._ended: dict[str, None] = {}
        self._refused: Cause | None = None

    @property
    def deadline(self) -> float:
        """The next report; or the token's end, if that is sooner."""
        return self._beat_at if self._token is None else min(self._beat_at, self._token.until)

    @property
    def token(self) -> str | None:
        """The id of the one that it is dark by."""
        return None if self._token is None else self._token.id

    @property
    def ended(self) -> tuple[str, ...]:
        """What the coordinator has not acknowledged yet."""
        return tuple(self._ended)

    @property
    def refused(self) -> Cause | None:
        """Why the coordinator last gave no token; None where it gave one or was not asked."""
        return self._refused

    def dark(self, now: float) -> Cause | None:
        """Why the site shall be dark now; None where it shall not. Right also where the timer is late."""
        token = self._token
        if token is None or now >= token.until or now - self._ticked > GAP_S:
            return None
        return _cause(self._looks[token.check])

    def handle(self, event: Input, now: float) -> list[Action]:
        """Take one input."""
        actions: list[Action] = []
        if (gap := now - self._ticked) > GAP_S:
            self._trusted_since = now
            self._looks.clear()
            self._asked.clear()
            self._beat_at = now
            actions += self._end(Reason.CLOCK_GAP, f"{gap:.1f} s between two ticks")
        if self._token is not None and now >= self._token.until:
            actions += self._end(Reason.TOKEN_EXPIRED)
        self._ticked = now
        match event:
            case Evidence():
                actions += self._on_evidence(event)
            case RouteStands():
                self._stands, self._announcing = event, event.announcing and self._token is None
            case SlotEnded():
                self._ended[event.entry_id] = None
            case CoordinatorConnected():
                self._session, self._quotes = event.session, 0
                self._asked.clear()
                self._beat_at = now
            case CoordinatorGone():
                if event.session == self._session:
                    self._session = None
                    self._asked.clear()
            case Answered():
                if event.session == self._session and event.answer.n > self._quotes:
                    actions += self._on_answer(event.answer, now)
            case TimerExpired():
                pass
        if any(isinstance(action, TokenBegan | TokenEnded) for action in actions):
            self._beat_at = now
        if now >= self._beat_at:
            self._beat_at = now + HEARTBEAT_S
            actions += self._report(now)
        return actions

    def _on_evidence(self, seen: Evidence) -> list[Action]:
        before = self._looks.get(seen.check)
        if seen.evidence_class is not EvidenceClass.SHARED or seen.at < self._trusted_since:
            return []
        if before is not None and seen.at < before.at:
            return []
        self._looks[seen.check] = seen
        if not self._failing():
            self._asked.clear()
        if self._token is not None and self._token.check == seen.check and seen.status is not Status.FAILING:
            return self._end(Reason.CAUSE_GONE, f"{seen.check}: {seen.reason}")
        return []

    def _on_answer(self, answer: Answer, now: float) -> list[Action]:
        actions: list[Action] = []
        if self._quotes == 0:
            self._beat_at = now  # the first report that quotes makes this gateway heard
        self._quotes = answer.n
        for entry_id in answer.acknowledged:
            self._ended.pop(entry_id, None)
        for recall in answer.recalls:
            if recall.id in self._ended:
                continue
            if self._token is not None and self._token.id == recall.id:
                actions += self._end(recall.reason)
            elif any(held.id == recall.id for held in self._stands.held):
                actions.append(EndWanted(recall.id, recall.reason))
            else:
                actions += self._unused(recall.id, recall.reason)
        if answer.refused is not None:
            self._refused = Cause(reason=_reason(answer.refused), detail=answer.detail)
        if answer.grant is not None:
            actions += self._on_grant(answer.grant, answer.to, now)
        return actions

    def _on_grant(self, grant: Grant, to: int, now: float) -> list[Action]:
        look, asked_at = self._looks.get(grant.check), self._asked.get(to)
        against = broken_by(self.budget, {*grant.dark, self._site})
        if grant.id in self._ended:
            return []
        if against is not None:
            held = self._token is not None and self._token.id == grant.id
            return self._end(against.reason, against.detail) if held else self._unused(grant.id, against.reason)
        if look is None or look.status is not Status.FAILING:
            return self._unused(grant.id, Reason.CAUSE_GONE)
        if self._token is not None and self._token.id != grant.id:
            return self._unused(grant.id, Reason.TOKEN)
        if asked_at is None or now >= (until := asked_at + min(TOKEN_LIFE_S, grant.life_ms / 1000)):
            return [] if self._token is not None else self._unused(grant.id, Reason.TOKEN_EXPIRED)
        self._refused = None
        if self._token is not None:
            self._token = dataclasses.replace(self._token, until=max(until, self._token.until))
            return []
        self._token, self._announcing = _Token(grant.id, grant.check, until), False
        return [TokenBegan(grant.id, _cause(look))]

    def _end(self, why: str, detail: str = "") -> list[Action]:
        """Whatever was asked for before is void with it."""
        self._asked.clear()
        if (token := self._token) is None:
            return []
        self._token, self._announcing = None, False
        self._ended[token.id] = None
        return [TokenEnded(token.id, Cause(reason=_reason(why), check=token.check, detail=detail), used=True)]

    def _unused(self, token: str, why: str) -> list[Action]:
        self._asked.clear()
        self._ended[token] = None
        return [TokenEnded(token, Cause(reason=_reason(why)), used=False)]

    def _failing(self) -> bool:
        return any(look.status is Status.FAILING for look in self._looks.values() if look.check not in NEVER_ASK)

    def _report(self, now: float) -> list[Action]:
        if self._session is None:
            return []
        self._seq += 1
        stands = self._stands
        asks = self._failing() and stands.may_ask and not self._ended and (stands.serving or self._token is not None)
        self._asked = {seq: at for seq, at in self._asked.items() if now - at < TOKEN_LIFE_S}
        if asks:
            self._asked[self._seq] = now
        dark = self.dark(now)
        report = Report(
            seq=self._seq,
            quotes=self._quotes,
            announcing=self._announcing and dark is None,
            reason=stands.reason if dark is None else dark.reason,
            looks=tuple(self._told(look, now) for look in self._tellable()),
            held=(*self._held(), *stands.held)[:MAX_HELD],
            ended=tuple(self._ended)[:MAX_ENDED],
            asks=asks,
        )
        return [SendReport(self._session, report)]

    def _tellable(self) -> list[Evidence]:
        """What fails comes first, where there is more than a report carries."""
        looks = [look for look in self._looks.values() if look.check not in NEVER_ASK]
        return sorted(looks, key=lambda look: look.status is not Status.FAILING)[:MAX_LOOKS]

    def _told(self, look: Evidence, now: float) -> Look:
        return Look(
            check=look.check,
            status=look.status,
            reason=look.reason,
            age_ms=_milliseconds(now - look.at),
            span_ms=_milliseconds(self._spans.get(look.check, 0.0)),
        )

    def _held(self) -> tuple[Held, ...]:
        token = self._token
        return () if token is None else (Held(id=token.id, kind=Kind.TOKEN, by=token.check),)


def darkened(verdict: VerdictReached, dark: Cause | None) -> VerdictReached:
    """What the route policy is told. A verdict against serving passes as it is: a fact asks nobody and waits for nothing."""
    if dark is None or not verdict.serving:
        return verdict
    return dataclasses.replace(verdict, serving=False, causes=(dark,))


def _cause(look: Evidence) -> Cause:
    detail = f"{look.reason}: {look.detail}" if look.detail else str(look.reason)
    return Cause(reason=Reason.TOKEN, check=look.check, detail=detail)


def _reason(word: str) -> Reason:
    try:
        return Reason(word)
    except ValueError:
        return Reason.TOKEN_RECALLED  # a newer coordinator's word


def _milliseconds(span_s: float) -> int:
    return min(MAX_SPAN_MS, max(0, round(span_s * 1000)))
