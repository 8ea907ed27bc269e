"""What a large content costs the agent that takes it: the longest time that its event loop stands still meanwhile.

The content has 500 sites of two gateways with 200 prefixes each (3.8 MB). It is offered and activated twice, as the link
brings it, to the product's own `Contents`; meanwhile a task of the same loop looks every 2 ms how late it is. A verdict, and
with it the renewal of the lease, is reached every 167 ms in that loop. Beside it: the same judged in a thread of the agent.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anycast import link_wire
from anycast.content.canonical import hash_of
from anycast.content.content import Content, Gateway
from anycast.content.envelope import Activation, Envelope
from anycast.content.signature import sign
from anycast.document import Document
from anycast.events import Event
from anycast.link_offer import PACKED, OfferFrames
from anycast.link_wire import ActivationSent, OfferPacked
from anycast_lab.drills.limits import load_limits
from benchmarks.report import Bound, Result, compare
from benchmarks.simulated_fleet import Named, contents_of
from site_agent import content_judge
from site_agent.contents import Contents
from site_agent.paths import Paths
from tests.support.contents import ALICE, TRUSTED

SITES, PREFIXES = 500, 200
LOOK_S = 0.002
LIMIT_S = 60.0
RUNS, SOAK_RUNS = 3, 10


def wide(named: Named, prefixes: int) -> Content:
    """Every gateway but those of the first site announces so many: that one's document is looked into."""
    announced = tuple(f"2001:db8:{n:x}::/48" for n in range(1, prefixes + 1))
    first, *others = named.content.sites.items()
    found = dict([first])
    for name, site in others:
        gateways = {
            each: Gateway(document=gateway.document, announces=dict.fromkeys(gateway.announces, announced))
            for each, gateway in site.gateways.items()
        }
        found[name] = site.model_copy(update={"gateways": gateways})
    return named.content.model_copy(update={"sites": found})


class Messages:
    """Two contents, one after the other, as frames without their lengths."""

    def __init__(self) -> None:
        named = contents_of(SITES, capacity=1000)
        self.gateway = next(iter(named.documents))
        self.document = named.documents[self.gateway]
        first = wide(named, PREFIXES)
        second = wide(contents_of(SITES, capacity=1001), PREFIXES).model_copy(update={"after": (_hash(first),)})
        self.contents = (first, second)

    def frames(self) -> Iterator[tuple[bytes, bytes]]:
        """Of each content, the offer and the activation."""
        for generation, content in enumerate(self.contents, 1):
            envelope = Envelope(version=1, generation=generation, content=content.text, signature=sign(content.text, ALICE))
            offer = OfferFrames(envelope).frame(self.document, (PACKED,))
            site = self.gateway.rpartition("-")[0]
            word = Activation(version=1, site=site, generation=generation, hash=_hash(content))
            yield offer[4:], link_wire.encode(ActivationSent(data=word.data.decode()))[4:]


def _hash(content: Content) -> str:
    return hash_of(content.text)


async def longest_stop_s(messages: Messages, base: Path) -> float:
    """Of the loop's, while everything is taken."""
    paths = Paths(state_dir=base / "state", run_dir=base / "run", etc_dir=base / "etc", pki_dir=base / "pki")
    paths.state_dir.mkdir(mode=0o700)
    paths.operators.write_bytes(TRUSTED.data)
    document = Document.model_validate_json(messages.document)
    complaints: list[Event] = []
    contents = Contents(
        document, paths, staged=lambda _: None, activated=lambda _: None, happened=complaints.append
    )
    contents.start()
    frames = list(messages.frames())
    longest, working = 0.0, asyncio.create_task(contents.run())

    async def look() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LOOK_S)
            longest = max(longest, time.perf_counter() - before - LOOK_S)

    looking = asyncio.create_task(look())
    try:
        async with asyncio.timeout(LIMIT_S):
            for generation, pair in enumerate(frames, 1):
                for frame, place in zip(pair, ("staged", "active"), strict=True):
                    message = link_wire.decode(frame)
                    assert isinstance(message, OfferPacked | ActivationSent)
                    contents.sent(message)
                    while (told := getattr(contents.told(), place)) is None or told.generation != generation:
                        assert not complaints, complaints
                        await asyncio.sleep(LOOK_S)
    finally:
        for task in (looking, working):
            task.cancel()
    return longest


@contextmanager
def in_a_thread() -> Iterator[None]:
    """As if everything were small."""
    small, content_judge.SMALL = content_judge.SMALL, 1 << 40
    try:
        yield
    finally:
        content_judge.SMALL = small


def measured(messages: Messages) -> float:
    """Milliseconds."""
    with tempfile.TemporaryDirectory(prefix="bench-offer-") as base:
        Path(base).chmod(0o700)
        return asyncio.run(longest_stop_s(messages, Path(base))) * 1e3


def agent_stop_500x200(soak: bool) -> Result:
    messages, runs = Messages(), SOAK_RUNS if soak else RUNS
    ours = [measured(messages) for _ in range(runs)]
    with in_a_thread():
        thread = [measured(messages) for _ in range(runs)]
    name = "agent_stop_500x200"
    size = len(messages.contents[0].text) / 1e6
    figure = compare(name, "ms", ours, thread, f"the same in a thread of the agent; a content of {size:.1f} MB")
    limit = load_limits()["bench_agent_stop"].on("native")
    return Result([figure], [Bound(name=f"{name}, ms", seen=max(ours), limit=limit)])


BENCHMARKS = {"agent_stop_500x200": agent_stop_500x200}
