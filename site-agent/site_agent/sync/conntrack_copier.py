"""The Backup's half of the conntrack mirror: what the Active told, into our kernel. Pure.

Nothing goes to the kernel that is not a copy or a deletion of a mirrored flow in the form that `conntrack_forms` makes,
whoever says it: other messages of a table's subsystem would be obeyed as well.

What the kernel refuses is tried once more: a flow that is there already is replaced, because two flows of one name are two
flows; a change of one that is missing makes it. The rest is counted by errno and left to the next comparison.

A *comparison* follows the Active's sums. One dump of our own finds the buckets that differ. A second one refreshes our flows
in the others, which are thereby known to live, and holds what is in the differing ones; what the Active then tells of
these is compared flow by flow: missing ones are made, differing ones replaced, equal ones refreshed, others deleted. A flow
that an event named meanwhile is left as it is, because the event is newer. One that lives longer than a refresh would let it
is not refreshed: an idle TCP session has days, and needs them when nobody refreshes it any more.
"""

from __future__ import annotations

import array
import dataclasses
import errno
import struct
from collections import Counter
from collections.abc import Sequence

from anycast.errors import DecodeError
from site_agent.netlink import conntrack as ct
from site_agent.netlink.conntrack import CT_DELETE, CT_NEW, Gathered, gather
from site_agent.netlink.conntrack_columns import Block, Shapes
from site_agent.netlink.conntrack_forms import (
    FLAGS_CHANGED,
    FLAGS_NEW,
    as_new,
    deletion_of,
    keys,
    refreshes,
    remaining,
    update_of,
)
from site_agent.netlink.messages import HEADER, NLM_F_REQUEST
from site_agent.sync import conntrack_wire as wire
from site_agent.sync.conntrack_digest import Sums, digests
from site_agent.sync.conntrack_filter import MirroredFlows
from site_agent.sync.conntrack_words import Apply

REFRESH_BELOW_S = 200
"""A copy that lives longer is left for a later round; it is due one round (60 s) after it was made or refreshed."""
MOST_TOUCHED = 1 << 18
"""Flows named by events during one comparison, the size of a usual table. Beyond that it is given up."""
MOST_DELETED = 2000
"""In one Apply: 3 ms."""
TRIES = 3
_FORMS = frozenset({
    ct.CTA_TUPLE_ORIG, ct.CTA_TUPLE_REPLY, ct.CTA_STATUS, ct.CTA_PROTOINFO, ct.CTA_NAT_SRC, ct.CTA_NAT_DST, ct.CTA_TIMEOUT,
    ct.CTA_MARK, ct.CTA_ZONE, ct.CTA_LABELS,
})  # fmt: skip
_KNOWN = (CT_NEW, FLAGS_NEW), (CT_NEW, FLAGS_CHANGED), (CT_DELETE, NLM_F_REQUEST)
_SEQUENCE_AT = 8


@dataclasses.dataclass(slots=True)
class Comparison:
    """With the sums of the Active."""

    theirs: array.array[int]
    ours: Sums = dataclasses.field(default_factory=Sums)
    differing: set[int] | None = None
    """None while the first dump is under way."""
    held: dict[bytes, int] = dataclasses.field(default_factory=dict)
    """Digest by key of what we have in the differing buckets."""
    lasting: set[bytes] = dataclasses.field(default_factory=set)
    """Those of them that live longer than any refresh would let them."""
    touched: set[bytes] = dataclasses.field(default_factory=set)
    turn: int = 0
    """Of the WANT; 0 until the second dump has ended and the flows were asked for."""
    told: int = 0
    """Flows that came as an answer."""


class _Batch:
    """What was given to the kernel, until it has answered. A message's sequence number is its place in `copies`."""

    def __init__(self) -> None:
        self.copies: Sequence[bytes] = []
        self.tries: dict[int, int] = {}


class Copier:
    def __init__(self, flows: MirroredFlows, shapes: Shapes) -> None:
        self.applied = 0
        """Messages that the kernel was given."""
        self.replaced = self.refreshed = self.extra = 0
        """Flows that differed, that were given new time, that the Active did not have."""
        self.failed: Counter[str] = Counter()
        """What the kernel refused for good, by errno's name."""
        self.foreign = 0
        """Flows told that are not mirrored here, or in no form that is known here: none of them came near the kernel."""
        self.compared = 0
        self.differing = 0
        """Buckets, in the last comparison."""
        self.comparison: Comparison | None = None
        self._filter, self._shapes, self._own_shapes = flows, shapes, Shapes()
        self._turn = 0
        self._extra: list[bytes] = []
        """Keys of flows that are to be deleted, the next ones last."""
        self._batch = _Batch()

    def forget(self) -> None:
        """A comparison under way is given up."""
        self.comparison = None
        self._extra.clear()

    # What the Active tells

    def told_flows(self, body: bytes, *, ordered: bool) -> Apply | None:
        """EVENTS (`ordered`) and TABLE. Raises DecodeError."""
        blocks, count = self._admitted(body)
        for block in blocks if ordered else ():
            self._touch(block)
        if not count:
            return None
        self._batch = batch = _Batch()
        changes = any(block.shape.flags == FLAGS_CHANGED for block in blocks)
        if len(blocks) == 1 and not changes:
            _number(blocks[0], range(count))
            batch.copies = blocks[0].messages
            return self._apply(blocks[0].joined, count)
        if not ordered:
            data = bytearray()
            found: list[bytes] = []
            for block in blocks:
                _number(block, range(len(found), len(found) + len(block.messages)))
                data += block.joined
                found += block.messages
            batch.copies = found
            return self._apply(data, count)
        pieces: dict[int, bytes] = {}
        copies: dict[int, bytes] = {}
        for block in blocks:
            changed = block.shape.flags == FLAGS_CHANGED
            for index, message in zip(block.indices, block.messages, strict=True):
                copies[index] = message
                pieces[index] = update_of(message, index) if changed else _numbered(message, index)
        order = sorted(copies)
        batch.copies = [copies.get(index, b"") for index in range(order[-1] + 1)]
        return self._apply(b"".join(pieces[index] for index in order), count)

    def told_sums(self, body: bytes) -> bool:
        """Begin a comparison; whether to begin a dump. Raises DecodeError."""
        theirs = wire.decode_sums(body)
        if self.comparison is not None and not self.comparison.turn:
            return False  # our own dump is under way; there will be other sums
        self.comparison = Comparison(theirs)
        return True

    def told_content(self, turn: int, body: bytes) -> Apply | None:
        """Flows of the buckets that were asked for. Raises DecodeError."""
        sums, flows = wire.decode_content(body)
        found = self.comparison
        blocks, _ = self._admitted(flows, len(sums))
        if found is None or not turn or found.turn != turn:
            return None
        found.told += len(sums)
        self._batch, copies = _Batch(), list[bytes]()
        self._batch.copies, tries = copies, self._batch.tries
        data, count = bytearray(), 0
        for block in blocks:
            equal: list[bool] = []
            for index, key, message in zip(block.indices, keys(block), block.messages, strict=True):
                held = found.held.pop(key, None)
                same = held == sums[index] and key not in found.touched
                equal.append(same and key not in found.lasting)
                if same or key in found.touched:
                    continue
                number = len(copies)
                copies.append(message)
                if held is not None:
                    self.replaced += 1
                    tries[number] = TRIES - 1
                    data += deletion_of(message, number)
                    count += 1
                data += as_new(message, number)
                count += 1
            if any(equal):
                alike = block if all(equal) else block.select(equal)
                made = refreshes(alike)
                self.refreshed += len(alike.messages)
                data += _renumbered(made, len(alike.messages), len(copies))
                copies += [b""] * len(alike.messages)
                count += len(alike.messages)
        return self._apply(data, count) if count else None

    def told_end(self, turn: int, body: bytes) -> Apply | None:
        """What was not named of what was asked for is gone at the Active, if all has arrived. Raises DecodeError."""
        flows, found = wire.decode_end(body), self.comparison
        if found is None or not turn or found.turn != turn:
            return None
        self.comparison = None
        if found.told != flows:
            return None
        self._extra = [key for key in found.held if key not in found.touched]
        self.extra += len(self._extra)
        return self._delete_extra()

    # What our kernel says

    def dumped(self, gathered: Gathered) -> Apply | None:
        """A part of a comparison's dump. Raises DecodeError."""
        found = self.comparison
        if found is None:
            return None
        data, count = bytearray(), 0
        for block in self._own_shapes.blocks(gathered):
            mirrored = self._filter.admitted(block, Counter())
            if mirrored is None:
                continue
            if found.differing is None:
                found.ours.add(mirrored)
                continue
            due = [left < REFRESH_BELOW_S for left in remaining(mirrored)]
            if found.differing:
                for at, (bucket, key, digest) in enumerate(digests(mirrored)):
                    if bucket in found.differing:
                        found.held[key] = digest
                        if due:
                            if not due[at]:
                                found.lasting.add(key)
                            due[at] = False
            if any(due):
                alive = mirrored.select(due)
                data += refreshes(alive)
                count += len(alive.messages)
        if not count:
            return None
        self.refreshed += count
        self._batch = _Batch()
        return self._apply(data, count)

    def dump_ended(self, error: int) -> tuple[bytes | None, bool]:
        """The comparison's dump has: what to ask for, if anything, and whether another dump is to begin."""
        found = self.comparison
        if found is None:
            return None, False
        if error:
            self.comparison = None
            return None, False
        if found.differing is None:
            found.differing = found.ours.differing(found.theirs)
            self.compared += 1
            self.differing = len(found.differing)
            return None, True
        if not found.differing:
            self.comparison = None
            return None, False
        self._turn = found.turn = self._turn % 0xFFFF + 1
        return wire.encode_want(found.differing, found.turn), False

    def answered(self, errors: list[tuple[int, int]], *, unsure: bool) -> Apply | None:
        """What the kernel refused; what to try instead, if anything."""
        batch = self._batch
        data, count = bytearray(), 0
        if unsure:
            self.failed["ENOBUFS"] += 1
        for number, code in errors:
            copy = batch.copies[number] if number < len(batch.copies) else b""
            if not copy or copy[4:6] == _KIND_DELETE:
                if code != errno.ENOENT:  # expired or deleted meanwhile: as it should be
                    self.failed[errno.errorcode.get(code, str(code))] += 1
                continue
            tries = batch.tries[number] = batch.tries.get(number, 0) + 1
            if tries >= TRIES:
                if code != errno.ENOENT:
                    self.failed[errno.errorcode.get(code, str(code))] += 1
            elif code == errno.ENOENT:
                data += as_new(copy, number)
                count += 1
            elif code in (errno.EEXIST, errno.EBUSY, errno.EOPNOTSUPP):
                batch.tries[number] = TRIES - 1
                data += deletion_of(copy, number) + as_new(copy, number)
                count += 2
            else:
                self.failed[errno.errorcode.get(code, str(code))] += 1
        return self._apply(data, count) if count else self._delete_extra()

    # Parts

    def _delete_extra(self) -> Apply | None:
        """Some of them: the answer leads to the next, so that no turn is long."""
        keys, self._extra = self._extra[-MOST_DELETED:], self._extra[:-MOST_DELETED]
        self._batch = _Batch()
        data = b"".join(_deletion_by_key(key, number) for number, key in enumerate(keys))
        return self._apply(data, len(keys)) if keys else None

    def _admitted(self, body: bytes, most: int | None = None) -> tuple[list[Block], int]:
        """What may go to the kernel of what the peer says. Raises DecodeError."""
        if (whole := self._shapes.uniform(body)) is not None:
            given, found = [whole], len(whole.messages)
        else:
            gathered = gather(body)
            if gathered.done:
                raise DecodeError("nlmsg_type", 0, "not a flow's")
            given, found = list(self._shapes.blocks(gathered)), gathered.count
        if most is not None and found != most:
            raise DecodeError("content", 4, f"{found} flows instead of {most}")
        blocks: list[Block] = []
        count = 0
        for block in given:
            kind, flags = block.shape.kind, block.shape.flags
            if (kind, flags) not in _KNOWN or not _FORMS.issuperset(block.shape.attributes):
                self.foreign += len(block.messages)
                continue
            wanted = self._filter.mirrored(block)
            part = block if wanted is None else block.select(wanted)
            self.foreign += len(block.messages) - len(part.messages)
            if part.messages:
                blocks.append(part)
                count += len(part.messages)
        return blocks, count

    def _touch(self, block: Block) -> None:
        found = self.comparison
        if found is None or found.differing is None:
            return
        found.touched.update(keys(block))
        if len(found.touched) > MOST_TOUCHED:
            self.comparison = None

    def _apply(self, data: bytes | bytearray, count: int) -> Apply:
        self.applied += count
        return Apply(data, count)


_KIND_DELETE = struct.pack("=H", CT_DELETE)


def _number(block: Block, numbers: range) -> None:
    """Write sequence numbers into the block's joined messages."""
    words = memoryview(block.joined).cast("I")
    words[_SEQUENCE_AT // 4 :: block.shape.length // 4] = memoryview(array.array("I", numbers))


def _renumbered(made: bytearray, count: int, first: int) -> bytearray:
    words = memoryview(made).cast("I")
    words[_SEQUENCE_AT // 4 :: len(made) // count // 4] = memoryview(array.array("I", range(first, first + count)))
    return made


def _numbered(message: bytes, number: int) -> bytes:
    return message[:_SEQUENCE_AT] + number.to_bytes(4, "little") + message[_SEQUENCE_AT + 4 :]


def _deletion_by_key(key: bytes, number: int) -> bytes:
    """A key is the CTA_TUPLE_ORIG and four bytes of zone (`conntrack_forms.records`)."""
    orig, zone = key[:-4], key[-4:]
    family = ct.AF_INET if orig[8:10] == b"\x08\x00" else ct.AF_INET6  # the length of the first address's attribute
    body = struct.pack("=BBH", family, 0, 0) + orig
    if any(zone):
        body += struct.pack("=HH", 6, ct.CTA_ZONE) + zone
    return HEADER.pack(HEADER.size + len(body), CT_DELETE, NLM_F_REQUEST, number, 0) + body
