"""Between verdict and lease: acts in the call that tells it, reads a file only when told, and says what it finds."""

from __future__ import annotations

import asyncio
import datetime
import json
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anycast.events import AlarmRaised, Event, HoldEnded, HoldStarted
from anycast.model import Cause
from anycast.policy import hold
from anycast.policy.hold import Hold, HoldKind
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent import hold_store, route_intent
from site_agent.cli import app
from site_agent.paths import Paths
from site_agent.route_intent import RouteIntent


class Bench:
    def __init__(self, base: Path) -> None:
        self.paths = Paths(run_dir=base / "run", state_dir=base / "state", etc_dir=base / "etc")
        self.paths.run_dir.mkdir(exist_ok=True)
        self.paths.state_dir.mkdir(exist_ok=True)
        self.told: list[VerdictReached] = []
        self.events: list[Event] = []
        self.intent = RouteIntent(
            gateway="fra-gw1", threshold=2000, paths=self.paths, tell=self.told.append, happened=self.events.append
        )

    def see(self, reason: Reason = Reason.HEALTHY) -> bool:
        causes = (Cause(reason=reason),)
        self.intent.verdict(VerdictReached(serving=reason is Reason.HEALTHY, causes=causes, at=boottime()))
        return self.told[-1].serving

    def hold(self, for_s: float = 60.0) -> Hold:
        made = hold.begin(HoldKind.WITHDRAW, for_s=for_s, reason="drill", clocks=hold_store.read_clocks())
        hold_store.store(self.paths, made)
        return made

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def test_a_hold_acts_in_the_call_that_announces_it_and_its_end_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.intent.start()
    assert bench.see()
    bench.hold()
    assert bench.see(), "no file is looked at between two words of the command line"
    assert asyncio.run(bench.intent.hold_changed())["hold"]["kind"] == "withdraw"
    assert not bench.told[-1].serving, "at once, not at the next tick"
    hold_store.remove(bench.paths)
    asyncio.run(bench.intent.hold_changed())
    assert bench.told[-1].serving
    assert [type(event) for event in bench.events if isinstance(event, HoldStarted | HoldEnded)] == [HoldStarted, HoldEnded]


def test_a_hold_that_withdraws_moves_the_priority_before_the_route(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.intent.start()
    assert bench.see()
    bench.hold()
    order: list[tuple[bool, bool]] = []

    async def give_way() -> None:
        own = VerdictReached(serving=True, causes=(Cause(reason=Reason.HEALTHY),), at=boottime())
        order.append((bench.intent.held(own).serving, bench.see()))

    asyncio.run(bench.intent.hold_changed(give_way))
    assert order == [(False, True)], "a tick meanwhile leaves the route where it is"
    assert not bench.told[-1].serving
    hold_store.remove(bench.paths)
    asyncio.run(bench.intent.hold_changed(give_way))
    assert len(order) == 1 and bench.told[-1].serving, "its end is at once"


def test_an_expired_hold_is_none(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.hold(for_s=-1.0)
    bench.intent.start()
    assert bench.see()
    assert not bench.of(HoldStarted)


def test_a_torn_file_is_an_alarm_and_ends_no_hold(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.hold()
    bench.intent.start()
    bench.paths.hold.write_bytes(b'{"v": 1, "kind": "with')
    asyncio.run(bench.intent.hold_changed())
    assert not bench.see(), "what is in force stays in force; it ends by itself"
    assert [alarm["reason"] for alarm in bench.intent.alarms()] == [Reason.HOLD_UNREADABLE]
    assert bench.of(AlarmRaised)


def test_a_torn_file_silences_no_screen(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.paths.hold.write_bytes(b"{")
    said = CliRunner().invoke(app, ["status", "--run-dir", str(bench.paths.run_dir), "--state-dir", str(tmp_path / "state")])
    assert "means nothing" in said.output
    assert "no record" in said.output


def test_a_disk_that_hangs_stops_no_verdict_and_keeps_what_is_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, hangs, reads = Bench(tmp_path), threading.Event(), []
    monkeypatch.setattr(route_intent, "READ_LIMIT_S", 0.2)
    bench.hold()
    bench.intent.start()

    def load(paths: Paths) -> Hold | None:
        reads.append(paths)
        hangs.wait(10)
        return None

    async def play() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(hold_store, "load", load)
            asked = [asyncio.create_task(bench.intent.hold_changed()) for _ in range(3)]
            await asyncio.sleep(0.05)
            assert not bench.see(), "the loop goes on, and so does the hold"
            assert all("hangs" in answer["error"] for answer in await asyncio.gather(*asked))
            assert len(reads) == 1, "one thread, however many ask"
            assert threading.active_count() < 8
            hangs.set()
        answer = await bench.intent.hold_changed()
        assert answer["hold"]["kind"] == "withdraw", "and when the disk is back, it is read again"

    asyncio.run(play())


def test_a_full_disk_does_not_refuse_break_glass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    bench.paths.state_dir.rmdir()
    bench.paths.state_dir.write_text("not a directory, like any other reason that nothing can be written there")
    made = hold.begin(HoldKind.WITHDRAW, for_s=60, reason="drill", clocks=hold_store.read_clocks())
    assert hold_store.store(bench.paths, made) is False, "and says that it does not outlive a boot"
    bench.intent.start()
    assert not bench.see()


def test_a_boot_carries_a_hold_over_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    made = bench.hold(for_s=60.0)
    monkeypatch.setattr(hold_store, "_boot_id", lambda: "another boot")
    bench.intent.start()
    kept = hold_store.load(bench.paths)
    assert kept is not None
    assert (kept.boot_id, kept.ends_wall) == ("another boot", made.ends_wall)
    assert kept.duration_s <= 60.0, "the next boot starts from what is left"


def test_a_new_agent_goes_on_from_the_penalty_in_the_log(tmp_path: Path) -> None:
    def left_after(*, announce: bool, ago_s: float) -> tuple[float, float]:
        bench = Bench(tmp_path)
        when = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=ago_s)
        record = {"event": "RouteIntentChanged", "at": when.isoformat(), "announce": announce, "penalty": 2000}
        bench.paths.events.write_text(json.dumps(record) + "\n")
        bench.intent.start()
        bench.see(Reason.NO_EVIDENCE_YET)
        bench.see()
        flap = bench.intent.describe()["flap"]
        return flap["penalty"], flap["left_s"]

    penalty, left = left_after(announce=False, ago_s=0)
    assert 1900 < penalty <= 2000, "a restart adds nothing and forgets nothing"
    assert 890 < left < 940
    penalty, left = left_after(announce=False, ago_s=900)
    assert 990 < penalty < 1001
    assert left < 60
    assert left_after(announce=True, ago_s=0)[1] == 0, "what is announced stays over a clean restart"
