"""Two channels over real TLS on loopback: who is let in, who is not, what expiry, renewal and revocation do to a pair."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Role
from anycast.reasons import Reason
from site_agent.sync import wire
from site_agent.sync.channel import MOST_HANDSHAKES
from site_agent.sync.kinds import Kind
from site_agent.sync.versions import Versions
from site_agent.sync.words import Cause
from tests.support.sync_pair import (
    ADDRESS,
    DAY,
    ONE,
    OTHER,
    Gateway,
    Root,
    Stranger,
    free_port,
    now,
    refusals,
    running,
    stranger,
    until,
)
from tests.support.sync_world import VERSIONS, hello, message

pytestmark = pytest.mark.daemons

GREETING = hello() + wire.encode_resume(((0, 0), (0, 0))) + message(1, b"a lie")


class Site:
    """A root, two equipped gateways, and a wall clock that can be moved."""

    def __init__(self, path: Path, *, equipped_days_ago: int = 0, days: int = 365) -> None:
        os.chmod(path, 0o700)
        self.path, self.port = path, free_port()
        self.offset = datetime.timedelta()
        at = now() - equipped_days_ago * DAY
        self.root = Root(path / "root", at=at)
        self.machines = {name: self.root.equip(path / name, name, at=at, days=days) for name in (ONE, OTHER)}

    def wall(self) -> datetime.datetime:
        return now() + self.offset

    def gateway(self, name: str, *, versions: Versions = VERSIONS) -> Gateway:
        return Gateway(
            name, self.machines[name], self.path / f"state-{name}", self.port, wall=self.wall, versions=versions
        )

    def pair(self) -> tuple[Gateway, Gateway]:
        return self.gateway(ONE), self.gateway(OTHER)


def counted(gateway: Gateway, word: str, least: int) -> Callable[[], bool]:
    return lambda: refusals(gateway)[word] >= least


def alarms(gateway: Gateway, reason: Reason) -> Callable[[], bool]:
    return lambda: reason in gateway.channel.alarms


def more_ups(gateway: Gateway, before: int) -> Callable[[], bool]:
    return lambda: len(gateway.ups) > before


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


async def speak(one: Gateway, other: Gateway) -> None:
    """Both ways, and it arrives."""
    await until("both are up", lambda: one.channel.session.is_up and other.channel.session.is_up)
    before = len(one.got), len(other.got)
    one.say(b"from one")
    other.say(b"from the other")
    await until("it arrived", lambda: (len(one.got), len(other.got)) > before and len(other.got) > before[1])
    assert one.got[-1][1] == b"from the other" and other.got[-1][1] == b"from one"


def test_a_pair_speaks_and_has_nothing_to_alarm(tmp_path: Path) -> None:
    async def test() -> None:
        one, other = Site(tmp_path).pair()
        async with running(one, other):
            await speak(one, other)
            assert one.channel.alarms == {} == other.channel.alarms
            assert [up.resumed for up in one.ups] == [False] == [up.resumed for up in other.ups]
        assert one.pin_file.exists() and other.pin_file.exists()

    run(test())


def test_a_table_crosses_and_what_is_urgent_overtakes_it(tmp_path: Path) -> None:
    async def test() -> None:
        one, other = Site(tmp_path).pair()
        async with running(one, other):
            await speak(one, other)
            pieces = [bytes([number]) * 100_000 for number in range(150)]
            for piece in pieces:
                one.say(piece, Kind.CONNTRACK)
            one.say(b"urgent")
            await until("all is there", lambda: len(other.got) == 152)
            assert [payload for kind, payload in other.got if kind is Kind.CONNTRACK] == pieces
            assert other.got.index((Kind.HA, b"urgent")) < 20, "a burst may be before it, not the table"

    run(test())


def test_versions_that_differ_are_reasons_at_both_ends(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path)
        one, other = site.gateway(ONE), site.gateway(OTHER, versions=dataclasses.replace(VERSIONS, charon="5.9.13"))
        async with running(one, other):
            await speak(one, other)
            assert one.channel.alarms.keys() == {Reason.CHARON_DIFFERS} == other.channel.alarms.keys()
        assert one.channel.session.mismatches, "kept, so that a handover can be refused"

    run(test())


# Who is not let in


def odd_ones(site: Site) -> dict[str, tuple[MachineFolder | None, str]]:
    """Whoever has a certificate that is not the peer's own good one, and the word for it."""
    path = site.path
    foreign = Root(path / "foreign")
    found: dict[str, tuple[MachineFolder | None, str]] = {
        "no certificate": (None, "tls"),
        "foreign": (foreign.equip(path / "x-foreign", ONE), "foreign"),
        "wrong name": (site.root.equip(path / "x-name", "fra-gw3"), "wrong_name"),
        "wrong role": (site.root.equip(path / "x-role", "central", role=Role.COORDINATOR), "wrong_role"),
        "expired": (
            site.root.equip(path / "x-expired", ONE, at=now() - 20 * DAY, days=10, renew=True),
            "expired",
        ),
        "not yet valid": (
            site.root.equip(path / "x-early", ONE, at=now() + 10 * DAY, renew=True),
            "not_yet_valid",
        ),
    }
    revoked = site.root.equip(path / "x-revoked", ONE, renew=True)
    site.root.revoke(ONE, tell=site.machines[OTHER], serial=revoked.own().certificate.serial_number)
    return found | {"revoked": (revoked, "revoked")}


def test_who_is_not_the_peer_changes_nothing_for_the_one_that_is_called(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path, equipped_days_ago=30)
        strangers = odd_ones(site)
        one, other = site.pair()
        async with running(one, other):
            await speak(one, other)
            name, ups, pin = other.channel.session.name, list(other.ups), other.pin_file.read_bytes()
            for what, (machine, word) in strangers.items():
                before = refusals(other)[word]
                caller = Stranger(site.port, stranger(machine))
                assert await caller.say(GREETING) != "still open", what
                await until(f"{what} is counted", counted(other, word, before + 1))
                assert b"versions" not in caller.heard, f"{what}: it was greeted"
            old = stranger(site.machines[ONE])
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            assert await Stranger(site.port, old).say(GREETING) != "still open"
            assert await Stranger(site.port, stranger(site.machines[ONE], alpn="h2")).say(GREETING) != "still open"
            far = Stranger(site.port, stranger(site.machines[ONE]), address="127.0.0.3")
            assert await far.say(GREETING) != "still open" and refusals(other)["address"] == 1
            await speak(one, other)
            assert (other.channel.session.name, other.ups, other.downs) == (name, ups, [])
            assert other.pin_file.read_bytes() == pin
            assert b"a lie" not in [payload for _, payload in other.got]
            assert Reason.CHANNEL_REFUSED in other.channel.alarms

    run(test())


def test_who_answers_in_the_peers_place_is_not_believed(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path, equipped_days_ago=30)
        path = tmp_path
        strangers = {
            "foreign": Root(path / "foreign").equip(path / "x-foreign", OTHER),
            "wrong_name": site.root.equip(path / "x-name", "fra-gw3"),
            "wrong_role": site.root.equip(path / "x-role", "central", role=Role.COORDINATOR),
            "expired": site.root.equip(path / "x-expired", OTHER, at=now() - 20 * DAY, days=10, renew=True),
        }
        for word, machine in strangers.items():
            heard: list[bytes] = []

            async def answer(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: list[bytes] = heard
            ) -> None:
                writer.write(GREETING)
                try:
                    while piece := await reader.read(65_536):
                        heard.append(piece)
                except OSError:
                    pass
                writer.close()

            server = await asyncio.start_server(
                answer, ADDRESS[OTHER], site.port, ssl=stranger(machine, server=True)
            )
            one = site.gateway(ONE)
            async with server, running(one):
                await until(f"{word} is refused", counted(one, word, 2))
                assert not one.ups and not one.got and not one.pin_file.exists()
                assert b"versions" not in b"".join(heard), f"{word}: it was greeted"
                assert one.channel.alarms.keys() == {Reason.CHANNEL_REFUSED, Reason.CHANNEL_DOWN}

    run(test())


def test_two_roots_are_told_at_both_ends(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path)
        site.machines[OTHER] = Root(tmp_path / "second").equip(tmp_path / "other", OTHER)
        one, other = site.pair()
        async with running(one, other):
            await until("one refuses", counted(one, "foreign", 2))
            assert not one.ups and not other.ups
            assert "fra-gw2 is refused: foreign" in one.channel.alarms[Reason.CHANNEL_REFUSED]
            assert "CERTIFICATE_VERIFY_FAILED" in one.channel.alarms[Reason.CHANNEL_DOWN]
            assert "fra-gw1 broke off the handshake (another root there?)" in other.channel.alarms[Reason.CHANNEL_DOWN]

    run(test())


def test_a_recorded_connection_played_again_changes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path)
        recorded: list[bytes] = []
        one, other = site.gateway(ONE), site.gateway(OTHER)
        front = free_port()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            in_reader, in_writer = await asyncio.open_connection(
                ADDRESS[OTHER], site.port, local_addr=(ADDRESS[ONE], 0)
            )

            async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, keep: bool) -> None:
                while piece := await source.read(65_536):
                    if keep:
                        recorded.append(piece)
                    sink.write(piece)

            await asyncio.gather(copy(reader, in_writer, True), copy(in_reader, writer, False))

        site.port, front = front, site.port
        one = site.gateway(ONE)
        site.port = front
        server = await asyncio.start_server(relay, ADDRESS[OTHER], one.channel._plan.port)
        async with server, running(one, other):
            await speak(one, other)
            name, got = other.channel.session.name, len(other.got)
            assert sum(map(len, recorded)) > 1_000
            for together in (True, False):
                reader, writer = await asyncio.open_connection(ADDRESS[OTHER], site.port, local_addr=(ADDRESS[ONE], 0))
                for piece in [b"".join(recorded)] if together else recorded:
                    writer.write(piece)
                    await asyncio.sleep(0.01)
                try:
                    await asyncio.wait_for(reader.read(-1), 10)
                except OSError:
                    pass
                writer.close()
            assert (other.channel.session.name, len(other.got), len(other.ups), other.downs) == (name, got, 1, [])
            await speak(one, other)
            server.close()

    run(test())


def test_a_peer_that_breaks_the_protocol_is_ended_and_comes_back(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path)
        other = site.gateway(OTHER)
        async with running(other):
            await until("it listens", lambda: _listens(site.port))
            for said in (os.urandom(4096), hello() + os.urandom(200), GREETING + message(1) * 3):
                await asyncio.sleep(0)
                caller = Stranger(site.port, stranger(site.machines[ONE]))
                while b"violation" not in caller.heard:
                    assert await caller.say(said) != "still open"
            assert Reason.CHANNEL_VIOLATED in other.channel.alarms
            one = site.gateway(ONE)
            async with running(one):
                await speak(one, other)

    run(test())


def test_a_peer_that_floods_or_reads_nothing_costs_the_window_and_no_more(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path)
        other = site.gateway(OTHER)
        other.works_off = False
        async with running(other):
            await until("it listens", lambda: _listens(site.port))
            flood = hello() + wire.encode_resume(((0, 0), (0, 0))) + b"".join(
                message(number, bytes(100_000), Kind.CONNTRACK) for number in range(1, 300)
            )
            caller = Stranger(site.port, stranger(site.machines[ONE]))
            assert await caller.say(flood, wait_s=20) != "still open"
            assert [down.cause for down in other.downs] == [Cause.VIOLATION] and "in a window of" in other.downs[0].detail
            assert sum(len(payload) for _, payload in other.got) < 8 << 20

    run(test())


def test_handshakes_that_wait_do_not_keep_the_peer_out(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path)
        one, other = site.pair()
        async with running(other):
            await until("it listens", lambda: _listens(site.port))
            idle = [
                await asyncio.open_connection(ADDRESS[OTHER], site.port, local_addr=(ADDRESS[ONE], 0)) for _ in range(60)
            ]
            async with running(one):
                await speak(one, other)
            assert len(other.channel._tasks) <= MOST_HANDSHAKES
            for _, writer in idle:
                writer.close()

    run(test())


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((ADDRESS[OTHER], port)) == 0


# Expiry


def test_an_expired_certificate_of_the_pinned_key_keeps_the_pair_alive_with_an_alarm(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path, days=40)
        one, other = site.pair()
        async with running(one, other):
            await speak(one, other)
            site.offset = 41 * DAY
            for each in (one, other):
                await until("it is told", alarms(each, Reason.CERTIFICATE_EXPIRED))
            await speak(one, other)
            assert not one.downs and not other.downs, "a live connection does not end"
        one, other = site.pair()
        async with running(one, other):  # as after a reboot
            await speak(one, other)
            assert one.channel.alarms.keys() == {Reason.CERTIFICATE_EXPIRED} == other.channel.alarms.keys()
            for name in (ONE, OTHER):
                site.root.equip(site.path / name, name, renew=True, at=site.wall())
            await until("both are renewed", lambda: not one.channel.alarms and not other.channel.alarms)
            assert not one.downs and not other.downs

    run(test())


@pytest.mark.parametrize("what", ["pin is gone", "pin is of another key", "pin may have been written by others", "revoked"])
def test_every_other_expired_one_is_refused(tmp_path: Path, what: str) -> None:
    async def test() -> None:
        site = Site(tmp_path, days=40)
        one, other = site.pair()
        async with running(one, other):
            await speak(one, other)
        site.offset = 41 * DAY
        pin = other.pin_file
        match what:
            case "pin is gone":
                pin.unlink()
            case "pin is of another key":
                pin.write_text(json.dumps(json.loads(pin.read_text()) | {"key": "ab" * 32}))
            case "pin may have been written by others":
                pin.chmod(0o666)
            case "revoked":
                site.root.revoke(ONE, tell=site.machines[OTHER])
        one, other = site.pair()
        async with running(one, other):
            word = "revoked" if what == "revoked" else "expired"
            await until("it is refused", lambda: refusals(other)[word] >= 2)
            assert not other.ups and not other.got
            assert any("refuses this gateway" in text for text in one.channel.alarms.values()), one.channel.alarms

    run(test())


# Renewal and revocation


@pytest.mark.parametrize("name", [ONE, OTHER])
def test_a_renewal_drops_nothing(tmp_path: Path, name: str) -> None:
    async def test() -> None:
        site = Site(tmp_path)
        one, other = site.pair()
        async with running(one, other):
            await speak(one, other)
            before = [len(one.got), len(other.got)]
            pins = {each: each.pin_file.read_bytes() for each in (one, other)}
            said = 0

            async def talk() -> None:
                nonlocal said
                while True:
                    one.say(b"%d" % said)
                    other.say(b"%d" % said, Kind.CONNTRACK)
                    said += 1
                    await asyncio.sleep(0.001)

            talking = asyncio.create_task(talk())
            for _ in range(3):
                ups = len(one.ups), len(other.ups)
                # A new link that a peer asks for comes 10 s after the last one at the soonest: as if that were over.
                one.channel.session._last_redial -= 100
                site.root.equip(site.path / name, name, renew=True)
                await until("the new certificate is proved at one", more_ups(one, ups[0]))
                await until("and at the other", more_ups(other, ups[1]))
            talking.cancel()
            await until("all has arrived", lambda: min(len(one.got) - before[0], len(other.got) - before[1]) == said)
            for gateway, start in ((one, before[0]), (other, before[1])):
                assert [payload for _, payload in gateway.got[start:]] == [b"%d" % number for number in range(said)]
                assert not gateway.downs and all(up.resumed for up in gateway.ups[1:]) and not gateway.channel.alarms
            seen_by = other if name == ONE else one
            assert seen_by.pin_file.read_bytes() != pins[seen_by], "the new key is the one that it is known by"

    run(test())


def test_a_revocation_ends_the_connection_in_use(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path)
        one, other = site.pair()
        async with running(one, other):
            await speak(one, other)
            site.root.revoke(ONE, tell=site.machines[OTHER])
            await until("it is ended", lambda: [down.cause for down in other.downs] == [Cause.REFUSED])
            await until("it stays so", lambda: refusals(other)["revoked"] >= 3)
            assert len(other.ups) == 1 and not other.channel.session.is_up
            site.root.equip(site.path / ONE, ONE)  # revoked, so this is a first one again
            await speak(one, other)

    run(test())


def test_an_operators_mistake_parts_nobody(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path)
        one, other = site.pair()
        async with running(one, other):
            await speak(one, other)
            machine = site.machines[OTHER]
            for file in (machine.identity_file, machine.list_file, machine.roots_file):
                good = file.read_bytes()
                file.write_bytes(b"nothing")
                await until("it is told", lambda: Reason.IDENTITY_UNUSABLE in other.channel.alarms)
                file.write_bytes(good)
                await until("it is over", lambda: not other.channel.alarms)
            await speak(one, other)
            assert not one.downs and len(one.ups) == 1

    run(test())


def test_a_restart_of_one_begins_anew_and_a_cut_goes_on(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path)
        one, other = site.pair()
        async with running(other):
            async with running(one):
                await speak(one, other)
                next(iter(other.channel._links.values())).abort()
                await until("it is back", lambda: len(one.ups) == 2 and len(other.ups) == 2)
                assert one.ups[1].resumed and other.ups[1].resumed
                await speak(one, other)
            one = site.gateway(ONE)
            async with running(one):
                await speak(one, other)
                assert [up.resumed for up in other.ups] == [False, True, False]

    run(test())
