"""Whatever a stranger sends to a real coordinator: one sentence, or an ended connection, and every line of its store as it
was. In one process, which serves its own gateway and its own operator all the while.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast import link_wire
from anycast.cli.coordinator_client import Target, ask
from anycast.content.canonical import encode, hash_of
from anycast.content.signature import sign
from anycast.content.state import nothing_yet
from anycast.coordinator import porch
from anycast.link_wire import ContentsTold, DarknessTold, VersionTold
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity, Role
from anycast.policy.plan import make, submit
from tests.interop.test_coordinator import SERVING, Agent, Stranger, hello, running, until
from tests.support.contents import ALICE, MALLORY, TRUSTED, made
from tests.support.coordinator import Coordinator, digest, kill
from tests.support.sync_pair import FLEET, Root, now

pytestmark = pytest.mark.daemons

DAY = datetime.timedelta(days=1)


class World:
    """The coordinator, an operator's credential for its port, and what its log says."""

    def __init__(self, base: Path) -> None:
        self.coordinator = Coordinator(base, "--operators", "127.0.0.1:0")
        (base / "operators.json").write_bytes(TRUSTED.data)
        self.coordinator.start()
        process = self.coordinator.process
        assert process is not None and process.stderr is not None
        self.log: list[str] = []
        threading.Thread(target=lambda: self.log.extend(process.stderr), daemon=True).start()  # type: ignore[arg-type]
        self.port = self.coordinator.operators_port
        self.token = self.coordinator.run("access", "add", "alice", "--role", "admin").stdout.strip()
        self.root = Target(f"unix:{base}/run/coordinator.sock")

    @property
    def coordinator_folder(self) -> MachineFolder:
        return MachineFolder(self.coordinator.base / "pki")

    def digest(self) -> str:
        return digest(self.coordinator.store)

    def says(self, data: bytes, *, within_s: float = 20.0) -> tuple[int, dict[str, object]]:
        """What the operators' port answers to these bytes."""
        with socket.create_connection(("127.0.0.1", self.port), within_s) as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(data)
            response = http.client.HTTPResponse(sock)
            response.begin()
            return response.status, json.loads(response.read())

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
        known = {"Host": "x", "Authorization": f"Bearer {self.token}", "Content-Length": str(len(body)), **headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in known.items())]
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body

    def lives(self) -> None:
        process = self.coordinator.process
        assert process is not None and process.poll() is None
        assert ask(self.root, "GET", "/v1/status")["fleet"] == FLEET
        assert not [line for line in self.log if "Traceback" in line], "".join(self.log)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    found = World(tmp_path_factory.mktemp("bad"))
    yield found
    kill(found.coordinator.process)


NO_HTTP = {
    "TLS on a port without": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
    "a header with a NUL": b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: \x00\r\n\r\n",
    "a header of 64 KiB": b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 65536 + b"\r\n\r\n",
    "10,000 headers": b"GET /v1/status HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    "a path of 64 KiB": b"GET /" + b"x" * 65536 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": b"POST /v1/access HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": b"POST /v1/access HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    "a negative length": b"POST /v1/access HTTP/1.1\r\nHost: x\r\nContent-Length: -2\r\n\r\n{}",
    "a word": b"hello\r\n\r\n",
    "another protocol": b"GET /v1/status HTTP/9.9\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("case", NO_HTTP)
def test_what_is_no_http_is_refused_in_one_sentence(world: World, case: str) -> None:
    before = world.digest()
    status, answer = world.says(NO_HTTP[case])
    assert 400 <= status < 500
    assert answer["error"] and "\n" not in str(answer["error"]) and set(answer) == {"v", "error", "problems"}
    assert world.digest() == before
    world.lives()


def bodies(world: World) -> dict[str, tuple[bytes, int, str]]:
    """Of operators who have a credential: the request, what it is answered, and a word of the sentence."""
    data = handed_in()
    good = json.loads(data)
    changed = json.loads(good["content"])
    changed["budget"]["min_sites"] = 1
    texts = {
        "cut": (data[:-7], 400, "not JSON"),
        "spelt otherwise": (json.dumps(good).encode(), 400, "canonical"),
        "another type": (encode({**good, "documents": []}).encode(), 400, "documents"),
        "no UTF-8": (b'{"content":"\xff\xfe"}', 400, "UTF-8"),
        "a lone surrogate": (b'{"content":"\\ud800"}', 400, ""),
        "a number that is none": (b'{"version":NaN}', 400, ""),
        "as deep as the sea": (b"[" * 200_000, 400, ""),
        "a newer one": (encode({**good, "requires": ["flight"]}).encode(), 400, "flight"),
        "a changed content": (encode({**good, "content": encode(changed)}).encode(), 409, "bad_signature"),
        "another's signature": (
            encode({**good, "signature": sign(good["content"], MALLORY).model_dump(mode="json")}).encode(), 409, "untrusted",
        ),
        "a document that climbs": (
            encode({**good, "documents": {**good["documents"], "../../etc/passwd": "x"}}).encode(), 400, "documents",
        ),
        "another document": (
            encode({**good, "documents": {**good["documents"], "fra-gw1": "{}"}}).encode(), 409, "fra-gw1",
        ),
        "facts that never were": (
            encode({**good, "facts": {**good["facts"], "generation": 7}}).encode(), 409, "the plan knew 7",
        ),
    }  # fmt: skip
    return {
        name: (world.request("POST", "/v1/rollouts", body), status, word) for name, (body, status, word) in texts.items()
    } | {
        "longer than may be": (world.request("POST", "/v1/access", b" " * (1 << 20)), 413, "64 KiB"),
        "longer than it says": (
            world.request("POST", "/v1/access", b"", **{"Content-Length": str(1 << 40)}), 413, "64 KiB",
        ),
        "endless chunks": (
            world.request("POST", "/v1/access").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
            + (b"ffff\r\n" + b" " * 0xFFFF + b"\r\n") * 2, 413, "64 KiB",
        ),
        "another credential": (
            world.request("GET", "/v1/status", Authorization="Bearer anycast_alice_" + "0" * 64), 401, "access add",
        ),
        "half a credential": (world.request("GET", "/v1/status", Authorization="Bearer"), 401, "access add"),
        "a name that climbs": (world.request("DELETE", "/v1/access/..%2f..%2fetc%2fpasswd"), 400, "no name"),
        "a name with a NUL": (world.request("DELETE", "/v1/access/a%00b"), 400, "no name"),
        "a name of another alphabet": (world.request("DELETE", "/v1/access/%D0%B0lice"), 400, "no name"),
    }  # fmt: skip


def handed_in() -> bytes:
    """What `anycast apply` sends for a fleet that has no content yet."""
    first = made()
    return submit(make(nothing_yet(FLEET), {}, first.content, first.documents), ALICE).data


def test_what_means_nothing_is_refused_in_one_sentence(world: World) -> None:
    before = world.digest()
    for name, (request, status, word) in bodies(world).items():
        found, answer = world.says(request)
        said = " ".join([str(answer["error"]), *map(str, answer["problems"])])  # type: ignore[call-overload]
        assert found == status, (name, found, said[:300])
        assert word in said and "\n" not in said and len(said) < 1000, (name, said[:300])
        assert world.digest() == before, name
    world.lives()


def test_whoever_sends_slowly_is_told_so_and_ends(world: World) -> None:
    """A byte a second, of a head and of a body: ten seconds are the most that either takes."""
    before = world.digest()
    found: dict[str, bytes] = {}

    def drip(name: str, at_once: bytes) -> None:
        with socket.create_connection(("127.0.0.1", world.port), 30) as sock:
            sock.sendall(at_once)
            answer, until_ = b"", time.monotonic() + 25
            sock.settimeout(1.0)
            while time.monotonic() < until_:
                try:
                    sock.sendall(b"x" if at_once else b"")
                    part = sock.recv(65536)
                except TimeoutError:
                    continue
                except OSError:
                    break
                if not part:
                    break
                answer += part
            found[name] = answer if time.monotonic() < until_ else b"still there"

    slow = {
        "nothing": b"",
        "a head": b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: ",
        "a body": world.request("POST", "/v1/access", b"", **{"Content-Length": "4000"}),
    }
    threads = [threading.Thread(target=drip, args=each) for each in slow.items()]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert b"nobody has said in 10 s" in found["nothing"] and b"nobody has said in 10 s" in found["a head"], found
    assert b" 408 " in found["a body"] and b"not come whole within 10 s" in found["a body"], found
    assert world.digest() == before
    world.lives()


def test_however_many_strangers_stand_there_operators_and_gateways_come_in(world: World) -> None:
    """Three times as many as may, at both ports, and all of them silent."""
    before, crowd = world.digest(), []
    agent = Agent(world.coordinator, "fra-gw1")
    try:
        for port in (world.port, world.coordinator.port):
            crowd += [socket.create_connection(("127.0.0.1", port), 5) for _ in range(3 * porch.MOST)]

        async def test() -> None:
            async with running(agent):
                await until(lambda: agent.link.describe()["connected"], "a gateway comes in", within_s=20)
                status, answer = await asyncio.to_thread(world.says, world.request("GET", "/v1/status"))
                assert status == 200 and answer["fleet"] == FLEET

        asyncio.run(test())
        first = crowd[0]
        first.settimeout(5)
        assert b"too many strangers at once" in first.recv(4096)
        assert any("too many strangers at once" in line for line in world.log)
        assert len([line for line in world.log if "strangers" in line]) < 5, "a flood of connections is none of lines"
    finally:
        for each in crowd:
            each.close()
    assert world.digest() == before
    world.lives()


def test_strangers_certificates_and_words_change_nothing(world: World, tmp_path: Path) -> None:
    """Expired, not yet valid, foreign, none at all, without TLS, of TLS 1.2; and what the right one must not say."""
    before, root = world.digest(), world.coordinator.root
    gateway = Identity(FLEET, Role.GATEWAY, "lon-gw1")
    fine = root.equip(tmp_path / "fine", "lon-gw1")
    other = Root(tmp_path / "other-root")
    nyc, tyo = (Identity(FLEET, Role.GATEWAY, name) for name in ("nyc-gw1", "tyo-gw1"))
    past = root.equip(tmp_path / "past", nyc.name, at=now() - 20 * DAY, days=10)
    coming = root.equip(tmp_path / "coming", tyo.name, at=now() + 3 * DAY)
    words = {
        "an expired one": Stranger(past, nyc, hello(nyc.name)),
        "one of tomorrow": Stranger(coming, tyo, hello(tyo.name)),
        "another root's": Stranger(other.equip(tmp_path / "f", "lon-gw1"), gateway, hello("lon-gw1")),
        "darkness before a hello": Stranger(fine, gateway, link_wire.encode(DarknessTold(data="{}"))),
        "darkness that means nothing": Stranger(fine, gateway, hello("lon-gw1") + link_wire.encode(DarknessTold(data="{}"))),
        "half a frame and no more": Stranger(fine, gateway, hello("lon-gw1")[:20]),
    }  # fmt: skip

    async def test() -> None:
        async with asyncio.timeout(40):
            for who, stranger in words.items():
                heard = await stranger.heard(world.coordinator.port)
                assert heard == b"" or (who == "darkness that means nothing" and b'"welcome"' in heard), (who, heard)

    asyncio.run(test())
    with socket.create_connection(("127.0.0.1", world.coordinator.port), 5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in plain.recv(100)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode, old.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
    for context in (old, nobody):
        with (
            contextlib.suppress(ssl.SSLError, ConnectionError),
            socket.create_connection(("127.0.0.1", world.coordinator.port), 5) as sock,
            context.wrap_socket(sock) as tls,
        ):
            tls.sendall(hello("lon-gw1"))
            assert tls.recv(100) == b""
    assert world.digest() == before
    told = "".join(world.log)
    assert "expired: " in told and "not_yet_valid: " in told
    world.lives()


def test_a_content_handed_in_twice_is_taken_once(world: World) -> None:
    """The same bytes again, while its rollout runs and when it is over: refused, with what has changed since."""
    if not (world.coordinator.base / "pki-fra-gw1").exists():
        world.coordinator.gateway("fra-gw1")
    data = handed_in()
    status, _ = world.says(world.request("POST", "/v1/rollouts", data))
    assert status == 200
    time.sleep(2.5)  # its first looks are in the store
    before = world.digest()
    status, answer = world.says(world.request("POST", "/v1/rollouts", data))
    assert status == 409 and "is under way" in str(answer["problems"]), answer
    assert world.digest() == before
    assert world.says(world.request("POST", "/v1/rollouts/command", b'{"word": "abort"}'))[0] == 200

    async def test() -> None:
        agent = Agent(world.coordinator, "fra-gw1", MachineFolder(world.coordinator.base / "pki-fra-gw1"))
        has = ContentsTold(active=VersionTold(generation=1, hash=hash_of(made().content.text)))
        agent.says = SERVING.model_copy(update={"contents": has})
        async with running(agent):
            await until(lambda: world.digest() != before, "the coordinator knows that it runs by it")
            await asyncio.sleep(0.5)
            known = world.digest()
            replayed = await asyncio.to_thread(world.says, world.request("POST", "/v1/rollouts", data))
            assert replayed[0] == 409 and "the plan knew 0" in str(replayed[1]["problems"]), replayed
            assert world.digest() == known

    asyncio.run(test())
    world.lives()
