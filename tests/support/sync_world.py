"""Two session cores and a network between them that cuts, delays and splits; and one core spoken to by hand."""

from __future__ import annotations

import collections
from collections.abc import Iterable

from anycast.timer import TimerExpired
from site_agent.sync import wire
from site_agent.sync.kinds import Kind, Lane
from site_agent.sync.session import Session
from site_agent.sync.versions import Versions
from site_agent.sync.words import (
    Action,
    Cause,
    Compared,
    Deliver,
    Dial,
    DialFailed,
    Down,
    Drained,
    Dropped,
    End,
    Input,
    LinkEnded,
    LinkUp,
    Received,
    Submit,
    Up,
    WorkedOff,
    Write,
)

VERSIONS = Versions(agent="0.1.0", charon="5.9.8", ha=5, generation=0, content="c0ffee")
WINDOWS = (300_000, 400_000)
QUEUES = (1_000, 4_000)


class Side:
    """One core, and everything that it did."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.said: list[Action] = []
        self.sent: dict[str, dict[Lane, list[bytes]]] = collections.defaultdict(lambda: {lane: [] for lane in Lane})
        self.got: dict[str, dict[Lane, list[bytes]]] = collections.defaultdict(lambda: {lane: [] for lane in Lane})
        self.unworked: collections.deque[WorkedOff] = collections.deque()

    def ups(self) -> list[Up]:
        return [action for action in self.said if isinstance(action, Up)]

    def downs(self) -> list[Down]:
        return [action for action in self.said if isinstance(action, Down)]

    def ends(self) -> list[End]:
        return [action for action in self.said if isinstance(action, End)]

    def handle(self, event: Input, now: float) -> list[Action]:
        actions = self.session.handle(event, now)
        self.said += actions
        if isinstance(event, Submit) and not any(isinstance(action, Dropped) for action in actions):
            self.sent[self.session.name][event.kind.lane].append(event.payload)
        for action in actions:
            if isinstance(action, Deliver):
                self.got[self.session.name][action.kind.lane].append(action.payload)
                self.unworked.append(WorkedOff(action.kind.lane, action.epoch))
        return actions


class World:
    """`a` dials, `b` is called. Bytes wait until somebody moves them."""

    def __init__(self, *, newest: tuple[int, int] = (1, 1), oldest: tuple[int, int] = (1, 1)) -> None:
        self.now = 100.0
        self.newest, self.oldest = newest, oldest
        self.sides = [self.made(0, "a"), self.made(1, "b")]
        self.links = 0
        self.wires: dict[int, list[collections.deque[bytes | None]]] = {}
        """Per link: what is on its way to a, and to b. None: its sender has closed."""

    def made(self, which: int, instance: str) -> Side:
        session = Session(
            instance=instance, dials=which == 0, versions=VERSIONS, now=self.now, windows=WINDOWS, queues=QUEUES,
            newest=self.newest[which], oldest=self.oldest[which],
        )  # fmt: skip
        return Side(session)

    def give(self, which: int, event: Input) -> None:
        for action in self.sides[which].handle(event, self.now):
            match action:
                case Dial():
                    self.links += 1
                    self.wires[self.links] = [collections.deque(), collections.deque()]
                    self.give(0, LinkUp(self.links, True))
                    self.give(1, LinkUp(self.links, False))
                case Write(link, data) if link in self.wires:
                    self.wires[link][1 - which].append(data)
                    self.give(which, Drained(link))
                case End(link) if link in self.wires:
                    self.wires[link][1 - which].append(None)
                case _:
                    pass

    def move(self, link: int, which: int, cut_at: int = 0) -> None:
        """One piece of a link to one side, or the first bytes of it."""
        waiting = self.wires[link][which]
        if not waiting:
            return
        piece = waiting.popleft()
        if piece is None:
            self.give(which, LinkEnded(link))
        elif 0 < cut_at < len(piece):
            waiting.appendleft(piece[cut_at:])
            self.give(which, Received(link, piece[:cut_at]))
        else:
            self.give(which, Received(link, piece))

    def break_link(self, link: int) -> None:
        if self.wires.pop(link, None) is not None:
            for which in (0, 1):
                self.give(which, LinkEnded(link))

    def work_off(self, which: int) -> None:
        side = self.sides[which]
        if side.unworked:
            self.give(which, side.unworked.popleft())

    def pass_time(self, seconds: float) -> None:
        """With every timer in its turn, and everything moved in between."""
        end = self.now + seconds
        while True:
            deadlines = [(side.session.deadline, which) for which, side in enumerate(self.sides)]
            moment, which = min(((d, w) for d, w in deadlines if d is not None), default=(end + 1, 0))
            if moment > end:
                self.now = end
                return
            self.now = max(self.now, moment)
            self.give(which, TimerExpired())
            self.settle()

    def settle(self) -> None:
        """Move and work off everything."""
        while any(queue for wire_ in self.wires.values() for queue in wire_) or any(s.unworked for s in self.sides):
            for link in list(self.wires):
                for which in (0, 1):
                    while link in self.wires and self.wires[link][which]:
                        self.move(link, which)
            for which in (0, 1):
                while self.sides[which].unworked:
                    self.work_off(which)

    def violations(self) -> list[End]:
        return [end for side in self.sides for end in side.ends() if end.cause is Cause.VIOLATION]


class ByHand:
    """One core that is called; the test is its peer and says whatever it likes."""

    def __init__(self, **more: object) -> None:
        self.now = 100.0
        values: dict[str, object] = {"windows": WINDOWS, "queues": QUEUES} | more
        self.side = Side(Session(instance="own", dials=False, versions=VERSIONS, now=self.now, **values))  # type: ignore[arg-type]
        self.links = 0

    def call(self) -> list[Action]:
        self.links += 1
        return self.side.handle(LinkUp(self.links, False), self.now)

    def say(self, *pieces: bytes) -> list[Action]:
        actions: list[Action] = []
        for piece in pieces:
            actions += self.side.handle(Received(self.links, piece), self.now)
        return actions

    def greet(self, offer: str = "peer.1", session: str = "", **more: object) -> list[Action]:
        """A whole greeting of a peer that remembers nothing."""
        return self.call() + self.say(hello(offer, session, **more), wire.encode_resume(((0, 0), (0, 0))))


def hello(offer: str = "peer.1", session: str = "", **more: object) -> bytes:
    values: dict[str, object] = {"newest": 1, "oldest": 1, "windows": WINDOWS, "versions": VERSIONS} | more
    return wire.encode_hello(wire.Hello(offer=offer, session=session, **values))  # type: ignore[arg-type]


def message(number: int, payload: bytes = b"x", kind: Kind = Kind.HA) -> bytes:
    return wire.Frame(wire.Type.MESSAGE, kind.number, number, payload).encode()


def frames(actions: Iterable[Action]) -> list[wire.Frame]:
    """What was written."""
    reader, found = wire.Reader(), []
    for action in actions:
        if isinstance(action, Write):
            reader.receive_data(action.data)
            found += list(reader.frames())
    return found


def compared(actions: Iterable[Action]) -> list[Compared]:
    return [action for action in actions if isinstance(action, Compared)]


__all__ = ["VERSIONS", "ByHand", "DialFailed", "Side", "World", "compared", "frames", "hello", "message"]
