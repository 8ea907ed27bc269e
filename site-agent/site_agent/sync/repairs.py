"""Which tunnels the Active has rekeyed so that the `ha` plugin tells the Backup of them anew: a budget and an end. Pure.

A rekey is the only repair: it costs the client one exchange and makes keys, SAs, policies and charon's own state on both
gateways as if the tunnel were new. It is asked for

* through the gateway's rekey queue, which has the budget (`ike.rekey_queue`), IKE_SAs first: a CHILD_SA's message is refused
  without its IKE_SA, so its own rekey waits for the round that finds the IKE_SA in order;
* of one SA once. A request that changed nothing is repeated after ASK_AGAIN_S (charon repeats it by itself before), one
  that brought a new SA which differs again after SETTLE_S, each time twice as long;
* MAX_REFUSED times of one SA, MAX_TRIES times of one tunnel (a reqid, over all its rekeys) within FORGET_S. Then it is given
  up, by name: a client that refuses a gateway's rekey, or a Backup on which it does not stand. So a Backup that lies costs
  each client MAX_TRIES exchanges an hour.

Given sets, not changes: what the last complete round has found is what is wanted, and `wanted` is what the queue shall have
of it. What the queue has asked for is told with `asked`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from site_agent.ike.mirror_view import IKE_NAME_BYTES, Tunnel
from site_agent.sync.digest_compare import Cause

ASK_AGAIN_S = 60.0
"""A client that refuses (TEMPORARY_FAILURE, RFC 7296 section 2.25) is asked again by charon itself within 15 s."""
SETTLE_S = 15.0
MAX_TRIES, MAX_REFUSED = 5, 3
"""Of one tunnel; and of one SA, which a request does not change."""
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
    client: str = ""
    """The client's identity."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """VICI `rekey` by `child_id`, or by `ike_id` where that is empty."""

    line: Line
    ike_id: str
    child_id: str
    name: str
    cause: Cause
    client: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GaveUp:
    """Said once. The tunnel stays unprotected until it changes by itself, or for FORGET_S."""

    name: str
    cause: Cause
    refused: bool
    """Its client takes no rekey from a gateway; else it was rekeyed, and still differs."""


@dataclasses.dataclass(slots=True)
class _History:
    tries: int
    last: float
    asked: tuple[bytes, ...]
    given_up: bool = False

    def due(self, want: Want) -> float:
        """When it may be asked for again."""
        pause = ASK_AGAIN_S if self.asked == want.now else SETTLE_S
        return self.last + pause * (1 << self.tries - 1)


class Repairs:
    """See the module."""

    def __init__(self) -> None:
        self._wanted: dict[Line, Want] = {}
        self.wanted: tuple[Repair, ...] = ()
        """What is to be asked for now."""
        self._unasked: set[Line] = set()
        """Of these, what charon was not asked for since."""
        self._histories: dict[Line, _History] = {}

    @property
    def waiting(self) -> int:
        """SAs that differ and are not given up."""
        return sum(not self._is_given_up(line) for line in self._wanted)

    @property
    def given_up(self) -> int:
        """SAs that differ and are."""
        return len(self._wanted) - self.waiting

    def stop(self) -> None:
        """No longer Active, or nobody to repair for. What was tried stays known."""
        self._wanted, self.wanted, self._unasked = {}, (), set()

    def found(self, wants: Iterable[Want], now: float) -> list[GaveUp]:
        """What a complete round has found."""
        self._wanted = {want.line: want for want in wants}
        self._histories = {line: history for line, history in self._histories.items() if now < history.last + FORGET_S}
        first = {want.ike_id for want in self._wanted.values() if want.tunnel is None}
        gave_up, wanted = list[GaveUp](), list[Want]()
        for line, want in self._wanted.items():
            if want.tunnel is not None and (want.tunnel.rekeying or want.ike_id in first):
                continue
            history = self._histories.get(line)
            if history is None:
                wanted.append(want)
                continue
            due, refused = history.due(want), history.asked == want.now
            if history.tries < (MAX_REFUSED if refused else MAX_TRIES):
                history.given_up = False
                if now >= due:
                    wanted.append(want)
            elif not history.given_up and now >= due:
                history.given_up = True
                gave_up.append(GaveUp(name=want.name, cause=want.cause, refused=refused))
        self.wanted = tuple(_repair_of(want) for want in wanted)
        self._unasked = {want.line for want in wanted}
        return gave_up

    def asked(self, line: Line, now: float) -> bool:
        """charon was asked to rekey it; whether that was the last one of `wanted`."""
        if (want := self._wanted.get(line)) is not None:
            history = self._histories.get(line)
            self._histories[line] = _History(tries=history.tries + 1 if history else 1, last=now, asked=want.now)
        left = len(self._unasked)
        self._unasked.discard(line)
        return left == 1 and not self._unasked

    def _is_given_up(self, line: Line) -> bool:
        history = self._histories.get(line)
        return history is not None and history.given_up


def _repair_of(want: Want) -> Repair:
    child_id = want.tunnel.child_id if want.tunnel else ""
    return Repair(
        line=want.line, ike_id=want.ike_id, child_id=child_id, name=want.name, cause=want.cause, client=want.client
    )  # fmt: skip


def line_of(tunnel: Tunnel) -> Line:
    return "child", tunnel.reqid.to_bytes(4)


def want_of(tunnel: Tunnel, cause: Cause) -> Want:
    return Want(
        line=line_of(tunnel),
        ike_id=tunnel.ike_id,
        tunnel=tunnel,
        name=tunnel.name,
        now=tunnel.ends,
        cause=cause,
        client=tunnel.identity,
    )


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
        client=min((tunnel.identity for tunnel in tunnels), default=""),
    )
