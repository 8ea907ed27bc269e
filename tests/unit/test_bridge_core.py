"""The bridge's core: one input in, actions and state out. Sequences of faults are in tests/property/test_route_lease.py."""

from __future__ import annotations

import dataclasses

import pytest

from anycast.errors import PeerError
from anycast.lease_wire import Ack, Grace, Hello, Query, Renew, Report
from anycast.model import Route, SessionState
from anycast.reasons import Reason
from exabgp_bridge.api import (
    Announce,
    AskNeighbors,
    AskVersion,
    CommandDone,
    CommandRefused,
    NeighborState,
    OutputLine,
    Withdraw,
)
from exabgp_bridge.core import (
    Action,
    AgentConnected,
    AgentGone,
    Bridge,
    EndExabgp,
    Input,
    TellAgent,
    TimerExpired,
    WriteCommand,
)

MS = 1_000_000
LEASE = 1000 * MS
GRACE = 15_000 * MS
FOUR = Route(neighbor="198.51.100.1", prefix="203.0.113.0/28", next_hop="198.51.100.2")
SIX = Route(neighbor="2001:db8:1::1", prefix="2001:db8:a::/56", next_hop="2001:db8:1::2")
ASN = 64501


class Driver:
    """A bridge with a clock, that answers every command at once unless told not to."""

    def __init__(self) -> None:
        self.now = 5_000 * MS
        self.core = Bridge(pid=7, exabgp_pid=6, lease_ns=LEASE, grace_ns=GRACE, now_ns=self.now)
        self.commands: list[object] = []
        self.told: list[object] = []
        self.ended: list[Reason] = []
        self.answers = True
        self.seq = 0

    def feed(self, event: Input) -> None:
        todo: list[Input] = [event]
        while todo:
            for action in self.core.handle(todo.pop(0), self.now):
                todo += self._perform(action)

    def _perform(self, action: Action) -> list[Input]:
        match action:
            case TellAgent(message):
                self.told.append(message)
            case EndExabgp(reason):
                self.ended.append(reason)
            case WriteCommand(command):
                self.commands.append(command)
                if self.answers:
                    output = {AskVersion: [OutputLine("exabgp 5.0.15")], AskNeighbors: [OutputLine("[]")]}
                    return [*output.get(type(command), []), CommandDone()]
        return []

    def wait(self, ms: int) -> None:
        """Let time pass, with the timer firing when it is due."""
        end = self.now + ms * MS
        while self.core.deadline <= end:
            self.now = self.core.deadline
            self.feed(TimerExpired())
        self.now = end

    def state(self, neighbor: str, state: SessionState) -> None:
        self.feed(NeighborState(neighbor=neighbor, state=state, local_asn=ASN))

    def renew(self, *routes: Route, instance: str = "a", expires: int | None = None) -> None:
        self.seq += 1
        expires = self.now + LEASE if expires is None else expires
        reason = Reason.HEALTHY if routes else Reason.CHARON_EXITED
        self.feed(Renew(seq=self.seq, instance=instance, expires_ns=expires, reason=reason, routes=routes))

    def routes_commands(self) -> list[object]:
        """Announcements and withdrawals since the last call."""
        commands, self.commands = self.commands, []
        return [c for c in commands if isinstance(c, Announce | Withdraw)]


@pytest.fixture
def fresh() -> Driver:
    """Connected, both sessions up, nothing asked for."""
    driver = Driver()
    driver.feed(TimerExpired())
    driver.feed(AgentConnected())
    for neighbor in (FOUR.neighbor, SIX.neighbor):
        driver.state(neighbor, SessionState.UP)
    driver.routes_commands()
    driver.told.clear()
    return driver


@pytest.fixture
def up(fresh: Driver) -> Driver:
    """Both routes announced and acknowledged."""
    fresh.renew(FOUR, SIX)
    assert fresh.routes_commands() == [Announce(FOUR, ASN), Announce(SIX, ASN)]
    fresh.told.clear()
    return fresh


def test_it_asks_who_it_talks_to_before_it_greets() -> None:
    driver = Driver()
    driver.answers = False
    driver.feed(TimerExpired())
    driver.feed(AgentConnected())
    assert driver.commands == [AskVersion()] and driver.told == []
    driver.answers = True
    driver.feed(OutputLine("exabgp 5.0.15"))
    driver.feed(CommandDone())
    (hello,) = driver.told
    assert isinstance(hello, Hello)
    assert (hello.pid, hello.exabgp_pid, hello.exabgp_version) == (7, 6, "5.0.15")


def test_one_command_in_flight_and_the_ack_after_the_last_answer(fresh: Driver) -> None:
    fresh.answers = False
    fresh.renew(FOUR, SIX)
    assert fresh.routes_commands() == [Announce(FOUR, ASN)], "the second waits for the first one's answer"
    assert fresh.told == []
    fresh.feed(CommandDone())
    assert fresh.routes_commands() == [Announce(SIX, ASN)]
    assert fresh.told == []
    fresh.feed(CommandDone())
    (ack,) = fresh.told
    assert isinstance(ack, Ack)
    assert ack.announced == (FOUR, SIX) and ack.exabgp_answered_ns == fresh.now


def test_a_renewal_of_what_is_announced_commands_nothing(up: Driver) -> None:
    up.wait(300)
    up.renew(FOUR, SIX)
    assert up.routes_commands() == []
    assert isinstance(up.told[-1], Ack)


def test_new_attributes_replace_without_a_withdrawal(up: Driver) -> None:
    prepended = dataclasses.replace(FOUR, prepend=2)
    up.renew(prepended, SIX)
    assert up.routes_commands() == [Announce(prepended, ASN)]
    up.renew(SIX)
    assert up.routes_commands() == [Withdraw(prepended, ASN)], "a withdrawal repeats the attributes it revokes"


def test_no_routes_withdraws_at_once(up: Driver) -> None:
    up.renew()
    assert up.routes_commands() == [Withdraw(FOUR, ASN), Withdraw(SIX, ASN)]
    (ack,) = up.told
    assert isinstance(ack, Ack) and ack.announced == ()


def test_the_lease_lapses_to_the_nanosecond(up: Driver) -> None:
    up.wait(999)
    assert up.routes_commands() == []
    up.wait(1)
    assert up.routes_commands() == [Withdraw(FOUR, ASN), Withdraw(SIX, ASN)]
    report = up.told[-1]
    assert isinstance(report, Report) and report.cause is Reason.LEASE_LAPSED and report.announced == ()


def test_losing_the_agent_ends_nothing_by_itself(up: Driver) -> None:
    up.feed(AgentGone())
    up.wait(999)
    assert up.routes_commands() == []
    up.wait(1)
    assert up.routes_commands() == [Withdraw(FOUR, ASN), Withdraw(SIX, ASN)]
    up.feed(AgentConnected())
    report = up.told[-1]
    assert isinstance(report, Report) and report.cause is Reason.AGENT_GONE


def test_ten_buffered_renewals_extend_nothing(up: Driver) -> None:
    expires = up.now + LEASE
    up.wait(600)
    for _ in range(10):
        up.renew(FOUR, SIX, expires=expires)
    up.wait(400)
    assert up.routes_commands() == [Withdraw(FOUR, ASN), Withdraw(SIX, ASN)]
    up.renew(FOUR, SIX, expires=expires)
    assert up.routes_commands() == [], "it expired in the buffer"


def test_no_message_makes_a_lease_longer_than_the_documents(up: Driver) -> None:
    up.renew(FOUR, SIX, expires=up.now + 1000 * LEASE)
    up.wait(1000)
    assert up.core.announced == ()


def test_a_gap_between_our_own_inputs_is_a_lapse_even_in_a_grace(up: Driver) -> None:
    up.feed(Grace(seq=50, instance="a", expires_ns=up.now + GRACE))
    up.now += LEASE + 1
    up.feed(TimerExpired())
    assert up.routes_commands() == [Withdraw(FOUR, ASN), Withdraw(SIX, ASN)]
    report = up.told[-1]
    assert isinstance(report, Report) and report.cause is Reason.CLOCK_GAP


def test_grace_lasts_and_the_next_agents_first_renewal_ends_it(up: Driver) -> None:
    up.feed(Grace(seq=50, instance="a", expires_ns=up.now + GRACE))
    up.feed(AgentGone())
    up.wait(10_000)
    up.feed(AgentConnected())
    hello = up.told[-1]
    assert isinstance(hello, Hello) and hello.announced == (FOUR, SIX) and hello.grace_ns == 5_000 * MS
    up.renew(FOUR, SIX, instance="b")
    assert up.routes_commands() == []
    up.wait(1000)
    assert up.core.announced == (), "from then on its own lease counts"


def test_grace_is_for_who_renewed_once_and_once_only(fresh: Driver) -> None:
    fresh.feed(Grace(seq=1, instance="a", expires_ns=fresh.now + GRACE))
    fresh.renew(FOUR, SIX)
    fresh.feed(Grace(seq=9, instance="b", expires_ns=fresh.now + GRACE))
    fresh.wait(1000)
    assert fresh.core.announced == (), "nobody renewed as b"
    fresh.renew(FOUR, SIX)
    fresh.feed(Grace(seq=10, instance="a", expires_ns=fresh.now + GRACE))
    fresh.renew(FOUR, SIX)
    fresh.feed(Grace(seq=11, instance="a", expires_ns=fresh.now + GRACE))
    fresh.wait(1000)
    assert fresh.core.announced == (), "a grace is single use"


def test_a_session_carries_nothing_until_a_renewal_after_it_came_up(up: Driver) -> None:
    up.state(FOUR.neighbor, SessionState.DOWN)
    report = up.told[-1]
    assert isinstance(report, Report) and report.cause is Reason.SESSION_DOWN and report.announced == (SIX,)
    up.state(FOUR.neighbor, SessionState.UP)
    assert up.routes_commands() == []
    up.renew(FOUR, SIX)
    assert up.routes_commands() == [Announce(FOUR, ASN)]


def test_an_announcement_answered_after_the_session_ended_is_revoked_while_it_is_down(fresh: Driver) -> None:
    fresh.answers = False
    fresh.renew(FOUR)
    fresh.state(FOUR.neighbor, SessionState.DOWN)
    fresh.answers = True
    fresh.feed(CommandDone())
    assert fresh.routes_commands() == [Announce(FOUR, ASN), Withdraw(FOUR, ASN)]
    assert fresh.core.announced == () and fresh.core.held == ()


def test_a_late_answer_is_not_the_next_sessions(fresh: Driver) -> None:
    fresh.answers = False
    fresh.renew(FOUR)
    fresh.state(FOUR.neighbor, SessionState.DOWN)
    fresh.state(FOUR.neighbor, SessionState.UP)
    fresh.feed(CommandDone())
    assert fresh.core.announced == ()
    assert fresh.routes_commands() == [Announce(FOUR, ASN), Withdraw(FOUR, ASN)]


def test_a_query_changes_nothing_and_is_answered(up: Driver) -> None:
    up.wait(500)
    up.feed(Query(seq=77))
    ack = up.told[-1]
    assert isinstance(ack, Ack) and ack.seq == 77
    up.wait(500)
    assert up.core.announced == ()


def test_it_probes_three_times_a_lease(up: Driver) -> None:
    up.feed(AgentGone())
    up.commands.clear()
    up.wait(10_000)
    assert 29 <= up.commands.count(AskVersion()) <= 31


def test_a_refusal_is_reported_and_tried_again_with_the_next_renewal(fresh: Driver) -> None:
    fresh.answers = False
    fresh.renew(FOUR)
    fresh.feed(CommandRefused())
    report, ack = fresh.told
    assert isinstance(report, Report) and report.cause is Reason.EXABGP_REFUSED
    assert isinstance(ack, Ack) and ack.announced == ()
    assert fresh.routes_commands() == [Announce(FOUR, ASN)], "no storm of refused commands"
    fresh.renew(FOUR)
    assert fresh.routes_commands() == [Announce(FOUR, ASN)]


def test_an_unanswered_withdrawal_ends_exabgp_after_a_lease(up: Driver) -> None:
    up.answers = False
    up.renew()
    up.wait(999)
    assert up.ended == []
    up.now += 1 * MS
    up.feed(TimerExpired())
    assert up.ended == [Reason.EXABGP_SILENT]


def inheriting() -> Driver:
    """ExaBGP restarted its helper while a session was up."""
    driver = Driver()
    driver.answers = False
    driver.feed(TimerExpired())
    driver.feed(AgentConnected())
    driver.feed(OutputLine("exabgp 5.0.15"))
    driver.feed(CommandDone())
    item = '{"peer": {"address": "198.51.100.1"}, "local": {"as": 64501}, "fsm": "ESTABLISHED"}'
    driver.feed(OutputLine(f"[{item}]"))
    driver.answers = True
    driver.feed(CommandDone())
    driver.routes_commands()
    return driver


def test_what_a_predecessor_left_is_announced_again_or_withdrawn() -> None:
    other = dataclasses.replace(FOUR, prefix="203.0.113.16/28")
    driver = inheriting()
    expires = driver.now + LEASE
    driver.feed(
        Renew(seq=1, instance="a", expires_ns=expires, reason=Reason.HEALTHY, routes=(FOUR,), candidates=(FOUR, other))
    )
    assert driver.routes_commands() == [Withdraw(other, ASN), Announce(FOUR, ASN)]


def test_what_a_predecessor_left_ends_with_exabgp_where_nobody_renews() -> None:
    driver = inheriting()
    driver.now += LEASE - 1
    driver.feed(TimerExpired())
    assert driver.ended == []
    driver.now += 1
    driver.feed(TimerExpired())
    assert driver.ended == [Reason.LEASE_LAPSED]


def test_an_answer_without_a_command_is_exabgps_fault(fresh: Driver) -> None:
    with pytest.raises(PeerError):
        fresh.feed(CommandDone())
