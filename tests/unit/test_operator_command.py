"""`anycast operator` as an operator types it: keys and lists, their modes, and one sentence for every mistake."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from anycast.cli import drain, operator, passphrase
from anycast.cli.main import app
from anycast.content.operators import decode_operators
from anycast.content.signature import is_signed, sign
from anycast.errors import AnycastError, ConfigError

Run = Callable[..., Result]
SECRET = "correct horse battery"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """In a folder of one's own, with a careless umask."""
    tmp_path.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = os.umask(0)
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "secret").chmod(0o600)

    def typed(*words: str, given: str = "", fails: bool = False) -> Result:
        done = CliRunner().invoke(app(), ["operator", *words], input=given)
        assert (done.exception is not None and not isinstance(done.exception, SystemExit)) == fails, done
        return done

    yield typed
    os.umask(before)


def said(done: Result) -> str:
    assert isinstance(done.exception, AnycastError), done.exception
    text = str(done.exception)
    assert "\n" not in text and not text.endswith("."), text
    return text


def new(run: Run, name: str) -> str:
    return run("new", name, "--passphrase-file", "secret").stdout


def test_a_key_is_made_here_encrypted_and_in_no_output(run: Run, tmp_path: Path) -> None:
    done = run("new", "alice", "--passphrase-file", "secret")
    place = tmp_path / "home" / ".config" / "anycast"
    assert stat.S_IMODE((place / "alice.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    pem = (place / "alice.key").read_text()
    assert "BEGIN ENCRYPTED PRIVATE KEY" in pem
    assert re.fullmatch(r"anycast-operator alice [A-Za-z0-9+/]{43}=\n", done.stdout)
    assert (place / "alice.pub").read_text() == done.stdout
    body = pem.splitlines()[1]
    assert body not in done.output and SECRET not in done.output
    key = operator.open_key(None, "alice", tmp_path / "secret")
    assert is_signed("text", sign("text", key), done.stdout.split()[2])


def test_a_passphrase_is_asked_for_unless_told_otherwise(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers = iter([b"long enough", b"long enough", b"short", b"long enough", b"different"])
    monkeypatch.setattr(passphrase, "_ask", lambda prompt: asked.append(prompt) or next(answers))
    monkeypatch.setattr(passphrase, "_may_ask", lambda: False)
    assert "there is no terminal to ask at" in said(run("new", "alice", "--dir", "keys", fails=True)) and not asked
    monkeypatch.setattr(passphrase, "_may_ask", lambda: True)
    run("new", "alice", "--dir", "keys")
    assert asked == ["New passphrase of alice's key: ", "Again: "]
    assert "ENCRYPTED" in (tmp_path / "keys" / "alice.key").read_text()
    for name in ("bob", "carol"):
        assert "nothing was made" in said(run("new", name, "--dir", "keys", fails=True))
        assert not (tmp_path / "keys" / f"{name}.key").exists()
    plain = run("new", "dave", "--dir", "keys", "--plain")
    assert "not encrypted" in plain.output and "ENCRYPTED" not in (tmp_path / "keys" / "dave.key").read_text()
    assert operator.open_key(tmp_path / "keys", "dave", None)


def test_keys_that_cannot_be_used(run: Run, tmp_path: Path) -> None:
    new(run, "alice")
    assert "is there already" in said(run("new", "alice", "--plain", fails=True))
    assert "not of lower case letters" in said(run("new", "../alice", "--plain", fails=True))
    (tmp_path / "other").write_text("another one\n")
    (tmp_path / "other").chmod(0o600)
    with pytest.raises(ConfigError, match="no private key that this passphrase opens"):
        operator.open_key(None, "alice", tmp_path / "other")
    (tmp_path / "other").chmod(0o644)
    with pytest.raises(ConfigError, match="no secret any more"):
        operator.open_key(None, "alice", tmp_path / "other")
    with pytest.raises(ConfigError, match="anycast operator new bob"):
        operator.open_key(None, "bob", None)
    operator.key_file(None, "alice").chmod(0o640)
    with pytest.raises(ConfigError, match="no secret any more"):
        operator.open_key(None, "alice", tmp_path / "secret")


def test_trust_reaches_a_gateway_in_a_pipeline_and_so_does_its_end(run: Run, tmp_path: Path) -> None:
    first = run("trust", "--fleet", "example", given=new(run, "alice")).stdout
    both = run("trust", given=new(run, "bob")).stdout
    assert (tmp_path / "operators.json").read_text() == both
    gateway = ("--list", "gateway/operators.json")
    assert "list 3 of fleet example trusts alice" in run("install", *gateway, given=both).output
    assert stat.S_IMODE((tmp_path / "gateway" / "operators.json").stat().st_mode) == 0o644
    run("install", *gateway, given=both)
    assert "list 2, and list 3 is installed" in said(run("install", *gateway, given=first, fails=True))
    without = run("revoke", "alice").stdout
    run("install", *gateway, given=without)
    shown = json.loads(run("show", *gateway, "--json").stdout)
    assert [(each["name"], each["revoked"] is None) for each in shown["operators"]] == [("alice", False), ("bob", True)]
    assert re.search(r"^alice +[0-9a-f]{32}  revoked 2\d{3}-", run("show").stdout, re.MULTILINE)
    assert "was revoked already" in run("revoke", "alice").output
    assert decode_operators(run("revoke", "alice").stdout.encode()).number == 4, "nothing changed"
    assert "Nobody is trusted now" in run("revoke", "bob").output


def test_a_revoked_key_never_comes_back(run: Run) -> None:
    line = new(run, "alice")
    run("trust", "--fleet", "example", given=line)
    assert "is trusted already" in said(run("trust", given=line, fails=True))
    revoked = run("revoke", "alice").stdout
    assert "never comes back" in said(run("trust", given=line, fails=True))
    run("install", "--list", "gateway.json", given=revoked)
    tree = json.loads(revoked)
    forgetful = tree | {"number": 9, "operators": []}
    unrevoked = tree | {"number": 9, "operators": [tree["operators"][0] | {"revoked": None}]}
    for each in (forgetful, unrevoked):
        text = json.dumps(each, sort_keys=True, separators=(",", ":"))
        assert "forgets that alice's key" in said(run("install", "--list", "gateway.json", given=text, fails=True))


def test_one_of_two_keys_ends(run: Run) -> None:
    run("trust", "--fleet", "example", given=new(run, "alice"))
    run("trust", given=run("new", "alice", "--dir", "second", "--plain").stdout)
    first, second = decode_operators(Path("operators.json").read_bytes()).operators
    run("revoke", "alice", "--key", first.key[:8])
    after = decode_operators(Path("operators.json").read_bytes()).operators
    assert [each.revoked is None for each in after] == [False, True] and after[1] == second
    assert "has no such key" in said(run("revoke", "alice", "--key", "zz", fails=True))


def test_what_is_no_list_or_no_key_changes_nothing(run: Run, tmp_path: Path) -> None:
    assert "anycast operator trust --fleet" in said(run("trust", given=new(run, "alice"), fails=True))
    run("trust", "--fleet", "example", "home/.config/anycast/alice.pub")
    before = (tmp_path / "operators.json").read_bytes()
    assert "is there already" in said(run("trust", "--fleet", "example", given=new(run, "bob"), fails=True))
    for text in ("", "anycast-operator carol AAAA", "ssh-ed25519 AAAA carol", "anycast-operator Carol " + "A" * 43 + "="):
        assert "nothing was changed" in said(run("trust", given=text, fails=True))
    assert "it has alice" in said(run("revoke", "carol", fails=True))
    assert (tmp_path / "operators.json").read_bytes() == before
    run("install", "--list", "gateway.json", given=before.decode())
    foreign = before.decode().replace("example", "other").replace('"number":2', '"number":3')
    for text in ("", "{}", before.decode()[:-3], foreign):
        assert "nothing was changed" in said(run("install", "--list", "gateway.json", given=text, fails=True))
    assert (tmp_path / "gateway.json").read_bytes() == before
    (tmp_path / "gateway.json").chmod(0o666)
    assert "not believed" in said(run("show", "--list", "gateway.json", fails=True))


def test_a_drain_looks_for_its_key_before_anybody_is_asked(tmp_path: Path) -> None:
    """Else somebody says yes to what cannot be signed."""
    with pytest.raises(ConfigError, match="`anycast operator new nobody` makes one"):
        drain.drain("fra", name="nobody", folder=tmp_path, url=f"unix:{tmp_path / 'nobody-listens'}")
