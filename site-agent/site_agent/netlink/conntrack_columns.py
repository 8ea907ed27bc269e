"""Many connection tracking messages of one shape, moved a column at a time.

A *recipe* says how a message of a shape becomes other bytes: a template, and words and bytes that are put into it. It is
applied to any number of messages in one go; what it costs is a few tens of nanoseconds a message and word, in C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, overload

from site_agent.netlink.conntrack import FIRST, MOST_SHAPES, Gathered, Shape, shape_of

Word = int | tuple[int, ...]
"""An address: a word in the machine's order, or four."""


class Block(NamedTuple):
    """Messages of one shape."""

    shape: Shape
    indices: Sequence[int]
    """Which ones of the buffer they are."""
    messages: Sequence[bytes]
    joined: bytearray

    def column(self, offset: int) -> bytearray:
        """A byte of each."""
        return self.joined[offset :: self.shape.length]

    def words(self, offset: int) -> list[int]:
        """A word of each, in the machine's order."""
        return memoryview(self.joined).cast("I")[offset // 4 :: self.shape.length // 4].tolist()

    def addresses(self, offset: int, width: int) -> Sequence[Word]:
        """An address of each: a word, or four."""
        if width == 4:
            return self.words(offset)
        return list(zip(*(self.words(offset + each) for each in range(0, width, 4)), strict=True))

    def select(self, wanted: list[bool]) -> Block:
        """Those that are wanted."""
        messages = [message for message, keep in zip(self.messages, wanted, strict=True) if keep]
        indices = [index for index, keep in zip(self.indices, wanted, strict=True) if keep]
        return Block(self.shape, indices, messages, bytearray().join(messages))


class Cut(Sequence[bytes]):
    """A buffer's messages of one length, cut out when somebody wants one."""

    def __init__(self, buffer: bytes, length: int) -> None:
        self._buffer, self._length = buffer, length

    def __len__(self) -> int:
        return len(self._buffer) // self._length

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        return self._buffer[at * self._length : (at + 1) * self._length]


class Recipe(NamedTuple):
    template: bytes
    words: list[tuple[int, int]]
    """From offset in the message, to offset in the template; multiples of four."""
    bytes_: list[tuple[int, int, bytes]]
    """From, to, through a table of 256 bytes; after the words."""

    def apply(self, block: Block) -> bytearray:
        """One result a message, each as long as the template."""
        length, size, count = block.shape.length, len(self.template), len(block.messages)
        out = bytearray(self.template) * count
        if count == 1:
            for source, target in self.words:
                out[target : target + 4] = block.joined[source : source + 4]
            for source, target, table in self.bytes_:
                out[target] = table[block.joined[source]]
            return out
        given, made = memoryview(block.joined).cast("I"), memoryview(out).cast("I")
        step, stride = length // 4, size // 4
        for source, target in self.words:
            made[target >> 2 :: stride] = given[source >> 2 :: step]
        for source, target, table in self.bytes_:
            out[target::size] = block.joined[source::length].translate(table)
        return out


class Draft:
    """A recipe in the making: what is added goes to the end."""

    def __init__(self, shape: Shape, template: bytes = b"") -> None:
        self.shape = shape
        self.template = bytearray(template)
        self._values = set(shape.values)
        self._words: dict[int, int] = {}
        """Source by target: what is put last counts."""
        self._bytes: list[tuple[int, int, bytes]] = []

    def attribute(self, start: int, end: int) -> int:
        """Add this part of the message, values and all; returns where it begins now."""
        at = len(self.template)
        self.template += self.shape.first[start:end]
        for source in range(start, end, 4):
            if source in self._values:
                self._words[at + source - start] = source
        return at

    def constant(self, data: bytes) -> int:
        at = len(self.template)
        self.template += data
        return at

    def put(self, target: int, source: int, width: int = 4) -> None:
        """Have the message's value at `source` at `target`."""
        for each in range(0, width, 4):
            self._words[target + each] = source + each

    def put_byte(self, target: int, source: int, table: bytes) -> None:
        self._bytes.append((source, target, table))

    def fix(self, target: int, data: bytes) -> None:
        """The same in all, instead of the word that would stand there."""
        self._words.pop(target & ~3, None)
        self.template[target : target + len(data)] = data

    def recipe(self) -> Recipe:
        return Recipe(bytes(self.template), [(source, target) for target, source in self._words.items()], self._bytes)


def recipe(shape: Shape, name: object, make: Callable[[Shape], Recipe]) -> Recipe:
    """The shape's recipe of that name, made once."""
    found = shape.recipes.get(name)
    if found is None:
        found = shape.recipes[name] = make(shape)
    assert isinstance(found, Recipe)
    return found


class Shapes:
    """The shapes met so far."""

    def __init__(self) -> None:
        self._known: dict[bytes, list[Shape]] = {}
        self._count = 0

    def uniform(self, buffer: bytes) -> Block | None:
        """The whole buffer as one block, where it is one of a known shape; no message is looked at by itself."""
        length = int.from_bytes(buffer[:4], "little")
        if length < FIRST or len(buffer) % length:
            return None
        count = len(buffer) // length
        for shape in self._known.get(buffer[:8], ()):
            if _fits(shape, buffer, count):
                return Block(shape, range(count), Cut(buffer, length), bytearray(buffer))
        return None

    def blocks(self, gathered: Gathered) -> Iterator[Block]:
        """The messages by shape. Raises DecodeError where one is no flow's."""
        for head, (_, indices, messages) in gathered.groups.items():
            joined = bytearray().join(messages)
            for shape in self._known.get(head, ()):
                if _fits(shape, joined, len(messages)):
                    yield Block(shape, indices, messages, joined)
                    break
            else:
                yield from self._mixed(head, indices, messages)

    def _mixed(self, head: bytes, indices: list[int], messages: list[bytes]) -> Iterator[Block]:
        """Several shapes of one length, or a new one: one by one."""
        parts: dict[int, tuple[Shape, list[int], list[bytes]]] = {}
        for index, message in zip(indices, messages, strict=True):
            shape = next((each for each in self._known.get(head, ()) if _fits(each, message, 1)), None)
            if shape is None:
                shape = shape_of(message)
                if self._count >= MOST_SHAPES:
                    self._known.clear()
                    self._count = 0
                self._known.setdefault(head, []).append(shape)
                self._count += 1
            part = parts.setdefault(id(shape), (shape, [], []))
            part[1].append(index)
            part[2].append(message)
        for shape, mine, found in parts.values():
            yield Block(shape, mine, found, bytearray().join(found))


def _fits(shape: Shape, joined: bytes | bytearray, count: int) -> bool:
    """Are these messages the shape's own, but for the values?"""
    if count == 1:
        expected = bytearray(shape.first)
        for at in shape.values:
            expected[at : at + 4] = joined[at : at + 4]
        return expected == joined
    expected = bytearray(shape.first) * count
    given, made = memoryview(joined).cast("I"), memoryview(expected).cast("I")
    step = shape.length // 4
    for at in shape.values:
        made[at >> 2 :: step] = given[at >> 2 :: step]
    return expected == joined
