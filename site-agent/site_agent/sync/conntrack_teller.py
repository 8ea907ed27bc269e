"""The Active's half of the conntrack mirror: what its kernel says, as copies for the Backup. Pure.

One dump at a time feeds one *job*: the whole table, its sums, or the flows of the buckets that the Backup asked for. Events
are told as they come, between the pieces.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter, deque
from collections.abc import Iterator, Sequence

from site_agent.netlink.conntrack import CT_DELETE, Gathered, gather
from site_agent.netlink.conntrack_columns import Block, Shapes
from site_agent.netlink.conntrack_forms import FLAGS_CHANGED, FLAGS_NEW, copies, deletions, nat_of
from site_agent.sync import conntrack_wire as wire
from site_agent.sync.conntrack_digest import Sums, digests
from site_agent.sync.conntrack_filter import MirroredFlows
from site_agent.sync.conntrack_wire import Type

PIECE = 64 * 1024
"""Bytes of copies after which a message goes off: 400 flows, which a kernel takes in a millisecond."""


@dataclasses.dataclass(slots=True)
class Pile:
    copies: bytearray = dataclasses.field(default_factory=bytearray)
    digests: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class Job:
    """What a dump is for."""

    type: Type
    wanted: set[int] = dataclasses.field(default_factory=set)
    """Of CONTENT: the buckets."""
    sums: Sums = dataclasses.field(default_factory=Sums)
    piles: dict[int, Pile] = dataclasses.field(default_factory=dict)
    """What is not told yet, by the length of a copy: what has one length is mostly of one shape, which costs least."""
    refused: Counter[str] = dataclasses.field(default_factory=Counter)
    flows: int = 0
    told: int = 0
    turn: int = 0
    """Of the WANT."""


class Teller:
    """`refused`: flows that cannot be copied, by the name of what hinders it, as of the last dump and with those since."""

    def __init__(self, flows: MirroredFlows, shapes: Shapes) -> None:
        self.refused: Counter[str] = Counter()
        self.told = 0
        """Copies and deletions that went to the peer."""
        self.flows = 0
        """Mirrored ones, as of the last dump."""
        self._filter, self._shapes = flows, shapes
        self._jobs: deque[Job] = deque()
        self.job: Job | None = None

    def ask(self, type_: Type, wanted: set[int] | None = None, turn: int = 0) -> bool:
        """Queue a job, instead of one of the type that waits; whether a dump is to begin now."""
        for waiting in self._jobs:
            if waiting.type is type_:
                waiting.wanted, waiting.turn = wanted or set(), turn
                return False
        self._jobs.append(Job(type_, wanted or set(), turn=turn))
        return self._next()

    def stop(self) -> None:
        self._jobs.clear()
        self.job = None

    def dumped(self, gathered: Gathered) -> list[bytes]:
        """A part of the job's dump; returns payloads. Raises DecodeError."""
        job = self.job
        if job is None:
            return []
        for block in self._shapes.blocks(gathered):
            mirrored = self._filter.admitted(block, job.refused)
            if mirrored is None:
                continue
            job.flows += len(mirrored.messages)
            if job.type is Type.SUMS:
                job.sums.add(mirrored)
            elif job.type is Type.TABLE:
                for nat, part, _ in _by_nat(mirrored):
                    _pile(job, copies(part, nat, FLAGS_NEW), len(part.messages))
                job.told += len(mirrored.messages)
            else:
                self._content(job, mirrored)
        return list(_pieces(job, PIECE))

    def ended(self, error: int) -> tuple[list[bytes], bool]:
        """The dump has; returns payloads, and whether the next one is to begin."""
        job, self.job = self.job, None
        payloads: list[bytes] = []
        self.told += 0 if job is None else job.told
        if job is not None and error:
            if job.type is Type.SUMS and not any(each.type is Type.SUMS for each in self._jobs):
                self._jobs.append(Job(Type.SUMS))  # the others have told half; the next comparison asks anew
        elif job is not None:
            if job.type is not Type.CONTENT:
                self.refused, self.flows = job.refused, job.flows
            if job.type is Type.SUMS:
                payloads.append(wire.encode_sums(job.sums.values))
            else:
                payloads += _pieces(job, 1)
                payloads.append(wire.encode_end(job.type, job.turn, job.told))
        return payloads, self._next()

    def heard(self, data: bytes) -> bytes | None:
        """Events as a payload; None where they concern nobody. Raises DecodeError."""
        gathered = gather(data)
        pieces: list[bytes | bytearray] = [b""] * gathered.count
        found = 0
        for block in self._shapes.blocks(gathered):
            mirrored = self._filter.admitted(block, self.refused)
            if mirrored is None:
                continue
            found += len(mirrored.messages)
            if block.shape.kind == CT_DELETE:
                _place(pieces, mirrored.indices, deletions(mirrored))
            else:
                # An event has the flags of what caused it: CREATE and EXCL for a new flow, none for a change.
                flags = FLAGS_NEW if block.shape.flags & FLAGS_NEW & ~1 else FLAGS_CHANGED
                for nat, part, _ in _by_nat(mirrored):
                    _place(pieces, part.indices, copies(part, nat, flags))
        self.told += found
        return wire.encode(Type.EVENTS, b"".join(pieces)) if found else None

    def _next(self) -> bool:
        if self.job is None and self._jobs:
            self.job = self._jobs.popleft()
            return True
        return False

    def _content(self, job: Job, block: Block) -> None:
        found = [(bucket in job.wanted, digest) for bucket, _, digest in digests(block)]
        wanted = [each for each, _ in found]
        if not any(wanted):
            return
        chosen = block.select(wanted)
        sums = [digest for each, digest in found if each]
        for nat, part, which in _by_nat(chosen):
            pile = _pile(job, copies(part, nat, FLAGS_NEW), len(part.messages))
            pile.digests += sums if which is None else itertools.compress(sums, which)
        job.told += len(chosen.messages)


def _by_nat(block: Block) -> Iterator[tuple[int, Block, list[bool] | None]]:
    """Parts that are translated alike, and which ones of the block they are; None for all."""
    nats = nat_of(block)
    if not nats or nats.count(nats[0]) == len(nats):
        yield nats[0] if nats else 0, block, None
        return
    for nat in sorted(set(nats)):
        which = [each == nat for each in nats]
        yield nat, block.select(which), which


def _pile(job: Job, made: bytearray, count: int) -> Pile:
    """Put copies of one length to the others."""
    pile = job.piles.setdefault(len(made) // count, Pile())
    pile.copies += made
    return pile


def _pieces(job: Job, least: int) -> Iterator[bytes]:
    """What has come to so many bytes, as payloads."""
    for size, pile in list(job.piles.items()):
        if len(pile.copies) >= least:
            del job.piles[size]
            table = job.type is Type.TABLE
            yield wire.encode(Type.TABLE, pile.copies) if table else wire.encode_content(job.turn, pile.digests, pile.copies)


def _place(pieces: list[bytes | bytearray], indices: Sequence[int], made: bytearray) -> None:
    """Cut what was made of a block and put it where its messages were."""
    size = len(made) // len(indices)
    for at, index in enumerate(indices):
        pieces[index] = made[at * size : (at + 1) * size]
