"""What a REDIRECT (RFC 5685) does to strongSwan's clients, and what a DELETE does: measured, docs/drain.md rests on it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable

import pytest

from anycast.errors import PeerError
from anycast.policy.drain import Tunnel
from site_agent.ike.prober import answers
from site_agent.ike.redirector import Redirector
from tests.support.namespace import in_namespace
from tests.support.two_sites import UNICAST, VIP, Station, TwoSites

pytestmark = pytest.mark.root

SLACK_S = 5.0
"""Tells right from wrong; what was measured is some 10 ms."""
STILL_S = 1.5
"""For what must not happen: more than a hundred times what it takes where it does."""


async def until(true: Callable[[], Awaitable[object]], what: str, within_s: float = SLACK_S) -> None:
    deadline = time.monotonic() + within_s
    while not await true():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


async def end(station: Station, identity: str) -> str | None:
    """The gateway's end of the client's one tunnel with an INSTALLED CHILD_SA, as the client has it."""
    sa = await station.of(identity)
    whole = sa is not None and any(child["state"] == b"INSTALLED" for child in sa.get("child-sas", {}).values())
    return sa["remote-host"].decode() if sa is not None and whole else None


def run(test: Callable[[TwoSites], Awaitable[None]]) -> None:
    sites = TwoSites()

    async def whole() -> None:
        await sites.boot()
        await test(sites)

    asyncio.run(whole())


@in_namespace
def test_a_client_that_follows_has_its_new_tunnel_before_it_ends_the_old_one() -> None:
    async def test(sites: TwoSites) -> None:
        await sites.connect(sites.c, "alice")
        before = await sites.c.of("alice")
        assert before is not None
        assert await sites.g1.redirect("alice", UNICAST["g2"]) == {"success": b"yes", "matches": b"1"}
        await until(lambda: is_at(sites.c, UNICAST["g2"]), "it follows")
        await until(lambda: gone(sites.g1, "alice"), "the old one is gone")
        after = await sites.c.of("alice")
        assert after is not None
        assert before["local-vips"] != after["local-vips"], "the other site's pool: flows inside do not survive"
        log = sites.c.log()
        made = next(i for i, line in enumerate(log) if f"established between 198.51.100.13[alice]...{UNICAST['g2']}" in line)
        ended = next(
            i for i, line in enumerate(log) if f"deleting IKE_SA alice[1] between 198.51.100.13[alice]...{VIP}" in line
        )
        assert made < ended

    run(test)


async def is_at(client: Station, address: str, identity: str = "alice") -> bool:
    return await end(client, identity) == address


async def gone(site: Station, identity: str) -> bool:
    return await site.of(identity) is None


@in_namespace
def test_vici_does_not_tell_who_can_follow_and_who_cannot_keeps_its_tunnel() -> None:
    async def test(sites: TwoSites) -> None:
        await sites.connect(sites.c, "alice")
        await sites.connect(sites.nf, "bob")
        alice, bob = await sites.g1.of("alice"), await sites.g1.of("bob")
        assert alice is not None and bob is not None
        assert alice.keys() == bob.keys()
        assert await sites.g1.redirect("bob", UNICAST["g2"]) == {"success": b"yes", "matches": b"1"}, "as for one that can"
        await asyncio.sleep(STILL_S)
        assert await end(sites.nf, "bob") == VIP
        assert any("client does not support IKE redirection" in line for line in sites.g1.log()), "the log alone says so"
        inits = [line for line in sites.g1.log() if "parsed IKE_SA_INIT request" in line]
        assert ["N(REDIR_SUP)" in line for line in inits] == [True, False]
        with pytest.raises(PeerError, match="no matching SAs to redirect found"):
            await sites.g1.redirect("nobody", UNICAST["g2"])

    run(test)


@in_namespace
def test_an_ike_sa_follows_one_redirect_also_where_it_led_nowhere() -> None:
    async def test(sites: TwoSites) -> None:
        await sites.connect(sites.c, "alice")
        await sites.g1.redirect("alice", "198.51.100.99")
        await until(lambda: said(sites.c, "establishing IKE_SA failed, peer not responding"), "it gives up", within_s=15)
        assert await end(sites.c, "alice") == VIP, "the tunnel stands as before"
        assert (await sites.g1.redirect("alice", UNICAST["g2"]))["success"] == b"yes"
        await asyncio.sleep(STILL_S)
        assert await end(sites.c, "alice") == VIP, "but nothing moves it any more"
        assert sum("generating INFORMATIONAL request" in line and "REDIR" in line for line in sites.g1.log()) == 1
        assert not await answers("198.51.100.99", 1.0), "which is why a drain asks first"

    run(test)


async def said(station: Station, words: str) -> bool:
    return any(words in line for line in station.log())


@in_namespace
def test_a_client_comes_back_to_the_vip_when_the_other_site_dies_and_follows_five_in_five_minutes() -> None:
    async def test(sites: TwoSites) -> None:
        await sites.connect(sites.c, "alice", dpd_delay="1")
        at, other = (sites.g1, sites.g2), {"g1": UNICAST["g2"], "g2": UNICAST["g1"]}
        for number in range(5):
            here = at[number % 2]
            await here.redirect("alice", other[here.name])
            await until(lambda: is_at(sites.c, other[here.name]), f"redirect {number + 1}")  # noqa: B023
            await until(lambda: gone(here, "alice"), "the old one is gone")  # noqa: B023
        await sites.g2.redirect("alice", UNICAST["g1"])
        await until(lambda: said(sites.c, "only 5 redirects are allowed within 300 seconds"), "loops are cut")
        assert await end(sites.c, "alice") == UNICAST["g2"]
        os.kill(sites.g2.pid, signal.SIGKILL)
        await until(lambda: is_at(sites.c, VIP), "where its configuration says", within_s=25)

    run(test)


@in_namespace
def test_a_delete_is_no_use_before_the_route_has_moved() -> None:
    async def test(sites: TwoSites) -> None:
        await sites.connect(sites.nf, "bob")
        first = await sites.g1.of("bob")
        assert first is not None
        await sites.g1.delete("bob")
        await until(lambda: another(sites.g1, "bob", first["uniqueid"]), "it is back at once")
        sites.lead(sites.nf, sites.g2)
        await sites.g1.delete("bob")
        await until(lambda: has(sites.g2, "bob"), "now it connects where the route leads")
        assert await end(sites.nf, "bob") == VIP

    run(test)


async def has(site: Station, identity: str) -> bool:
    return await site.of(identity) is not None


async def another(site: Station, identity: str, number: bytes) -> bool:
    sa = await site.of(identity)
    return sa is not None and sa["uniqueid"] != number


@in_namespace
def test_a_redirect_still_moves_a_client_whose_route_has_moved_already() -> None:
    """Its answer does not come here any more, but ours goes there."""

    async def test(sites: TwoSites) -> None:
        await sites.connect(sites.c, "alice")
        sites.lead(sites.c, sites.g2)
        await sites.g1.redirect("alice", UNICAST["g2"])
        await until(lambda: has(sites.g2, "alice"), "it follows")
        sa = await sites.g2.of("alice")
        assert sa is not None and sa["local-host"] == UNICAST["g2"].encode()

    run(test)


@in_namespace
def test_the_redirector_moves_whom_it_is_told_to_and_counts_what_stands() -> None:
    async def test(sites: TwoSites) -> None:
        to = (UNICAST["g2"],)
        redirector = Redirector(sites.g1.vici, [VIP, UNICAST["g1"]], canary="canary")
        for client, identity in ((sites.c, "alice"), (sites.c, "carol"), (sites.c, "canary"), (sites.nf, "bob")):
            await sites.connect(client, identity)
        alice, carol, bob = [(await sites.g1.of(name) or {})["uniqueid"].decode() for name in ("alice", "carol", "bob")]
        assert {*await redirector.tunnels(to)} == {Tunnel(alice), Tunnel(carol), Tunnel(bob)}, "all but our own"
        assert not any(tunnel.can for tunnel in await redirector.tunnels(["2001:db8::1"])), "no address of their family"
        await redirector.tunnels(to)
        assert await redirector.redirect([alice, "4711"], to) == 1
        await until(lambda: is_at(sites.c, UNICAST["g2"]), "only she")
        assert await end(sites.c, "carol") == VIP
        sites.lead(sites.nf, sites.g2)
        assert await redirector.delete([bob]) == 1

        async def left() -> bool:
            return {*await redirector.tunnels(to)} == {Tunnel(carol)}

        await until(left, "one whose DELETE is not answered counts no more")
        assert await redirector.redirect([carol], to, stop=lambda: True) == 0

    run(test)
