"""The virtual router of one gateway (RFC 9568 section 6): pure, driven by advertisements, its own timers and two masters.

Theory of operation
-------------------
One core stands for all of a gateway's virtual routers: IPv4 and IPv6, outside and inside become Active together (a sync
group), because a gateway that has one of them is of no use. It is sent and heard on several paths; the timers are
the RFC's, and with one path and no seal it *is* the RFC's table, row by row.

Between two routers of ours (`sealed`) three things are added. A Backup says at the same interval that it is there
(`Flag.ACTIVE` not set), so that an Active knows whether anybody could take over. `election.choose` decides with what is
heard on all paths. And a release is made before it breaks: who gives way advertises priority 0, keeps the addresses until it
hears the other one as Active, and only then drops them; its peer takes over without waiting for Skew_Time.

Mastership is a lease (rule 1). The parent grants a priority until a time (`PriorityGranted`), and its silence is priority
0. The kernel's copy of the addresses ends by itself unless `RenewAddresses` is performed. A core that finds more than
Active_Down_Interval between two of its own turns was frozen: the others have long decided, so it is Backup.

An Active whose address the kernel refuses would be believed and serve nothing. `AddressesRefused` makes it give way, and for
an address's life it offers nothing.

A late timer comes before any input, or a flood of packets would keep an Active from advertising (which silences keepalived).
A Backup that is late by itself is the other way round: what it needs may wait in its socket. So a late Active_Down_Timer is
wound up once more, for a moment, and only silence in that time counts.

Units: intervals are centiseconds, as on the wire; `now` and deadlines are seconds of one clock.
"""

from __future__ import annotations

from collections import Counter

from anycast.timer import TimerExpired
from site_agent.vrrp.election import Choice, Peer, Role, choose
from site_agent.vrrp.packet import OWNER, Discard
from site_agent.vrrp.router_states import Active, Backup, Initialize, Release, State
from site_agent.vrrp.router_words import (
    Action,
    AddAddresses,
    AddressesRefused,
    AdvertDiscarded,
    AdvertReceived,
    AnnounceAddresses,
    Cause,
    HandOver,
    HandoverFailed,
    Input,
    Parameters,
    PriorityGranted,
    RemoveAddresses,
    RenewAddresses,
    RoleChanged,
    SendAdvert,
    Shutdown,
    UplinkProven,
    is_active,
    send_advert,
)
from site_agent.vrrp.seal import MAX_TERM, PATHS, Flag, Path

SHORTEST_GAP_S = 0.03
"""Less than this between two turns is never a gap: three intervals of a centisecond."""
PRESENCE_SLACK = 0.25
"""Of an interval: for so long a Backup waits for the Active to speak first. Active_Down_Interval still holds two losses."""
LEAST_LATE_GRACE_S = 0.001
ANSWER_EVERY_S = 0.001
"""At most so often does an advertisement answer another one, or two routers could talk without end."""
GARP_AFTER_S = (0.1, 1.0, 5.0)
"""When a takeover is announced again: a switch may have dropped the first one while it learned."""
GARP_EVERY_S = 60.0
"""And from then on: who was Active in a split, announced last and was never heard since is not believed for longer."""
LINGER_S = 0.02
"""For how long who gave way keeps the addresses once the other one has them: what was on its way to it still arrives. Less
than until the other one announces them again, because for this long both answer whoever asks."""
REASSERT_EVERY_S = 1.0
"""At most so often are addresses announced anew because another Active was heard. GARP_AFTER_S begins again with it: the
other one may announce its takeover later than it advertised it, after the kernel has taken the addresses."""
_ACTIVE = Flag.ACTIVE.value


class VirtualRouter:
    """See the module. `handle` takes one input and returns what follows; `deadline` is when TimerExpired is due."""

    def __init__(self, parameters: Parameters, *, now: float, resume_until: float = float("-inf")) -> None:
        self._p = parameters
        self.state: State = Initialize(resume_until)
        self.priority = 0
        """As granted; 0 also when the grant has ended."""
        self.discarded: Counter[tuple[Path, Discard]] = Counter()
        self._granted_until = now
        self._uplink: bool | None = None
        self._refused_until: float | None = None
        self.term = 0
        """Sealed: which time this is that one of the two took the addresses, as Active; as Backup, the highest heard of. Who
        took over last comes first where two Actives meet: the neighbours believe it, so what clients have said since is
        there. 0: never heard of any."""
        self._heard: dict[Path, tuple[float, AdvertReceived]] = {}
        """Last of the other router on each path, and until when it counts as heard."""
        self._active_heard_at: float | None = None
        self._last_turn = now

    # -- what others may know

    @property
    def role(self) -> Role:
        return Role.ACTIVE if isinstance(self.state, Active) else Role.BACKUP

    @property
    def keeps(self) -> bool:
        """An Active that is not giving way: what it may hear can wait for its next timer."""
        return isinstance(self.state, Active) and self.state.release is None

    @property
    def deadline(self) -> float | None:
        match self.state:
            case Active() as active:
                own = [active.adver_timer, active.renew_timer]
                if active.release is not None:
                    own.append(active.release.until)
                else:
                    own.append(active.announce_timers[0])
            case Backup() as backup:
                own = [backup.active_down_timer] if self._fit else []
                if self._p.sealed:
                    own.append(backup.presence_timer)
            case _:
                return None
        if self.priority:
            own.append(self._granted_until)
        if self._refused_until is not None:
            own.append(self._refused_until)
        return min(own, default=None)

    def heard(self, now: float) -> Path:
        """The paths on which the other router is heard: as Backup, an Active that serves; as Active, anybody."""
        paths = 0
        for path, (until, advert) in self._heard.items():
            if now < until and (isinstance(self.state, Active) or (advert.priority and is_active(advert))):
                paths |= path._value_
        return PATHS[paths]

    def peer_serves(self, now: float) -> bool:
        """An Active with a priority is heard on any path: the site has somebody."""
        return now < self.peer_serves_until()

    def peer_serves_until(self) -> float:
        """When that ends unless another advertisement comes; 0 or in the past where it has ended."""
        serving = (until for until, advert in self._heard.values() if advert.priority > 0 and is_active(advert))
        return max(serving, default=0.0)

    def peer(self, now: float) -> Peer:
        """What the other router says of itself where it is heard."""
        fits = [advert.priority > 0 for until, advert in self._heard.values() if now < until]
        return Peer.FIT if any(fits) else Peer.UNFIT if fits else Peer.SILENT

    # -- section 6.1

    def skew_time(self, interval: int | None = None) -> float:
        """Seconds. `interval` in centiseconds; the one in force where none is given."""
        interval = self._interval if interval is None else interval
        return (256 - self.priority) * interval / 256 / 100

    def active_down_interval(self, interval: int | None = None) -> float:
        """Seconds."""
        interval = self._interval if interval is None else interval
        return 3 * interval / 100 + self.skew_time(interval)

    @property
    def _interval(self) -> int:
        return self.state.active_adver_interval if isinstance(self.state, Backup) else self._p.advertisement_interval

    @property
    def _own_interval_s(self) -> float:
        return self._p.advertisement_interval / 100

    @property
    def _release_interval_s(self) -> float:
        """One release may be lost, and the addresses are not kept for long."""
        return min(self._own_interval_s, self._p.address_life_s / 10)

    @property
    def _fit(self) -> bool:
        return self.priority > 0 and self._uplink is not False and self._refused_until is None

    # -- input

    def handle(self, event: Input, now: float) -> list[Action]:
        """Take one input."""
        actions = self._notice_gap(now) if now - self._last_turn > SHORTEST_GAP_S else []
        self._last_turn = now
        if self._refused_until is not None and now >= self._refused_until:
            self._refused_until = None
        match event:
            case TimerExpired():
                pass
            case AdvertReceived() if self.priority == OWNER and not self._p.sealed:
                self.discarded[event.path, Discard.OWNER] += 1
            case AdvertReceived():
                actions += self._on_advert(event, now)
            case AdvertDiscarded():
                self.discarded[event.path, event.cause] += 1
            case PriorityGranted():
                actions += self._on_grant(event, now)
            case UplinkProven():
                self._on_uplink(event.proven)
            case AddressesRefused():
                self._refused_until = now + self._p.address_life_s
                actions += self._give_way(now, Cause.ADDRESSES_REFUSED)
            case HandOver():
                actions += self._on_handover(now)
            case Shutdown():
                return actions + self._on_shutdown()
        if self.priority and now >= self._granted_until:
            self.priority = 0
            actions += self._give_way(now, Cause.PARENT_SILENT)
        match self.state:
            case Active() as active:
                return actions + self._run_active(active, now)
            case Backup() as backup:
                return actions + self._run_backup(backup, now)
        return actions

    def _notice_gap(self, now: float) -> list[Action]:
        gap = now - self._last_turn
        if isinstance(self.state, Initialize):
            return []
        if gap <= self.active_down_interval():
            # Nobody has taken over yet, but the kernel may have taken the addresses, and neighbours forgot them.
            lost = isinstance(self.state, Active) and gap >= self._p.address_life_s
            return [AddAddresses(), AnnounceAddresses()] if lost else []
        if isinstance(self.state, Active):
            return [*self._demote(now, Cause.CLOCK_GAP), *self._farewell()]
        if gap > 2 * self.active_down_interval():  # what is heard is older than that; late by less is what the grace is for
            self._back_up(now)
        return []

    def _on_uplink(self, proven: bool | None) -> None:
        self._uplink = proven
        match self.state:
            case Active(release=Release(cause=Cause.UPLINK_UNPROVEN, taken_with=None)) as active if proven is not False:
                active.release = None  # nobody had taken over yet

    def _on_grant(self, grant: PriorityGranted, now: float) -> list[Action]:
        if grant.priority and grant.until <= now:  # it lay in a buffer
            return []
        before, self.priority = self.priority, grant.priority
        self._granted_until = grant.until
        match self.state:
            case Initialize(resume_until=until) if grant.priority and now < until and not self.peer_serves(now):
                return self._promote(now, Cause.RESUMED)
            case Initialize() if grant.priority == OWNER:  # section 6.4.1
                return self._promote(now, Cause.OWNER)
            case Initialize():
                self._back_up(now)
                return [RoleChanged(role=Role.BACKUP, cause=Cause.STARTED)]
            case Backup() as backup if not before:
                # It could not serve, so it has not waited for anything yet.
                backup.active_down_timer = now + self.active_down_interval()
                return []
            case Active(release=release) as active:
                if not grant.priority:
                    return self._give_way(now, Cause.UNFIT)
                if release is not None and not release.taken_with and release.cause in (Cause.UNFIT, Cause.PARENT_SILENT):
                    active.release = None  # nobody had taken over yet
                return []
        return []

    def _on_advert(self, advert: AdvertReceived, now: float) -> list[Action]:
        interval = advert.max_advertise_interval
        self._heard[advert.path] = now + self.active_down_interval(interval), advert
        if advert.priority and is_active(advert):
            self._active_heard_at = now
        if not isinstance(self.state, Active):
            self.term = max(self.term, advert.term)
        actions: list[Action] = []
        match self.state:
            case Backup() as backup if is_active(advert):
                actions = self._heard_as_backup(backup, advert, now)
            case Active() as active if is_active(advert):
                actions = self._heard_as_active(active, advert, now)
        self.term = max(self.term, advert.term)  # of an Active that stays: its own, after a clean restart
        return actions

    def _heard_as_backup(self, backup: Backup, advert: AdvertReceived, now: float) -> list[Action]:
        """Section 6.4.2, "If an ADVERTISEMENT is received"."""
        if advert.priority == 0:
            if self._p.sealed and self._fit:  # it waits for us, and there is nobody else to race with
                return self._promote(now, Cause.PEER_RELEASED)
            backup.active_down_timer = min(backup.active_down_timer, now + self.skew_time())
            return []
        preempt = self._p.preempt and now - backup.since >= self._p.preempt_delay_s and self._fit
        if preempt and advert.priority < self.priority:
            del self._heard[advert.path]  # discarded: it does not count as heard, and Active_Down_Timer goes on running
            return []
        backup.active_adver_interval = advert.max_advertise_interval
        backup.active_down_timer = now + self.active_down_interval()
        backup.graced = backup.deferred = False
        if self._p.sealed and now >= backup.presence_timer - self._own_interval_s / 2:
            # Say that one is there when the Active has just spoken: both processes then wake once an interval, not twice.
            backup.presence_timer = now + self._own_interval_s * (1 + PRESENCE_SLACK)
            return [self._advert()]
        return []

    def _heard_as_active(self, active: Active, advert: AdvertReceived, now: float) -> list[Action]:
        """Section 6.4.3, "If an ADVERTISEMENT is received"."""
        if active.release is not None:
            if advert.priority and active.release.taken_with is None:
                active.release.taken_with = advert.max_advertise_interval
                active.release.until = active.adver_timer = now + LINGER_S
            return []
        if advert.priority and self._outranked_by(advert):
            return [*self._demote(now, Cause.PEER_PREFERRED, advert.max_advertise_interval), *self._farewell()]
        # "Send an ADVERTISEMENT immediately to assert the Active state"; and tell the neighbours whose address it is.
        actions = self._answer(active, now)
        if now - active.reasserted_at >= REASSERT_EVERY_S:
            active.reasserted_at = now
            active.announce_timers = tuple(now + after for after in GARP_AFTER_S)
            actions.append(AnnounceAddresses())
        return actions

    def _outranked_by(self, advert: AdvertReceived) -> bool:
        """By another Active. A version that knows of no terms goes by priority, and so do both then."""
        if advert.term and self.term and advert.term != self.term:
            return advert.term > self.term
        return (advert.priority, *self._rank(advert)) > (self.priority, *self._own_rank(advert))

    def _farewell(self) -> list[Action]:
        """Of an Active that lets go beside another one, which may never have heard it: neighbours believe who spoke last."""
        return [SendAdvert(priority=0, flags=Flag.ACTIVE)] if self._p.sealed else []

    def _answer(self, active: Active, now: float) -> list[Action]:
        sent_at = active.adver_timer - self._own_interval_s
        if now - sent_at < ANSWER_EVERY_S:
            return []
        active.adver_timer = now + self._own_interval_s
        return [self._advert()]

    def _rank(self, advert: AdvertReceived) -> tuple[int, ...]:
        """Between equal priorities: router ids, which are the same on every path, or addresses."""
        return (int(advert.source),) if advert.router_id is None else (advert.router_id,)

    def _own_rank(self, advert: AdvertReceived) -> tuple[int, ...]:
        own = self._p.primary if advert.local is None else advert.local
        return (int(own),) if advert.router_id is None else (self._p.router_id,)

    def _on_handover(self, now: float) -> list[Action]:
        if not isinstance(self.state, Active):
            return [HandoverFailed(detail="this gateway is not Active")]
        if self.peer(now) is not Peer.FIT:
            return [HandoverFailed(detail=f"the other gateway is {self.peer(now)}")]
        return self._give_way(now, Cause.HANDED_OVER)

    def _on_shutdown(self) -> list[Action]:
        """Section 6.4.3: "Send an ADVERTISEMENT with Priority = 0"."""
        was, self.state = self.state, Initialize()
        if not isinstance(was, Active):
            return []
        return [
            SendAdvert(priority=0, flags=Flag.ACTIVE),
            RemoveAddresses(),
            RoleChanged(role=Role.BACKUP, cause=Cause.SHUTDOWN),
        ]

    # -- timers

    def _run_active(self, active: Active, now: float) -> list[Action]:
        actions: list[Action] = []
        if active.release is None:
            if self._uplink is False and self._choice(now) is Choice.RELEASE:  # proven, or not asked for: it stays
                if self.peer(now) is Peer.SILENT:
                    return [SendAdvert(priority=0, flags=Flag.ACTIVE), *self._demote(now, Cause.UPLINK_UNPROVEN)]
                return self._give_way(now, Cause.UPLINK_UNPROVEN)
        elif now >= active.release.until:
            taken_with = active.release.taken_with
            if active.release.cause is not Cause.HANDED_OVER or taken_with is not None:
                return self._demote(now, active.release.cause, taken_with)
            active.release = None
            actions.append(HandoverFailed(detail="the other gateway did not take over in time"))
        if now >= active.adver_timer:
            active.adver_timer = now + (self._own_interval_s if active.release is None else self._release_interval_s)
            actions.append(self._advert())
        if now >= active.renew_timer:
            active.renew_timer = now + self._p.address_life_s / 3
            actions.append(RenewAddresses())
        if now >= active.announce_timers[0] and active.release is None:
            # Not while it gives way: the other one may have announced them already, and neighbours believe the last.
            active.announce_timers = active.announce_timers[1:] or (now + GARP_EVERY_S,)
            actions.append(AnnounceAddresses())
        return actions

    def _run_backup(self, backup: Backup, now: float) -> list[Action]:
        actions: list[Action] = []
        if self._p.sealed and now >= backup.presence_timer:
            backup.presence_timer = now + self._own_interval_s
            actions.append(self._advert())
        if now < backup.active_down_timer or not self._fit:
            return actions
        grace_s = max(LEAST_LATE_GRACE_S, self._own_interval_s / 8)
        if now - backup.active_down_timer > grace_s and not backup.graced:
            backup.active_down_timer, backup.graced = now + grace_s, True
            return actions
        if self._choice(now) is not Choice.TAKE_OVER:
            # Heard on another path, with an interval of its own: look again when that ends.
            backup.active_down_timer = max((until for until, _ in self._heard.values() if until > now), default=now)
            backup.active_down_timer = max(backup.active_down_timer, now + LEAST_LATE_GRACE_S)
            return actions
        if not backup.deferred and self._outranked(now):
            backup.active_down_timer, backup.deferred = now + self._own_interval_s, True
            return actions
        return actions + self._promote(now, Cause.PEER_SILENT)

    def _outranked(self, now: float) -> bool:
        """Another Backup of ours is there and comes first: both would become Active in the same moment."""
        others = [(advert.priority, advert.router_id or 0) for until, advert in self._heard.values() if now < until]
        return self._p.sealed and max(others, default=(0, 0)) > (self.priority, self._p.router_id)

    def _choice(self, now: float) -> Choice:
        return choose(self.role, heard=self.heard(now), peer=self.peer(now), uplink=self._uplink)

    # -- transitions

    def _promote(self, now: float, cause: Cause) -> list[Action]:
        """Section 6.4.2, "If the Active_Down_Timer fires"."""
        if self._p.sealed and (cause is not Cause.RESUMED or not self.term):
            self.term = min(self.term + 1, MAX_TERM)
        self.state = Active(
            adver_timer=now + self._own_interval_s,
            renew_timer=now + self._p.address_life_s / 3,
            announce_timers=tuple(now + after for after in GARP_AFTER_S),
            reasserted_at=now if cause is Cause.PEER_RELEASED else float("-inf"),  # who gives way announces nothing
        )
        heard_at = self._active_heard_at if cause is Cause.PEER_SILENT else None
        changed = RoleChanged(role=Role.ACTIVE, cause=cause, silence_s=0.0 if heard_at is None else now - heard_at)
        if cause is Cause.PEER_RELEASED:
            # Who gives way drops the addresses at the first advertisement of ours: they must be here by then.
            return [AddAddresses(settled=True), AnnounceAddresses(), self._advert(), changed]
        return [self._advert(), AddAddresses(), AnnounceAddresses(), changed]

    def _give_way(self, now: float, cause: Cause) -> list[Action]:
        if not isinstance(self.state, Active) or self.state.release is not None:
            return []
        if not self._p.sealed:
            return [SendAdvert(priority=0, flags=Flag.ACTIVE), *self._demote(now, cause)]
        most = min(self.active_down_interval(), self._p.address_life_s)  # a lease that has ended is not kept for long
        self.state.release = Release(until=now + most, cause=cause)
        self.state.adver_timer = now + self._release_interval_s
        return [self._advert()]

    def _demote(self, now: float, cause: Cause, interval: int | None = None) -> list[Action]:
        self._back_up(now, interval)
        return [RemoveAddresses(), RoleChanged(role=Role.BACKUP, cause=cause)]

    def _back_up(self, now: float, interval: int | None = None) -> None:
        interval = self._p.advertisement_interval if interval is None else interval
        self.state = Backup(
            active_down_timer=now + self.active_down_interval(interval),
            active_adver_interval=interval,
            since=now,
            presence_timer=now,
        )

    def _advert(self) -> SendAdvert:
        flags = Flag.UPLINK_PROVEN.value if self._uplink else 0
        if not isinstance(self.state, Active):
            return send_advert(self.priority if self._fit else 0, flags)
        if self.state.release is not None:
            return send_advert(0, flags | _ACTIVE | Flag.HANDING_OVER.value)
        return send_advert(self.priority, flags | _ACTIVE)
