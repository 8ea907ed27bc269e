"""What follows when the kernel has lost the state of client tunnels: a pure core, looks in, rekeys and a judgement out.

Theory of operation
-------------------
A *look* compares charon's CHILD_SAs with the kernel's SAs and policies. The two differ for a moment in every rekey, so a
CHILD_SA counts as lost only when two looks, `SECOND_LOOK_S` apart, miss state of the same one. A CREATE_CHILD_SA rekey makes
SAs and policies anew and costs the client one exchange (measured with strongSwan 5.9.8: flushed policies return too).

*Some lost:* each is wished for at the gateway's rekey queue (`rekey_queue`), and not again within `ASK_AGAIN_S`, because
charon repeats its request by itself. No more are handed over than its budget lets through meanwhile: what only waits there
was not asked, and its client's silence says nothing. Nothing is withdrawn.

*All lost, at least one of them newly:* this is a flushed SAD or SPD, and the gateway serves nobody. All are rekeyed at
once, outside of the budget, and looked at every `REPAIR_LOOK_S`. `REPAIR_LIMIT_S` after the first look that saw it, it is
judged, whether a look could be had by then or not, and the fact stands when the repair has not worked:

* still all of them are lost, or charon could not be asked; or
* charon has not even begun with more than half of them: there are more tunnels than it rekeys in time, and their
  clients' own dead peer detection (docs/clients.md) is about to send them to other sites anyway.

Otherwise those that are left are clients that do not answer (asleep, out of coverage). Half of a phone fleet may be so at
any time, and none of them would be better served by a withdrawal from all the others: they are *some*. For the same
reason tunnels that were asked before and did not answer do not start a second repair when theirs are the last ones
listed.

A client can see to it that all that is listed lacks its state for a moment, by making and deleting CHILD_SAs one after the
other where nobody else is connected. So a repair, and with it the fact, begins only when one and the same CHILD_SA, never
asked before, was missing in two looks; without one, `REPAIR_LIMIT_S` ends in nothing known. A look that could not be had
lets the time that counts from the first one lapse, and a fact whose CHILD_SAs are all others by now is judged anew.

At once, without waiting for the limit, when charon refuses to rekey. The fact ends with the first look that finds it untrue.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

from anycast.reasons import Reason
from site_agent.ike.child_sa import ChildSa
from site_agent.ike.rekey_queue import PER_SECOND

SECOND_LOOK_S = 0.3
"""A rekey is one exchange and a MOBIKE move one more: tens of milliseconds, plus the client's round trip."""
REPAIR_LIMIT_S = 2.0
"""From the first look that missed everything to the judgement; as long as a client waits before it suspects its gateway."""
REPAIR_LOOK_S = 0.2
BATCH_PERIOD_S = 1.0
"""Between two batches of what the budget lets through meanwhile, and between two rekeys of everything: something that
flushes again and again makes no storm."""
ASK_AGAIN_S = 10.0


class State(enum.Enum):
    WHOLE = "whole"
    """Everything that charon lists is in the kernel, or nothing is listed."""
    PARTIAL = "partial"
    """Some are lost, or all, none of them newly."""
    UNSETTLED = "unsettled"
    """Not known: look again at `look_at`, or with the next interval where that is None."""
    LOST = "lost"
    """The fact: all are lost and the repair has not worked."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one look means together with those before it."""

    state: State
    listed: int = 0
    lost: tuple[ChildSa, ...] = ()
    rekey: tuple[ChildSa, ...] = ()
    """Have these rekeyed now."""
    everything: bool = False
    """`rekey` is all that there is: one request by name may do for all."""
    mended: int = 0
    """Lost before, asked for, and now there again."""
    reason: Reason = Reason.HEALTHY
    """Why `rekey` and `mended`."""
    look_at: float | None = None
    """Look again then, without waiting for the next interval."""


class TunnelRepair:
    """Tell it each look. Times are CLOCK_BOOTTIME seconds and never go back."""

    def __init__(self) -> None:
        self._missing: frozenset[str] = frozenset()
        self._missing_all_since: float | None = None
        self._victims: dict[str, ChildSa] = {}
        self._failed = self._refused = False
        self._asked: dict[str, float] = {}
        self._answer_due: dict[str, tuple[ChildSa, float]] = {}
        self._begun: set[str] = set()
        self._next_batch_at = self._next_everything_at = 0.0
        self._everything_asked = self._confirming = False

    @property
    def deadline(self) -> float | None:
        """When a repair of everything is judged; None while there is none, or when it has been."""
        if self._missing_all_since is None or not self._victims or self._failed:
            return None
        return self._missing_all_since + REPAIR_LIMIT_S

    @property
    def every_tunnel_counts(self) -> bool:
        """The next look must list every tunnel, busy ones too: it may say that all are lost."""
        return self._missing_all_since is not None

    def refused(self) -> None:
        """charon refused to rekey everything. The next look decides whether there is still something to rekey."""
        self._refused = True

    def blind(self, now: float) -> Judgement:
        """A look could not be had while everything was lost (`deadline` is not None)."""
        if (deadline := self.deadline) is not None and now < deadline:
            return self._unsettled(self._victims, look_at=min(now + REPAIR_LOOK_S, deadline))
        self._failed = True
        lost = tuple(self._victims.values())
        return Judgement(state=State.LOST, listed=len(lost), lost=lost, reason=Reason.SA_STATE_LOST)

    def could_not_look(self) -> None:
        """A look could not be had while there was no `deadline`. The next one begins anew, but knows what was missing."""
        if not self._victims:
            self._missing_all_since = None

    def looked(self, children: Sequence[ChildSa], missing: frozenset[str], now: float) -> Judgement:
        """`children` are carrying; those whose unique ids are in `missing` lack an SA or a policy."""
        listed = {child.unique_id: child for child in children}
        lacking = {name: child for name, child in listed.items() if name in missing}
        lost = {name: child for name, child in lacking.items() if name in self._missing}
        first_miss = len(lost) < len(lacking)
        self._missing = missing
        mended, reason = self._count_mended(children, missing), self._reason
        self._remember(listed, now)
        if listed and len(lacking) == len(listed):
            judgement = self._all_lacking(lacking, lost, now)
        else:
            judgement = self._some_lacking(listed, lost, first_miss, now)
        return dataclasses.replace(judgement, mended=mended, reason=reason if mended else judgement.reason)

    @property
    def _reason(self) -> Reason:
        return Reason.SA_STATE_LOST if self._victims else Reason.SA_STATE_PARTIAL

    def _all_lacking(self, lacking: dict[str, ChildSa], lost: dict[str, ChildSa], now: float) -> Judgement:
        if not self._victims and not any(name not in self._asked for name in lacking):
            return self._partial(lacking, lost, now)  # known, asked, and silent
        if self._failed and lost:
            return Judgement(
                state=State.LOST, listed=len(lacking), lost=tuple(lacking.values()), reason=Reason.SA_STATE_LOST
            )
        if self._failed:
            self._missing_all_since, self._victims, self._failed = None, {}, False
        if self._missing_all_since is None:
            self._missing_all_since = now
        if not self._victims:
            if all(name in self._asked for name in lost):
                return self._await_second_miss(lacking, lost, now)
            self._victims, self._refused, self._everything_asked = dict(lacking), False, False
            # A second look that took long must not use up charon's time.
            self._missing_all_since = max(self._missing_all_since, now - SECOND_LOOK_S)
        deadline = self._missing_all_since + REPAIR_LIMIT_S
        if self._refused or now >= deadline:
            return self.blind(max(now, deadline))
        if not self._everything_asked and now >= self._next_everything_at:
            self._everything_asked, self._next_everything_at = True, now + BATCH_PERIOD_S
            self._ask(lacking, now)
            return dataclasses.replace(
                self._unsettled(lacking, look_at=min(now + REPAIR_LOOK_S, deadline)),
                rekey=tuple(lacking.values()),
                everything=True,
            )
        return self._unsettled(lacking, look_at=min(now + REPAIR_LOOK_S, deadline))

    def _await_second_miss(self, lacking: dict[str, ChildSa], lost: dict[str, ChildSa], now: float) -> Judgement:
        """All lack something, and none of them newly in two looks."""
        assert self._missing_all_since is not None
        if now < self._missing_all_since + REPAIR_LIMIT_S:
            return self._unsettled(lacking, look_at=now + SECOND_LOOK_S)
        self._missing_all_since = None
        return self._partial(lacking, lost, now) if lost else self._unsettled(lacking, look_at=None)

    def _some_lacking(self, listed: dict[str, ChildSa], lost: dict[str, ChildSa], first_miss: bool, now: float) -> Judgement:
        if self._victims:
            assert self._missing_all_since is not None
            left = {name: child for name, child in listed.items() if name in self._missing and name in self._victims}
            deadline = self._missing_all_since + REPAIR_LIMIT_S
            if left and not self._failed and now < deadline:
                return self._unsettled(left, look_at=min(now + REPAIR_LOOK_S, deadline), listed=len(listed))
            if 2 * len(left.keys() - self._begun) > len(self._victims):
                self._failed = True
                lost_now = tuple(left.values())
                return Judgement(state=State.LOST, listed=len(listed), lost=lost_now, reason=Reason.SA_STATE_LOST)
        self._missing_all_since, self._victims, self._failed = None, {}, False
        if lost:
            return self._partial(listed, lost, now)
        # One extra look, never a chain of them: among many tunnels one or the other is always being rekeyed.
        self._confirming = first_miss and not self._confirming
        if self._confirming:
            return Judgement(state=State.UNSETTLED, listed=len(listed), look_at=now + SECOND_LOOK_S)
        return Judgement(state=State.WHOLE, listed=len(listed))

    def _partial(self, listed: dict[str, ChildSa], lost: dict[str, ChildSa], now: float) -> Judgement:
        due = [child for name, child in lost.items() if now >= self._asked.get(name, -ASK_AGAIN_S) + ASK_AGAIN_S]
        batch = due[: int(PER_SECOND * BATCH_PERIOD_S)] if now >= self._next_batch_at else []
        if batch:
            self._next_batch_at = now + BATCH_PERIOD_S
            self._ask({child.unique_id: child for child in batch}, now)
        return Judgement(
            state=State.PARTIAL,
            listed=len(listed),
            lost=tuple(lost.values()),
            rekey=tuple(batch),
            reason=Reason.SA_STATE_PARTIAL,
        )

    def _ask(self, children: dict[str, ChildSa], now: float) -> None:
        self._asked.update(dict.fromkeys(children, now))
        self._answer_due.update({name: (child, now) for name, child in children.items()})

    def _remember(self, listed: dict[str, ChildSa], now: float) -> None:
        """What is not listed for long is forgotten. For a moment it may only be busy, or its successor not listed yet."""
        recent = now - ASK_AGAIN_S
        self._begun |= {name for name, child in listed.items() if child.rekeying}
        self._asked = {name: at for name, at in self._asked.items() if name in listed or at > recent}
        self._begun &= listed.keys() | self._asked.keys()
        self._answer_due = {name: due for name, due in self._answer_due.items() if name in listed or due[1] > recent}

    def _count_mended(self, children: Sequence[ChildSa], missing: frozenset[str]) -> int:
        """Of those asked for: the ones in whose place their IKE_SA now lists a CHILD_SA that lacks nothing."""
        if not self._answer_due:
            return 0
        whole = {(child.ike_id, child.reqid) for child in children if child.unique_id not in missing}
        mended = [name for name, (child, _) in self._answer_due.items() if (child.ike_id, child.reqid) in whole]
        for name in mended:
            del self._answer_due[name]
            self._asked.pop(name, None)
        return len(mended)

    def _unsettled(self, lacking: dict[str, ChildSa], *, look_at: float | None, listed: int | None = None) -> Judgement:
        return Judgement(
            state=State.UNSETTLED,
            listed=len(lacking) if listed is None else listed,
            lost=tuple(lacking.values()),
            reason=Reason.SA_STATE_LOST,
            look_at=look_at,
        )
