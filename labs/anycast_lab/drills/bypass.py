"""What is left when the layers above are taken away: contents that nobody should ever have signed, handed in below the layer
that would have refused them. Run at the coordinator's machine, as root, by a drill's `run` step.

    submit WHAT...         past `anycast plan`: signed as it stands, and handed to the coordinator
    keep FILE              what `offer` needs, asked while the coordinator runs
    offer FILE WHAT...     past the coordinator: in its place and with its certificate, to every gateway, and activated

Each is signed with the operator's own key. Prints a line for each WHAT; exit status 1 where all were refused, as they must
be, and 0 where any was taken.
"""

from __future__ import annotations

import asyncio
import enum
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anycast.cli import operator
from anycast.cli.coordinator_client import Denied, Target, ask, fetch
from anycast.content.canonical import encode, hash_of
from anycast.content.content import Content
from anycast.content.envelope import Activation, Envelope, Offer
from anycast.content.signature import sign
from anycast.content.state import State, decode_state, in_force
from anycast.coordinator.agents import AgentEvent, Agents, Came, Said
from anycast.coordinator.fleet_view import FleetView
from anycast.link_wire import PORT, ActivationSent, ContentsTold, OfferSent
from anycast.pki.machine_folder import MachineFolder
from anycast.policy.plan import Submission, facts_of
from anycast_lab.machines import operators

TARGET = Target()
PKI = Path("/etc/anycast/pki")
CALLED_LIMIT_S = 60.0
"""An agent waits 30 s times 1.5 at most before it calls again."""
ANSWER_S = 4.0
"""Two heartbeats, for an offer and for an activation."""
TAKEN, REFUSED, UNUSABLE = 0, 1, 2


class What(enum.StrEnum):
    ONE_SITE_LEFT = "one-site-left"
    """Every site but one is drained."""
    ONE_SITE_NAMED = "one-site-named"
    """Every site but one is missing: the list of all of them was one of one."""
    NOTHING_ANNOUNCED = "nothing-announced"
    """Every site is there, and announces nothing: the query for its prefixes found none."""
    NO_SITES = "no-sites"
    """The list of sites is empty."""
    EMPTY = "empty"
    """The text is."""


def text_of(what: What, running: Content, after: tuple[str, ...]) -> str:
    """The content, or what stands in its place."""
    tree: dict[str, Any] = running.model_copy(update={"after": after}).model_dump(mode="json")
    first, *others = tree["sites"]
    match what:
        case What.ONE_SITE_LEFT:
            for name in others:
                tree["sites"][name]["intent"] = "drained"
        case What.ONE_SITE_NAMED:
            tree["sites"] = {first: tree["sites"][first]}
        case What.NOTHING_ANNOUNCED:
            for site in tree["sites"].values():
                for gateway in site["gateways"].values():
                    gateway["announces"] = {}
        case What.NO_SITES:
            tree["sites"] = {}
        case What.EMPTY:
            return ""
    return encode(tree)


class Fleet:
    """What the coordinator said of it last."""

    def __init__(self, state: bytes, documents: dict[str, str]) -> None:
        self.state: State
        self.state, contents = decode_state(state)
        running = in_force(self.state, contents)
        if running is None:
            sys.exit("no gateway runs by a content")
        self.running, self.documents = running, documents
        self.after = tuple(sorted({each.newest for each in self.state.gateways.values() if each.newest is not None}))
        self.key = operator.open_key(Path(operators.KEYS), operators.NAME, None)

    def submission(self, what: What) -> bytes:
        text = text_of(what, self.running, self.after)
        named = {name for site in (json.loads(text)["sites"] if text else {}).values() for name in site["gateways"]}
        return Submission(
            version=1,
            plan="0" * 64,
            facts=facts_of(self.state, self.running),
            content=text,
            signature=sign(text, self.key),
            documents={name: document for name, document in self.documents.items() if name in named},
        ).data


def submit(whats: list[What]) -> int:
    fleet, taken = Fleet(fetch(TARGET, "/v1/state"), ask(TARGET, "GET", "/v1/documents")["documents"]), False
    for what in whats:
        try:
            begun = ask(TARGET, "POST", "/v1/rollouts?bake=1&blind=1", fleet.submission(what))
            print(f"{what}: TAKEN, rollout {begun['id']}")
            taken = True
        except Denied as exc:
            print(f"{what}: {' '.join(str(exc).split())}")
    return TAKEN if taken else REFUSED


def keep(path: Path) -> int:
    documents = ask(TARGET, "GET", "/v1/documents")["documents"]
    path.write_text(json.dumps({"state": fetch(TARGET, "/v1/state").decode(), "documents": documents}))
    return 0


class Impostor:
    """In the coordinator's place."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._told = fleet, dict[str, ContentsTold]()
        folder = MachineFolder(PKI)
        self._agents = Agents(
            FleetView(), folder, folder.own().identity, instance="impostor", epoch=1, may_be_at=lambda gateway, site: True,
            happened=self._on_agent,
        )  # fmt: skip
        self._came = set[str]()
        self._generation = fleet.state.generation + 10

    def _on_agent(self, event: AgentEvent) -> None:
        if isinstance(event, Came):
            self._came.add(event.hello.gateway)
        elif isinstance(event, Said) and event.report.contents is not None:
            self._told[event.hello.gateway] = event.report.contents

    async def run(self, whats: list[What]) -> int:
        await self._agents.start(["0.0.0.0"], PORT)
        try:
            async with asyncio.timeout(CALLED_LIMIT_S):
                while self._came < set(self._fleet.documents):
                    await asyncio.sleep(0.1)
            return TAKEN if any([await self._try(what) for what in whats]) else REFUSED
        finally:
            self._agents.close()

    async def _try(self, what: What) -> bool:
        """Whether any gateway took it."""
        fleet, text = self._fleet, text_of(what, self._fleet.running, self._fleet.after)
        self._generation += 1
        envelope = Envelope(version=1, generation=self._generation, content=text, signature=sign(text, fleet.key))
        for gateway, document in fleet.documents.items():
            offer = Offer(version=1, envelope=envelope, document=document)
            self._agents.send(gateway, OfferSent(data=offer.data.decode()))
        await asyncio.sleep(ANSWER_S)
        said = {gateway: told.refused for gateway, told in self._told.items()}
        for site, each in fleet.running.sites.items():
            word = Activation(version=1, site=site, generation=self._generation, hash=hash_of(text))
            for gateway in each.gateways:
                self._agents.send(gateway, ActivationSent(data=word.data.decode()))
        await asyncio.sleep(ANSWER_S)
        has = [
            gateway
            for gateway, told in self._told.items()
            if hash_of(text) in {each.hash for each in (told.staged, told.active) if each is not None}
        ]
        for line in _counted(what, said, has):
            print(line, flush=True)
        return bool(has)


def _counted(what: What, said: dict[str, str], has: list[str]) -> Iterator[str]:
    if has:
        yield f"{what}: TAKEN by {', '.join(has)}"
    words = [text.partition(":")[0] for text in said.values() if text]
    for word in dict.fromkeys(words):
        why = next(text for text in said.values() if text.startswith(word))
        yield f"{what}: {word} at {words.count(word)} of {len(said)} gateways ({why})"


def main(words: list[str]) -> int:
    match words:
        case ["submit", *whats] if whats:
            return submit([What(each) for each in whats])
        case ["keep", path]:
            return keep(Path(path))
        case ["offer", path, *whats] if whats:
            kept = json.loads(Path(path).read_text())
            fleet = Fleet(kept["state"].encode(), kept["documents"])
            return asyncio.run(Impostor(fleet).run([What(each) for each in whats]))
    print(__doc__, file=sys.stderr)
    return UNUSABLE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
