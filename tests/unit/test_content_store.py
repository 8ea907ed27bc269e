"""What an agent keeps of contents on its disk, and that a SIGKILL at any step leaves the old record or the new one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anycast import whole_file
from anycast.content.canonical import encode
from anycast.content.record import NOTHING, Record, decode_record
from anycast.errors import DecodeError, KernelError
from anycast.policy.acceptance import activate, offer
from site_agent.content_store import load, store
from tests.support.contents import TRUSTED, activation, made, me, offered

FIRST = made()
DRAINED = made(after=[FIRST.content], sin="drained")


def steps() -> list[Record]:
    """Everything that an agent writes, from nothing to a second content and a split."""
    record = NOTHING
    found = [record]
    for each, generation in ((FIRST, 1), (DRAINED, 2)):
        record = offer(record, me(), TRUSTED, offered(each, generation)).record
        found.append(record)
        record = activate(record, me(), TRUSTED, activation(each.content, generation)).record
        found.append(record)
    found.append(offer(record, me(), TRUSTED, offered(made(after=[DRAINED.content]), 2)).record)
    assert found[-1].frozen is not None and len({each.data for each in found}) == len(found)
    return found


STEPS = steps()


@pytest.mark.parametrize("record", STEPS, ids=range(len(STEPS)))
def test_what_is_stored_is_what_is_loaded(tmp_path: Path, record: Record) -> None:
    path = tmp_path / "contents.json"
    tmp_path.chmod(0o700)
    store(path, record)
    assert load(path) == record
    assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_stored_is_nothing_known_and_what_cannot_be_read_is_not_nothing(tmp_path: Path) -> None:
    path = tmp_path / "contents.json"
    tmp_path.chmod(0o700)
    assert load(path) == NOTHING
    for data in (b"", STEPS[1].data[:-1], b"{}", STEPS[1].data + b"\n"):
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(DecodeError):
            load(path)
    path.write_bytes(STEPS[1].data)
    path.chmod(0o666)
    with pytest.raises(DecodeError, match="not believed"):
        load(path)
    with pytest.raises(KernelError):
        store(tmp_path / "gone" / "contents.json", STEPS[1])


CALLS = ("open", "fchmod", "fsync", "close", "write", "replace")


def killed_at(path: Path, record: Record, number: int, *, after: bool) -> bool:
    """Store in a child that is killed before or after its `number`-th system call. False: it came to its end."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def made(*args: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                mine = count
                if mine == number and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                done = call(*args, **options)
                if mine == number and after:
                    os.kill(os.getpid(), signal.SIGKILL)
                return done

            return made

        class Kernel:
            def __getattr__(self, name: str) -> Any:
                value = getattr(os, name)
                return counted(value) if name in CALLS else value

        class Half:
            """A file whose bytes reach the disk one half at a time."""

            def __init__(self, file: Any) -> None:
                self.file = file

            def __enter__(self) -> Half:
                return self

            def __exit__(self, *_: object) -> None:
                self.file.close()

            def fileno(self) -> int:
                return int(self.file.fileno())

            def flush(self) -> None:
                self.file.flush()

            def write(self, data: bytes) -> None:
                for half in (data[: len(data) // 2], data[len(data) // 2 :]):
                    counted(lambda half=half: (self.file.write(half), self.file.flush()))()

        try:
            whole_file.os = Kernel()  # type: ignore[assignment]
            whole_file.open = lambda *args: Half(open(*args))  # type: ignore[attr-defined]  # noqa: SIM115
            Path.replace = counted(Path.replace)  # type: ignore[method-assign]
            Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
            store(path, record)
        finally:
            os._exit(0 if count < number else 9)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status != 0


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(1, len(STEPS)))
def test_a_sigkill_at_any_moment_leaves_the_old_record_or_the_new_one(tmp_path: Path, step: int, after: bool) -> None:
    path = tmp_path / "contents.json"
    tmp_path.chmod(0o700)
    old, new = STEPS[step - 1], STEPS[step]
    left = []
    for number in range(1, 100):
        store(path, old)
        killed = killed_at(path, new, number, after=after)
        left.append(load(path))
        if not killed:
            break
    assert number >= 8, "every step was reached"
    assert all(each in (old, new) for each in left)
    assert left[0] == old and left[-1] == new
    assert left == sorted(left, key=lambda each: each == new), "and once it is the new one it stays"


def test_a_version_reads_what_the_next_one_writes_and_obeys_what_it_demands() -> None:
    tree = json.loads(STEPS[2].data)
    later = tree | {"colour": "green", "active": tree["active"] | {"since": 3}}
    assert decode_record(encode(later).encode()) == STEPS[2]
    for field in tree.keys() - {"requires"}:
        with pytest.raises(DecodeError):
            decode_record(encode({name: value for name, value in tree.items() if name != field}).encode())
    active = tree["active"]
    for change in ({"requires": ["x"]}, {"version": 2}, {"staged": active}, {"active": None, "previous": active}):
        with pytest.raises(DecodeError):
            decode_record(encode(tree | change).encode())
