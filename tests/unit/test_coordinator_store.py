"""The store: all or nothing, fenced, revisioned, and a history that shows where somebody has been at it."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from anycast.coordinator.store import Conflict, Deed, Fenced, Store
from anycast.errors import ConfigError, PeerError

DEED = Deed(at=1.0, who="alice", action="drain.begin", reason="fibre works", body={"site": "fra"})


def test_a_decision_stands_with_its_revision_and_its_line_of_history(tmp_path: Path) -> None:
    store = Store(tmp_path / "db", "example")
    fence = store.lead()
    first = store.transact(fence, expected={("drain", "fra"): 0}, writes={("drain", "fra"): {"by": "alice"}}, deeds=(DEED,))
    second = store.transact(fence, expected={("drain", "fra"): first}, writes={("drain", "fra"): None, ("x", "y"): {}})
    assert second == first + 1 == store.revision
    assert store.read("drain") == {}, "a deleted one does not stand"
    assert [key for key, _ in store.since(first)] == [("drain", "fra"), ("x", "y")], "but whoever watches hears of it"
    assert store.since(second) == []
    [line] = store.history()
    assert (line.seq, line.who, line.action, line.body) == (1, "alice", "drain.begin", {"site": "fra"})


def test_what_was_read_and_has_changed_meanwhile_is_written_by_nobody(tmp_path: Path) -> None:
    store = Store(tmp_path / "db", "example")
    fence = store.lead()
    store.transact(fence, expected={}, writes={("drain", "fra"): {"by": "alice"}})
    for stale in (0, 7):
        with pytest.raises(Conflict, match="drain fra"):
            store.transact(fence, expected={("drain", "fra"): stale}, writes={("other", "one"): {}}, deeds=(DEED,))
    assert (store.read("other"), store.history(), store.revision) == ({}, [], 1)


def test_a_coordinator_that_was_paused_writes_nothing_any_more(tmp_path: Path) -> None:
    """Two processes, one file: the first was stopped, the second leads, the first goes on."""
    first, second = Store(tmp_path / "db", "example"), Store(tmp_path / "db", "example")
    old = first.lead()
    new = second.lead()
    with pytest.raises(Fenced):
        first.transact(old, expected={}, writes={("drain", "fra"): {}}, deeds=(DEED,))
    second.transact(new, expected={}, writes={("drain", "sin"): {}})
    assert list(first.read("drain")) == ["sin"]


def test_a_store_that_was_put_back_is_not_written_by_who_led_it_before(tmp_path: Path) -> None:
    """The epoch counts again from where the copy was made; the leader's word does not come again."""
    store = Store(tmp_path / "db", "example")
    store.lead()
    store.close()
    copy = (tmp_path / "db").read_bytes()
    store = Store(tmp_path / "db", "example")
    old = store.lead()
    store.close()
    for path in tmp_path.iterdir():
        path.unlink()
    (tmp_path / "db").write_bytes(copy)
    store = Store(tmp_path / "db", "example")
    new = store.lead()
    assert new.epoch == old.epoch
    with pytest.raises(Fenced):
        store.transact(old, expected={}, writes={})


@pytest.mark.parametrize(
    ("forgery", "broken"),
    [
        ("UPDATE history SET reason = 'another' WHERE seq = 2", 2),
        ("DELETE FROM history WHERE seq = 2", 2),
        ("UPDATE history SET at = 2 WHERE seq = 3", 3),
        ("INSERT INTO history VALUES (4, 1, 'eve', 'x', '', '{}', 'no hash')", 4),
    ],
)
def test_history_shows_where_it_was_tampered_with(forgery: str, broken: int, tmp_path: Path) -> None:
    store = Store(tmp_path / "db", "example")
    fence = store.lead()
    for _ in range(3):
        store.transact(fence, expected={}, writes={}, deeds=(DEED,))
    assert store.first_broken() is None
    with sqlite3.connect(tmp_path / "db") as db:
        db.execute(forgery)
    assert store.first_broken() == broken


def test_a_file_system_that_is_read_only_is_named_with_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """chmod(2) says so first, and not SQLite."""

    def refuses(self: Path, mode: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "chmod", refuses)
    with pytest.raises(PeerError, match=r"coordinator\.db: the store cannot be used: read-only file system"):
        Store(tmp_path / "coordinator.db", "f")


def test_a_file_that_is_not_its_own_is_refused_in_a_sentence(tmp_path: Path) -> None:
    Store(tmp_path / "db", "example").close()
    with pytest.raises(ConfigError, match="belongs to the fleet example, not to other"):
        Store(tmp_path / "db", "other")
    (tmp_path / "text").write_text("something else entirely, and long enough to be looked at\n" * 20)
    with pytest.raises(ConfigError, match="no store of ours"):
        Store(tmp_path / "text", "example")
    with pytest.raises(PeerError, match="cannot be used"):
        Store(tmp_path / "nowhere" / "db", "example")
    with sqlite3.connect(tmp_path / "db") as db:
        db.execute("UPDATE meta SET value = '2' WHERE key = 'version'")
    with pytest.raises(ConfigError, match="of version 2; this program reads 1"):
        Store(tmp_path / "db", "example")
    assert (tmp_path / "db").stat().st_mode & 0o777 == 0o600


WRITER = """
import sys
from pathlib import Path
from anycast.coordinator.store import Deed, Store
store = Store(Path(sys.argv[1]), "example")
fence = store.lead()
n = 0
while True:
    n += 1
    deed = Deed(at=0.0, who="w", action="count", body={"n": n})
    store.transact(fence, expected={}, writes={("a", "n"): {"n": n}, ("b", "n"): {"n": n}}, deeds=(deed,))
    print(n, flush=True)
"""


def test_what_was_told_survives_a_kill_and_what_was_half_done_does_not(tmp_path: Path) -> None:
    """SIGKILL at eight moments of a run of transactions."""
    for moment in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "db")], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
        )
        assert writer.stdout is not None
        told = 0
        for _ in range(3 + moment):
            told = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        told = max([told, *map(int, writer.stdout.read().split())])
        writer.wait()
        store = Store(tmp_path / "db", "example")
        a, b = store.read("a")["n"], store.read("b")["n"]
        assert a == b and a.body is not None and told <= a.body["n"] <= told + 1
        assert store.history(after=0, limit=10**6)[-1].body["n"] == a.body["n"]
        assert store.first_broken() is None
        store.close()
