"""The coordinator as an operator meets it: its process, its command line, agents' ends of the link over real TLS."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from anycast import link_wire
from anycast.cli.coordinator_client import Denied, Target, ask
from anycast.document import Document
from anycast.events import AlarmCleared, AlarmRaised, Event
from anycast.link_wire import Hello, Report, Welcome
from anycast.pki import tls
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity, Role
from anycast.reasons import Reason
from site_agent import coordinator_link
from site_agent.coordinator_link import CoordinatorLink
from tests.support import upstream
from tests.support.coordinator import NAME, Coordinator, kill
from tests.support.documents import document
from tests.support.sync_pair import FLEET, Root
from tests.support.tree import TREE

pytestmark = pytest.mark.daemons

SERVING = Report(number=1, document="d", generation=0, serving=True, announced=2, routes=2, role="none", tunnels=3)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path, "--operators", "127.0.0.1:0")
    made.start()
    yield made
    kill(made.process)


class Agent:
    """An agent's end of the link; what it reports is `says`."""

    def __init__(
        self, coordinator: Coordinator, name: str, folder: MachineFolder | None = None, of: Document | None = None
    ) -> None:
        self.says, self.events = SERVING, list[Event]()
        self.got: list[Any] = []
        self.sessions: list[int | None] = []
        self.link = CoordinatorLink(
            coordinator.known_to(of or document(name)), instance="i", report=self._report, happened=self.events.append,
            sent=self.got.append, session=self.sessions.append, folder=folder or coordinator.gateway(name),
        )  # fmt: skip

    def _report(self, number: int) -> Report:
        return self.says.model_copy(update={"number": number})

    def now_says(self, **changes: Any) -> None:
        self.says = self.says.model_copy(update=changes)
        self.link.changed()


@contextlib.asynccontextmanager
async def running(*agents: Agent) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(agent.link.run()) for agent in agents]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def becomes(coordinator: Coordinator, site: str, state: str, *, within_s: float = 15) -> None:
    await asyncio.to_thread(coordinator.becomes, site, state, within_s=within_s)


async def until(condition: Any, what: str, *, within_s: float = 15) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


def test_status_shows_what_gateways_say_and_goes_on_over_restarts(coordinator: Coordinator) -> None:
    async def test() -> None:
        fra, sin = Agent(coordinator, "fra-gw1"), Agent(coordinator, "sin-gw1")
        async with running(fra, sin):
            await becomes(coordinator, "fra", "announcing")
            await becomes(coordinator, "sin", "announcing")
            cause = link_wire.CauseTold(reason="charon_exited", check="charon", detail="pid 7")
            sin.now_says(serving=False, announced=0, causes=(cause,))
            await becomes(coordinator, "sin", "dark")
            shown = await asyncio.to_thread(coordinator.run, "status")
            assert "1 announcing, 1 dark" in shown.stdout
            assert "charon_exited: pid 7" in shown.stdout
            before = (await asyncio.to_thread(coordinator.ask, "status"))["epoch"]

            assert await asyncio.to_thread(coordinator.stop, signal.SIGKILL) == -signal.SIGKILL
            gone = await asyncio.to_thread(coordinator.run, "status")
            assert (gone.returncode, gone.stdout) == (3, "")
            assert "Gateways go on without it" in gone.stderr
            await until(lambda: not fra.link.describe()["connected"], "the agent knows")
            await asyncio.to_thread(coordinator.start)
            await becomes(coordinator, "fra", "announcing")
            await becomes(coordinator, "sin", "dark")
            assert (await asyncio.to_thread(coordinator.ask, "status"))["epoch"] == before + 1, "a leadership of its own"
        await until_gone(coordinator, "fra-gw1")

    asyncio.run(test())


def test_leases_that_gateways_report_become_a_forecast(coordinator: Coordinator, tmp_path: Path) -> None:
    """Two gateways over TLS, the coordinator's process killed and started anew, and the command line."""
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text((TREE / "docs" / "fleet-planned.yaml").read_text())
    assert coordinator.run("prefixes", "apply", str(fleet)).returncode == 0

    async def asked(*words: str) -> Any:
        return await asyncio.to_thread(coordinator.run, "prefixes", *words, str(fleet))

    async def leases() -> dict[str, tuple[int | None, int, str]]:
        rows = (await asyncio.to_thread(coordinator.ask, "prefixes", "forecast", str(fleet)))["forecasts"]
        return {each["site"]: (each["most"], each["days"], each["what"]) for each in rows if each["family"] == "ipv4"}

    async def test() -> None:
        fra, old = Agent(coordinator, "fra-gw1"), Agent(coordinator, "sin-gw1")
        async with running(fra, old):
            await becomes(coordinator, "fra", "announcing")
            await becomes(coordinator, "sin", "announcing")
            nothing = await asked("check")
            assert nothing.returncode == 0 and "when they run out is unknown: nothing was seen" in nothing.stdout, nothing
            for count in (12, 7):
                fra.now_says(leased={FRA_POOL: count, "203.0.113.1/26": 5})
                await asyncio.sleep(0.5)
            assert await leases() == {
                "fra": (12, 1, "unknown: 1 day was seen"), "sin": (None, 0, "unknown: nothing was seen"),
            }, "the most of the hour; an agent of before this field is served, and unknown"  # fmt: skip
            await asyncio.to_thread(coordinator.stop, signal.SIGKILL)
            away = await asked("check")
            assert away.returncode == 0 and "leases are unknown: unix:" in away.stderr, "a file can be checked without it"
            assert (await asked("forecast")).returncode == 3
            a_week_before(tmp_path / "state" / "leases.db")
            await asyncio.to_thread(coordinator.start)
            runs_out = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=11)
            assert (await leases())["fra"] == (20, 8, f"full on {runs_out}: 7.0 more a week")
            shown = await asked("show", "--site", "fra")
            assert re.search(rf"fra +ipv4 +31 +20 +8 +full on {runs_out}", shown.stdout), shown.stdout

    asyncio.run(test())


FRA_POOL = "192.0.2.64/26"
"""As docs/fleet-planned.plan.txt has it."""


def a_week_before(path: Path) -> None:
    """Days of samples that no test has time for; the file is nobody's now."""
    today = int(time.time() // 86400)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        kept = db.execute("SELECT site, pool, most FROM samples").fetchall()
        both = FRA_POOL, "ipv4"
        assert kept == [("fra", what, 12) for what in both], "on the disk before the kill, and no prefix that is none"
        rows = [("fra", what, 1, (today - n) * 24, 20 - n) for n in range(8) for what in both]
        db.executemany("INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?, ?)", rows)


async def until_gone(coordinator: Coordinator, gateway: str) -> None:
    def gone() -> bool:
        gateways = [g for s in coordinator.ask("status")["sites"] for g in s["gateways"]]
        return [g["connected"] for g in gateways if g["gateway"] == gateway] == [False]

    async with asyncio.timeout(15):
        while not await asyncio.to_thread(gone):
            await asyncio.sleep(0.05)


def test_an_agent_whose_coordinator_is_away_says_so_late_and_takes_it_back_at_once(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_link, "TOLD_AFTER_S", 1.0)
    monkeypatch.setattr(coordinator_link, "LONGEST_WAIT_S", 1.0)

    async def test() -> None:
        coordinator.stop()
        agent = Agent(coordinator, "fra-gw1")
        async with running(agent):
            await until(lambda: agent.events, "the alarm")
            [alarm] = agent.events
            assert isinstance(alarm, AlarmRaised) and alarm.reason is Reason.COORDINATOR_AWAY
            assert "connection refused" in alarm.detail
            coordinator.start()
            await until(lambda: len(agent.events) == 2, "its end")
            assert agent.events[1] == AlarmCleared(reason=Reason.COORDINATOR_AWAY)

    asyncio.run(test())


def test_a_coordinator_that_says_nothing_is_called_for_as_long_as_that_takes(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a path that has died: what is connected gets no answer, and whoever calls again none either."""
    monkeypatch.setattr(coordinator_link, "SILENT_LIMIT_S", 3.0)
    monkeypatch.setattr(coordinator_link, "CONNECT_LIMIT_S", 0.5)
    monkeypatch.setattr(coordinator_link, "LONGEST_WAIT_S", 0.5)
    monkeypatch.setattr(coordinator_link, "TOLD_AFTER_S", 2.0)

    async def test() -> None:
        agent = Agent(coordinator, "fra-gw1")
        async with running(agent):
            await until(lambda: agent.link.describe()["connected"], "connected")
            assert coordinator.process is not None
            coordinator.process.send_signal(signal.SIGSTOP)
            try:
                await until(lambda: agent.events, "the alarm, after calls that came to nothing")
            finally:
                coordinator.process.send_signal(signal.SIGCONT)
            await until(lambda: agent.link.describe()["connected"], "connected again")

    asyncio.run(test())


@dataclasses.dataclass(frozen=True)
class Stranger:
    """Somebody who connects with a certificate and says something."""

    folder: MachineFolder
    me: Identity
    says: bytes

    async def heard(self, port: int) -> bytes:
        """What the coordinator answers before it ends the connection."""
        context = tls.load(self.folder, self.me, link_wire.ALPN).calling
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=NAME)
            writer.write(self.says)
            async with asyncio.timeout(10):
                answer = await reader.read()
            writer.transport.abort()
        except (OSError, ssl.SSLError):
            return b""
        return answer


def hello(gateway: str = "fra-gw1", *, fleet: str = FLEET, site: str = "fra") -> bytes:
    return link_wire.encode(
        Hello(protocols=(1,), fleet=fleet, site=site, gateway=gateway, agent="1", instance="x", boot="b")
    )


def test_who_is_not_a_gateway_of_this_fleet_changes_nothing(coordinator: Coordinator, tmp_path: Path) -> None:
    """Wrong root, role, name, and words that mean nothing: none is answered, and the gateway that is there stays."""
    foreign = Root(tmp_path / "foreign").equip(tmp_path / "foreign-pki", "fra-gw1")
    root = coordinator.root
    other = root.equip(tmp_path / "other", "sin-gw1")
    role = root.equip(tmp_path / "role", "impostor", role=Role.COORDINATOR)
    gateway = Identity(FLEET, Role.GATEWAY, "fra-gw1")
    sin = Identity(FLEET, Role.GATEWAY, "sin-gw1")
    fine = coordinator.gateway("fra-gw1")
    strangers = {
        "another root": Stranger(foreign, gateway, hello()),
        "another role": Stranger(role, Identity(FLEET, Role.COORDINATOR, "impostor"), hello("impostor")),
        "another gateway's name": Stranger(other, sin, hello("fra-gw1")),
        "another fleet's name": Stranger(other, sin, hello("sin-gw1", fleet="other")),
        "a report first": Stranger(other, sin, link_wire.encode(SERVING)),
        "no JSON": Stranger(other, sin, b"\x00\x00\x00\x04{x}}"),
        "a frame of 4 GiB": Stranger(other, sin, b"\xff\xff\xff\xff"),
        "no protocol in common": Stranger(other, sin, hello("sin-gw1").replace(b"[1]", b"[9]")),
    }

    async def test() -> None:
        agent = Agent(coordinator, "fra-gw1", fine)
        async with running(agent):
            await becomes(coordinator, "fra", "announcing")
            for who, stranger in strangers.items():
                assert await stranger.heard(coordinator.port) == b"", who
            status = await asyncio.to_thread(coordinator.ask, "status")
            assert [site["site"] for site in status["sites"]] == ["fra"]
            assert agent.link.describe()["connected"]

            # The same words from whom the certificate names are taken, and the newest connection counts.
            second = Stranger(fine, gateway, hello() + link_wire.encode(SERVING.model_copy(update={"announced": 0})))
            reading = asyncio.create_task(second.heard(coordinator.port))
            answer = await reading
            welcome = link_wire.decode(answer[4 : 4 + link_wire.length(answer[:4])])
            assert isinstance(welcome, Welcome)

    asyncio.run(test())


def test_a_revoked_gateway_is_let_go_and_not_let_in_again(coordinator: Coordinator) -> None:
    async def test() -> None:
        agent = Agent(coordinator, "fra-gw1")
        async with running(agent):
            await becomes(coordinator, "fra", "announcing")
            coordinator.root.revoke("fra-gw1", tell=MachineFolder(coordinator.base / "pki"))
            await until(lambda: not agent.link.describe()["connected"], "let go")
            await asyncio.sleep(1.5)
            assert not agent.link.describe()["connected"]

    asyncio.run(test())


def test_credentials_have_roles_and_the_store_does_not_know_their_secrets(coordinator: Coordinator) -> None:
    port = coordinator.operators_port
    made = coordinator.run("access", "add", "alice", "--role", "viewer")
    secret = coordinator.base / "alice"
    secret.write_text(made.stdout)
    secret.chmod(0o600)
    web = {"ANYCAST_COORDINATOR": f"http://127.0.0.1:{port}", "ANYCAST_CREDENTIAL": str(secret)}
    assert coordinator.run("status", **web).returncode == 0
    refused = coordinator.run("access", "list", **web)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "alice is viewer, and this is for admin" in refused.stderr
    again = coordinator.run("access", "add", "alice")
    assert (again.returncode, "already" in again.stderr) == (1, True)
    assert coordinator.run("access", "add", "bob", "--role", "emperor").returncode == 2
    carol = json.loads(coordinator.run("access", "add", "carol", "--json").stdout)
    assert carol["name"] == "carol" and carol["token"].startswith(made.stdout.partition("_")[0])
    assert json.loads(coordinator.run("access", "remove", "carol", "--json").stdout) == {"removed": "carol"}
    body = {"name": "bob", "role": "emperor", "sites": None}
    with pytest.raises(Denied, match="role: Input should be"):  # nor does another client make one
        ask(Target(f"unix:{coordinator.base}/run/coordinator.sock"), "POST", "/v1/access", body)
    files = b"".join(path.read_bytes() for path in (coordinator.base / "state").iterdir())
    assert made.stdout.strip().rpartition("_")[2].encode() not in files
    assert b"alice" in files

    secret.chmod(0o644)
    assert "others than its owner may read it" in coordinator.run("status", **web).stderr
    secret.chmod(0o600)
    assert coordinator.run("access", "remove", "alice").returncode == 0
    gone = coordinator.run("status", **web)
    assert (gone.returncode, "a credential is needed" in gone.stderr) == (1, True)
    acts = [line["action"] for line in coordinator.ask("history")["lines"]]
    assert acts == ["access.add", "access.add", "access.remove", "access.remove"]
    assert coordinator.run("history", "verify").stdout.startswith("history is whole;")


BAD: dict[str, tuple[str, str, bytes]] = {
    "truncated": ("POST", "/v1/access", b'{"name": "x"'),
    "another type": ("POST", "/v1/access", b'{"name": ["x"], "role": 7}'),
    "an unknown key": ("POST", "/v1/access", b'{"name": "x", "role": "viewer", "colour": "blue"}'),
    "a list": ("POST", "/v1/access", b"[]"),
    "deep": ("POST", "/v1/access", b"[" * 60_000),
    "unicode that is none": ("POST", "/v1/access", b'{"name": "\xff\xfe", "role": "viewer"}'),
    "a lone surrogate": ("POST", "/v1/access", b'{"name": "\\ud800", "role": "viewer"}'),
    "a name of another alphabet": ("POST", "/v1/access", '{"name": "аlice", "role": "viewer"}'.encode()),
    "a name with a newline": ("POST", "/v1/access", b'{"name": "x\\n", "role": "viewer"}'),
    "a path": ("DELETE", "/v1/access/..%2f..%2fetc", b""),
    "a path that climbs": ("DELETE", "/v1/access/../../etc/passwd", b""),
    "nobody": ("DELETE", "/v1/access/nobody", b""),
    "a recovery without a reason": ("POST", "/v1/recovery", b"{}"),
    "a recovery with a long reason": ("POST", "/v1/recovery", b'{"reason": "' + b"x" * 501 + b'"}'),
    "a recovery without what is no name": ("POST", "/v1/recovery", b'{"reason": "x", "without": ["../fra"]}'),
    "a recovery of what is not behind": ("POST", "/v1/recovery", b'{"reason": "x"}'),
    "no number": ("GET", "/v1/history?after=-1", b""),
    "no plain number": ("GET", "/v1/history?after=%D9%A3", b""),
    "a long number": ("GET", "/v1/history?limit=99999999999999999999", b""),
    "too long": ("POST", "/v1/access", b" " * (1 << 20)),
    "another method": ("PATCH", "/v1/status", b""),
    "nowhere": ("GET", "/v1/../v0/status", b""),
}


@pytest.fixture(scope="module")
def asked_badly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path_factory.mktemp("bad"))
    made.start()
    yield made
    kill(made.process)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_sentence_and_an_unchanged_store(case: str, asked_badly: Coordinator) -> None:
    method, path, body = BAD[case]
    before = asked_badly.ask("status")["revision"]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(asked_badly.base / "run" / "coordinator.sock"))
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(head.encode() + body)
        response = http.client.HTTPResponse(sock)
        response.begin()
        answer = json.loads(response.read())
    assert 400 <= response.status < 500, answer
    assert set(answer) == {"v", "error", "problems"} and "\n" not in answer["error"] and answer["error"]
    assert "Traceback" not in json.dumps(answer)
    assert asked_badly.ask("status")["revision"] == before


def test_the_description_describes_every_endpoint(asked_badly: Coordinator) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(asked_badly.base / "run" / "coordinator.sock"))
        sock.sendall(b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        response = http.client.HTTPResponse(sock)
        response.begin()
        found = json.loads(response.read())
    assert found["openapi"] == "3.1.0"
    refs = set(json.dumps(found).split('"#/components/schemas/')[1:])
    assert {ref.split('"')[0] for ref in refs} <= set(found["components"]["schemas"])
    assert found["paths"]["/v1/access"]["post"]["security"] == [{"credential": []}]


def test_it_says_whose_certificate_it_needs(tmp_path: Path) -> None:
    made = Coordinator(tmp_path)
    Root(tmp_path / "root2").equip(tmp_path / "wrong", "fra-gw1")
    (tmp_path / "pki").rename(tmp_path / "right")
    missing = made.run("serve", "--pki", "pki", "--state", "state", "--run", "run")
    assert (missing.returncode, "is not there" in missing.stderr) == (2, True)
    (tmp_path / "wrong").rename(tmp_path / "pki")
    wrong = made.run("serve", "--pki", "pki", "--state", "state", "--run", "run")
    assert wrong.returncode == 2
    assert "is the certificate of gateway fra-gw1" in wrong.stderr and "--role coordinator" in wrong.stderr
    assert "Traceback" not in missing.stderr + wrong.stderr
    address = made.run("serve", "--agents", "coordinator.example:99")
    assert (address.returncode, "is not an address with an optional port" in address.stderr) == (2, True)


def test_detached_it_answers_when_the_command_returns(tmp_path: Path) -> None:
    made = Coordinator(tmp_path)
    words = ("serve", "--detach", "--pki", "pki", "--state", "state", "--run", "run", "--agents")
    done = made.run(*words, "127.0.0.1:0")
    pid_file = tmp_path / "run" / "coordinator.pid"
    pid = int(pid_file.read_text())
    try:
        assert done.returncode == 0 and "answers agents on port" in done.stderr, done.stderr
        assert made.ask("status")["sites"] == []
        assert os.getsid(pid) == pid
        assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (1, 2)} == {str(tmp_path / "run" / "coordinator.out")}
        taken = done.stderr.split("port ")[1].split(",")[0]
        second = made.run(*words, f"127.0.0.1:{taken}")
        assert second.returncode == 1
        assert "listen for agents" in second.stderr and "Traceback" not in second.stderr
    finally:
        os.kill(pid, signal.SIGTERM)
    upstream.until(lambda: not pid_file.exists(), "a clean end takes the pid file away", within_s=10)


def test_detached_what_keeps_it_from_starting_is_the_commands_own_word(tmp_path: Path) -> None:
    made = Coordinator(tmp_path)
    made.root.equip(tmp_path / "gateway", "fra-gw1")
    done = made.run("serve", "--detach", "--pki", "gateway", "--state", "state", "--run", "run")
    assert done.returncode == 2 and "--role coordinator" in done.stderr, done
    assert not (tmp_path / "run").exists()


def test_a_store_that_fails_ends_it_with_a_sentence(coordinator: Coordinator) -> None:
    """What it would say next might not be in the store. Whoever supervises it starts it again."""
    assert coordinator.process is not None and coordinator.process.stderr is not None
    store = coordinator.base / "state" / "coordinator.db"
    with sqlite3.connect(store) as db:
        db.execute("UPDATE meta SET value = 'somebody else' WHERE key = 'leader'")  # as another coordinator would
        db.commit()

    async def test() -> None:
        agent = Agent(coordinator, "fra-gw1")
        agent.says = agent.says.model_copy(update={"contents": link_wire.ContentsTold()})
        async with running(agent):
            assert await asyncio.to_thread(coordinator.process.wait, 20) == 1  # type: ignore[union-attr]

    asyncio.run(test())
    told = coordinator.process.stderr.read()
    assert told.rstrip().endswith("anycast: another coordinator leads by now") and "Traceback" not in told, told
