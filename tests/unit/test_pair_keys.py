"""A pair's key file: its text, who may read it, the three steps of a rotation, and `site-agent keys` as it is typed."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from anycast.errors import ConfigError, DecodeError
from site_agent import control, keys_cli
from site_agent.cli import app, main
from site_agent.vrrp import key_file, pair_keys
from site_agent.vrrp.pair_keys import Key, PairKeys, Step
from site_agent.vrrp.seal import newest

NOW = datetime.datetime(2026, 11, 28, 21, 5, tzinfo=datetime.UTC)
FIRST = pair_keys.first(b"f" * 32, NOW)


@st.composite
def any_keys(draw: st.DrawFn) -> PairKeys:
    ids = draw(st.lists(st.integers(1, 255), min_size=1, max_size=pair_keys.MOST_KEYS, unique=True))
    moments = st.datetimes(timezones=st.just(datetime.UTC)).map(lambda made: made.replace(microsecond=0))
    keys = (Key(id=i, made=draw(moments), secret=draw(st.binary(min_size=32, max_size=32))) for i in ids)
    return PairKeys(in_use=draw(st.sampled_from(ids)), keys=tuple(keys))


@given(any_keys())
def test_a_file_is_read_as_it_was_written(keys: PairKeys) -> None:
    assert pair_keys.decode(pair_keys.encode(keys)) == keys


@given(st.binary(max_size=300) | st.recursive(st.none() | st.integers() | st.text(max_size=9), st.lists).map(json.dumps)
       .map(str.encode))  # fmt: skip
def test_anything_else_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        pair_keys.decode(data)


KEY = {"id": 1, "made": "2026-11-28T21:05:00Z", "key": "66" * 32}
WRONG: dict[str, dict[str, Any]] = {
    "no version": {"in_use": 1, "keys": [KEY]},
    "a later version": {"version": 2, "in_use": 1, "keys": [KEY]},
    "no key": {"version": 1, "in_use": 1, "keys": []},
    "none in use": {"version": 1, "in_use": 2, "keys": [KEY]},
    "an id twice": {"version": 1, "in_use": 1, "keys": [KEY, KEY]},
    "too many": {"version": 1, "in_use": 1, "keys": [KEY | {"id": n} for n in range(1, 10)]},
    "id 0, which means none": {"version": 1, "in_use": 0, "keys": [KEY | {"id": 0}]},
    "an id beyond a byte": {"version": 1, "in_use": 256, "keys": [KEY | {"id": 256}]},
    "an id of another type": {"version": 1, "in_use": 1, "keys": [KEY | {"id": 1.0}]},
    "a short key": {"version": 1, "in_use": 1, "keys": [KEY | {"key": "66" * 31}]},
    "no digits": {"version": 1, "in_use": 1, "keys": [KEY | {"key": "sécret" * 10}]},
    "no date": {"version": 1, "in_use": 1, "keys": [KEY | {"made": "66" * 32}]},
    "too long": {"version": 1, "in_use": 1, "keys": [KEY], "note": "x" * 5000},
}


@pytest.mark.parametrize("fields", WRONG.values(), ids=WRONG)
def test_a_file_that_cannot_be_used_is_refused_without_its_keys(fields: dict[str, Any]) -> None:
    with pytest.raises(DecodeError) as caught:
        pair_keys.decode(json.dumps(fields).encode())
    assert "6666" not in str(caught.value) and "sécret" not in str(caught.value)


def test_fields_that_a_later_version_adds_are_ignored() -> None:
    fields = json.loads(pair_keys.encode(FIRST)) | {"note": "ours"}
    assert pair_keys.decode(json.dumps(fields).encode()) == FIRST


def test_no_key_shows_in_a_repr() -> None:
    assert "fff" not in repr(FIRST) and "66" * 4 not in repr(FIRST)
    assert FIRST.keys[0].fingerprint not in FIRST.keys[0].secret.hex()


@given(any_keys(), st.binary(min_size=32, max_size=32))
def test_whatever_stands_in_the_file_three_steps_leave_one_new_key(keys: PairKeys, secret: bytes) -> None:
    """And on the way each gateway opens what the other one seals, whichever of the two took the step first."""
    while keys.next_step is not Step.ADD:  # a rotation that was left half way
        keys = pair_keys.rotated(keys, secret, NOW)
    steps = []
    before = keys
    for _ in range(3):
        steps.append(keys.next_step)
        after = pair_keys.rotated(keys, secret, NOW)
        for sender, receiver in ((keys, after), (after, keys)):
            assert sender.by_id[sender.in_use] == receiver.by_id.get(sender.in_use), f"{keys.next_step}: refused"
        assert pair_keys.decode(pair_keys.encode(after)) == after
        keys = after
    assert steps == [Step.ADD, Step.USE, Step.DROP]
    assert [key.secret for key in keys.keys] == [secret] and keys.in_use != before.in_use


def test_ids_go_round() -> None:
    last = PairKeys(in_use=255, keys=(dataclasses.replace(FIRST.keys[0], id=255),))
    assert [key.id for key in pair_keys.rotated(last, b"n" * 32, NOW).keys] == [255, 1]


@pytest.mark.parametrize(
    ("status", "hindered"),
    [
        ({}, False),
        ({"keys": [1, 2], "key_in_use": 2, "peer_keys": [2]}, False),
        ({"keys": [1, 2], "key_in_use": 2, "peer_keys": []}, False),
        ({"keys": [1, 2], "key_in_use": 1, "peer_keys": [2]}, True),
        ({"keys": [1], "key_in_use": 1, "peer_keys": [1]}, True),
        ({"keys": [1, 2], "key_in_use": 2, "peer_keys": [1]}, True),
        ({"keys": [1, 2], "key_in_use": 2, "peer_keys": [1, 2]}, True),
    ],
    ids=str,
)
def test_the_old_key_is_dropped_only_when_both_have_switched(status: dict[str, Any], hindered: bool) -> None:
    keys = pair_keys.rotated(pair_keys.rotated(FIRST, b"n" * 32, NOW), b"", NOW)
    assert keys.next_step is Step.DROP
    assert (pair_keys.obstacle(keys, status) is not None) == hindered


OLD, NEW, ANOTHER = (newest({1: b"f" * 32} | more) for more in ({}, {2: b"n" * 32}, {2: b"x" * 32}))


@pytest.mark.parametrize(
    ("said", "hindered"),
    [([NEW], False), ([OLD], True), ([OLD, NEW], True), ([ANOTHER], True), ([0], False), ([], False)],
)
def test_the_new_key_seals_only_when_the_other_gateway_has_it(said: list[int], hindered: bool) -> None:
    """Another key of the same id is not it. 0 is said by a version that knows nothing of it: there it goes as before."""
    assert len({0, OLD, NEW, ANOTHER}) == 4
    keys = pair_keys.rotated(FIRST, b"n" * 32, NOW)
    assert keys.next_step is Step.USE
    status = {"peer_gateway": "gw2", "keys": [1, 2], "key_in_use": 1, "peer_keys": [1], "peer_newest": said}
    why = pair_keys.obstacle(keys, status)
    assert (why is not None) == hindered and (why is None or "does not have this key 2 yet" in why)


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("peer", ["gw2", None])
def test_no_step_past_the_first_is_taken_while_the_other_gateway_is_not_heard(peer: str | None, heard: bool) -> None:
    """It might lack the new key, and refuse and be refused for good. Where there is no other one, nothing waits."""
    keys = FIRST
    for step in Step:
        assert keys.next_step is step
        status = {"peer_gateway": peer, "keys": sorted(keys.by_id), "key_in_use": keys.in_use}
        for said in (status | {"peer_keys": [keys.in_use] if heard else []}, status if not heard else None):
            if said is not None:
                why = pair_keys.obstacle(keys, said)
                assert (why is not None) == (step is not Step.ADD and peer is not None and not heard), step
                assert why is None or ("gw2, is not heard" in why and "site-agent apply" in why)
        keys = pair_keys.rotated(keys, b"n" * 32, NOW)


# -- the file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vrrp keys.json"


def test_a_file_is_made_for_root_alone_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        key_file.make(path, FIRST)
        key_file.replace(path, FIRST)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o7777 == 0o600 and key_file.load(path) == FIRST
    assert key_file.load_keys(path) == ({1: b"f" * 32}, 1)
    assert os.listdir(path.parent) == [path.name]


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        key_file.load(path)
    said = str(caught.value)
    assert str(path.parent) in said and "\n" not in said and "6666" not in said
    return said


def test_what_others_could_read_or_write_is_refused_with_the_remedy(path: Path) -> None:
    key_file.make(path, FIRST)
    for mode in (0o640, 0o604, 0o644):
        path.chmod(mode)
        said = refusal(path)
        assert f"mode {mode:04o}" in said and "may read it" in said and f"chmod 600 {path}" in said
    path.chmod(0o620)
    assert "may write it" in refusal(path)
    path.chmod(0o600)
    path.parent.chmod(0o777)
    assert f"chmod go-w {path.parent}" in refusal(path)
    path.parent.chmod(0o700)
    assert key_file.load(path) == FIRST


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(path: Path) -> None:
    key_file.make(path, FIRST)
    os.chown(path, 65534, 0)
    assert "belongs to user 65534" in refusal(path)


def test_a_missing_file_a_link_a_folder_and_garbage_are_one_sentence_each(path: Path) -> None:
    assert "keys new" in refusal(path)
    path.symlink_to(path.parent / "elsewhere")
    assert refusal(path)
    path.unlink()
    path.mkdir()
    assert refusal(path)
    path.rmdir()
    path.write_text('{"version": 1, "keys": ["' + "66" * 32)
    path.chmod(0o600)
    assert "no key file" in refusal(path)


def test_no_file_is_ever_replaced_by_a_first_one(path: Path) -> None:
    key_file.make(path, FIRST)
    with pytest.raises(ConfigError, match="keys rotate"):
        key_file.make(path, pair_keys.first(b"o" * 32, NOW))
    assert key_file.load(path) == FIRST and os.listdir(path.parent) == [path.name]


# -- the command line


def said(*words: str, code: int = 0) -> str:
    answer = CliRunner().invoke(app, ["keys", *words])
    assert (answer.exit_code, answer.exception if code == 0 else None) == (code, None), answer.output
    return answer.output


def typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    """Through `main`, where errors become one line."""
    monkeypatch.setattr("sys.argv", ["site-agent", "keys", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().err


def test_a_rotation_as_it_is_typed(path: Path) -> None:
    everything = said("new", str(path))
    made = key_file.load(path)
    for step in ("add", "use", "drop"):
        here = said("rotate", str(path), "--step", step, "--run-dir", str(path.parent / "nobody"))
        assert f"step {['add', 'use', 'drop'].index(step) + 1} of 3" in here
        assert "scp -p '" in here and "apply    # on both" in here, "what to do next"
        everything += here + said("show", str(path)) + said("show", str(path), "--json")
    changed = key_file.load(path)
    assert changed.in_use == 2 and len(changed.keys) == 1 and changed.keys[0].secret != made.keys[0].secret
    for key in (*made.keys, *changed.keys):
        assert key.secret.hex()[:9] not in everything, "a key was shown"
    shown = json.loads(said("show", str(path), "--json"))
    assert shown["in_use"] == 2 and shown["keys"][0]["age_days"] == 0
    assert shown["keys"][0]["fingerprint"] == changed.keys[0].fingerprint and shown["next_step"] == "add"


def test_new_takes_a_folder_and_replaces_nothing(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said("new", str(path.parent))
    first = key_file.load(path.parent / key_file.DEFAULT.name)
    code, err = typed(capsys, monkeypatch, "new", str(path.parent))
    assert code == 2 and err.count("\n") == 1 and "lies there already" in err
    assert key_file.load(path.parent / key_file.DEFAULT.name) == first
    code, err = typed(capsys, monkeypatch, "new", str(path.parent / "none" / "file"))
    assert code == 2 and err.count("\n") == 1 and "install -d" in err
    path.parent.joinpath(key_file.DEFAULT.name).chmod(0o644)
    code, err = typed(capsys, monkeypatch, "show", str(path.parent / key_file.DEFAULT.name))
    assert code == 2 and err.count("\n") == 1 and "chmod 600" in err


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Whoever answers `status` on a control socket; what it says of its vrrp process can be changed."""
    import asyncio

    status: dict[str, Any] = {}
    ready, over = threading.Event(), threading.Event()

    async def serve() -> None:
        server = await control.serve(tmp_path / "control.sock", {"status": lambda: {"vrrp": status}})
        ready.set()
        async with server:
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    yield status
    over.set()
    thread.join()


def test_a_step_waits_for_both_gateways(
    path: Path, agent: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_cli, "REPORT_S", 0.15)
    run_dir = "--run-dir", str(path.parent)
    said("new", str(path))
    agent.update(keys=[1], key_in_use=1, peer_keys=[1])
    assert "nothing was compared" not in said("rotate", str(path), *run_dir)
    code, err = typed(capsys, monkeypatch, "rotate", str(path), *run_dir)
    assert code == 1 and err.count("\n") == 1 and "site-agent apply" in err and len(key_file.load(path).keys) == 2
    agent.update(keys=[1, 2])
    code, err = typed(capsys, monkeypatch, "rotate", str(path), "--step", "drop", *run_dir)
    assert code == 1 and "the next step is use" in err
    before = path.read_bytes()
    agent.update(peer_gateway="gw2", peer_keys=[])
    code, err = typed(capsys, monkeypatch, "rotate", str(path), *run_dir)
    assert code == 1 and err.count("\n") == 1 and "gw2, is not heard" in err and "--anyway" in err
    assert path.read_bytes() == before
    agent.update(peer_keys=[1])
    said("rotate", str(path), *run_dir)
    agent.update(key_in_use=2)
    code, err = typed(capsys, monkeypatch, "rotate", str(path), *run_dir)
    assert code == 1 and "still seals with key 1" in err and len(key_file.load(path).keys) == 2
    said("rotate", str(path), "--anyway", *run_dir)
    assert key_file.load(path).in_use == 2 and len(key_file.load(path).keys) == 1


def test_an_agent_that_falls_silent_while_a_step_waits_takes_nothing_back(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it said before still stands in the way; nobody who answers is another matter, and said so."""
    monkeypatch.setattr(keys_cli, "REPORT_S", 0.15)
    said("new", str(path))
    said("rotate", str(path))
    answers = iter([{"keys": [1, 2], "key_in_use": 1, "peer_gateway": "gw2", "peer_keys": [1], "peer_newest": [OLD]}])
    monkeypatch.setattr(keys_cli, "_running", lambda run_dir: next(answers, {}))
    code, err = typed(capsys, monkeypatch, "rotate", str(path))
    assert code == 1 and "does not have this key 2 yet" in err and key_file.load(path).in_use == 1
