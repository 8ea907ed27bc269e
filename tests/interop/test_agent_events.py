"""A whole gateway's events at a real coordinator: over kills of either, over a disk that takes nothing, once each."""

from __future__ import annotations

import datetime
import json
import os
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from anycast.event_wire import MISSING
from tests.support.coordinator import Coordinator
from tests.support.gateway import Gateway
from tests.support.namespace import in_namespace
from tests.support.upstream import until

pytestmark = pytest.mark.root


class World:
    """fra-gw1 as a whole, and its coordinator, each a process."""

    def __init__(self, **agent: Any) -> None:
        self.gateway = Gateway(recovery_ms=0, **agent)
        base = self.gateway.base / "coordinator"
        base.mkdir()
        self.coordinator = Coordinator(base)
        self.coordinator.start()
        self.coordinator.gateway("fra-gw1")
        made = self.coordinator.known_to(self.gateway.document)
        (self.gateway.base / "document.json").write_bytes(made.canonical())

    def start(self) -> None:
        before = len(self.gateway.events("AgentStarted"))
        self.gateway.start("--pki-dir", str(self.coordinator.base / "pki-fra-gw1"))
        until(lambda: len(self.gateway.events("AgentStarted")) > before, "the log has it", within_s=20)
        self.gateway.announced()

    def kill_agent(self) -> None:
        self.gateway.signal_agent(signal.SIGKILL)
        assert self.gateway.agent is not None
        self.gateway.agent.wait(10)

    def logged(self) -> list[dict[str, Any]]:
        """The gateway's own log."""
        path = self.gateway.state_dir / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def kept(self) -> list[dict[str, Any]]:
        """The coordinator's, as another process reads it."""
        path = self.coordinator.base / "state" / "events.db"
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            rows = db.execute("SELECT body FROM events WHERE event NOT IN ('GatewayHeard', 'GatewayUnheard') ORDER BY id")
            return [json.loads(body) for (body,) in rows]

    def all_kept(self, *, within_s: float = 60) -> tuple[list[dict[str, Any]], list[tuple[str, int]]]:
        """What is kept once all is that the log has by now, and the places of that."""
        logged = places(self.logged())
        until(lambda: set(logged) <= set(places(self.kept())), "all is kept", within_s=within_s)
        return self.kept(), logged


def places(records: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(r["stream"], r["seq"]) for r in records if r["event"] != MISSING]


def holes(records: list[dict[str, Any]]) -> list[tuple[str, int | None]]:
    return [(r["cause"], r["count"]) for r in records if r["event"] == MISSING]


@in_namespace
def test_what_happens_while_either_is_dead_is_told_once() -> None:
    world = World()
    world.start()
    gateway, coordinator = world.gateway, world.coordinator
    kept, logged = world.all_kept()
    assert places(kept)[: len(logged)] == logged and not holes(kept)

    coordinator.stop(signal.SIGKILL)
    os.kill(gateway.pid("charon"), signal.SIGKILL)
    until(lambda: gateway.events("PrefixWithdrawn"), "withdrawn", within_s=10)
    gateway.announced()
    world.kill_agent()
    world.start()
    gateway.signal_agent(signal.SIGTERM)
    assert gateway.agent is not None
    gateway.agent.wait(20)
    world.start()
    coordinator.start()
    kept, logged = world.all_kept()
    assert places(kept)[: len(logged)] == logged, "every record of three agents, in order, once"
    assert holes(kept) == [("no_farewell", None)], "what died with the killed agent; the other one said farewell"
    assert "charon_exited" in {r["reason"] for r in kept if r["event"] == "PrefixWithdrawn"}

    coordinator.stop(signal.SIGKILL)
    coordinator.start()
    assert gateway.ask("hold", "withdraw", "--for", "1h", "--reason", "fibre works").returncode == 0
    until(lambda: [r for r in world.kept() if r["event"] == "HoldStarted"], "the hold is told", within_s=60)
    kept, logged = world.all_kept()
    assert places(kept)[: len(logged)] == logged


@in_namespace
def test_a_disk_that_takes_nothing_makes_no_hole_while_somebody_listens_and_one_when_nobody_does() -> None:
    world = World()
    gateway, coordinator = world.gateway, world.coordinator
    gateway.state_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "none", str(gateway.state_dir)], check=True)
    world.start()
    world.all_kept()
    remount(gateway.state_dir, "ro")
    before = len(gateway.events("HolderExited"))
    os.kill(gateway.pid("charon"), signal.SIGKILL)
    until(lambda: any(r["event"] == "HolderExited" and r["name"] == "charon" for r in world.kept()), "told", within_s=20)
    assert len(gateway.events("HolderExited")) == before, "the gateway's own log has nothing of it"
    gateway.announced()
    assert not holes(world.kept()), "the coordinator was told all of it"

    coordinator.stop(signal.SIGKILL)
    os.kill(gateway.pid("charon"), signal.SIGKILL)
    gateway.withdrawn(within_s=10)
    gateway.announced()
    world.kill_agent()  # with it goes what only its memory had
    remount(gateway.state_dir, "rw")
    world.start()
    coordinator.start()
    kept, _ = world.all_kept()
    assert len(places(kept)) == len(set(places(kept)))
    assert holes(kept) == [("no_farewell", None)], "what only its memory had"


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


@in_namespace
def test_why_a_site_was_dark_is_told_with_its_gateway_dead() -> None:
    world = World()
    world.start()
    gateway, coordinator = world.gateway, world.coordinator
    coordinator.becomes("fra", "announcing")
    before = datetime.datetime.now(datetime.UTC)
    os.kill(gateway.pid("charon"), signal.SIGKILL)
    until(lambda: gateway.events("PrefixWithdrawn"), "withdrawn", within_s=10)
    during = utc_moment(gateway.events("PrefixWithdrawn")[-1]["at"]) + datetime.timedelta(milliseconds=2)
    gateway.announced()
    world.all_kept()
    now = coordinator.ask("why", "fra")
    assert (now["state"], now["why"]) == ("announcing", "")
    assert "PrefixAnnounced" in [step["what"] for step in now["trail"]]

    world.kill_agent()
    os.kill(gateway.pid("exabgp"), signal.SIGKILL)
    until(lambda: coordinator.ask("why", "fra")["state"] == "unknown", "it is dead", within_s=20)
    dark = coordinator.ask("why", "fra/fra-gw1", "--at", during.isoformat())
    assert dark["state"] == "dark" and dark["why"].startswith("charon_exited"), dark["why"]
    steps = [(step["what"], step["reason"]) for step in dark["trail"]]
    assert ("PrefixWithdrawn", "charon_exited") in steps and ("SiteVerdictChanged", "charon_exited") in steps
    own = json.loads(gateway.ask("why", "--at", during.isoformat(), "--json").stdout)
    assert dark["gateways"][0]["account"]["causes"] == own["log"]["causes"], "both say the same of it"
    assert coordinator.ask("why", "fra", "--at", before.isoformat())["state"] == "announcing"
    shown = coordinator.run("why", "fra", "--at", during.isoformat())
    assert shown.returncode == 0 and "dark: charon_exited" in shown.stdout and "What led to it:" in shown.stdout, shown
    after = coordinator.run("why", "fra").stdout
    assert "GatewayUnheard" in after and "nothing tells of fra-gw1 then" in after

    for words, status, said in (
        (("why", "ber"), 1, "nothing is known of ber"),
        (("why", "fra/ber-gw1"), 1, "nothing is known of a gateway ber-gw1 of site fra"),
        (("why", "fra/../x"), 2, "is no name of a site"),
        (("why", "fra", "--at", "yesterday-ish"), 2, "is no time"),
        (("why", "fra", "--at", "2100-01-01T00:00:00Z"), 2, "is in the future"),
    ):
        refused = coordinator.run(*words)
        assert (refused.returncode, said in refused.stderr, refused.stdout) == (status, True, ""), refused


def utc_moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)
