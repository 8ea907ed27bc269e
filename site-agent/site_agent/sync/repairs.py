"""Which tunnels the Active has rekeyed so that the `ha` plugin tells the Backup of them anew: a budget and an end. Pure.

A rekey is the only repair: it costs the client one exchange and makes keys, SAs, policies and charon's own state on both
gateways as if the tunnel were new. It is asked for

* at most `budget` times in any second, IKE_SAs before CHILD_SAs: a CHILD_SA's message is refused without its IKE_SA. After
  an IKE_SA's repair its CHILD_SAs follow, because the Backup has them under the old one, or not at all;
* of one SA once. A request that changed nothing is repeated after ASK_AGAIN_S (charon repeats it by itself before), one
  that brought a new SA which differs again after SETTLE_S, each time twice as long;
* MAX_TRIES times of one tunnel (a reqid, over all its rekeys) within FORGET_S. Then it is given up, by name: a client that
  refuses a gateway's rekey, or a Backup on which it does not stand. So a Backup that lies costs each client MAX_TRIES
  exchanges an hour.

Given sets, not changes: what the last complete round has found is what is wanted.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from site_agent.ike.mirror_view import IKE_NAME_BYTES, Tunnel
from site_agent.sync.digest_compare import Cause

ASK_AGAIN_S = 60.0
"""A client that refuses (TEMPORARY_FAILURE, RFC 7296 section 2.25) is asked again by charon itself within 15 s."""
SETTLE_S = 15.0
MAX_TRIES = 3
FORGET_S = 3600.0

Line = tuple[str, bytes]
"""What stays over rekeys: of a CHILD_SA its reqid, of an IKE_SA that of its first CHILD_SA."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """One SA that is to be rekeyed."""

    line: Line
    ike_id: str
    tunnel: Tunnel | None
    """None: the IKE_SA itself."""
    name: str
    now: tuple[bytes, ...]
    """What it is called by SPIs: another one after a rekey."""
    cause: Cause
    children: tuple[Tunnel, ...] = ()
    """Of an IKE_SA."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """VICI `rekey` by `child_id`, or by `ike_id` where that is empty."""

    ike_id: str
    child_id: str
    name: str
    cause: Cause


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GaveUp:
    """Said once. The tunnel stays unprotected until it changes by itself."""

    name: str
    cause: Cause
    refused: bool
    """Its client takes no rekey from a gateway; else it was rekeyed, and still differs."""


@dataclasses.dataclass(slots=True)
class _History:
    tries: int
    not_before: float
    last: float
    asked: tuple[bytes, ...]
    given_up: bool = False


class Repairs:
    """See the module. `budget`: rekeys a second, at least 1."""

    def __init__(self, budget: int) -> None:
        self._recent: collections.deque[float] = collections.deque(maxlen=max(budget, 1))
        self._wanted: dict[Line, Want] = {}
        self._histories: dict[Line, _History] = {}
        self._following: dict[Line, tuple[bytes, ...]] = {}
        """CHILD_SAs whose IKE_SA was rekeyed, as they were then."""

    @property
    def waiting(self) -> int:
        """SAs that differ and are not given up."""
        return sum(not self._is_given_up(line) for line in self._wanted)

    @property
    def given_up(self) -> int:
        """SAs that differ and are."""
        return len(self._wanted) - self.waiting

    @property
    def deadline(self) -> float | None:
        """When the next one may be asked for."""
        due = [at for line, want in self._wanted.items() if (at := self._due(line, want)) is not None]
        if not due:
            return None
        return max(min(due), self._free_at)

    def stop(self) -> None:
        """No longer Active, or nobody to repair for. What was tried stays known."""
        self._wanted.clear()
        self._following.clear()

    def found(self, wants: Iterable[Want], tunnels: Sequence[Tunnel], now: float) -> list[GaveUp]:
        """What a complete round has found; `tunnels` are all that there are."""
        wanted = {want.line: want for want in wants}
        ends = {line_of(tunnel): tunnel for tunnel in tunnels if tunnel.carrying}
        for line, asked in list(self._following.items()):
            tunnel = ends.get(line)
            if tunnel is None or tunnel.ends != asked:
                del self._following[line]  # gone, or rekeyed since
            elif not tunnel.rekeying:
                wanted.setdefault(line, want_of(tunnel, Cause.MISSING_IN_CHARON))
        self._wanted = wanted
        for line, history in list(self._histories.items()):
            if now >= history.last + FORGET_S:
                del self._histories[line]
        return list(self._give_up())

    def take(self, now: float) -> list[Repair]:
        """Those that may be asked for now."""
        repairs = []
        for line, want in sorted(self._wanted.items(), key=lambda item: item[1].tunnel is not None):
            if now < self._free_at:
                break
            due = self._due(line, want)
            if due is None or now < due:
                continue
            history = self._histories.get(line)
            tries = history.tries + 1 if history else 1
            pause = ASK_AGAIN_S * 2 ** (tries - 1)
            self._histories[line] = _History(tries, now + pause, now, want.now)
            self._recent.append(now)
            if want.tunnel is None:
                self._following |= {line_of(child): child.ends for child in want.children}
            child_id = want.tunnel.child_id if want.tunnel else ""
            repairs.append(Repair(ike_id=want.ike_id, child_id=child_id, name=want.name, cause=want.cause))
        return repairs

    @property
    def _free_at(self) -> float:
        """From when on the budget has room."""
        return self._recent[0] + 1.0 if len(self._recent) == self._recent.maxlen else float("-inf")

    def _due(self, line: Line, want: Want) -> float | None:
        """From when on it may be asked for; None for never."""
        if want.tunnel is not None and (want.tunnel.rekeying or self._waits_for_ike(want)):
            return None
        history = self._histories.get(line)
        if history is None:
            return float("-inf")
        if history.tries >= MAX_TRIES:
            return None
        if history.asked != want.now:
            return history.last + SETTLE_S * 2 ** (history.tries - 1)
        return history.not_before

    def _waits_for_ike(self, want: Want) -> bool:
        return any(other.tunnel is None and other.ike_id == want.ike_id for other in self._wanted.values())

    def _is_given_up(self, line: Line) -> bool:
        history = self._histories.get(line)
        return history is not None and history.given_up

    def _give_up(self) -> Iterable[GaveUp]:
        for line, want in self._wanted.items():
            history = self._histories.get(line)
            if history is None or history.given_up or history.tries < MAX_TRIES:
                continue
            history.given_up = True
            yield GaveUp(name=want.name, cause=want.cause, refused=history.asked == want.now)


def line_of(tunnel: Tunnel) -> Line:
    return "child", tunnel.reqid.to_bytes(4)


def want_of(tunnel: Tunnel, cause: Cause) -> Want:
    return Want(
        line=line_of(tunnel), ike_id=tunnel.ike_id, tunnel=tunnel, name=tunnel.name, now=tunnel.ends, cause=cause
    )  # fmt: skip


def want_of_ike(record: bytes, ike_id: str, tunnels: Sequence[Tunnel], cause: Cause) -> Want:
    """`record` as `ike.mirror_view` has it; `tunnels` are those of the IKE_SA."""
    first = min((tunnel.reqid for tunnel in tunnels), default=0)
    owner = min((tunnel.name for tunnel in tunnels), default="")
    return Want(
        line=("ike", first.to_bytes(4) if tunnels else record[IKE_NAME_BYTES:]),
        ike_id=ike_id,
        tunnel=None,
        name=f"the IKE_SA of {owner}" if owner else f"IKE_SA {ike_id}",
        now=(record[:IKE_NAME_BYTES],),
        cause=cause,
        children=tuple(tunnels),
    )
