"""The lease with real parts: our agent's end and bridge, ExaBGP 5, BIRD 2 as the upstream and the only witness.

Each test is one way for the route to end, or to survive. Nobody sleeps: BIRD's trace, the bridge's word or the kernel's
counter is awaited with a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import statistics
from collections.abc import AsyncIterator, Iterator

import pytest

from anycast.document import Document
from anycast.events import HolderExited, HolderKilled, HolderStarted, PrefixAnnounced, PrefixWithdrawn, SessionChanged
from anycast.model import SessionState
from anycast.reasons import Reason
from site_agent.announce import route_holder
from site_agent.announce.routes import routes_of
from tests.support.bgp_pair import LEASE_S, PATIENCE_S, V4, V6, Agent, Bird, Pair, bgp_pair, missing

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing()), reason=f"missing: {missing()}"),
]

TICK_S = LEASE_S / 3
SLACK_S = 0.4
"""Two busy cores: scheduling, not protocol."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with bgp_pair() as made:
        yield made


@dataclasses.dataclass
class Announced:
    """Both prefixes are at the upstream."""

    bird: Bird
    agent: Agent
    document: Document

    @property
    def mark(self) -> int:
        return len(self.bird.seen)


@contextlib.asynccontextmanager
async def announced(pair: Pair, *, hold_s: int = 9, grace_ms: int = 15_000) -> AsyncIterator[Announced]:
    document = pair.document(hold_s=hold_s, grace_ms=grace_ms)
    async with pair.bird(hold_s=hold_s) as bird, pair.agent(document) as agent:
        await bird.added()
        for prefix in (V4, V6):
            await agent.happened(PrefixAnnounced, prefix=prefix)
        yield Announced(bird, agent, document)


async def gone(bird: Bird, *, after: int) -> float:
    """Both routes are gone from BIRD, by withdrawal or with their sessions. Returns the later's Unix time."""
    return await bird.removed(after=after)


def test_both_families_under_md5_and_gtsm(pair: Pair) -> None:
    async def main() -> None:
        async with announced(pair) as on:
            assert await on.bird.routes() == {V4, V6}
            route = await on.bird.ask("show route all")
            assert "BGP.next_hop: 198.51.100.2" in route
            assert "BGP.next_hop: 2001:db8:1::2" in route
            status = await on.bird.ask("show protocols all gw4")
            assert "Hold timer:" in status and "/9" in status, "the rendered hold time is the session's"
            mark, said = on.mark, on.agent.say(False)
            assert await gone(on.bird, after=mark) - said < TICK_S, "a lost verdict is sent at once, not at the tick"
            await on.agent.happened(PrefixWithdrawn, prefix=V4, reason=Reason.CHARON_EXITED)
            on.agent.say(True)
            await on.bird.added(after=mark)

    asyncio.run(main())


def test_an_upstream_that_asks_for_everything_anew_is_refused_by_its_own_router_and_keeps_the_route(pair: Pair) -> None:
    """There is no table to answer a route refresh from (`adj-rib-out false`), so the capability is not offered."""

    async def main() -> None:
        async with announced(pair) as on:
            mark = on.mark
            for protocol in ("gw4", "gw6"):
                assert "reload failed" in await on.bird.ask(f"reload in {protocol}")
                ours = (await on.bird.ask(f"show protocols all {protocol}")).partition("Neighbor capabilities")[2]
                assert ours, "BIRD lists what we offer"
                assert "Route refresh" not in ours
            assert await on.bird.routes() == {V4, V6}
            assert on.mark == mark, "nothing went and nothing came"

    asyncio.run(main())


def test_wrong_md5_key_brings_no_session(pair: Pair) -> None:
    async def main() -> None:
        async with pair.bird(key=b"another key") as bird, pair.agent(pair.document()):
            await counted(pair, "TCPMD5Failure")
            assert "Established" not in await bird.ask("show protocols")

    asyncio.run(main())


def test_ttl_below_255_brings_no_session(pair: Pair) -> None:
    async def main() -> None:
        async with pair.bird() as bird, pair.agent(pair.document(gtsm=False)):
            await counted(pair, "TCPMinTTLDrop")
            assert "Established" not in await bird.ask("show protocols")

    asyncio.run(main())


async def counted(pair: Pair, name: str) -> None:
    """Wait until the upstream's kernel has dropped for this cause. A counter has no event, so this one polls."""
    before = pair.upstream_counter(name)
    async with asyncio.timeout(PATIENCE_S):
        while pair.upstream_counter(name) == before:
            await asyncio.sleep(0.02)


def test_no_verdict_no_route(pair: Pair) -> None:
    async def main() -> None:
        async with announced(pair) as on:
            mark, silent = on.mark, on.agent.silence()
            at = await gone(on.bird, after=mark)
            assert at - silent <= LEASE_S + SLACK_S
            await on.agent.happened(PrefixWithdrawn, prefix=V4, reason=Reason.LEASE_LAPSED)

    asyncio.run(main())


def test_a_crashed_agent_has_no_grace(pair: Pair) -> None:
    async def main() -> None:
        async with announced(pair) as on:
            mark, silent = on.mark, on.agent.silence()
            on.agent.crash()
            assert await gone(on.bird, after=mark) - silent <= LEASE_S + SLACK_S

    asyncio.run(main())


@pytest.mark.parametrize(("victim", "reason"), [("bridge_pid", Reason.BRIDGE_SILENT), ("exabgp_pid", Reason.EXABGP_SILENT)])
def test_a_stopped_holder_is_killed_and_replaced(pair: Pair, victim: str, reason: Reason) -> None:
    async def main() -> None:
        async with announced(pair) as on:
            exabgp, bridge = on.agent.exabgp_pid, on.agent.bridge_pid
            mark, stopped = on.mark, on.agent.say(True)
            with watched(exabgp) as exabgp_ended, watched(bridge) as bridge_ended:
                os.kill(getattr(on.agent, victim), signal.SIGSTOP)
                assert await gone(on.bird, after=mark) - stopped <= 2 * LEASE_S
                await all_set(exabgp_ended, bridge_ended)  # a stopped bridge must not be left behind
            await on.agent.happened(HolderKilled, pid=exabgp, reason=reason)
            await on.agent.happened(HolderExited, pid=exabgp, status=-signal.SIGKILL)
            await on.bird.added(after=mark)
            assert on.agent.exabgp_pid != exabgp

    asyncio.run(main())


def test_exabgp_killed_is_started_again(pair: Pair) -> None:
    async def main() -> None:
        async with announced(pair) as on:
            mark, first = on.mark, on.agent.exabgp_pid
            said = on.agent.say(True)
            os.kill(first, signal.SIGKILL)
            assert await gone(on.bird, after=mark) - said <= TICK_S
            await on.agent.happened(PrefixWithdrawn, prefix=V4, reason=Reason.EXABGP_EXITED)
            await on.bird.added(after=mark)

    asyncio.run(main())


def test_a_killed_bridge_is_replaced_without_a_withdrawal(pair: Pair) -> None:
    async def main() -> None:
        async with announced(pair) as on:
            first, exabgp = on.agent.bridge_pid, on.agent.exabgp_pid
            mark, withdraws = on.mark, await on.bird.import_withdraws()
            os.kill(first, signal.SIGKILL)
            # Two announcements: ours before the kill and the new bridge's.
            async with asyncio.timeout(PATIENCE_S):
                while sum(isinstance(e, PrefixAnnounced) for _, e in on.agent.events) < 4:
                    await asyncio.sleep(0.02)
            assert on.agent.bridge_pid != first
            assert on.agent.exabgp_pid == exabgp
            assert await on.bird.import_withdraws() == withdraws
            assert not [s for s in on.bird.seen[mark:] if "removed" in s.what]
            # The new bridge knows what it took over: it can still withdraw it.
            on.agent.say(False)
            await gone(on.bird, after=mark)

    asyncio.run(main())


def test_agent_and_bridge_killed_the_new_bridge_ends_what_it_cannot_vouch_for(pair: Pair) -> None:
    async def main() -> None:
        async with announced(pair) as on:
            exabgp, bridge = on.agent.exabgp_pid, on.agent.bridge_pid
            with watched(exabgp) as ended:
                mark, silent = on.mark, on.agent.silence()
                on.agent.crash()
                os.kill(bridge, signal.SIGKILL)
                assert await gone(on.bird, after=mark) - silent <= 2 * LEASE_S
                await all_set(ended)

    asyncio.run(main())


def test_agent_killed_and_exabgp_stopped_the_bridge_ends_it(pair: Pair) -> None:
    async def main() -> None:
        async with announced(pair) as on:
            exabgp = on.agent.exabgp_pid
            with watched(exabgp) as ended:
                mark, silent = on.mark, on.agent.silence()
                on.agent.crash()
                os.kill(exabgp, signal.SIGSTOP)
                assert await gone(on.bird, after=mark) - silent <= 2 * LEASE_S + SLACK_S
                await all_set(ended)

    asyncio.run(main())


def test_a_thawed_gateway_announces_nothing_before_a_new_verdict(pair: Pair) -> None:
    async def main() -> None:
        async with announced(pair, hold_s=3) as on:
            exabgp, bridge = on.agent.exabgp_pid, on.agent.bridge_pid
            on.agent.crash()
            mark = on.mark
            for pid in (bridge, exabgp):
                os.kill(pid, signal.SIGSTOP)
            await gone(on.bird, after=mark)  # by BIRD's hold timer: nobody else is left
            mark = on.mark
            for pid in (bridge, exabgp):
                os.kill(pid, signal.SIGCONT)
            for protocol in ("gw4", "gw6"):
                await on.bird.wait(protocol, "State changed to up", after=mark)
            async with pair.agent(on.document, instance="second", serving=None) as second:
                for neighbor in on.document.bgp.neighbors:
                    await second.happened(SessionChanged, neighbor=neighbor.address, state=SessionState.UP)
                assert second.exabgp_pid == exabgp, "adopted, not started anew"
                assert second.holder.lease.announced == ()
                assert not [s for s in on.bird.seen[mark:] if "added" in s.what]
                second.say(True)
                await on.bird.added(after=mark)

    asyncio.run(main())


def test_a_clean_restart_withdraws_nothing(pair: Pair) -> None:
    async def main() -> None:
        async with announced(pair) as on:
            exabgp, mark, withdraws = on.agent.exabgp_pid, on.mark, await on.bird.import_withdraws()
            assert await on.agent.stop() == on.document.lease.grace_ms / 1000
            async with pair.agent(on.document, instance="second", serving=None) as second:
                # Its checks have not looked yet.
                await second.happened(PrefixAnnounced, prefix=V4, reason=Reason.RESTART_GRACE)
                started = await second.happened(HolderStarted, name="exabgp")
                assert isinstance(started, HolderStarted) and started.adopted and started.pid == exabgp
                second.say(True)
                await renewed(second)
                assert await on.bird.import_withdraws() == withdraws
                assert await on.bird.routes() == {V4, V6}
                assert not [s for s in on.bird.seen[mark:] if "removed" in s.what]
                # The grace was for once: without verdicts this agent's lease lapses like any other.
                silent = second.silence()
                assert await gone(on.bird, after=mark) - silent <= LEASE_S + SLACK_S

    asyncio.run(main())


def test_a_clean_stop_leaves_no_route_to_a_stopped_bridge(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_holder, "STOP_LIMIT_S", LEASE_S / 4)  # as with a lease of 8 s

    async def main() -> None:
        async with announced(pair) as on:
            exabgp, mark = on.agent.exabgp_pid, on.mark
            os.kill(on.agent.bridge_pid, signal.SIGSTOP)
            assert await on.agent.stop() == 0.0
            await gone(on.bird, after=mark)
            await on.agent.happened(HolderKilled, pid=exabgp, reason=Reason.BRIDGE_SILENT)

    asyncio.run(main())


async def renewed(agent: Agent) -> None:
    """The bridge has acknowledged everything that the agent said."""
    async with asyncio.timeout(PATIENCE_S):
        while agent.holder.lease.deadline is not None:
            await asyncio.sleep(0.005)


def test_a_grace_that_nobody_ends_runs_out(pair: Pair) -> None:
    async def main() -> None:
        async with announced(pair, grace_ms=2500) as on:
            mark, said = on.mark, on.agent.say(True)
            assert await on.agent.stop() == 2.5
            at = await gone(on.bird, after=mark)
            assert 2.5 - SLACK_S <= at - said <= 2.5 + TICK_S + SLACK_S

    asyncio.run(main())


def test_from_lost_verdict_to_the_upstream(pair: Pair) -> None:
    async def main() -> list[float]:
        async with announced(pair) as on:
            took = []
            for _ in range(20):
                mark, said = on.mark, on.agent.say(False)
                took.append((await gone(on.bird, after=mark) - said) * 1000)
                on.agent.say(True)
                await on.bird.added(after=mark)
            return took

    took = asyncio.run(main())
    median = statistics.median(took)
    print(f"\nverdict lost -> both families gone at BIRD: median {median:.1f} ms, worst {max(took):.1f} ms of {len(took)}")
    assert median <= 20, "5 ms on a quiet machine"


@contextlib.contextmanager
def watched(pid: int) -> Iterator[asyncio.Event]:
    """An event that is set when the process has ended. Its sockets close a moment before that."""
    pidfd, ended = os.pidfd_open(pid), asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    try:
        yield ended
    finally:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)


async def all_set(*events: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE_S):
        for event in events:
            await event.wait()


def test_a_changed_role_changes_the_path_and_withdraws_nothing(pair: Pair) -> None:
    """`uplink: routed`: better and worse again, as BIRD sees it."""

    async def main() -> None:
        async with announced(pair) as on:
            mark = on.mark
            better = tuple(dataclasses.replace(route, med=0) for route in routes_of(on.document))
            worse = tuple(dataclasses.replace(route, med=100, prepend=1) for route in better)
            for routes, med, path in ((worse, 100, "64501 64501"), (better, 0, "64501"), (worse, 100, "64501 64501")):
                before = on.mark
                on.agent.holder.announce(routes)
                await on.bird.added(after=before)  # BIRD's word for a replacement, too
                shown = await on.bird.ask("show route all")
                assert shown.count(f"BGP.med: {med}\n") == shown.count(f"BGP.as_path: {path}\n") == 2
            assert await on.bird.routes() == {V4, V6}
            assert not [seen for seen in on.bird.seen[mark:] if "removed" in seen.what]
            assert await on.bird.import_withdraws() == 0
            assert not [event for _, event in on.agent.events if isinstance(event, PrefixWithdrawn | HolderKilled)]

    asyncio.run(main())
