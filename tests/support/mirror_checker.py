"""What must hold of a mirror, whatever happens: judged from what charon said, what it was handed and what was told.

Each finding is an exception of its own, so that a test can say which invariant found a broken rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from site_agent.netlink.xfrm_keys import SaKey

CARRIED = range(1, 8)
"""IKE_ADD to CHILD_DELETE (ha_message.h); 8 to 11 are DROP, TAKE, STATUS and RESYNC."""


class HandedToAnActive(AssertionError):
    """(a) a charon that serves, or is about to, was handed a message."""


class Disorder(AssertionError):
    """(b) twice, out of order, or with a hole that nobody told of, or with a gap told that is none."""


class Stale(AssertionError):
    """(b) carried after its gateway's time as Active was over, and handed to one that has served since it was said."""


class NotHanded(AssertionError):
    """(c) all is quiet, and something is still to be carried or acknowledged."""


class NeverCarried(AssertionError):
    """(d) of a type that is never carried, or said by a Backup."""


class WrongSteps(AssertionError):
    """(e) the gate was open when charon was told to serve, two steps at once, or the role is not what was asked for."""


class NotRefused(AssertionError):
    """(f) the Backup's kernel would accept what the Active accepted."""


class RefusedTooMuch(AssertionError):
    """(f) a number is refused that nobody reported, or by a kernel that receives."""


class Said(NamedTuple):
    """A datagram of charon's."""

    serial: int
    by: int
    kind: int


@dataclasses.dataclass
class _Read:
    """What became of one when the process read it."""

    life: int
    order: int
    """Among what this process had to carry, from 1."""
    tenure: int
    late: bool = False
    """It was carried when that time as Active was over."""


@dataclasses.dataclass
class _Side:
    life: int = 0
    active: bool = False
    """charon."""
    open: bool = False
    tenures: int = 0
    tenant: bool = False
    served_at: int = -1
    """The last serial that was said by anybody while this charon served."""
    taken: int = 0
    last: _Read | None = None
    """What this life of the process has handed to charon last."""
    missing: int = 0
    """Told since then."""
    settled: bool | None = None


class Checker:
    def __init__(self) -> None:
        self._sides = (_Side(), _Side())
        self._read: dict[int, _Read] = {}
        self._now = 0
        self._reports: dict[bytes, set[int]] = {}
        self.handed_over = self.gaps = 0
        """To see that something was tried."""

    def started(self, rank: int, life: int) -> None:
        """A process; its memory is empty, and it is not open."""
        side = self._sides[rank]
        side.life, side.open, side.taken, side.last, side.missing = life, False, 0, None, 0
        side.tenures, side.tenant, side.settled = side.tenures + side.tenant, False, None

    # (a), (e)

    def segment(self, rank: int, active: bool) -> None:
        self._sides[rank].active = active

    def gate(self, rank: int, is_open: bool) -> None:
        self._sides[rank].open = is_open

    def activates(self, rank: int) -> None:
        if self._sides[rank].open:
            raise WrongSteps("charon is told to serve while the peer's messages reach it")

    def began(self, rank: int, alone: bool) -> None:
        self._sides[rank].settled = None
        if not alone:
            raise WrongSteps("two steps at once")

    def settled(self, rank: int, active: bool, role: bool | None) -> None:
        side = self._sides[rank]
        side.settled = active
        if active != role:
            raise WrongSteps("settled for another role")
        if side.open == active:
            raise WrongSteps("settled, and the gate is not where it belongs")

    def at_rest(self, rank: int, role: bool | None, settled: bool, waiting: int, kept: dict[int, Said]) -> None:
        """All is quiet."""
        side = self._sides[rank]
        if not settled or side.settled != role or side.active != role or side.open == role:
            raise WrongSteps(f"the role is {role}: {side}")
        if waiting or kept:
            raise NotHanded(f"{waiting} messages are not acknowledged, bytes of {len(kept)} are kept")

    # (b), (c), (d)

    def said(self, said: Said, active: bool) -> None:
        self._now = said.serial
        for side in self._sides:
            if side.active:
                side.served_at = self._now

    def tenure(self, rank: int, active: bool) -> None:
        side = self._sides[rank]
        side.tenures += active and not side.tenant
        side.tenant = active

    def read(self, said: Said, as_active: bool) -> None:
        side = self._sides[said.by]
        if as_active and said.kind in CARRIED:
            side.taken += 1
            self._read[said.serial] = _Read(side.life, side.taken, side.tenures)

    def carried(self, said: Said | None) -> None:
        """Also again. None: the bytes are forgotten already."""
        if said is None:
            raise NotHanded("nothing is left of what is to be carried")
        if said.kind not in CARRIED or said.serial not in self._read:
            raise NeverCarried(str(said))
        sender, read = self._sides[said.by], self._read[said.serial]
        read.late |= not sender.tenant or read.tenure != sender.tenures

    def gap(self, rank: int, missing: int) -> None:
        self.gaps += 1
        self._sides[rank].missing += missing
        if missing < 1:
            raise Disorder(f"a gap of {missing}")

    def handed(self, rank: int, said: Said) -> None:
        side = self._sides[rank]
        if side.active or not side.open:
            raise HandedToAnActive(str(said))
        if said.kind not in CARRIED or said.serial not in self._read:
            raise NeverCarried(str(said))
        if said.by == rank:
            raise Disorder(f"{said} is its own")
        read, last = self._read[said.serial], side.last
        same = last is not None and last.life == read.life
        if last is not None and read.life < last.life:
            raise Disorder(f"{said} is of a life that is over")
        holes = read.order - (last.order if last is not None and same else 0) - 1
        if holes < 0:
            raise Disorder(f"{said}: twice, or out of order")
        if side.missing < holes or (same and side.missing > holes):
            raise Disorder(f"{said}: {holes} are missing, {side.missing} were told")
        if read.late and side.served_at > said.serial:
            raise Stale(str(said))
        side.last, side.missing = read, 0
        self.handed_over += 1

    def all_handed(self, active: int) -> None:
        """The Active has said something, and all was quiet after that."""
        sender, side = self._sides[active], self._sides[1 - active]
        last = side.last
        if last is None or (last.life, last.order) != (sender.life, sender.taken) or side.missing:
            raise NotHanded(f"{sender.taken} were said, the last that arrived is {last}")

    # (f)

    def reported(self, key: bytes, seq: int) -> None:
        """Some kernel has come so far."""
        self._reports.setdefault(key, set()).add(seq)

    def refuses(self, receives: bool, key: bytes, seq: int) -> None:
        if receives:
            raise RefusedTooMuch("into the kernel of an Active")
        if seq not in self._reports.get(key, ()):
            raise RefusedTooMuch(f"{seq}, which no kernel reported")

    def refused_everywhere(self, active: Mapping[SaKey, int], backup: Mapping[SaKey, int]) -> None:
        """All is quiet: of the SAs that both have."""
        for key, seq in active.items():
            if backup[key] < seq:
                raise NotRefused(f"{key.hex()}: {backup[key]}, and the Active is at {seq}")
