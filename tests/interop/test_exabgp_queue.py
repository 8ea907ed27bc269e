"""Why a withdrawal repeats its announcement's attributes: what ExaBGP 5 does with commands while a session is down.

Not our code but the fact it rests on. If the first test ever fails, ExaBGP has mended its queue and `api.py` may forget
about attributes; if the second fails, the bridge's remedy does not work any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from anycast.model import Route
from exabgp_bridge.api import Announce, Withdraw, encode_command
from site_agent.announce.exabgp_process import end_with_children, exabgp_spec
from site_agent.daemon_process import DetachedProcess
from tests.support.bgp_pair import PATIENCE_S, V4, Bird, Pair, bgp_pair, missing

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing()), reason=f"missing: {missing()}"),
]

ROUTE = Route(neighbor="198.51.100.1", prefix=V4, next_hop="198.51.100.2")
MARKER = Route(neighbor="198.51.100.1", prefix="203.0.113.16/28", next_hop="198.51.100.2")
"""Announced last: when BIRD has it, everything queued before has been sent."""

HELPER = """
import os, select, sys
ins, outs = os.open(sys.argv[1], os.O_RDWR), os.open(sys.argv[2], os.O_RDWR)
while True:
    for fd in select.select([0, ins], [], [])[0]:
        data = os.read(fd, 65536)
        if not data:
            sys.exit()
        os.write(outs if fd == 0 else 1, data)
"""
CONFIG = """
process helper {{ run {python} {helper} {ins} {outs}; encoder json; }}
neighbor 198.51.100.1 {{
    router-id 198.51.100.2; local-address 198.51.100.2; local-as 64501; peer-as 64511; hold-time 9; adj-rib-out false;
    md5-password "queue"; outgoing-ttl 255; incoming-ttl 255;
    family {{ ipv4 unicast; }}
    api {{ processes [ helper ]; neighbor-changes; }}
}}
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with bgp_pair() as made:
        yield made


class Console:
    """ExaBGP's helper API by hand."""

    def __init__(self, ins: Path, outs: Path) -> None:
        self._ins = os.open(ins, os.O_RDWR)
        self._outs = os.open(outs, os.O_RDWR | os.O_NONBLOCK)
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        self._rest = b""
        asyncio.get_running_loop().add_reader(self._outs, self._read)

    def _read(self) -> None:
        *lines, self._rest = (self._rest + os.read(self._outs, 65536)).split(b"\n")
        for line in lines:
            self._lines.put_nowait(line)

    async def wait(self, part: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while part not in await self._lines.get():
                pass

    async def run(self, command: bytes) -> None:
        os.write(self._ins, command)
        await self.wait(b"done")

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._outs)
        os.close(self._ins)
        os.close(self._outs)


@contextlib.asynccontextmanager
async def session(pair: Pair) -> AsyncIterator[tuple[Bird, Console]]:
    helper, ins, outs = (pair.directory / name for name in ("helper.py", "ins", "outs"))
    helper.write_text(HELPER)
    for fifo in (ins, outs):
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo)
        fifo.chmod(0o666)
    pair.config.write_text(CONFIG.format(python=sys.executable, helper=helper, ins=ins, outs=outs))
    process = DetachedProcess(
        exabgp_spec(config=pair.config, run_dir=pair.run_dir, run_as="64179"), lambda pid, status: None
    )
    async with pair.bird(key=b"queue") as bird:
        console = Console(ins, outs)
        process.start()
        try:
            await console.wait(b'"state": "up"')
            yield bird, console
        finally:
            await end_with_children(process)
            console.close()


async def announced_while_down(pair: Pair, withdraw: bytes) -> set[str]:
    """Announce and withdraw while the session is down. Returns what the upstream has once it is up again."""
    async with session(pair) as (bird, console):
        await bird.ask("disable gw4")
        await console.wait(b'"state": "down"')
        await console.run(encode_command(Announce(ROUTE, 64501)))
        await console.run(withdraw)
        mark = len(bird.seen)
        await bird.ask("enable gw4")
        await console.wait(b'"state": "up"')
        await console.run(encode_command(Announce(MARKER, 64501)))
        await bird.wait("gw4", f"added .*{MARKER.prefix}", after=mark)
        return await bird.routes() - {MARKER.prefix}


def test_a_bare_withdrawal_does_not_replace_a_queued_announcement(pair: Pair) -> None:
    bare = f"neighbor {ROUTE.neighbor} withdraw route {ROUTE.prefix}\n".encode()
    assert asyncio.run(announced_while_down(pair, bare)) == {V4}


def test_a_withdrawal_with_its_attributes_does(pair: Pair) -> None:
    assert asyncio.run(announced_while_down(pair, encode_command(Withdraw(ROUTE, 64501)))) == set()


async def heard(pair: Pair, route: Route) -> str:
    """What BIRD says of a route that was announced."""
    async with session(pair) as (bird, console):
        mark = len(bird.seen)
        await console.run(encode_command(Announce(route, 64501)))
        await bird.wait("gw4", f"added .*{route.prefix}", after=mark)
        return await bird.ask(f"show route all {route.prefix}")


def test_every_attribute_of_a_policy_is_heard_as_it_was_meant(pair: Pair) -> None:
    route = dataclasses.replace(
        ROUTE,
        med=50,
        prepend=2,
        communities=("64511:90", "65535:0"),
        large_communities=("64511:1:90", "4200000000:4294967295:0"),
        local_pref=200,
    )
    text = asyncio.run(heard(pair, route))
    assert re.search(r"bgp[._](as_)?path: 64501 64501 64501$", text, re.MULTILINE | re.IGNORECASE), text
    assert re.search(r"bgp[._]med: 50$", text, re.MULTILINE | re.IGNORECASE), text
    assert re.search(r"bgp[._]community: \(64511,90\) \(65535,0\)$", text, re.MULTILINE | re.IGNORECASE), text
    large = r"bgp[._]large_community: \(64511, 1, 90\) \(4200000000, 4294967295, 0\)$"
    assert re.search(large, text, re.MULTILINE | re.IGNORECASE), text
    # Another AS decides its own: ExaBGP leaves LOCAL_PREF away there (RFC 4271 section 5.1.5), and 100 is BIRD's.
    assert re.search(r"bgp[._]local_pref: 100$", text, re.MULTILINE | re.IGNORECASE), text
