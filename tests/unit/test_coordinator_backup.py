"""Backup and restore: a snapshot while somebody writes, nothing that is not whole, and a SIGKILL at every step."""

from __future__ import annotations

import functools
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from anycast.cli.main import app
from anycast.coordinator import store_folder
from anycast.coordinator.backup import MARK, RESTORED, back_up, look, restore
from anycast.coordinator.event_store import EventStore, Retention, Seen
from anycast.coordinator.store import Deed, Fenced, Store
from anycast.errors import AnycastError, ConfigError, PeerError
from tests.unit.test_coordinator_store import WRITER

FLEET = "example"
STEPS = frozenset(
    {
        "backup", "chmod", "close", "connect", "execute", "executemany", "executescript", "flush", "fsync", "link", "open",
        "rename", "replace", "unlink", "write",
    }
)  # fmt: skip
"""Calls into C in front of which a process is killed: everything that changes a disk, and more."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def written(path: Path, number: int) -> None:
    store = Store(path, FLEET)
    fence = store.lead()
    deed = Deed(at=1.0, who="alice", action="count", body={"n": number})
    store.transact(fence, expected={}, writes={("a", "n"): {"n": number}, ("b", "n"): {"n": number}}, deeds=(deed,))
    store.close()


def number_in(path: Path) -> int:
    """What `written` wrote; both decisions and the history agree."""
    store = Store(path, FLEET)
    try:
        a, b = (store.read(kind)["n"].body for kind in ("a", "b"))
        counts = [line.body["n"] for line in store.history(limit=10**6) if line.action == "count"]
        assert a is not None and a == b and counts[-1] == a["n"] and store.first_broken() is None
        return int(a["n"])
    finally:
        store.close()


def put_back(backup: Path, store: Path) -> None:
    restore(backup, store, FLEET, who="root", reason="r")


def test_a_backup_while_the_store_is_written_is_one_moment_of_it(folder: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder / "db")], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    assert writer.stdout is not None
    try:
        numbers = []
        for turn in range(10):
            told = int(writer.stdout.readline())
            head = back_up(folder / "db", folder / f"b{turn}")
            assert head.revision >= told and (folder / f"b{turn}").stat().st_mode & 0o777 == 0o600
            assert look(folder / f"b{turn}", FLEET) == head
            put_back(folder / f"b{turn}", folder / str(turn) / "db")
            numbers.append(number_in(folder / str(turn) / "db"))
        # Where nobody let the writer run between two of them they are of the same moment.
        assert numbers == sorted(numbers) and len(set(numbers)) > 1, "each later than the one before it"
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert {path.name for path in folder.iterdir() if path.is_file()} - {"db", "db-wal", "db-shm"} == {
        f"b{turn}" for turn in range(10)
    }, "nothing is left over"


def test_what_is_restored_is_led_by_nobody_marked_and_noted_and_what_was_there_is_kept(folder: Path) -> None:
    written(folder / "db", 1)
    store = Store(folder / "db", FLEET)
    old = store.lead()  # and is stopped, while all of this happens
    back_up(folder / "db", folder / "b")
    store.close()
    written(folder / "db", 2)
    done = restore(folder / "b", folder / "db", FLEET, who="root", reason="fire")
    assert done.aside is not None and number_in(done.aside) == 2
    assert done.aside.stat().st_mode & 0o777 == 0o600 == (folder / "db").stat().st_mode & 0o777
    assert number_in(folder / "db") == 1
    store = Store(folder / "db", FLEET)
    line = store.history()[-1]
    assert (line.who, line.action, line.reason) == ("root", "store.restore", "fire")
    mark = store.read(RESTORED)[MARK].body
    assert mark is not None and mark["revision"] == done.head.revision
    with pytest.raises(Fenced):
        store.transact(old, expected={}, writes={})
    store.close()
    again = restore(folder / "b", folder / "db", FLEET, who="root", reason="again")
    assert again.aside not in (None, done.aside) and number_in(done.aside) == 2


def test_the_log_of_the_store_that_was_there_is_not_taken_for_the_restored_ones(folder: Path) -> None:
    """A coordinator that was killed leaves one; SQLite would replay it into whatever lies beside it."""
    written(folder / "db", 1)
    back_up(folder / "db", folder / "b")
    if os.fork() == 0:
        store = Store(folder / "db", FLEET)
        deed = Deed(at=1.0, who="alice", action="count", body={"n": 9})
        store.transact(store.lead(), expected={}, writes={("a", "n"): {"n": 9}, ("b", "n"): {"n": 9}}, deeds=(deed,))
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    assert (folder / "db-wal").stat().st_size > 0
    done = restore(folder / "b", folder / "db", FLEET, who="root", reason="r")
    assert number_in(folder / "db") == 1
    assert done.aside is not None and number_in(done.aside) == 9, "its last writes are in what is kept"


def test_a_store_that_is_damaged_is_replaced_and_kept_as_it_is(folder: Path) -> None:
    written(folder / "db", 1)
    back_up(folder / "db", folder / "b")
    (folder / "db").write_bytes(b"rubbish " * 1000)
    (folder / "db-wal").write_bytes(b"more")
    done = restore(folder / "b", folder / "db", FLEET, who="root", reason="r")
    assert number_in(folder / "db") == 1
    assert done.aside is not None and done.aside.read_bytes().startswith(b"rubbish")
    assert not (folder / "db-wal").exists()


def test_nothing_is_restored_beside_a_coordinator_nor_one_started_beside_a_restore(folder: Path) -> None:
    written(folder / "db", 1)
    back_up(folder / "db", folder / "b")
    first, second = store_folder.Used(folder), store_folder.Used(folder)
    for each in (first, second):
        with pytest.raises(PeerError, match=r"a coordinator runs on it.*nothing was changed"):
            put_back(folder / "b", folder / "db")
        each.end()
        each.end()
    with store_folder.alone(folder), pytest.raises(PeerError, match="a restore is under way"):
        store_folder.Used(folder)
    # One that does not know that lock yet, of a version before it.
    store = Store(folder / "db", FLEET)
    with pytest.raises(PeerError, match="somebody has it open"):
        put_back(folder / "b", folder / "db")
    store.close()
    put_back(folder / "b", folder / "db")


def _head(changes: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        line, _, rest = data.partition(b"\n")
        head = json.loads(line)
        changes(head)
        return json.dumps(head).encode() + b"\n" + rest

    return change


def _flipped(data: bytes) -> bytes:
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]


def _another_table(data: bytes) -> bytes:
    """A whole database, hashed rightly, that is no store."""
    import hashlib
    import tempfile

    with tempfile.TemporaryDirectory() as base:
        db = sqlite3.connect(f"{base}/x")
        db.execute("CREATE TABLE holidays (day TEXT)")
        db.commit()
        db.close()
        body = Path(f"{base}/x").read_bytes()
    head = json.loads(data.partition(b"\n")[0]) | {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(head).encode() + b"\n" + body


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "is no backup"),
    "cut off in its head": (lambda data: data[:40], "is no backup"),
    "cut off behind its head": (lambda data: data.partition(b"\n")[0] + b"\n", "is cut off: 0 of"),
    "cut off": (lambda data: data[:-1], "is cut off"),
    "longer": (lambda data: data + b"x", "is longer than it says"),
    "a flipped bit": (_flipped, "was changed since it was made"),
    "a bare database": (lambda data: data.partition(b"\n")[2], "is no backup"),
    "text": (lambda data: b"fleet: example\n" * 99, "is no backup"),
    "no end of a line": (lambda data: b"{" * 10_000_000, "is no backup"),
    "deep": (lambda data: b"[" * 4000 + b"\n", "is no backup"),
    "a list": (lambda data: b"[]\n", "is no backup"),
    "not UTF-8": (lambda data: b"\xff\xfe\n" + data, "is no backup"),
    "a later version": (_head(lambda head: head.update(anycast_backup=2)), "of version 2; this program reads 1"),
    "a version that is none": (_head(lambda head: head.update(anycast_backup=True)), "is no backup"),
    "another fleet": (_head(lambda head: head.update(fleet="other")), "is of the fleet 'other'"),
    "a fleet of another alphabet": (_head(lambda head: head.update(fleet="еxample")), "is no backup"),
    "a lone surrogate": (_head(lambda head: head.update(fleet="\ud800")), "is no backup"),
    "a path for a fleet": (_head(lambda head: head.update(fleet="../../etc")), "is no backup"),
    "a size of another type": (_head(lambda head: head.update(size="12")), "is no backup"),
    "a size below nothing": (_head(lambda head: head.update(size=-1)), "is no backup"),
    "a huge size": (_head(lambda head: head.update(size=2**62)), "is cut off"),
    "a number that is none": (_head(lambda head: head.update(at=float("nan"))), "is no backup"),
    "another revision": (_head(lambda head: head.update(revision=77)), "says revision 77"),
    "something missing": (_head(lambda head: head.pop("sha256")), "is no backup"),
    "no store": (_another_table, "another one|damaged|no store of ours|says revision|of the fleet"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_whole_backup_of_this_fleet_ends_in_a_sentence_and_an_unchanged_store(case: str, folder: Path) -> None:
    change, said = HOSTILE[case]
    written(folder / "db", 1)
    back_up(folder / "db", folder / "b")
    (folder / "b").write_bytes(change((folder / "b").read_bytes()))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=said) as caught:
        put_back(folder / "b", folder / "db")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_place_that_cannot_be_trusted_or_used_is_refused(folder: Path) -> None:
    written(folder / "db", 1)
    back_up(folder / "db", folder / "b")
    with pytest.raises(ConfigError, match="is there already; a backup replaces nothing"):
        back_up(folder / "db", folder / "b")
    (folder / "link").symlink_to(folder / "nowhere")
    with pytest.raises(ConfigError, match="is there already"):
        back_up(folder / "db", folder / "link")
    with pytest.raises(ConfigError, match="there is no store"):
        back_up(folder / "none", folder / "c")
    with pytest.raises(ConfigError, match="no such file or directory"):
        back_up(folder / "db", folder / "no" / "where")
    (folder / "text").write_text("rubbish " * 1000)
    with pytest.raises(ConfigError, match="no store of ours"):
        back_up(folder / "text", folder / "c")
    os.mkfifo(folder / "fifo")
    (folder / "other").symlink_to(folder / "b")
    for name in ("fifo", "other", "missing", "db/b"):
        with pytest.raises(AnycastError) as caught:
            put_back(folder / name, folder / "db")
        assert isinstance(caught.value, ConfigError), (name, caught.value)
    (folder / "b").chmod(0o666)
    with pytest.raises(ConfigError, match="others than its owner may write it"):
        put_back(folder / "b", folder / "db")
    assert number_in(folder / "db") == 1
    assert not (folder / "c").exists()


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Whether a process that does `work` was killed in front of its call number `step` (`STEPS`); False: it had ended."""
    child = os.fork()
    if child == 0:
        left = step

        def hook(frame: object, event: str, called: object) -> None:
            nonlocal left
            if event == "c_call" and getattr(called, "__name__", "") in STEPS:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(hook)
        try:
            work()
        finally:
            sys.setprofile(None)
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def test_a_backup_has_no_events_and_says_so(folder: Path) -> None:
    written(folder / "coordinator.db", 3)
    events = EventStore(folder / "events.db", FLEET, Retention())
    events.add([Seen("fra-gw1", "fra", 1.0, {"event": "GatewayHeard", "at": "-", "stream": "-", "seq": 0})])
    events.close()
    assert b"GatewayHeard" in b"".join(path.read_bytes() for path in folder.glob("events.db*"))
    said = CliRunner().invoke(app(), ["backup", str(folder / "one"), "--state", str(folder)])
    assert said.exit_code == 0 and f"not in it: gateways' events ({folder / 'events.db'})" in said.stdout
    shown = CliRunner().invoke(app(), ["backup", str(folder / "two"), "--state", str(folder), "--json"])
    assert json.loads(shown.stdout)["left_out"] == ["events.db"]
    assert b"GatewayHeard" not in (folder / "one").read_bytes()


def test_a_kill_at_any_step_of_a_backup_leaves_none_or_a_whole_one(folder: Path) -> None:
    written(folder / "db", 1)
    seen, step = set(), 1
    while killed_at(step, lambda: back_up(folder / "db", folder / "b") and None):
        seen.add((folder / "b").exists())
        if (folder / "b").exists():
            look(folder / "b", FLEET)
            (folder / "b").unlink()
        step += 1
    assert step > 15 and seen == {True, False}, "the steps were steps"
    look(folder / "b", FLEET)
    (folder / "b").unlink()
    back_up(folder / "db", folder / "b")
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")], "what a kill left is taken away"


@pytest.mark.parametrize("there", ["a store", "a damaged one", "none"])
def test_a_kill_at_any_step_of_a_restore_leaves_the_store_before_or_after_it(there: str, folder: Path) -> None:
    base = folder / "state"
    base.mkdir(mode=0o700)
    written(base / "db", 1)
    back_up(base / "db", folder / "b")
    seen, step = set(), 1

    def begin() -> None:
        for path in base.iterdir():
            path.unlink()
        if there != "none":
            written(base / "db", 2)
        if there == "a damaged one":
            (base / "db").write_bytes(b"rubbish " * 1000)

    begin()
    while killed_at(step, lambda: put_back(folder / "b", base / "db")):
        if not (base / "db").exists():
            assert there == "none"
            found = 2
        elif there == "a damaged one" and (base / "db").read_bytes().startswith(b"rubbish"):
            found = 2
        else:
            found = number_in(base / "db")
        seen.add(found)
        put_back(folder / "b", base / "db")
        assert number_in(base / "db") == 1, "and running it again is right"
        assert not [path.name for path in base.iterdir() if path.name.startswith(".")]
        begin()
        step += 1
    assert step > 25 and seen == {1, 2}, (step, seen)
    assert number_in(base / "db") == 1


def test_a_kill_at_any_step_of_a_transaction_leaves_all_of_it_or_nothing(folder: Path) -> None:
    """As `recover` writes one: many decisions and a line of history."""
    written(folder / "db", 1)
    seen, step = set(), 1

    def work(number: int) -> None:
        store = Store(folder / "db", FLEET)
        deed = Deed(at=1.0, who="root", action="count", body={"n": number})
        writes = {(kind, "n"): {"n": number} for kind in ("a", "b", "c", "d", "e")}
        store.transact(store.lead(), expected={}, writes=writes, deeds=(deed,))
        store.close()

    while killed_at(step, functools.partial(work, step + 1)):
        seen.add(number_in(folder / "db") == step + 1)
        step += 1
    assert step > 20 and seen == {True, False}, (step, seen)
