"""What a gateway tells of its contents while one agent gives way to another."""

from __future__ import annotations

import asyncio
from pathlib import Path

from anycast.content.canonical import hash_of
from anycast.content.record import Taken
from anycast.events import Event
from anycast.fleet.compile import compile_gateway
from anycast.fleet.loading import loads
from anycast.link_wire import ActivationSent, OfferSent, VersionTold
from site_agent.contents import Contents
from site_agent.paths import Paths
from tests.support.contents import TRUSTED, activation, fleet_text, made, offered

FIRST = made()
SECOND = made(after=[FIRST.content], sin="drained")


def version(what: object, generation: int) -> VersionTold:
    return VersionTold(generation=generation, hash=hash_of(what.content.text))  # type: ignore[attr-defined]


def test_what_another_agent_is_to_run_by_is_not_told_as_run_by(tmp_path: Path) -> None:
    events, activated = list[Event](), list[Taken]()
    paths = Paths(run_dir=tmp_path, state_dir=tmp_path, etc_dir=tmp_path, pki_dir=tmp_path / "pki")
    paths.operators.write_bytes(TRUSTED.data)
    document = compile_gateway(loads(fleet_text()), "fra-gw1")

    def contents() -> Contents:
        return Contents(
            document, paths, staged=lambda _: None, activated=activated.append, happened=events.append
        )

    async def take(to: Contents, what: object, generation: int) -> None:
        before = len(activated)
        to.sent(OfferSent(data=offered(what, generation).decode()))  # type: ignore[arg-type]
        to.sent(ActivationSent(data=activation(what.content, generation).decode()))  # type: ignore[attr-defined]
        while len(activated) == before:
            await asyncio.sleep(0.01)

    async def test() -> None:
        old = contents()
        old.start()
        running = asyncio.create_task(old.run())
        await asyncio.wait_for(take(old, FIRST, 1), 10)
        assert (old.told().staged, old.told().active) == (None, version(FIRST, 1))
        await asyncio.wait_for(take(old, SECOND, 2), 10)
        assert old.told().active == version(SECOND, 2), "this agent goes on with it"
        old.leaving()
        assert (old.told().staged, old.told().active) == (version(SECOND, 2), version(FIRST, 1))
        running.cancel()
        new = contents()
        new.start()
        assert (new.told().staged, new.told().active) == (None, version(SECOND, 2))

    asyncio.run(test())
