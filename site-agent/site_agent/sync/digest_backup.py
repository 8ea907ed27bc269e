"""The Backup's half of the digests: hears sums, looks, asks for what differs, says what it found, removes extras. Pure.

What is extra is something that no Active tells and two looks have found:

* an SA or a policy that our own charon does not know, either: nobody will ever remove it, and after a takeover it would
  stand in somebody's way. It is deleted from the kernel;
* a CHILD_SA in our charon whose inbound SPI no Active tells: its end was told while the channel was down. charon is handed
  the message that it missed;
* an IKE_SA likewise, if all its CHILD_SAs are extra. One of which the Active tells a CHILD_SA stays: it was rekeyed, and the
  Active will do so again.

Where that would take more than MOST_EXTRA of the SAs, nothing is removed. An Active that has just lost its tunnels, or says
so, shall not take the only copy with them.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator

from site_agent.ike.mirror_view import IKE_NAME_BYTES, CharonView, Tunnel
from site_agent.netlink.xfrm_digest import SA_ENDS_BYTES, SA_NAME_BYTES, Owned
from site_agent.netlink.xfrm_keys import SaKey
from site_agent.sync.digest_compare import SPI_AND_PROTOCOL, Extra, Finding, TwoLooks, compare
from site_agent.sync.digest_table import BUCKETS, SUM_BYTES, Of, Record, Table
from site_agent.sync.digest_wire import MOST_ASKED, Ask, Done, Records, Sums, cut_findings
from site_agent.sync.digest_words import Action, DropChildSa, DropIkeSa, Look, Looked, RemovePolicy, RemoveSa, Send

MOST_EXTRA = 0.5
FEW = 16
"""So many may go in any case: half of three tunnels is nothing to wonder at."""
MOST_REMOVED = 500
"""In one round; the rest has the next one."""
DUTY_SOON = 4
"""Looking takes at most one part in so many of the time, whatever the reason."""
LEAST_S = 1.0
"""Between two looks: who loses events again and again, or begins rounds without end, makes no storm of dumps."""
MOST_HELD = 1 << 18
"""Records of buckets that are not complete. An Active with more in one bucket is not compared."""


@dataclasses.dataclass(slots=True)
class _Own:
    """Our side, as of one look."""

    tables: dict[Of, Table]
    spis: frozenset[bytes]
    """With the protocol, of the SAs that charon has. Without addresses: after a move its SA is still at the old one."""
    children: dict[Record, Tunnel]
    reqids: frozenset[int]
    """Of all that charon has."""
    policies: dict[Record, Owned]
    charon: CharonView


def soonest_after(began: float, now: float) -> float:
    """When one may look again, after a look that took from `began` to `now`."""
    return now + max(LEAST_S, (now - began) * (DUTY_SOON - 1))


class BackupRounds:
    """See the module. Of one round at a time: the last one that was begun."""

    def __init__(self, second_look_s: float) -> None:
        self.looking = False
        self._look_round: int | None = None
        self._look_began = self._soonest = float("-inf")
        self._round: int | None = None
        self._sums: dict[Of, Sums] = {}
        self._compared = False
        self._own: _Own | None = None
        self._queue: collections.deque[tuple[Of, list[int]]] = collections.deque()
        self._asked: set[tuple[Of, int]] = set()
        self._partial: dict[tuple[Of, int], list[Record]] = {}
        self._held = 0
        self._findings: list[Finding] = []
        self._extras: list[Extra] = []
        self._two_looks = TwoLooks[Finding | Extra](second_look_s)

    @property
    def deadline(self) -> float | None:
        """When to look for the round under way."""
        return self._soonest if self._round is not None and self._own is None and not self.looking else None

    def forget(self) -> None:
        """Of earlier rounds, too."""
        self.end()
        self._two_looks.clear()

    def end(self) -> None:
        """No round is under way."""
        self._round, self._own, self._compared = None, None, False
        self._sums, self._findings, self._extras = {}, [], []
        self._queue.clear()
        self._asked.clear()
        self._drop_partial()

    def heard(self, message: Sums | Records, now: float) -> Iterator[Action]:
        if isinstance(message, Sums):
            if message.round != self._round:
                self.end()
                self._round = message.round
            self._sums[message.of] = message
            if self._own is not None:
                yield from self._perhaps_compare(self._own, now)
            else:
                yield from self._perhaps_look(now)
            return
        if message.round == self._round and self._own is not None:
            yield from self._on_records(message, self._own, now)

    def looked(self, looked: Looked, now: float) -> Iterator[Action]:
        self.looking = False
        self._soonest = soonest_after(self._look_began, now)
        if self._round is None:
            return
        if self._look_round != self._round:
            yield from self._perhaps_look(now)  # this one may have begun before the Active's own
            return
        if looked.sas is None or looked.policies is None or looked.charon is None:
            kernel = looked.sas is not None and looked.policies is not None
            yield Send(_done(self._round, kernel_seen=kernel, charon_seen=looked.charon is not None))
            self.end()
            return
        carrying = [tunnel for tunnel in looked.charon.tunnels if tunnel.carrying]
        children = {tunnel.record: tunnel for tunnel in carrying}
        self._own = _Own(
            tables={
                Of.SAS: Table(Of.SAS, looked.sas),
                Of.POLICIES: Table(Of.POLICIES, looked.policies),
                Of.IKE_SAS: Table(Of.IKE_SAS, looked.charon.ike),
                Of.CHILD_SAS: Table(Of.CHILD_SAS, children),
            },
            spis=frozenset(end[:SPI_AND_PROTOCOL] for tunnel in looked.charon.tunnels for end in tunnel.ends),
            children=children,
            reqids=frozenset(tunnel.reqid for tunnel in looked.charon.tunnels),
            policies=looked.policies,
            charon=looked.charon,
        )
        yield from self._perhaps_compare(self._own, now)

    def expired(self, now: float) -> Iterator[Action]:
        yield from self._perhaps_look(now)

    def _perhaps_look(self, now: float) -> Iterator[Action]:
        if (due := self.deadline) is not None and now >= due:
            self.looking, self._look_round, self._look_began = True, self._round, now
            yield Look()

    def _perhaps_compare(self, own: _Own, now: float) -> Iterator[Action]:
        if len(self._sums) < len(Of) or self._compared:
            return
        self._compared = True
        for of, told in self._sums.items():
            sums = own.tables[of].sums()
            if sums == told.sums:
                continue
            differing = [bucket for bucket in range(BUCKETS) if _sum(sums, bucket) != _sum(told.sums, bucket)]
            for first in range(0, len(differing), MOST_ASKED):
                self._queue.append((of, differing[first : first + MOST_ASKED]))
        yield from self._go_on(own, now)

    def _go_on(self, own: _Own, now: float) -> Iterator[Action]:
        assert self._round is not None
        if self._queue:
            of, buckets = self._queue.popleft()
            self._asked = {(of, bucket) for bucket in buckets}
            yield Send(Ask(round=self._round, of=of, buckets=tuple(buckets)))
        else:
            yield from self._finish(self._round, own, now)

    def _on_records(self, message: Records, own: _Own, now: float) -> Iterator[Action]:
        """What was not asked for is not read."""
        for piece in message.pieces:
            place = message.of, piece.bucket
            if place not in self._asked:
                continue
            self._partial.setdefault(place, []).extend(piece.records)
            self._held += len(piece.records)
            if piece.last:
                self._asked.remove(place)
                records = self._partial.pop(place)
                self._held -= len(records)
                self._compare(place, records, own)
        if self._held > MOST_HELD:
            self.end()
        elif not self._asked and message.pieces:
            yield from self._go_on(own, now)

    def _compare(self, place: tuple[Of, int], theirs: list[Record], own: _Own) -> None:
        of, bucket = place
        findings, extras = compare(of, theirs, own.tables[of].bucket(bucket))
        self._findings += findings
        self._extras += extras

    def _finish(self, number: int, own: _Own, now: float) -> Iterator[Action]:
        stands = self._two_looks.looked([*self._findings, *self._extras], now)
        for of in Of:
            findings = [(finding, finding in stands) for finding in self._findings if finding.of is of]
            yield from map(Send, cut_findings(number, of, findings))
        orphans = [extra for extra in self._extras if not _is_charons(extra, own)]
        counts = collections.Counter(extra.of for extra in self._extras)
        too_many = max(counts[Of.SAS], 2 * counts[Of.CHILD_SAS]) > max(FEW, int(MOST_EXTRA * len(own.tables[Of.SAS])))
        if not too_many:
            removals = [_removal(extra, own) for extra in orphans if extra in stands]
            yield from [*removals, *self._ended(own, stands)][:MOST_REMOVED]
        yield Send(
            _done(number, removes_nothing=too_many, in_kernel=len(orphans), in_charon=counts[Of.CHILD_SAS])
        )  # fmt: skip
        self.end()

    def _ended(self, own: _Own, stands: set[Finding | Extra]) -> Iterator[Action]:
        """What charon holds of it, and the Active does not."""
        ended = {extra.record for extra in self._extras if extra.of is Of.CHILD_SAS and extra in stands}
        living = {tunnel.ike_id for record, tunnel in own.children.items() if record not in ended}
        dropped = set[bytes]()
        for extra in self._extras:
            if extra.of is Of.IKE_SAS and extra in stands:
                ike_sa, spis = own.charon.ike[extra.record], extra.record[:IKE_NAME_BYTES]
                if ike_sa.ike_id not in living:
                    dropped.add(spis)
                    yield DropIkeSa(spis, ike_sa.initiator)
        initiators = {record[:IKE_NAME_BYTES]: ike_sa.initiator for record, ike_sa in own.charon.ike.items()}
        for record in sorted(ended):
            if (spis := record[-IKE_NAME_BYTES:]) not in dropped:
                yield DropChildSa(spis, initiators.get(spis, False), record[:4])

    def _drop_partial(self) -> None:
        self._partial.clear()
        self._held = 0


def _sum(sums: bytes, bucket: int) -> bytes:
    return sums[bucket * SUM_BYTES : (bucket + 1) * SUM_BYTES]


def _is_charons(extra: Extra, own: _Own) -> bool:
    match extra.of:
        case Of.SAS:
            return extra.record[:SPI_AND_PROTOCOL] in own.spis
        case Of.POLICIES:
            return own.policies[extra.record].reqid in own.reqids
        case Of.IKE_SAS | Of.CHILD_SAS:
            return True


def _removal(extra: Extra, own: _Own) -> Action:
    if extra.of is Of.POLICIES:
        return RemovePolicy(direction=extra.record[0], index=own.policies[extra.record].number)
    spi, protocol, destination = extra.record[:4], extra.record[4:5], extra.record[5:SA_NAME_BYTES]
    return RemoveSa(key=SaKey(destination + spi + protocol), source=extra.record[SA_NAME_BYTES:SA_ENDS_BYTES])


def _done(
    number: int,
    *,
    kernel_seen: bool = True,
    charon_seen: bool = True,
    removes_nothing: bool = False,
    in_kernel: int = 0,
    in_charon: int = 0,
) -> Done:
    return Done(
        round=number,
        kernel_seen=kernel_seen,
        charon_seen=charon_seen,
        removes_nothing=removes_nothing,
        extra_in_kernel=in_kernel,
        extra_in_charon=in_charon,
    )
