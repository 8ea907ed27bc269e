"""Does the Backup hold what the Active has? Digests in rounds, repair by rekey, orphans removed. Pure.

Theory of operation
-------------------
What the `ha` plugin lost nobody tells: a datagram that went with the channel, a NAT mapping, a client that moved (MOBIKE).
So both gateways look, all the time, and compare four tables (`digest_table`): SAs and policies of both kernels, IKE_SAs and
CHILD_SAs of both charons. What the Active's kernel and its charon do not both have is not told (`checks.child_sas` mends
it). So an SA that the Backup holds is in three sets: the Active's kernel, the Backup's kernel and the Backup's charon.

    Active                                    Backup
    looks; SUMS of each table           --->  looks
                                        <---  ASK for the buckets that differ, MOST_ASKED at a time
    RECORDS of them, as of its look     --->  compares (`digest_compare`)
                                        <---  FINDINGS, then DONE
    repairs (`repairs`)                       removes what is extra

A look is a dump, never the sum of events: an event may be lost (ENOBUFS), and then all that follows is a look at once. The
two looks of a round are not of one moment, so only what two rounds find, SECOND_LOOK_S apart, *stands* and is repaired or
removed. What one round finds counts as unprotected at once, and has the next round begin sooner.

Rounds are paced: one begins ROUND_S after the one before, or so much later that looking takes at most one part in DUTY of
the time. The one that is to see what repairs have done begins SOON_S after charon was asked for the last of them: a Backup
that has booted needs three such rounds, its IKE_SAs, its CHILD_SAs, and that it has all.

What is in its making or on its way out is not compared: those SAs and policies of an Active count that belong to a CHILD_SA
which its charon says is carrying. Where its charon cannot be asked nothing is told, and after STALE_S nothing is
known any more, nor AWAY_S after the session's end.

The peer is not trusted with more than its own protection. A Backup that lies has clients rekeyed within `repairs`' bounds;
it can name only what it was told. An Active that lies has its own mirror mended wrongly, except that a Backup never removes
what its charon holds tunnels on, and nothing at all where most of what it has would go.

`now` is in seconds of one clock that never goes back.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator

from anycast.timer import TimerExpired
from site_agent.ike.mirror_view import CharonView, Tunnel
from site_agent.netlink.xfrm_digest import SA_ENDS_BYTES
from site_agent.sync.digest_backup import BackupRounds, soonest_after
from site_agent.sync.digest_compare import Cause, Finding
from site_agent.sync.digest_table import Of, Table
from site_agent.sync.digest_wire import Ask, Done, Findings, Message, Records, Sums, cut_records
from site_agent.sync.digest_words import Action, Freshness, Heard, Input, Look, Looked, RepairAsked, Send, Wanted
from site_agent.sync.numbers_words import EventsLost, PeerConnected, PeerLost, Role, RoleChanged
from site_agent.sync.repairs import GaveUp, Repairs, Want, want_of, want_of_ike

ROUND_S = 10.0
SOON_S = 4.0
"""After a round that found something new: a bit more than SECOND_LOOK_S."""
SECOND_LOOK_S = 3.0
"""Longer than a rekey with a retransmission (charon's first is after 2 s)."""
DUTY = 20
"""Looking takes at most one part in so many of the time, where there is no reason to look earlier."""
ROUND_LIMIT_S = 30.0
"""A Backup that has not answered by then is not waited for: a look at 20,000 tunnels takes charon some seconds."""
STALE_S = 120.0
"""So long after the round that it rests on, nothing is known about what the Backup holds."""
AWAY_S = 10.0
"""So long without a session either: a Backup that is gone for good is the ordinary reason. Longer than a session that breaks
and comes back takes."""


@dataclasses.dataclass(slots=True)
class _Told:
    """What the Active told in the round under way, and what it was answered."""

    round: int
    began: float
    tables: dict[Of, Table]
    tunnels: list[Tunnel]
    """Those that are carrying."""
    by_ends: dict[bytes, Tunnel]
    by_record: dict[bytes, Tunnel]
    by_reqid: dict[int, Tunnel]
    reqids: dict[bytes, int]
    """Of the policies."""
    ike_ids: dict[bytes, str]
    ends: frozenset[bytes]
    """Of the SAs."""
    found: dict[tuple[Of, bytes], tuple[Cause, bool]] = dataclasses.field(default_factory=dict)
    """Cause, and whether it stands, by table and record."""
    answered: set[tuple[Of, int]] = dataclasses.field(default_factory=set)
    """Buckets whose records were sent: once a round is enough, and bounds what a flood of questions costs."""
    by_ike: dict[str, list[Tunnel]] | None = None

    def knows(self, finding: Finding) -> bool:
        match finding.of:
            case Of.SAS:
                return finding.record[:SA_ENDS_BYTES] in self.ends
            case Of.POLICIES:
                return finding.record in self.reqids
            case Of.IKE_SAS:
                return finding.record in self.ike_ids
            case Of.CHILD_SAS:
                return finding.record in self.by_record

    def _by_ike(self) -> dict[str, list[Tunnel]]:
        """Made where it is needed: 10,000 lists a round would be the garbage collector's work, and it stops everything."""
        if self.by_ike is None:
            self.by_ike = {}
            for tunnel in self.tunnels:
                self.by_ike.setdefault(tunnel.ike_id, []).append(tunnel)
        return self.by_ike

    def tunnels_of(self, of: Of, record: bytes) -> list[Tunnel]:
        """Which a finding concerns. The record is one that was told."""
        match of:
            case Of.SAS:
                return [self.by_ends[record[:SA_ENDS_BYTES]]]
            case Of.POLICIES:
                return [self.by_reqid[self.reqids[record]]]
            case Of.IKE_SAS:
                return self._by_ike().get(self.ike_ids[record], [])
            case Of.CHILD_SAS:
                return [self.by_record[record]]


class Digests:
    """See the module. `first_round`: where to count from; a process that starts anew shall not go on with a number that its
    peer has heard last (a random one will do)."""

    def __init__(self, role: Role, *, now: float, first_round: int = 0) -> None:
        self.role = role
        self.connected = False
        self.conflicts = 0
        """SUMS heard while not a Backup: the peer thinks that it is the Active."""
        self._repairs = Repairs()
        self._round = first_round
        self._looks: collections.deque[Role] = collections.deque()
        """As what we were when we asked for those that are not answered."""
        self._looking_since: float | None = None
        self._reason_to_look = False
        self._next_look = self._soonest = now
        """When the next round begins, and when it may at the soonest."""
        self._told: _Told | None = None
        self._sas: frozenset[bytes] = frozenset()
        """Ends of the SAs that the last look saw."""
        self._held: frozenset[bytes] = frozenset()
        """Those that the Backup held in the round that began at `_compared_at`."""
        self._compared_at: float | None = None
        self._away_at = math.inf
        """When the session ended."""
        self._causes: dict[str, int] = {}
        self._backup = BackupRounds(SECOND_LOOK_S)

    @property
    def deadline(self) -> float | None:
        if self.role is not Role.ACTIVE:
            return self._backup.deadline
        return self._next_round

    @property
    def _next_round(self) -> float | None:
        if self._looking_since is not None:
            return None
        return self._next_look if self._told is None else max(self._next_look, self._told.began + ROUND_LIMIT_S)

    def freshness(self, now: float) -> Freshness:
        """Of an Active; a Backup protects nobody, and its own is nobody's concern."""
        known = self._compared_at is not None and now < min(self._compared_at + STALE_S, self._away_at + AWAY_S)
        return Freshness(
            unprotected=len(self._sas - self._held) if known else len(self._sas),
            of=len(self._sas),
            compared_at=self._compared_at if known else None,
            waiting=self._repairs.waiting,
            given_up=self._repairs.given_up,
            causes=dict(self._causes) if known else {},
        )

    def handle(self, event: Input, now: float) -> list[Action]:
        """Take one input."""
        before = self._repairs.wanted
        actions = list(self._dispatch(event, now))
        if self._repairs.wanted != before:
            actions.append(Wanted(self._repairs.wanted))
        return actions

    def _dispatch(self, event: Input, now: float) -> Iterator[Action]:
        match event:
            case Looked():
                yield from self._on_looked(event, now)
            case Heard(message=message):
                yield from self._on_heard(message, now)
            case RoleChanged(role=role):
                if role is not self.role:
                    self.role = role
                    self._forget(now)
            case PeerConnected():
                self.connected, self._away_at = True, math.inf
                self._forget(now)
            case PeerLost():
                self.connected, self._told, self._away_at = False, None, min(self._away_at, now)
                self._repairs.stop()
                self._backup.end()
            case RepairAsked(line):
                if self._repairs.asked(line, now):
                    self._next_look = min(self._next_look, max(now + SOON_S, self._soonest))
            case EventsLost():
                self._reason_to_look = True
                self._next_look = min(self._next_look, max(now, self._soonest))
            case TimerExpired():
                yield from self._remember(self._backup.expired(now))
        if self.role is Role.ACTIVE and (due := self._next_round) is not None and now >= due:
            self._told, self._looking_since, self._reason_to_look = None, now, False
            self._looks.append(Role.ACTIVE)
            yield Look()

    def _forget(self, now: float) -> None:
        """Nothing of what was said before counts."""
        self._told, self._compared_at, self._held, self._causes = None, None, frozenset(), {}
        self._next_look = max(now, self._soonest)
        self._repairs.stop()
        self._backup.forget()

    def _remember(self, actions: Iterator[Action]) -> Iterator[Action]:
        """Whose look is answered first."""
        for action in actions:
            if isinstance(action, Look):
                self._looks.append(Role.BACKUP)
            yield action

    # Of the Active

    def _on_looked(self, looked: Looked, now: float) -> Iterator[Action]:
        if not self._looks:
            return
        if self._looks.popleft() is Role.BACKUP:
            yield from self._remember(self._backup.looked(looked, now))
            return
        began, self._looking_since = self._looking_since or now, None
        self._pace(began, now)
        if self.role is not Role.ACTIVE or looked.sas is None or looked.policies is None or looked.charon is None:
            return
        self._round = (self._round + 1) & 0xFFFF_FFFF
        told = _tell(self._round, began, looked.sas, looked, looked.charon)
        self._sas = told.ends
        if not self.connected:
            return
        self._told = told
        for of, table in told.tables.items():
            yield Send(Sums(round=told.round, of=of, entries=len(table), sums=table.sums()))

    def _pace(self, began: float, now: float) -> None:
        """When to look next."""
        took, self._soonest = now - began, soonest_after(began, now)
        self._next_look = self._soonest if self._reason_to_look else now + max(ROUND_S, took * (DUTY - 1))

    def _on_heard(self, message: Message, now: float) -> Iterator[Action]:
        if isinstance(message, Sums | Records):
            if self.role is Role.BACKUP:
                yield from self._remember(self._backup.heard(message, now))
            else:
                self.conflicts += isinstance(message, Sums)
            return
        told = self._told
        if told is None or message.round != told.round:
            return
        match message:
            case Ask(of=of, buckets=buckets):
                wanted = [bucket for bucket in buckets if (of, bucket) not in told.answered]
                told.answered |= {(of, bucket) for bucket in wanted}
                records = ((bucket, told.tables[of].bucket(bucket)) for bucket in wanted)
                yield from map(Send, cut_records(told.round, of, records))
            case Findings(findings=findings):
                told.found |= {(f.of, f.record): (f.cause, stands) for f, stands in findings if told.knows(f)}
            case Done():
                self._told = None
                yield from self._on_done(told, message, now)

    def _on_done(self, told: _Told, done: Done, now: float) -> Iterator[GaveUp]:
        self._compared_at, self._held, self._causes = told.began, frozenset(), {}
        if not (done.kernel_seen and done.charon_seen):
            return
        wants, unheld = dict[tuple[str, bytes], Want](), set[bytes]()
        for (of, record), (cause, stands) in sorted(told.found.items()):
            self._causes[cause.name.lower()] = self._causes.get(cause.name.lower(), 0) + 1
            tunnels = told.tunnels_of(of, record)
            if of is Of.SAS:
                unheld.add(record[:SA_ENDS_BYTES])
            else:
                unheld.update(end for tunnel in tunnels for end in tunnel.ends)
            if stands:
                concerned = (
                    [want_of_ike(record, told.ike_ids[record], tunnels, cause)]
                    if of is Of.IKE_SAS
                    else [want_of(tunnel, cause) for tunnel in tunnels]
                )
                for want in concerned:
                    wants.setdefault(want.line, want)
        self._held = told.ends - unheld
        if any(not stands for _cause, stands in told.found.values()):
            self._next_look = min(self._next_look, max(told.began + SOON_S, self._soonest))
        yield from self._repairs.found(wants.values(), now)


def _tell(number: int, began: float, sas: list[bytes], looked: Looked, charon: CharonView) -> _Told:
    carrying = [tunnel for tunnel in charon.tunnels if tunnel.carrying]
    by_ends = {end: tunnel for tunnel in carrying for end in tunnel.ends}
    by_record = {tunnel.record: tunnel for tunnel in carrying}
    by_reqid = {tunnel.reqid: tunnel for tunnel in carrying}
    told = [record for record in sas if record[:SA_ENDS_BYTES] in by_ends]
    reqids = {record: owned.reqid for record, owned in (looked.policies or {}).items() if owned.reqid in by_reqid}
    return _Told(
        round=number,
        began=began,
        tables={
            Of.SAS: Table(Of.SAS, told),
            Of.POLICIES: Table(Of.POLICIES, reqids),
            Of.IKE_SAS: Table(Of.IKE_SAS, charon.ike),
            Of.CHILD_SAS: Table(Of.CHILD_SAS, by_record),
        },
        tunnels=carrying,
        by_ends=by_ends,
        by_record=by_record,
        by_reqid=by_reqid,
        reqids=reqids,
        ike_ids={record: ike_sa.ike_id for record, ike_sa in charon.ike.items()},
        ends=frozenset(record[:SA_ENDS_BYTES] for record in told),
    )
