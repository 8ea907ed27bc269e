"""Who had which inner address when: from charon's answers to events, from events to an account of one moment."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from anycast.errors import PeerError
from anycast.events import (
    ClientConnected,
    ClientGone,
    ClientMoved,
    ClientsServed,
    ClientStands,
    ClientWatchStarted,
    to_record,
)
from site_agent.cli import app
from site_agent.client_history import account_at, selected
from site_agent.ike import client_watch
from site_agent.ike.client_watch import ClientWatch
from site_agent.ike.clients import Client, client_of

T0 = 1_795_953_600.0


def ike_sa(**more: Any) -> dict[str, Any]:
    return {
        "state": b"ESTABLISHED",
        "remote-id": b"phone1",
        "remote-host": b"198.51.100.7",
        "remote-port": b"4500",
        "initiator-spi": b"00000000000000aa",
        "responder-spi": b"00000000000000bb",
        "established": b"12",
        "remote-vips": [b"203.0.113.66", b"2001:db8:c::2"],
        **more,
    }


def client(identity: str, *inner: str, spis: str = "a_b", outer: str = "198.51.100.7:4500", age_s: float = 0.0) -> Client:
    return Client(spis=spis, identity=identity, eap_identity="", inner=inner, outer=outer, serving=True, age_s=age_s)


def test_a_client_is_read_from_what_charon_lists() -> None:
    assert client_of(ike_sa()) == Client(
        spis="00000000000000aa_00000000000000bb",
        identity="phone1",
        eap_identity="",
        inner=("203.0.113.66", "2001:db8:c::2"),
        outer="198.51.100.7:4500",
        serving=True,
        age_s=12.0,
    )
    copy = ike_sa(**{"state": b"PASSIVE", "remote-host": b"2001:db8:d::2", "remote-eap-id": b"user"})
    del copy["remote-vips"]
    copy["child-sas"] = {"net-1": {"remote-ts": [b"203.0.113.66/32", b"2001:db8:c::2/128[tcp/80]", b"192.0.2.0/24"]}}
    read = client_of(copy)
    assert read is not None
    assert (read.inner, read.outer, read.serving) == (("203.0.113.66", "2001:db8:c::2"), "[2001:db8:d::2]:4500", False)
    assert read.eap_identity == "user", "the selectors say what the mirror has lost"
    assert client_of(ike_sa(state=b"CONNECTING")) is None
    named = client_of(ike_sa(**{"remote-id": b"\x1b[31mred\nline"}))
    assert named is not None and named.identity == "�[31mred�line", "a stranger's name does nothing to a terminal"
    for broken in ({"state": b"PASSIVE"}, ike_sa(**{"remote-host": b"x"}), ike_sa(**{"established": b"x"})):
        with pytest.raises(PeerError):
            client_of(broken)


def test_who_comes_moves_and_goes_is_told_and_a_rekey_is_nothing() -> None:
    watch = ClientWatch()
    assert watch.looked([], serving=True, now=0.0) == [ClientWatchStarted(), ClientsServed(serving=True, clients=0)]
    one = client("a", "203.0.113.66")
    (came,) = watch.looked([one], serving=True, now=1.0)
    assert came == ClientConnected(
        session="a_b", identity="a", eap_identity="", inner=("203.0.113.66",), outer="198.51.100.7:4500", since_s=0.0
    )
    rekeyed = client("a", "203.0.113.66", spis="c_d")
    assert watch.looked([one, rekeyed], serving=True, now=2.0) == []
    assert watch.looked([rekeyed], serving=True, now=3.0) == []
    (moved,) = watch.looked([client("a", "203.0.113.66", outer="198.51.100.9:1")], serving=True, now=4.0)
    assert moved == ClientMoved(
        session="a_b", identity="a", inner=("203.0.113.66",), outer="198.51.100.9:1", outer_before="198.51.100.7:4500"
    )
    assert watch.looked([], serving=True, now=5.0) == [], "a rekey may have nothing for a moment"
    (gone,) = watch.looked([], serving=True, now=6.0)
    assert gone == ClientGone(session="a_b", identity="a", inner=("203.0.113.66",), outer="198.51.100.9:1")


def test_a_copy_that_has_lost_its_address_keeps_the_session() -> None:
    watch = ClientWatch()
    watch.looked([client("a", "203.0.113.66"), client("b", "203.0.113.67")], serving=False, now=0.0)
    for now in (1.0, 2.0, 3.0):
        assert [type(e) for e in watch.looked([client("a")], serving=False, now=now)] == [ClientGone] * (now == 2.0)
    assert watch.looked([client("a", "203.0.113.66")], serving=False, now=4.0) == []


def test_a_failover_is_one_event_and_a_session_is_said_again_once_a_day() -> None:
    watch = ClientWatch()
    everybody = [client(str(number), f"203.0.113.{number}") for number in range(1, 200)]
    first = watch.looked(everybody, serving=False, now=0.0)
    assert sum(isinstance(event, ClientStands) for event in first) == 199, "it cannot know when they came"
    assert watch.looked(everybody, serving=True, now=1.0) == [ClientsServed(serving=True, clients=199)]
    assert watch.looked(everybody, serving=True, now=86_399.0) == []
    assert len(watch.looked(everybody, serving=True, now=86_400.0)) == 199


def test_many_at_once_are_told_in_pieces_and_nobody_is_forgotten() -> None:
    watch = ClientWatch()
    everybody = [client(str(number), f"2001:db8:c::{number:x}") for number in range(1, 2501)]
    told = [watch.looked(everybody, serving=True, now=now) for now in (0.0, 1.0, 2.0, 3.0)]
    assert max(map(len, told)) <= client_watch.MOST_EVENTS + 1
    assert sum(isinstance(event, ClientStands) for events in told for event in events) == 2500
    assert sum(isinstance(event, ClientWatchStarted) for events in told for event in events) == 1
    gone = [watch.looked([], serving=True, now=now) for now in (4.0, 5.0, 6.0, 7.0)]
    assert sum(isinstance(event, ClientGone) for events in gone for event in events) == 2500


def records() -> list[dict[str, Any]]:
    """a has .66 from 100 on; moves at 200; goes at 300; then b has .66. A failover at 250, a new watcher at 500."""
    inner, far = ("203.0.113.66", "2001:db8:c::2"), "[2001:db8:d::1]:4500"
    a, b, c = (
        {"session": "s1", "identity": "a", "eap_identity": "", "inner": inner, "outer": "198.51.100.7:1"},
        {"session": "s2", "identity": "b", "eap_identity": "u", "inner": inner, "outer": far},
        {"session": "s3", "identity": "c", "eap_identity": "", "inner": ("203.0.113.9",), "outer": "198.51.100.7:3"},
    )
    moved = {"session": "s1", "identity": "a", "inner": inner, "outer": "198.51.100.8:2"}
    story = [
        (0, ClientWatchStarted()),
        (0, ClientsServed(serving=False, clients=0)),
        (100, ClientConnected(**a, since_s=5.0)),  # type: ignore[arg-type]
        (200, ClientMoved(**moved, outer_before="198.51.100.7:1")),  # type: ignore[arg-type]
        (250, ClientsServed(serving=True, clients=1)),
        (300, ClientGone(**moved)),  # type: ignore[arg-type]
        (400, ClientConnected(**b, since_s=0.0)),  # type: ignore[arg-type]
        (410, ClientConnected(**c, since_s=0.0)),  # type: ignore[arg-type]
        (500, ClientWatchStarted()),
        (500, ClientStands(**b, since_s=100.0)),  # type: ignore[arg-type]
    ]
    made = [to_record(event, wall=T0 + at, boot_ns=0, gateway="fra-gw1") for at, event in story]
    return list(map(json.loads, map(json.dumps, made)))


def moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(T0 + seconds, datetime.UTC)


def test_an_account_of_each_moment() -> None:
    def at(seconds: float) -> list[tuple[str, str]]:
        return [(one.identity, one.outer) for one in account_at(records(), moment(seconds)).clients]

    assert at(99) == []
    assert at(100) == [("a", "198.51.100.7:1")]
    assert at(250) == [("a", "198.51.100.8:2")], "over a failover"
    assert at(300) == []
    assert at(450) == [("c", "198.51.100.7:3"), ("b", "[2001:db8:d::1]:4500")], "in the order of their addresses"
    assert at(501) == [("b", "[2001:db8:d::1]:4500")], "c went while nobody watched"
    assert account_at(records(), moment(100)).clients[0].since == moment(95)
    assert account_at(records(), moment(249)).serving is False
    assert account_at(records(), moment(251)).serving is True
    assert account_at(records(), moment(-1)).known_since is None
    assert at(501 + 3 * 86_400) == [], "not said again for two days: not known"


def test_records_that_nobody_can_read_harm_nothing() -> None:
    garbage: list[dict[str, Any]] = [
        {"event": "ClientConnected", "at": "2026-11-29T00:00:00Z"},
        {"event": "ClientConnected", "at": "yesterday", "identity": 3, "inner": 7},
        {"event": "ClientGone", "at": "2026-11-29T00:00:00Z", "identity": [], "inner": None},
    ]
    assert account_at([*garbage, *records()], moment(100)).clients


@pytest.mark.parametrize(
    ("who", "found"),
    [("203.0.113.66", "b"), ("2001:db8:C:0::2", "b"), ("2001:db8:d::1", "b"), ("198.51.100.7", "c"), ("u", "b"), ("x", "")],
)
def test_one_of_them_by_address_or_name(who: str, found: str) -> None:
    account = selected(account_at(records(), moment(450)), who)
    assert "".join(one.identity for one in account.clients) == found


def invoke(folder: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["clients", *words, "--state-dir", str(folder)], env={"COLUMNS": "120", "TZ": "UTC"})
    return done.exit_code, done.output


def test_the_command_for_eyes_and_for_programs(tmp_path: Path) -> None:
    lines = [json.dumps(record) for record in records()]
    (tmp_path / "clients.jsonl.1").write_text("\n".join(lines[:5]) + "\ntorn {")
    (tmp_path / "clients.jsonl").write_text("\n".join(lines[5:]) + "\n")
    status, said = invoke(tmp_path, "203.0.113.66", "--at", moment(260).isoformat())
    assert status == 0
    assert "1 client with 203.0.113.66 at" in said and "served by fra-gw1" in said
    assert "198.51.100.8:2" in said and "2001:db8:c::2" in said and "a" in said
    status, said = invoke(tmp_path, "--json", "--at", moment(450).isoformat())
    answer = json.loads(said)
    assert status == 0 and [one["identity"] for one in answer["clients"]] == ["c", "b"]
    assert answer["clients"][1]["inner"] == ["203.0.113.66", "2001:db8:c::2"]
    assert answer["clients"][1]["eap_identity"] == "u" and answer["serving"] is True
    status, said = invoke(tmp_path, "--at", moment(240).isoformat())
    assert "served by the other gateway, copies on fra-gw1" in said
    status, said = invoke(tmp_path, "--at", moment(-5).isoformat())
    assert status == 1 and "Nothing is known" in said
    status, said = invoke(tmp_path / "empty")
    assert status == 1 and "Nothing is known" in said
