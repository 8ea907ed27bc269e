"""What crosses between a gateway's agent and the coordinator, over TLS on the management network: one JSON object a frame,
behind its length (4 bytes, big endian). Version 1. Pure.

    agent ──▶ coordinator    hello    once, first: who it is and what it speaks
                             report   at each heartbeat, and at once when something changed
                             events   records of its event log, one batch for each `events_kept`
    coordinator ──▶ agent    welcome  once, first: the protocol that is spoken, and the heartbeat
                             ack      the last report that was worked off
                             events_kept   up to where its records are stored: what follows is wanted
                             offer, activation   what `anycast/content/envelope.py` makes, unread
                             offer_packed        an offer to an agent that takes it so (`anycast/link_offer.py`)
                             content_wanted      hand over a content that you said you have
    agent ──▶ coordinator    content_had         the answer; an agent of before this message says nothing
    both ways                darkness   what `anycast/token_wire.py` makes, unread

Who the other end is, is said by its certificate alone; what a hello claims must agree with it. Unknown optional fields are
ignored, unknown kinds too; unknown names in `requires` are refused, so N and N-1 work together. Nothing here is believed
for the coordinator's sake: a content counts by its operator's signature.
"""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from typing import Annotated, Any, Literal

import pydantic

from anycast.errors import BugError, DecodeError
from anycast.event_wire import LAST_SEQ, LONGEST_RECORD, MOST_RECORDS

ALPN = "anycast-link"
PORT = 4518
"""TCP, the coordinator's, on the management network. Nobody's by registration."""
NEWEST = 1
OLDEST = 1
"""Protocols that this version speaks. At the next one: 2 and 1."""
LONGEST_FRAME = 256 * 1024
"""Bytes of JSON that an agent says at once, but for a content that it was asked for."""
LONGEST_OFFER = 16 << 20
"""Bytes of JSON with a content in it: it names every gateway of the fleet, 2,000 of them in 1 MB."""
HEAD = 64
"""Bytes of a frame in which its kind stands: every version of ours says it first."""
HEARTBEAT_S = 2.0
FRESH_S = 3 * HEARTBEAT_S
"""What was heard longer ago is not known any more: two reports may be lost."""
MOST_LEASED = 2**53
"""What every JSON reader keeps exact. An IPv6 pool has more addresses; nobody has so many clients."""
KNOWN_REQUIREMENTS: frozenset[str] = frozenset()

_KIND = re.compile(rb'\s{0,4}\{\s{0,4}"kind"\s{0,4}:\s{0,4}"([a-z0-9_]{1,32})"')
_LENGTH = struct.Struct(">I")
Word = Annotated[str, pydantic.StringConstraints(max_length=128)]
PoolTold = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f.:/]{1,43}$")]
"""Letters of a prefix; whether it is one, is for the reader to see."""
Words = Annotated[str, pydantic.StringConstraints(max_length=512)]


class _Message(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")


class Hello(_Message):
    kind: Literal["hello"] = "hello"
    protocols: Annotated[tuple[int, ...], pydantic.Field(max_length=16)]
    requires: Annotated[tuple[Word, ...], pydantic.Field(max_length=16)] = ()
    fleet: Word
    site: Word
    gateway: Word
    agent: Word
    """Version of ours, for people."""
    instance: Word
    """Of the agent's process: another one has another."""
    boot: Word
    """/proc/sys/kernel/random/boot_id."""
    takes: Annotated[tuple[Word, ...], pydantic.Field(max_length=16)] = ()
    """Kinds that came after protocol 1 and that it understands."""


class Welcome(_Message):
    kind: Literal["welcome"] = "welcome"
    protocol: int
    instance: Word
    """Of the coordinator's process."""
    epoch: int
    """Of the leadership that it decides under (`coordinator/store.py`); it grows."""
    heartbeat_s: Annotated[float, pydantic.Field(gt=0, le=60)]


class CauseTold(_Message):
    reason: Word
    check: Word = ""
    detail: Words = ""


class HoldTold(_Message):
    kind: Literal["withdraw", "announce"]
    reason: Words
    left_s: float


class VersionTold(_Message):
    """A content that an agent has."""

    generation: Annotated[int, pydantic.Field(ge=0)]
    hash: Word


class ContentsTold(_Message):
    """What an agent has of contents, and what it thinks of the last thing that it was sent."""

    staged: VersionTold | None = None
    active: VersionTold | None = None
    frozen: int | None = None
    """The generation that two contents came under."""
    refused: Words = ""
    """The last refusal, its word first; empty where the last thing that came was taken."""


class Report(_Message):
    """What a gateway is and does now; the whole of it each time, so that a lost one costs nothing."""

    kind: Literal["report"] = "report"
    number: Annotated[int, pydantic.Field(ge=0)]
    """Grows with each of one connection."""
    document: Word
    """Hash of the document that it runs by."""
    generation: Annotated[int, pydantic.Field(ge=0)]
    """0: standalone."""
    serving: bool
    """The site's verdict as this gateway reaches it."""
    announced: Annotated[int, pydantic.Field(ge=0)]
    """Routes that the upstreams were given and that stand."""
    routes: Annotated[int, pydantic.Field(ge=0)]
    """Routes that it would announce while serving."""
    causes: Annotated[tuple[CauseTold, ...], pydantic.Field(max_length=16)] = ()
    """Why it does not announce."""
    role: Literal["active", "backup", "none"]
    """In the site's virtual router; `none` where there is none."""
    hold: HoldTold | None = None
    tunnels: Annotated[int, pydantic.Field(ge=0)] | None = None
    """Established IKE_SAs of clients; None where that is not known."""
    contents: ContentsTold | None = None
    """None: it takes none (standalone)."""
    decrypted: Annotated[int, pydantic.Field(ge=0)] | None = None
    """Packets of clients' SAs since the agent began; None where that is not known."""
    encrypted: Annotated[int, pydantic.Field(ge=0)] | None = None
    established: Annotated[int, pydantic.Field(ge=0)] | None = None
    """Pairs of SAs newly made with clients since the agent began, rekeys among them; None: not known, or an older agent."""
    leased: Annotated[
        dict[PoolTold, Annotated[int, pydantic.Field(ge=0, le=MOST_LEASED)]], pydantic.Field(max_length=64)
    ] | None = None
    """Inner addresses in use, by the pool's prefix; None where that is not known, and of an agent of before this field."""
    own: Annotated[tuple[PoolTold, ...], pydantic.Field(max_length=64)] | None = None
    """Prefixes of the site's own that a neighbor was given and that stand (`Neighbor.unicast`, pools inside); None: of an
    agent of before this field."""
    shared: Annotated[dict[Word, Word], pydantic.Field(max_length=64)] = pydantic.Field(default_factory=dict)
    """Status of each check of class `shared`, by its name: passing, failing, unknown."""
    alarms: Annotated[dict[Word, Words], pydantic.Field(max_length=64)] = pydantic.Field(default_factory=dict)
    """Detail by reason."""


class Ack(_Message):
    kind: Literal["ack"] = "ack"
    number: int
    seen: Word = "unknown"
    """What observers outside say of the site's route now: seen, not_seen, unknown. Of a coordinator without: unknown."""


class OfferSent(_Message):
    kind: Literal["offer"] = "offer"
    data: str
    """`Offer.data`."""


class OfferPacked(_Message):
    kind: Literal["offer_packed"] = "offer_packed"
    envelope: str
    """Base64 of zlib of the envelope's canonical text."""
    document: str


@dataclasses.dataclass(frozen=True, slots=True)
class OfferUnread:
    """At an agent: an offer or packed offer of more than `LONGEST_FRAME`, for a process of its own to read
    (`link_offer.unframed`)."""

    frame: bytes
    """Without its length."""


class ActivationSent(_Message):
    kind: Literal["activation"] = "activation"
    data: str
    """`Activation.data`."""


class ContentWanted(_Message):
    """Of a coordinator whose store does not have what this agent said it has (`anycast recover`)."""

    kind: Literal["content_wanted"] = "content_wanted"
    hash: Word


class ContentHad(_Message):
    kind: Literal["content_had"] = "content_had"
    hash: Word
    data: Annotated[str, pydantic.StringConstraints(max_length=LONGEST_OFFER)] | None = None
    """`Offer.data`, with this agent's own document; None: it has no such content any more."""


class DarknessTold(_Message):
    kind: Literal["darkness"] = "darkness"
    data: Annotated[str, pydantic.StringConstraints(max_length=64 * 1024)]


class EventsKept(_Message):
    """Everything of the gateway's event log up to this record is stored; one batch of what follows may be sent. A set and no
    delta: said first over each connection, and again after each batch. A coordinator that keeps no events never says it."""

    kind: Literal["events_kept"] = "events_kept"
    stream: Word
    """Of the record (`event_wire.py`); empty: nothing is stored."""
    seq: Annotated[int, pydantic.Field(ge=0, le=LAST_SEQ)]


class EventsTold(_Message):
    """The records that follow, oldest first, each as the line of the log that it is."""

    kind: Literal["events"] = "events"
    records: Annotated[
        tuple[Annotated[str, pydantic.StringConstraints(max_length=LONGEST_RECORD)], ...],
        pydantic.Field(min_length=1, max_length=MOST_RECORDS),
    ]


Message = (
    Hello
    | Welcome
    | Report
    | Ack
    | OfferSent
    | OfferPacked
    | ActivationSent
    | ContentWanted
    | ContentHad
    | DarknessTold
    | EventsKept
    | EventsTold
)
_KINDS: dict[str, type[Message]] = {
    "hello": Hello,
    "welcome": Welcome,
    "report": Report,
    "ack": Ack,
    "offer": OfferSent,
    "offer_packed": OfferPacked,
    "activation": ActivationSent,
    "content_wanted": ContentWanted,
    "content_had": ContentHad,
    "darkness": DarknessTold,
    "events_kept": EventsKept,
    "events": EventsTold,
}


def encode(message: Message) -> bytes:
    """The whole frame. What the models allow fits: 80 texts of 2 KiB are the most of it."""
    long = isinstance(message, OfferSent | ContentHad)
    return framed(message.model_dump_json().encode(), LONGEST_OFFER if long else LONGEST_FRAME)


def framed(body: bytes, longest: int = LONGEST_OFFER) -> bytes:
    """JSON that is spelt already, behind its length."""
    if len(body) > longest:
        raise BugError(f"a frame of {len(body)} bytes")
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Message | None:
    """A frame without its length. None where this version does not know the kind. Raises DecodeError."""
    try:
        raw: Any = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise DecodeError("frame", 0, "not JSON") from exc
    if not isinstance(raw, dict) or not isinstance(kind := raw.get("kind"), str):
        raise DecodeError("frame", 0, "not an object with a kind")
    model = _KINDS.get(kind)
    if model is None:
        return None
    try:
        return model.model_validate(raw)
    except pydantic.ValidationError as exc:
        first = exc.errors()[0]
        raise DecodeError(".".join(map(str, first["loc"])) or kind, 0, first["msg"]) from exc


def is_long_offer(head: bytes) -> bool:
    """Of a frame beyond `LONGEST_FRAME` that came to an agent, by its first `HEAD` bytes: whether it is an offer; else it is
    of a kind that this version does not know. Raises DecodeError for what is never so long."""
    found = _KIND.match(head)
    if found is None:
        raise DecodeError("frame", 0, f"has more than {LONGEST_FRAME >> 10} KiB and does not begin with its kind")
    kind = found[1].decode()
    if kind in _KINDS and _KINDS[kind] not in (OfferSent, OfferPacked):
        raise DecodeError(kind, 0, f"has more than {LONGEST_FRAME >> 10} KiB")
    return kind in _KINDS


def length(head: bytes, longest: int = LONGEST_FRAME) -> int:
    """How many bytes follow these four. Raises DecodeError where no frame is so long."""
    (found,) = _LENGTH.unpack(head)
    if not 2 <= found <= longest:
        raise DecodeError("length", 0, f"{found} bytes")
    return int(found)


def protocol_of(hello: Hello) -> int:
    """The newest protocol that both speak. Raises DecodeError where there is none, or what is required is not known."""
    if unknown := sorted(set(hello.requires) - KNOWN_REQUIREMENTS):
        raise DecodeError("requires", 0, f"{', '.join(unknown)} is unknown to this version")
    common = [each for each in hello.protocols if OLDEST <= each <= NEWEST]
    if not common:
        raise DecodeError("protocols", 0, f"speaks {list(hello.protocols)}, and this version {OLDEST} to {NEWEST}")
    return max(common)
