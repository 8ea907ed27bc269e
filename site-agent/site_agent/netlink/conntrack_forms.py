"""What is made of a flow that the kernel told: the copy for the other gateway, its deletion, its refresh, its record.

A *copy* is an IPCTNL_MSG_CT_NEW that another kernel takes as it is:

    CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ZONE, CTA_STATUS, CTA_TIMEOUT, CTA_PROTOINFO, CTA_MARK, CTA_LABELS, CTA_NAT_*

* NAT: the kernel sets up a translation only where it is told one, and only where that changes the reply (nf_nat_setup_info).
  A raw copy has neither, so its packets leave untranslated (measured). Hence the reply of a translated flow is told as if
  nothing were translated, and CTA_NAT_SRC, CTA_NAT_DST say what the real reply shows. They come last, because the kernel
  refuses them for a flow that it has (EOPNOTSUPP): a change is the same message without its end (`update_of`).
* Timeouts: the kernel tells no refreshes, so a copy lives longer than what it is a copy of: what is left, rounded up to the
  end of its 256 seconds, so 255 s at least and never 256 s longer than the flow's own.
* TCP: state, window scale, and for both directions IP_CT_TCP_FLAG_BE_LIBERAL, because the windows that the other kernel saw
  are not told. A flow that is handed to hardware or a flowtable tells no state: it is established.
* Status: SEEN_REPLY and ASSURED; the rest is the other kernel's own to set.
* Left out: CTA_ID, CTA_USE, counters, timestamps, CTA_SECCTX and sequence adjustments: another machine's.
* Not copied at all: a flow with a helper (CTA_HELP: the expectations that make it work stay behind), one that a helper
  expected (CTA_TUPLE_MASTER), one behind a SYN proxy (its sequence offsets). Each is refused by name.

A *record* is what must be equal on both gateways: tuples, zone, NAT and status, mark, labels and TCP state. It is of one
form whatever else a kernel tells, and begins with the *key*: original tuple and zone.
"""

from __future__ import annotations

import struct

from site_agent.netlink.conntrack import (
    CT_DELETE,
    CT_NEW,
    CTA_HELP,
    CTA_LABELS,
    CTA_MARK,
    CTA_NAT_DST,
    CTA_NAT_SRC,
    CTA_PROTOINFO,
    CTA_STATUS,
    CTA_SYNPROXY,
    CTA_TIMEOUT,
    CTA_TUPLE_MASTER,
    CTA_TUPLE_ORIG,
    CTA_ZONE,
    FIRST,
    IPS_ASSURED,
    IPS_CONFIRMED,
    IPS_DST_NAT,
    IPS_EXPECTED,
    IPS_SEEN_REPLY,
    IPS_SRC_NAT,
    NLA_F_NESTED,
    NLM_F_CREATE,
    NLM_F_EXCL,
    TCP_FLAGS_ORIGINAL,
    TCP_FLAGS_REPLY,
    TCP_STATE,
    TCP_WSCALE_ORIGINAL,
    TCP_WSCALE_REPLY,
    Shape,
    Tuple,
)
from site_agent.netlink.conntrack_columns import Block, Draft, Recipe, recipe
from site_agent.netlink.messages import HEADER, NLM_F_REQUEST

LIFE_S = 255
"""What a copy lives at least, without a refresh."""
FLAGS_NEW = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL
FLAGS_CHANGED = NLM_F_REQUEST | NLM_F_CREATE
"""Of a copy that tells a change: the flow should be there."""

IPPROTO_TCP = 6
TCP_CONNTRACK_ESTABLISHED = 3
_LIBERAL = 0x08
"""IP_CT_TCP_FLAG_BE_LIBERAL."""
_CARRIED = 0x0F
"""Mask: that, WINDOW_SCALE, SACK_PERM and CLOSE_INIT."""
NAT = IPS_SRC_NAT | IPS_DST_NAT

_COPIED_STATUS = bytes(each & (IPS_SEEN_REPLY | IPS_ASSURED) | IPS_CONFIRMED for each in range(256))
_RECORDED_STATUS = bytes(each & (IPS_SEEN_REPLY | IPS_ASSURED | NAT) for each in range(256))
_MADE_LIBERAL = bytes(each & _CARRIED | _LIBERAL for each in range(256))
_AS_IT_IS = bytes(range(256))
_LIFE = struct.Struct("=HHBBBB").pack(8, CTA_TIMEOUT, 0, 0, 0, LIFE_S)


def refused_name(shape: Shape) -> str:
    """Why flows of this shape are not copied; empty for those that are, unless they are `expected` or `behind_proxy`."""
    return shape.helper if CTA_HELP in shape.attributes else ""


def expected(block: Block) -> list[bool] | None:
    """Which ones a helper of another flow expected; None where none is. An update says so in its status only."""
    at = block.shape.value(CTA_STATUS)
    if CTA_TUPLE_MASTER in block.shape.attributes:
        return [True] * len(block.messages)
    if at is None:
        return None
    found = [bool(each & IPS_EXPECTED) for each in block.column(at + 3)]
    return found if any(found) else None


def behind_proxy(block: Block) -> list[bool] | None:
    """Which ones have sequence offsets of a SYN proxy; None where none has."""
    at = block.shape.value(CTA_SYNPROXY)
    if at is None or block.shape.orig.protocol != IPPROTO_TCP:
        return None
    end = block.shape.attributes[CTA_SYNPROXY][1]
    offsets = range(at + 4, end, 8)  # three attributes of a word each
    found = [any(row) for row in zip(*(block.words(each) for each in offsets), strict=True)]
    return found if any(found) else None


def nat_of(block: Block) -> bytearray:
    """IPS_SRC_NAT and IPS_DST_NAT of each; empty where the message says nothing of it."""
    at = block.shape.value(CTA_STATUS)
    return bytearray() if at is None else block.column(at + 3).translate(bytes(each & NAT for each in range(256)))


def other_end(shape: Shape) -> tuple[int, int]:
    """Offset and width of the address that answers: translated addresses are nobody's."""
    if CTA_NAT_DST in shape.attributes:  # a copy, whose reply is told untranslated
        return shape.attributes[CTA_NAT_DST][0] + 8, shape.orig.width
    return shape.reply.source, shape.reply.width


def copies(block: Block, nat: int, flags: int) -> bytearray:
    """`nat` is the same for all of the block (`nat_of`)."""
    return recipe(block.shape, ("copy", nat, flags), lambda shape: _copy(shape, nat, flags)).apply(block)


def deletions(block: Block) -> bytearray:
    """IPCTNL_MSG_CT_DELETE. It has the reply, which the kernel ignores, so that the receiver sees both ends."""
    return recipe(block.shape, "delete", _deletion).apply(block)


def refreshes(block: Block) -> bytearray:
    """Changes of the timeout to LIFE_S, and of nothing else."""
    return recipe(block.shape, "refresh", _refresh).apply(block)


def records(block: Block) -> tuple[bytearray, int, int]:
    """All of them, the length of one, and how much of it is the key."""
    made = recipe(block.shape, "record", _record)
    return made.apply(block), len(made.template), key_length(block.shape)


def keys(block: Block) -> list[bytes]:
    """What names each flow."""
    made = recipe(block.shape, "key", lambda shape: _key(shape).recipe())
    out, size = bytes(made.apply(block)), len(made.template)
    return [out[at : at + size] for at in range(0, len(out), size)]


def key_length(shape: Shape) -> int:
    return shape.orig.end - shape.orig.start + 4


def remaining(block: Block) -> list[int]:
    """Seconds until each expires; empty where the messages do not say it."""
    at = block.shape.value(CTA_TIMEOUT)
    if at is None:
        return []
    return [int.from_bytes(each.to_bytes(4, "little"), "big") for each in block.words(at)]


def update_of(copy: bytes, sequence: int) -> bytes:
    """A copy as the change of a flow that is there: without CREATE, and without its NAT."""
    end, at = len(copy), FIRST
    while at < len(copy):
        length, type_ = struct.unpack_from("=HH", copy, at)
        if type_ & 0x3FFF in (CTA_NAT_SRC, CTA_NAT_DST):
            end = at
            break
        at += (length + 3) & ~3
    return HEADER.pack(end, CT_NEW, NLM_F_REQUEST, sequence, 0) + copy[HEADER.size : end]


def deletion_of(copy: bytes, sequence: int) -> bytes:
    """The deletion of the flow that a copy names."""
    kept, at = bytearray(copy[HEADER.size : FIRST]), FIRST
    while at < len(copy):
        length, type_ = struct.unpack_from("=HH", copy, at)
        after = at + ((length + 3) & ~3)
        if type_ & 0x3FFF in (CTA_TUPLE_ORIG, CTA_ZONE):
            kept += copy[at:after]
        at = after
    return HEADER.pack(HEADER.size + len(kept), CT_DELETE, NLM_F_REQUEST, sequence, 0) + kept


def as_new(copy: bytes, sequence: int) -> bytes:
    return HEADER.pack(len(copy), CT_NEW, FLAGS_NEW, sequence, 0) + copy[HEADER.size :]


# Recipes


def _begin(shape: Shape) -> Draft:
    return Draft(shape, bytes(HEADER.size) + shape.first[HEADER.size : HEADER.size + 1] + bytes(3))


def _end(draft: Draft, kind: int, flags: int) -> Recipe:
    draft.template[: HEADER.size] = HEADER.pack(len(draft.template), kind, flags, 0, 0)
    return draft.recipe()


def _copy(shape: Shape, nat: int, flags: int) -> Recipe:
    draft, orig, reply = _begin(shape), shape.orig, shape.reply
    draft.attribute(orig.start, orig.end)
    moved = draft.attribute(reply.start, reply.end) - reply.start
    if nat:  # the reply as if nothing were translated
        draft.put(moved + reply.source, orig.destination, orig.width)
        draft.put(moved + reply.destination, orig.source, orig.width)
        if orig.source_port:
            draft.put(moved + reply.source_port, orig.destination_port)
            draft.put(moved + reply.destination_port, orig.source_port)
        if orig.identifier:
            draft.put(moved + reply.identifier, orig.identifier)
    _carry(draft, CTA_ZONE)
    if (at := _carry(draft, CTA_STATUS)) is not None:
        draft.fix(at + 4, bytes(4))
        status = shape.value(CTA_STATUS)
        assert status is not None
        draft.put_byte(at + 7, status + 3, _COPIED_STATUS)
    if (at := _carry(draft, CTA_TIMEOUT)) is None:
        draft.constant(_LIFE)
    else:
        draft.put_byte(at + 7, shape.attributes[CTA_TIMEOUT][0] + 7, bytes([LIFE_S]) * 256)
    _protoinfo(draft, known=CTA_TIMEOUT in shape.attributes)
    _carry(draft, CTA_MARK)
    _carry(draft, CTA_LABELS)
    if nat & IPS_SRC_NAT:
        _translation(draft, CTA_NAT_SRC, reply, reply.destination, reply.destination_port)
    if nat & IPS_DST_NAT:
        _translation(draft, CTA_NAT_DST, reply, reply.source, reply.source_port)
    return _end(draft, CT_NEW, flags)


def _translation(draft: Draft, type_: int, reply: Tuple, address: int, port: int) -> None:
    """To this one address and port: CTA_NAT_V4_MINIP or CTA_NAT_V6_MINIP, CTA_PROTONAT_PORT_MIN; the maxima follow them."""
    port = port or reply.identifier
    inner = 4 + reply.width + (12 if port else 0)
    draft.constant(struct.pack("=HH", 4 + inner, type_ | NLA_F_NESTED))
    at = draft.constant(struct.pack("=HH", 4 + reply.width, 1 if reply.width == 4 else 4) + bytes(reply.width))
    draft.put(at + 4, address, reply.width)
    if port:
        at = draft.constant(struct.pack("=HHHH", 12, 3 | NLA_F_NESTED, 6, 1) + bytes(4))
        draft.put(at + 8, port)


def _protoinfo(draft: Draft, *, known: bool) -> None:
    shape, tcp = draft.shape, draft.shape.tcp
    if tcp:
        begin = draft.constant(bytes(8))
        for type_ in (TCP_STATE, TCP_WSCALE_ORIGINAL, TCP_WSCALE_REPLY):
            if type_ in tcp:
                at = draft.constant(struct.pack("=HH", 5, type_) + bytes(4))
                draft.put_byte(at + 4, tcp[type_], _AS_IT_IS)
        for type_ in (TCP_FLAGS_ORIGINAL, TCP_FLAGS_REPLY):
            at = draft.constant(struct.pack("=HHBBxx", 6, type_, _LIBERAL, _CARRIED if type_ in tcp else _LIBERAL))
            if type_ in tcp:
                draft.put_byte(at + 4, tcp[type_], _MADE_LIBERAL)
        size = len(draft.template) - begin
        heads = struct.pack("=HHHH", size, CTA_PROTOINFO | NLA_F_NESTED, size - 4, 1 | NLA_F_NESTED)
        draft.template[begin : begin + 8] = heads
    elif shape.orig.protocol == IPPROTO_TCP and not known:
        state = struct.pack("=HHBxxx", 5, TCP_STATE, TCP_CONNTRACK_ESTABLISHED)
        flags = [struct.pack("=HHBBxx", 6, each, _LIBERAL, _LIBERAL) for each in (TCP_FLAGS_ORIGINAL, TCP_FLAGS_REPLY)]
        body = b"".join([state, *flags])
        heads = struct.pack("=HHHH", len(body) + 8, CTA_PROTOINFO | NLA_F_NESTED, len(body) + 4, 1 | NLA_F_NESTED)
        draft.constant(heads + body)
    else:
        _carry(draft, CTA_PROTOINFO)


def _deletion(shape: Shape) -> Recipe:
    draft = _begin(shape)
    draft.attribute(shape.orig.start, shape.orig.end)
    draft.attribute(shape.reply.start, shape.reply.end)
    _carry(draft, CTA_ZONE)
    return _end(draft, CT_DELETE, NLM_F_REQUEST)


def _refresh(shape: Shape) -> Recipe:
    draft = _begin(shape)
    draft.attribute(shape.orig.start, shape.orig.end)
    _carry(draft, CTA_ZONE)
    draft.constant(_LIFE)
    return _end(draft, CT_NEW, NLM_F_REQUEST)


def _key(shape: Shape) -> Draft:
    draft = Draft(shape)
    draft.attribute(shape.orig.start, shape.orig.end)
    zone = draft.constant(bytes(4))
    if (at := shape.value(CTA_ZONE)) is not None:
        draft.put(zone, at)
    return draft


def _record(shape: Shape) -> Recipe:
    draft = _key(shape)
    draft.attribute(shape.reply.start, shape.reply.end)
    rest = draft.constant(bytes(8 + 16))  # status, TCP state, two unused; mark; labels
    if (at := shape.value(CTA_STATUS)) is not None:
        draft.put_byte(rest, at + 3, _RECORDED_STATUS)
    if TCP_STATE in shape.tcp:
        draft.put_byte(rest + 1, shape.tcp[TCP_STATE], _AS_IT_IS)
    elif shape.orig.protocol == IPPROTO_TCP:
        draft.fix(rest + 1, bytes([TCP_CONNTRACK_ESTABLISHED]))
    if (at := shape.value(CTA_MARK)) is not None:
        draft.put(rest + 4, at)
    if (at := shape.value(CTA_LABELS)) is not None:
        draft.put(rest + 8, at, 16)
    return draft.recipe()


def _carry(draft: Draft, attribute: int) -> int | None:
    """Add an attribute, if the message has it; where it begins now."""
    found = draft.shape.attributes.get(attribute)
    return None if found is None else draft.attribute(*found)
