"""The shell around `policy/behind.py` and `policy/recovery.py`: a store that knows less than gateways do decides nothing.

    gateway's word ──▶ contradiction ──▶ stored, halted, told       until that gateway says otherwise, or `recover`
    restored mark  ──▶ halted            until every gateway that the store knows has been heard, and CONFIRM_S are over

What speaks against the store stands in it, so a coordinator that was started anew is read-only before the first gateway has
called. A word that is known again takes back what the same gateway's earlier word said.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from anycast.content.envelope import Offer, decode_offer
from anycast.content.operators import Operators
from anycast.coordinator import contents as kept
from anycast.coordinator.access import Caller
from anycast.coordinator.backup import MARK, RESTORED
from anycast.coordinator.darkness import Darkness
from anycast.coordinator.refusal import Refusal
from anycast.coordinator.rollouts import Rollouts
from anycast.coordinator.store import Body, Deed, Entry, Key
from anycast.errors import DecodeError
from anycast.link_wire import ContentHad, ContentsTold, ContentWanted, Message
from anycast.policy.behind import Word, contradiction, sentence
from anycast.policy.recovery import Recovered, recover, wanted
from anycast.runtime import boottime

BEHIND, LEFT_OUT = "behind", "left_out"
"""Kinds of decisions: gateway → what it says that the store does not know; gateway → the word of it that does not count."""
CONFIRM_S = 60.0
"""After a start on a restored store: by then every agent that can has called again (docs/coordinator.md: within 48 s)."""
HAND_OVER_S = 5.0
"""For gateways to hand over what they are asked for: a megabyte of content over a management network."""
LOOK_S = 1.0
AGAIN_S = 30.0
"""Before a gateway is asked once more for a document that is missing."""
_SHOWN = 5
_log = logging.getLogger(__name__)
Write = Callable[[dict[Key, Body | None], tuple[Deed, ...]], Awaitable[None]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SaidToHave:
    """By one gateway."""

    site: str
    gateway: str
    contents: ContentsTold | None = None
    """None: it takes none, or this is about slots."""
    strangers: tuple[str, ...] | None = None
    """Slots that it holds and the ledger did not know; None: this is about contents."""


class Behind:
    """Use from the event loop's thread: `run` until cancelled; it raises where a write fails."""

    def __init__(
        self,
        kept_: Mapping[str, Mapping[str, Entry]],
        fleet: str,
        rollouts: Rollouts,
        darkness: Darkness,
        *,
        write: Write,
        send: Callable[[str, Message], bool],
        changed: Callable[[], None],
    ) -> None:
        """`kept_`: what the store has of `BEHIND`, `LEFT_OUT` and `RESTORED`."""
        self._fleet, self._rollouts, self._darkness = fleet, rollouts, darkness
        self._write, self._send, self._changed = write, send, changed
        self._against = {name: str(entry.body["why"]) for name, entry in kept_[BEHIND].items() if entry.body is not None}
        self._left_out = {name: entry.body for name, entry in kept_[LEFT_OUT].items() if entry.body is not None}
        mark = kept_[RESTORED].get(MARK)
        self._restored = None if mark is None else mark.body
        self._words: dict[str, Word] = {}
        self._heard: set[str] = set()
        """Gateways that have said in this run which contents they have; a slot that one holds may be known before."""
        self._had: dict[tuple[str, str], Offer] = {}
        self._came = asyncio.Event()
        self._asked: dict[tuple[str, str], float] = {}
        self._began = boottime()
        self._lock, self._recovering = asyncio.Lock(), asyncio.Lock()
        darkness.halt(self.read_only)

    @property
    def read_only(self) -> str:
        """Why nothing is decided, as one sentence; empty: it is."""
        if self._against:
            told = sentence(self._against)
            return f"read-only, this store is behind what gateways have: {told}; `anycast recover` takes what they have"
        if self._restored is not None:
            at = datetime.datetime.fromtimestamp(float(self._restored["of"]), datetime.UTC)
            said = f"read-only, this store was restored from a backup of {at:%Y-%m-%dT%H:%M:%SZ}"
            if waits := self._unheard():
                more = f" and {len(waits) - _SHOWN} more" if len(waits) > _SHOWN else ""
                names = f"{', '.join(waits[:_SHOWN])}{more}"
                return f"{said}, and {names} has not been heard since; `anycast recover --without` leaves one out"
            left_s = max(0.0, self._began + CONFIRM_S - boottime())
            return f"{said}; gateways have {left_s:.0f} s more to say that they know something later"
        return ""

    async def heard(self, said: Sequence[SaidToHave]) -> None:
        """What gateways say that they have, in the order in which they said it."""
        fine: dict[str, Word] = {}
        async with self._lock:
            for each in said:
                word = self._words[each.gateway] = _after(self._words.get(each.gateway, Word(site=each.site)), each)
                why = contradiction(word, self._rollouts.known())
                await self._note(each.gateway, "" if why and self._is_left_out(each.gateway, word) else why)
                if each.strangers is None:
                    self._heard.add(each.gateway)
                fine.pop(each.gateway, None)
                if not why and (each.contents is not None or word.versions):
                    fine[each.gateway] = word
        await self._rollouts.reported(fine)

    def handed_over(self, gateway: str, content: ContentHad) -> None:
        """What a gateway was asked for. Raises DecodeError."""
        if content.data is not None:
            self._had[gateway, content.hash] = decode_offer(content.data.encode())
        self._came.set()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            async with self._lock:
                await self._confirm()
            await self._complete()

    async def recover(
        self, who: Caller, reason: str, without: Collection[str], operators: Callable[[], Awaitable[Operators]]
    ) -> tuple[Recovered, tuple[str, ...]]:
        """Take what gateways have; that, and whose word it is. `without`: gateways whose word does not count; `operators`
        reads the list. Raises Refusal, and what `operators` raises, and then nothing was changed."""
        async with self._recovering:
            self._may_recover(without)
            trusted = await operators()
            await self._ask(without)
            async with self._lock:
                self._may_recover(without)
                words = {name: word for name, word in self._words.items() if name not in without}
                known, unheard = self._rollouts.known(), set(self._unheard()) - set(without)
                found = recover(known, words, self._had, trusted, self._fleet, unheard, without)
                if isinstance(found, tuple):
                    raise Refusal(found)
                await self._take(who, reason, without, found, words)
                return found, tuple(sorted(words))

    def _may_recover(self, without: Collection[str]) -> None:
        if not self.read_only:
            raise Refusal(("this store is not behind what gateways have: there is nothing to recover",))
        heard = self._heard | self._words.keys() | self._rollouts.gateways | self._against.keys()
        if strangers := sorted(set(without) - heard):
            known = ", ".join(sorted(heard))
            raise Refusal((f"there is no gateway {', '.join(strangers)} to leave out; there are {known}",))

    async def _ask(self, without: Collection[str]) -> None:
        words = {name: word for name, word in self._words.items() if name not in without}
        left = set(wanted(self._rollouts.known(), words))
        self._had = {}
        left = {(gateway, hash_) for gateway, hash_ in left if self._send(gateway, ContentWanted(hash=hash_))}
        until = boottime() + HAND_OVER_S
        while left - self._had.keys() and (wait_s := until - boottime()) > 0:
            self._came.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._came.wait()
            except TimeoutError:
                return

    async def _take(
        self, who: Caller, reason: str, without: Collection[str], found: Recovered, words: Mapping[str, Word]
    ) -> None:
        left_out = {name: _left_out_body(self._words[name], who) for name in without if name in self._words}
        writes: dict[Key, Body | None] = {(BEHIND, name): None for name in self._against}
        writes |= {(LEFT_OUT, name): body for name, body in left_out.items()}
        if self._restored is not None:
            writes[RESTORED, MARK] = None
        body = {
            "generation": found.generation,
            "contents": {hash_: each.signed_by for hash_, each in found.contents.items()},
            "from": sorted(words),
            "without": sorted(without),
        }
        deed = Deed(at=time.time(), who=who.name, action="store.recover", reason=reason, body=body)
        await self._rollouts.take_over(found, words, without, writes, deed)
        self._against, self._restored = {}, None
        self._left_out |= left_out
        self._words = {name: dataclasses.replace(word, held=()) for name, word in self._words.items()}
        self._had = {}
        self._darkness.acquainted()
        self._tell()
        # Whose word is nothing new by now, whatever was thought of it.
        known, left = self._rollouts.known(), {name: self._words[name] for name in left_out}
        await self._rollouts.reported({name: word for name, word in left.items() if not contradiction(word, known)})

    async def _note(self, gateway: str, why: str) -> None:
        """Store what speaks against the store, or that it does not any more."""
        before = self._against.get(gateway, "")
        if why == before:
            return
        body = {"gateway": gateway, "store": "behind" if why else "agrees"}
        deed = Deed(at=time.time(), who="coordinator", action="store.behind", reason=why or "it says so no more", body=body)
        # The first word and the last one are history; a thousand gateways say the same in between.
        told = (deed,) if self._against.keys() <= {gateway} else ()
        await self._write({(BEHIND, gateway): {"v": 1, "why": why} if why else None}, told)
        if why:
            _log.warning("read-only: %s %s", gateway, why)
            self._against[gateway] = why
        else:
            del self._against[gateway]
        self._tell()

    async def _confirm(self) -> None:
        """Nobody that the store knows contradicts what was restored."""
        if self._restored is None or self._against or self._unheard() or boottime() < self._began + CONFIRM_S:
            return
        deed = Deed(at=time.time(), who="coordinator", action="store.confirmed", reason="no gateway has anything later")
        await self._write({(RESTORED, MARK): None}, (deed,))
        self._restored = None
        self._tell()

    async def _complete(self) -> None:
        """Gateways that were not there when their content was recovered still have its documents."""
        for gateway, word in list(self._words.items()):
            for hash_ in self._rollouts.missing(gateway, word):
                offer = self._had.pop((gateway, hash_), None)
                if offer is not None:
                    try:
                        await self._rollouts.complete(gateway, word.site, hash_, offer.document)
                    except DecodeError as exc:
                        _log.warning("%s: %s", gateway, exc)
                elif boottime() - self._asked.get((gateway, hash_), -AGAIN_S) >= AGAIN_S:
                    self._asked[gateway, hash_] = boottime()
                    self._send(gateway, ContentWanted(hash=hash_))

    def _unheard(self) -> list[str]:
        return sorted((self._rollouts.gateways | self._against.keys()) - self._heard)

    def _is_left_out(self, gateway: str, word: Word) -> bool:
        return _said(word) == self._left_out.get(gateway, {}).get("word")

    def _tell(self) -> None:
        self._darkness.halt(self.read_only)
        self._changed()


def _after(word: Word, said: SaidToHave) -> Word:
    told = said.contents
    if told is not None:
        staged, active = kept.version_told(told.staged), kept.version_told(told.active)
        word = dataclasses.replace(word, site=said.site, staged=staged, active=active, frozen=told.frozen)
    return word if said.strangers is None else dataclasses.replace(word, held=said.strangers)


def _left_out_body(word: Word, who: Caller) -> Body:
    return {"v": 1, "word": _said(word), "by": who.name, "at": time.time()}


def _said(word: Word) -> Body:
    return {**kept.versions_body(word.site, word.active, word.staged), "frozen": word.frozen}
