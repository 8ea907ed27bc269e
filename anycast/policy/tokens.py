"""The coordinator's half of ledger and tokens: hears gateways, enters, grants, recalls, takes slots back. Pure.

Theory of operation
-------------------
Everything is decided while one report is read, and leaves as a commit, then events, then answers: what is not in the store
is not said. A token is granted only in answer to a report that asks, and the holder counts its life from that report.

A first grant needs, in this order: a leader that has been one for `SETTLE_S`; a check that is not suspected; that it has
failed at the site for one correlation window; that at least half of the other sites say that it passes there, in reports
sent after that window (a fault that all share would have reached their word by then); `SPACING_S` since the last first
grant; a slot. Renewals need a slot, and the check failing here and not suspected. A refused renewal lets the token run out;
what is *known* to speak against it (the check is suspected, floors are broken by hard failures or a hold) recalls it at
once, the newest token first. A leader that finds a token in its store renews it only for who says that he holds it: an older
store may have one that is long over.

A check is suspected while it fails at two sites or more and fewer than half of the others, of those that say anything about
it, pass; and for a window after that. Then it is the check that is wrong.

What a gateway says that it holds and the ledger does not know (the store was restored; an operator's hold) is entered. While
the store is behind (`policy/behind.py`) nothing is granted: what stands runs out, and its sites announce again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from anycast.errors import BugError
from anycast.model import Cause, Status
from anycast.policy.floors import broken_by, sites
from anycast.policy.heard import Heard, SiteLook, site_look
from anycast.policy.ledger import Decision, Entry, Kind, Ledger, Site, Standing
from anycast.policy.token_times import SETTLE_S, SPACING_S, TOKEN_LIFE_S, WINDOW_S
from anycast.policy.token_words import (
    AgentConnected,
    AgentGone,
    CheckSuspected,
    CheckTrusted,
    Commit,
    ContentChanged,
    EndSlot,
    Halted,
    RenameSlot,
    Reported,
    Send,
    SlotEnding,
    SlotRefused,
    SlotReturned,
    SlotTaken,
    TakeSlot,
)
from anycast.reasons import Reason
from anycast.token_wire import MAX_DETAIL, MAX_ENDED, Answer, Grant, Recall, Report

MAX_ENTRIES_OF_A_SITE = 32
"""What a gateway says that it holds is entered up to here. The site has its slot anyway."""
MAX_DARK = 1000
"""`Grant.dark` names no more sites."""
SURVEY_S = 0.25
"""How old the comparison of all sites may be, so that it is not made anew for each of a thousand reports."""

Input = AgentConnected | AgentGone | Reported | TakeSlot | RenameSlot | EndSlot | ContentChanged | Halted
Event = SlotTaken | SlotRefused | SlotEnding | SlotReturned | CheckSuspected | CheckTrusted
Action = Commit | Event | Send


class Tokens:
    """One leadership. Times are CLOCK_BOOTTIME seconds of the coordinator's machine."""

    def __init__(self, ledger: Ledger, gateways: Mapping[str, str], *, leader: str, now: float) -> None:
        """`ledger`: as the store has it. `leader`: this run's key in the store, a random word that no run ever had before: a
        counter would repeat itself in a store that was restored."""
        self.ledger, self.heard = ledger, Heard(gateways)
        self._leader, self._settled_at = leader, now + SETTLE_S
        self._ids = 0
        self._halted: Cause | None = None
        self._granted_at = -math.inf
        self._vouched: set[str] = set()
        """Tokens of the ledger that this leader granted, or heard to be held."""
        self._surveyed_at = -math.inf
        self._survey: dict[str, dict[str, SiteLook]] = {}
        self._failing_since: dict[tuple[str, str], float] = {}
        """By site and check."""
        self._suspected: dict[str, float] = {}
        """By check: when it was last seen to fail at too many."""
        self._refusals: dict[tuple[str, str], Reason] = {}
        self._put: dict[str, Entry] = {}
        self._removed: dict[str, None] = {}
        self._events: list[Event] = []
        self._push: set[str] = set()

    def handle(self, event: Input, now: float) -> list[Action]:
        """Take one input. The actions are to be performed in this order."""
        self._put, self._removed, self._events, self._push = {}, {}, [], set()
        sends: list[Send] = []
        match event:
            case AgentConnected():
                self.heard.connected(event.gateway, event.session)
            case AgentGone():
                self.heard.disconnected(event.gateway, event.session)
            case Reported():
                sends = self._on_report(event, now)
            case TakeSlot():
                self._on_take(event, now)
            case RenameSlot():
                self._on_rename(event)
            case EndSlot():
                self._on_end(event)
            case ContentChanged():
                self._on_content(event)
            case Halted():
                self._halted = event.cause
        sends += [self._send(gateway, now) for gateway in sorted(self._push) if self.heard.session(gateway) is not None]
        actions: list[Action] = []
        if self._put or self._removed or any(send.answer.grant for send in sends):
            actions.append(Commit(put=tuple(self._put.values()), remove=tuple(self._removed)))
        return [*actions, *self._events, *sends]

    def standings(self, now: float) -> dict[str, Standing]:
        """Every site as it was last heard."""
        return {site.name: self.heard.standing(site.name, now) for site in self.ledger.budget.sites}

    def suspected(self, now: float) -> tuple[str, ...]:
        """Checks by which nobody becomes dark."""
        return tuple(check for check, at in self._suspected.items() if now - at < WINDOW_S)

    # What is read out of a report.

    def _on_report(self, told: Reported, now: float) -> list[Send]:
        gateway, report = told.gateway, told.report
        if (site := self.heard.gateways.get(gateway)) is None:
            return []
        if not self.heard.take(gateway, told.session, report, now):
            return []
        self._note_failing(site, now)
        self._adopt(site, gateway, report)
        self._take_back(site, gateway, report)
        if now - self._surveyed_at >= SURVEY_S:
            self._surveyed_at, self._survey = now, {}
            self._suspect(now)
            self._pull_back(now)
        grant, refused = self._judge(site, gateway, report, now) if report.asks else (None, None)
        held = {each.id for each in report.held}
        for entry in [] if report.asks else self.ledger.of_site(site):
            if entry.kind == Kind.TOKEN and self._may_hold(entry, gateway) and entry.id not in held:
                self._end(entry, Reason.CAUSE_GONE)
        self._push.discard(gateway)
        return [self._send(gateway, now, grant, refused)]

    def _note_failing(self, site: str, now: float) -> None:
        looks = self.heard.looks(site, now)
        for check in {check for of, check in self._failing_since if of == site} | set(looks):
            key = site, check
            if self._site_look(site, check, now).status is not Status.FAILING:
                self._failing_since.pop(key, None)
            else:
                self._failing_since.setdefault(key, now)

    def _adopt(self, site: str, gateway: str, report: Report) -> None:
        for held in report.held:
            entry = self.ledger.entries.get(held.id)
            if entry is None and len(self.ledger.of_site(site)) < MAX_ENTRIES_OF_A_SITE:
                entry = Entry(
                    id=held.id, kind=held.kind, site=site, gateways=(gateway,), by=held.by, why=held.why, until=held.until
                )
                self._enter(entry)
                self._events.append(SlotTaken(entry, Decision(granted=True, cause=Cause(reason=Reason.OPERATOR))))
            elif entry is not None and entry.site == site and not self._may_hold(entry, gateway):
                returned = tuple(name for name in entry.returned if name != gateway)
                names = dict.fromkeys((*entry.gateways, gateway))
                self._enter(dataclasses.replace(entry, gateways=tuple(names), returned=returned))
            if entry is not None and entry.site == site:
                self._vouched.add(entry.id)

    def _take_back(self, site: str, gateway: str, report: Report) -> None:
        """A slot returns by the word "ended" of a gateway that announces. Its own holds end by its silence about them."""
        held = {each.id for each in report.held}
        for entry in self.ledger.of_site(site):
            over = entry.id in report.ended or entry.kind == Kind.HOLD
            if not (over and report.announcing and entry.id not in held and self._may_hold(entry, gateway)):
                continue
            entry = dataclasses.replace(entry, returned=(*entry.returned, gateway))
            if set(entry.gateways) <= set(entry.returned):
                self.ledger.remove(entry.id)
                self._put.pop(entry.id, None)
                self._removed[entry.id] = None
                self._vouched.discard(entry.id)
                self._events.append(SlotReturned(entry))
            else:
                self._enter(entry)
                self._end(entry, Reason.CAUSE_GONE)

    @staticmethod
    def _may_hold(entry: Entry, gateway: str) -> bool:
        return gateway in entry.gateways and gateway not in entry.returned

    # What follows for everybody.

    def _site_look(self, site: str, check: str, now: float) -> SiteLook:
        return site_look(self.heard.looks(site, now).get(check, []), WINDOW_S)

    def _looks(self, check: str, now: float) -> dict[str, SiteLook]:
        if check not in self._survey:
            names = [site.name for site in self.ledger.budget.sites]
            self._survey[check] = {name: self._site_look(name, check, now) for name in names}
        return self._survey[check]

    def _suspect(self, now: float) -> None:
        checks = {check for _, check in self._failing_since}
        for check in sorted(checks | set(self._suspected)):
            looks = self._looks(check, now)
            failing = tuple(site for site, look in looks.items() if look.status is Status.FAILING)
            passing = sum(look.status is Status.PASSING for look in looks.values())
            if len(failing) >= 2 and 2 * passing < len(failing) + passing - 1:
                if check not in self._suspected:
                    self._events.append(CheckSuspected(check, failing))
                self._suspected[check] = now
                for entry in list(self.ledger.entries.values()):
                    if entry.kind == Kind.TOKEN and entry.by == check:
                        self._end(entry, Reason.CHECK_SUSPECTED)
            elif check in self._suspected and now - self._suspected[check] >= WINDOW_S:
                del self._suspected[check]
                self._events.append(CheckTrusted(check))

    def _pull_back(self, now: float) -> None:
        """Tokens give way to what is known to be dark and asked nobody: hard failures, an operator's hold."""
        standings = self.standings(now)
        tokens = [entry for entry in self.ledger.entries.values() if entry.kind == Kind.TOKEN]
        ending = {entry.id for entry in tokens if entry.ending}
        standing = [entry for entry in tokens if not entry.ending]
        while standing:
            against = broken_by(self.ledger.budget, self.ledger.known_dark(standings, apart_from=ending))
            if against is None:
                return
            newest = standing.pop()
            ending.add(newest.id)
            self._end(newest, against.reason)

    # What is granted.

    def _judge(self, site: str, gateway: str, report: Report, now: float) -> tuple[Grant | None, Cause | None]:
        if self._halted is not None:
            return None, self._halted
        token = next((entry for entry in self.ledger.of_site(site) if entry.kind == Kind.TOKEN), None)
        if token is None:
            return self._judge_first(site, gateway, now)
        if token.ending:
            return None, Cause(reason=_reason(token.ending), detail="the last token's slot has not returned yet")
        if token.id not in self._vouched:
            self._end(token, Reason.LEADER_NEW)
            return None, Cause(reason=Reason.LEADER_NEW, detail="a token of before this coordinator began")
        if (standing := self.heard.standing(site, now)).state is Site.UNHEARD:
            return None, Cause(reason=Reason.SITE_UNHEARD, detail=standing.detail)
        if self._site_look(site, token.by, now).status is not Status.FAILING:
            self._end(token, Reason.CAUSE_GONE)
            return None, Cause(reason=Reason.CAUSE_GONE, detail=f"{token.by} does not fail at every gateway of the site")
        decision = self.ledger.may_darken(site, self.standings(now))
        if not decision.granted:
            return None, decision.cause
        if not self._may_hold(token, gateway):
            token = dataclasses.replace(token, gateways=(*token.gateways, gateway))
            self._enter(token)
        return _grant(token, decision), None

    def _judge_first(self, site: str, gateway: str, now: float) -> tuple[Grant | None, Cause | None]:
        since = sorted((at, check) for (of, check), at in self._failing_since.items() if of == site)
        refused = []
        for at, check in since:
            decision = self._decide_first(site, check, at, now)
            if decision.granted:
                self._ids += 1
                entry = Entry(id=f"{self._leader}-{self._ids}", kind=Kind.TOKEN, site=site, gateways=(gateway,), by=check)
                self._enter(entry)
                self._granted_at = now
                self._vouched.add(entry.id)
                self._refusals.pop((site, check), None)
                self._events.append(SlotTaken(entry, decision))
                return _grant(entry, decision), None
            refused.append(decision.cause)
            if self._refusals.get((site, check)) is not decision.cause.reason:
                self._refusals[site, check] = decision.cause.reason
                self._events.append(SlotRefused(site, Kind.TOKEN, check, decision))
        nothing = Cause(reason=Reason.SITE_UNHEARD, detail="no check is known to fail at every gateway of the site")
        return None, refused[0] if refused else nothing

    def _decide_first(self, site: str, check: str, since: float, now: float) -> Decision:
        if (new := self._new(now)) is not None:
            return Decision(granted=False, cause=new)
        if check in self._suspected:
            cause = Cause(reason=Reason.CHECK_SUSPECTED, detail=f"{check} fails at too many sites")
            return Decision(granted=False, cause=cause)
        looks = self._looks(check, now)
        window = max(WINDOW_S, *(look.span_s for look in looks.values()))
        others = [look for name, look in looks.items() if name != site]
        passing = sum(look.status is Status.PASSING and look.as_of >= since + window for look in others)
        if now < since + window:
            against = Cause(reason=Reason.CORRELATING, detail=f"{check} for {now - since:.0f} s of {window:.0f} s")
        elif 2 * passing < len(others):
            detail = f"{check} is known to pass at {passing} of {len(others)} other sites"
            against = Cause(reason=Reason.EVIDENCE_SHORT, detail=detail)
        elif now - self._granted_at < SPACING_S:
            against = Cause(reason=Reason.GRANTS_SPACED, detail=f"{now - self._granted_at:.0f} s of {SPACING_S:.0f} s")
        else:
            return self.ledger.may_darken(site, self.standings(now))
        return Decision(granted=False, cause=against)

    def _new(self, now: float) -> Cause | None:
        if self._halted is not None:
            return self._halted
        left_s = self._settled_at - now
        return Cause(reason=Reason.LEADER_NEW, detail=f"for {left_s:.0f} s more") if left_s > 0 else None

    def _on_take(self, wanted: TakeSlot, now: float) -> None:
        if wanted.kind in (Kind.TOKEN, Kind.HOLD):
            raise BugError(f"a {wanted.kind} is entered by what a gateway reports")
        if (new := self._new(now)) is not None:
            decision = Decision(granted=False, cause=new)
        else:
            decision = self.ledger.may_darken(wanted.site, self.standings(now))
            if not decision.granted and wanted.kind == Kind.ROLLOUT and self._dark_by_facts(wanted.site, now):
                decision = self.ledger.may_change_dark(wanted.site, decision)
        if not decision.granted:
            self._events.append(SlotRefused(wanted.site, wanted.kind, wanted.by, decision))
            return
        self._ids += 1
        entry = Entry(
            id=f"{self._leader}-{self._ids}",
            kind=wanted.kind,
            site=wanted.site,
            gateways=self.heard.of_site(wanted.site),
            by=wanted.by,
            why=wanted.why,
            until=wanted.until,
        )
        self._enter(entry)
        self._events.append(SlotTaken(entry, decision))

    def _dark_by_facts(self, site: str, now: float) -> bool:
        """And by nothing else: a token may end, and then its site would announce."""
        return self.heard.silent(site, now) and not self.ledger.of_site(site)

    def _on_rename(self, wanted: RenameSlot) -> None:
        entry = self.ledger.entries.get(wanted.entry_id)
        if entry is None or entry.ending or entry.kind in (Kind.TOKEN, Kind.HOLD):
            return
        self._enter(
            dataclasses.replace(entry, kind=wanted.kind, by=wanted.by, why=wanted.why, until=wanted.until)
        )

    def _on_end(self, wanted: EndSlot) -> None:
        if (entry := self.ledger.entries.get(wanted.entry_id)) is not None and entry.kind != Kind.HOLD:
            self._end(entry, wanted.reason)

    def _on_content(self, content: ContentChanged) -> None:
        self.ledger.budget, self.heard.gateways = content.budget, dict(content.gateways)
        names = sites(content.budget)
        for entry in list(self.ledger.entries.values()):
            left = tuple(name for name in entry.gateways if content.gateways.get(name) == entry.site)
            if entry.site in names and left and not set(left) <= set(entry.returned):
                if left != entry.gateways:
                    self._enter(dataclasses.replace(entry, gateways=left))
                continue
            self.ledger.remove(entry.id)
            self._removed[entry.id] = None
            self._events.append(SlotReturned(entry))

    # What leaves.

    def _enter(self, entry: Entry) -> None:
        self.ledger.put(entry)
        self._put[entry.id] = entry

    def _end(self, entry: Entry, reason: str) -> None:
        if not entry.ending:
            entry = dataclasses.replace(entry, ending=str(reason))
            self._enter(entry)
            self._events.append(SlotEnding(entry))
            self._push.update(name for name in entry.gateways if name not in entry.returned)

    def _send(self, gateway: str, now: float, grant: Grant | None = None, refused: Cause | None = None) -> Send:
        report, session = self.heard.report(gateway), self.heard.session(gateway)
        if session is None:
            raise BugError(f"{gateway} is not connected")
        mine = [entry for entry in self.ledger.of_site(self.heard.gateways[gateway]) if self._may_hold(entry, gateway)]
        ended = () if report is None else report.ended
        open_ids = {entry.id for entry in mine}
        answer = Answer(
            n=self.heard.number_answer(gateway, now),
            to=0 if report is None else report.seq,
            grant=grant,
            refused=None if refused is None else refused.reason,
            detail="" if refused is None else refused.detail[:MAX_DETAIL],
            recalls=tuple(Recall(id=entry.id, reason=entry.ending) for entry in mine if entry.ending)[:MAX_ENDED],
            acknowledged=tuple(entry_id for entry_id in ended if entry_id not in open_ids),
        )
        return Send(gateway, session, answer)


def _grant(entry: Entry, decision: Decision) -> Grant:
    dark = tuple(sorted(decision.dark))[:MAX_DARK]
    return Grant(id=entry.id, check=entry.by, life_ms=round(TOKEN_LIFE_S * 1000), dark=dark)


def _reason(word: str) -> Reason:
    try:
        return Reason(word)
    except ValueError:
        return Reason.OPERATOR  # an operator's words
