"""The rows of the table in docs/content.md that speak of a gateway's certificate and of a credential, against a coordinator.

Everything that can be said with them is said to a real process; that a slot is its own gateway's, to the core that keeps it.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from anycast.content.canonical import encode, hash_of
from anycast.content.signature import sign
from anycast.content.state import decode_state
from anycast.coordinator.access import Caller
from anycast.coordinator.access import Role as Access
from anycast.coordinator.api import ENDPOINTS
from anycast.document import Document
from anycast.link_wire import ContentsTold, VersionTold
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity, Role
from anycast.policy.ledger import Kind
from anycast.policy.plan import make, submit
from anycast.policy.token_times import HEARTBEAT_S
from anycast.policy.token_words import TakeSlot
from anycast.token_wire import Held
from tests.interop.test_bad_input import World
from tests.interop.test_coordinator import SERVING, Agent, Stranger, hello, running, until
from tests.support.contents import ALICE, MALLORY, SITES, made
from tests.support.coordinator import kill
from tests.support.sync_pair import FLEET
from tests.support.token_coordinator import settled

pytestmark = pytest.mark.daemons

FIRST = made()
HASH = hash_of(FIRST.content.text)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A content is rolled out: six gateways say that they run by it."""
    found = World(tmp_path_factory.mktemp("stolen"))
    begin(found, FIRST)
    says(found, "POST", "/v1/rollouts/command", b'{"word": "abort"}')
    yield found
    kill(found.coordinator.process)


def says(world: World, method: str, path: str, body: bytes = b"", token: str = "") -> Any:
    """Status and answer, with a credential."""
    return world.says(world.request(method, path, body, **({"Authorization": f"Bearer {token}"} if token else {})))


def state(world: World) -> Any:
    """What plans are made against; DecodeError where it means nothing."""
    status, answer = says(world, "GET", "/v1/state")
    assert status == 200
    return decode_state(encode(answer).encode())


def submission(world: World, wanted: Any, key: Any = ALICE) -> bytes:
    plan = make(*state(world), wanted.content, wanted.documents)
    # Which test comes first is the workers' business: a generation may have begun before, with agents that have left.
    problems = [one for one in plan.problems if "is heard" not in one]
    assert not problems, problems
    found = submit(plan, ALICE)
    return found.model_copy(update={"signature": sign(found.content, key)}).data


def begin(world: World, wanted: Any, token: str = "") -> Any:
    return says(world, "POST", "/v1/rollouts", submission(world, wanted), token)


def credential(world: World, name: str, role: str, sites: list[str] | None = None) -> str:
    says(world, "DELETE", f"/v1/access/{name}")
    body = json.dumps({"name": name, "role": role, "sites": sites}).encode()
    status, answer = says(world, "POST", "/v1/access", body)
    assert status == 200, answer
    return str(answer["token"])


def folder(world: World, name: str) -> MachineFolder:
    """A gateway's, or its thief's: the same."""
    path = world.coordinator.base / f"pki-{name}"
    return MachineFolder(path) if path.exists() else world.coordinator.gateway(name)


def agent(world: World, name: str, *, site: str = "", **says_: Any) -> Agent:
    """It says that it runs by the content, and `says_`."""
    document = Document.model_validate_json(FIRST.documents[name])
    changed = document.model_copy(update={"site": site or document.site})
    found = Agent(world.coordinator, name, folder(world, name), changed)
    has = ContentsTold(active=VersionTold(generation=1, hash=HASH))
    found.says = SERVING.model_copy(update={"contents": has, **says_})
    return found


async def known(world: World, number: int) -> None:
    """So many gateways are known to run by the content."""

    def is_so() -> bool:
        return sum(each.active == HASH for each in state(world)[0].gateways.values()) >= number

    async with asyncio.timeout(20):
        while not await asyncio.to_thread(is_so):
            await asyncio.sleep(0.1)


def sites(world: World) -> dict[str, Any]:
    return {each["site"]: each for each in says(world, "GET", "/v1/status")[1]["sites"]}


LIES = (
    {"contents": ContentsTold(active=VersionTold(generation=9, hash="0" * 64))},
    {"contents": ContentsTold(staged=VersionTold(generation=2**60, hash="nonsense"))},
    {"contents": ContentsTold(active=VersionTold(generation=1, hash=""), frozen=7, refused="x" * 512)},
    {"document": "d" * 128, "generation": 2**60, "tunnels": 10**18, "decrypted": 2**62, "encrypted": 0},
    {"shared": {"\ud7ff" * 128: "passing", "dns": "elsewhere"}, "alarms": {"x" * 128: "\x00" * 512}},
)


def test_gateway_says_of_itself_what_it_likes(world: World) -> None:
    """And the coordinator and everybody else go on. A content that nobody knows may be one that the store has lost, so
    nothing is decided until an operator leaves out who speaks of it."""

    async def test() -> None:
        liar, honest = agent(world, "ams-gw1", serving=False, announced=2), agent(world, "fra-gw1")
        async with running(liar, honest):
            await until(lambda: sites(world).get("ams", {}).get("state") == "announcing", "it is shown as it says")
            await known(world, 2)
            for lie in LIES:
                liar.now_says(**lie)
                await asyncio.sleep(0.4)
                assert "fra-gw1" in (await asyncio.to_thread(says, world, "GET", "/v1/documents"))[1]["documents"]
                world.lives()
            status, refused = await asyncio.to_thread(says, world, "GET", "/v1/state")
            assert status == 409 and "ams-gw1 runs by generation 1" in refused["error"], refused
            body = json.dumps({"reason": "it lies", "without": ["ams-gw1"]}).encode()
            status, answer = await asyncio.to_thread(says, world, "POST", "/v1/recovery", body)
            assert (status, answer.get("contents")) == (200, []), answer
            found, _ = await asyncio.to_thread(state, world)
            assert {found.gateways[name].active for name in ("fra-gw1", "ams-gw1")} == {HASH}, "as the others run by"

    asyncio.run(test())


def test_gateway_speaks_for_no_other_gateway_and_no_other_site(world: World) -> None:
    async def test() -> None:
        honest = agent(world, "fra-gw1")
        thief = Stranger(folder(world, "ams-gw1"), Identity(FLEET, Role.GATEWAY, "ams-gw1"), hello("fra-gw1", site="fra"))
        elsewhere = agent(world, "ams-gw1", site="sin")
        async with running(honest, elsewhere):
            await known(world, 1)
            assert await thief.heard(world.coordinator.port) == b"", "the name is the certificate's"
            await until(lambda: elsewhere.link.describe()["problem"] != "", "who says another site is put out")
            assert not any(each["gateway"] == "ams-gw1" for each in sites(world).get("sin", {"gateways": []})["gateways"])
            assert honest.link.describe()["connected"]
        assert any("operators have signed otherwise" in line for line in world.log)

    asyncio.run(test())
    world.lives()


def test_gateway_ends_no_slot_but_its_own() -> None:
    """It says "ended" and "held" of sin's drain; its own it may keep for ever."""
    core = settled()
    core.tell(TakeSlot(kind=Kind.DRAIN, site="sin", by="alice"))
    (slot,) = core.given("sin")
    core.fields["fra-gw1"] = {"ended": (slot.id,), "held": (Held(id=slot.id, kind="drain"), Held(id="mine", kind="hold"))}
    core.beat(3 * HEARTBEAT_S)
    assert core.given("sin") == [slot] and slot.gateways == ("sin-gw1",)
    assert [each.id for each in core.given("fra")] == ["mine"], "its own site is dark for as long as it says so"


def test_gateway_asks_nothing_as_an_operator(world: World) -> None:
    """Its certificate is none on the operators' port, and the agents' port speaks no HTTP."""
    for token in ("", "ams-gw1", "anycast_ams-gw1_" + "0" * 64):
        request = world.request("GET", "/v1/status", Authorization=f"Bearer {token}")
        assert world.says(request)[0] == 401
    identity = Identity(FLEET, Role.GATEWAY, "ams-gw1")
    asked = Stranger(folder(world, "ams-gw1"), identity, b"GET /v1/status HTTP/1.1\r\n\r\n")
    assert asyncio.run(asked.heard(world.coordinator.port)) == b""


def test_viewer_sees_everything_and_changes_nothing(world: World) -> None:
    token = credential(world, "eve", "viewer")
    before = world.digest()
    for each in ENDPOINTS:
        if each.name == "watch":
            continue
        path = each.path.format(name="alice", site="fra", gateway="fra-gw1", content=HASH[:12])
        status, _ = says(world, each.method, path, b"{}", token)
        allowed = each.role is None or Caller("eve", Access.VIEWER).may(each.role)
        # 404: nobody has told anything of fra yet, where this test is the first.
        assert status in (200, 404) if allowed else status == 403, each.name
    assert world.digest() == before


def test_viewer_sees_nothing_more_once_its_credential_is_taken_back(world: World) -> None:
    """A stream that stands asks for nothing more, and would go on."""
    token = credential(world, "eve", "viewer")
    with socket.create_connection(("127.0.0.1", world.port), 20) as sock:
        sock.sendall(world.request("GET", "/v1/watch", Authorization=f"Bearer {token}"))
        seen = b""
        while b"event: status" not in seen:
            more = sock.recv(65536)
            assert more, seen
            seen += more
        assert says(world, "DELETE", "/v1/access/eve")[0] == 200
        sock.settimeout(10)  # a stream says something every 15 s at the latest
        while more := sock.recv(65536):
            seen += more
    assert seen.endswith(b"\r\n0\r\n\r\n"), "it has ended, and in order"


def test_operator_credential_numbers_nothing_that_no_key_has_signed(world: World) -> None:
    for role in ("operator", "admin"):
        token = credential(world, "eve", role)
        before = world.digest()
        status, answer = says(world, "POST", "/v1/rollouts", submission(world, FIRST, MALLORY), token)
        assert status == 409 and answer["problems"][0].startswith("untrusted"), answer
        assert world.digest() == before


def test_operator_credential_begins_and_stops_rollouts_of_its_sites_alone(world: World) -> None:
    async def test() -> None:
        async with running(*(agent(world, f"{site}-gw1") for site in SITES)):
            await known(world, len(SITES))
            await asyncio.to_thread(ask)

    def ask() -> None:
        ams, sin = (credential(world, site, "operator", [site]) for site in ("ams", "sin"))
        signed = submission(world, made(ams="drained"))
        status, answer = says(world, "POST", "/v1/rollouts", signed, sin)
        assert status == 409 and "credential is not for ams" in str(answer["problems"]), answer
        assert says(world, "POST", "/v1/rollouts", signed, ams)[0] == 200
        for word in ("pause", "resume", "abort"):
            command = json.dumps({"word": word}).encode()
            assert says(world, "POST", "/v1/rollouts/command", command, sin)[0] == 409
            assert says(world, "POST", "/v1/rollouts/command", command, ams)[0] == 200

    asyncio.run(test())


def test_operator_credential_of_some_sites_changes_nothing_of_the_others(world: World) -> None:
    """What changes no site of another's may still change what all of them may be darkened by, or who is counted."""

    async def test() -> None:
        async with running(*(agent(world, f"{site}-gw1") for site in SITES)):
            await known(world, len(SITES))
            await asyncio.to_thread(ask)

    def ask() -> None:
        sin = credential(world, "sin", "operator", ["sin"])
        without_ams = made(tuple(site for site in SITES if site != "ams"))
        wanted = {"the budget of all": made(budget="{min_sites: 1}"), "is not for ams": without_ams}
        for why, changed in wanted.items():
            before = world.digest()
            status, answer = begin(world, changed, sin)
            assert status == 409 and why in str(answer["problems"]), answer
            assert world.digest() == before
        signed = submission(world, made(sin="drained"))
        before = world.digest()
        status, answer = says(world, "POST", "/v1/rollouts?despite_worst_case=1&reason=x", signed, sin)
        assert status == 409 and "too much for others" in str(answer["problems"]), answer
        assert world.digest() == before
        assert says(world, "POST", "/v1/rollouts", signed, sin)[0] == 200, "its own site"
        status, answer = says(world, "POST", "/v1/rollouts/command", b'{"word": "override", "reason": "x"}', sin)
        assert status == 409 and "too much for others" in str(answer["problems"]), answer
        assert says(world, "POST", "/v1/rollouts/command", b'{"word": "abort"}', sin)[0] == 200
        begin(world, made(budget="{min_sites: 3}"))
        status, answer = says(world, "POST", "/v1/rollouts/command", b'{"word": "abort"}', sin)
        assert status == 409 and "the budget of all" in str(answer["problems"]), answer
        assert says(world, "POST", "/v1/rollouts/command", b'{"word": "abort"}')[0] == 200

    asyncio.run(test())


def test_admin_credential_makes_others_until_they_are_taken_back(world: World) -> None:
    thief = credential(world, "thief", "admin")
    status, answer = says(world, "POST", "/v1/access", b'{"name": "other", "role": "admin", "sites": null}', thief)
    assert status == 200
    assert says(world, "DELETE", "/v1/access/thief")[0] == 200
    assert says(world, "GET", "/v1/status", token=thief)[0] == 401
    assert says(world, "GET", "/v1/status", token=answer["token"])[0] == 200, "what it made stays until that is taken back"
    lines = says(world, "GET", "/v1/history")[1]["lines"]
    assert [line["who"] for line in lines if line["body"].get("name") == "other"] == ["thief"]
    assert says(world, "DELETE", "/v1/access/other")[0] == 200


def test_gateway_ends_with_its_revocation(world: World) -> None:
    async def test() -> None:
        thief = agent(world, "tyo-gw1")
        async with running(thief):
            await until(lambda: thief.link.describe()["connected"], "it is let in")
            world.coordinator.root.revoke("tyo-gw1", tell=world.coordinator_folder)
            await until(lambda: not thief.link.describe()["connected"], "it is let go")

    asyncio.run(test())
