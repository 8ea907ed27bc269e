"""`anycast pki` as an operator types it: pipelines, files and their modes, and one sentence for every mistake."""

from __future__ import annotations

import datetime
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from anycast.cli.main import app
from anycast.errors import AnycastError
from anycast.pki import certificates

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """In a folder of one's own, with a careless umask."""
    tmp_path.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    before = os.umask(0)
    os.umask(0)

    def typed(*words: str, given: str = "", fails: bool = False) -> Result:
        done = CliRunner().invoke(app(), ["pki", *words], input=given)
        assert (done.exception is not None and not isinstance(done.exception, SystemExit)) == fails, done
        return done

    yield typed
    os.umask(before)


def said(done: Result) -> str:
    """The sentence of an error."""
    assert isinstance(done.exception, AnycastError), done.exception
    text = str(done.exception)
    assert "\n" not in text and not text.endswith("."), text
    return text


def equip(run: Run, name: str, *words: str, verb: str = "issue") -> str:
    request = run("request", name, "--dir", f"machines/{name}").stdout
    issued = run(verb, name, *words, given=request).stdout
    run("install", "--dir", f"machines/{name}", given=issued)
    return issued


def modes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): f"{stat.S_IMODE(path.stat().st_mode):o}" for path in folder.rglob("*")}


def test_two_gateways_in_a_few_lines_with_the_right_modes(run: Run, tmp_path: Path) -> None:
    Path("machines").mkdir(mode=0o755)
    assert "the root of fleet example" in run("init", "example").output
    for name in ("fra-gw1", "fra-gw2"):
        equip(run, name)
        assert modes(tmp_path / "machines" / name) == {"identity.pem": "600", "roots.pem": "644", "crl.pem": "644"}
        assert stat.S_IMODE((tmp_path / "machines" / name).stat().st_mode) == 0o700
    root = modes(tmp_path / "pki")
    assert (root["root.key"], root["root.pem"], root["crl.pem"], root["issued"]) == ("600", "644", "644", "700")
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700
    shown = run("show").stdout
    assert re.search(r"^fra-gw1 +gateway +valid .*\nfra-gw2 +gateway +valid ", shown, re.MULTILINE), shown
    own = json.loads(run("show", "--dir", "machines/fra-gw2", "--json").stdout)
    assert (own["fleet"], own["role"], own["name"], own["revocation_lists"]) == ("example", "gateway", "fra-gw2", [1])
    assert "gateway fra-gw2 of fleet example: 364 days left" in run("show", "--dir", "machines/fra-gw2").stdout


def test_the_private_key_is_made_on_the_gateway_and_is_in_no_output(run: Run, tmp_path: Path) -> None:
    outputs = [run("init", "example").output]
    request = run("request", "fra-gw1", "--dir", "m")
    waiting = (tmp_path / "m" / "waiting.key").read_bytes()
    assert modes(tmp_path / "m") == {"waiting.key": "600"}
    issued = run("issue", "fra-gw1", given=request.stdout)
    installed = run("install", "--dir", "m", given=issued.stdout)
    outputs += [request.output, issued.output, installed.output, run("show").output, run("show", "--dir", "m").output]
    keys = [certificates.read_key(waiting), certificates.read_key((tmp_path / "pki" / "root.key").read_bytes())]
    for key in keys:
        for text in (*outputs, *(path.read_text() for path in (tmp_path / "pki" / "issued").iterdir())):
            assert "PRIVATE" not in text and f"{key.private_numbers().private_value:x}" not in text.lower()
    assert not (tmp_path / "m" / "waiting.key").exists(), "it is in identity.pem now"
    assert certificates.read_key((tmp_path / "m" / "identity.pem").read_bytes()).public_key() == keys[0].public_key()


def test_a_renewal_has_a_new_key_and_the_old_one_is_in_use_until_then(run: Run) -> None:
    run("init", "example")
    equip(run, "fra-gw1")
    before = json.loads(run("show", "--dir", "machines/fra-gw1", "--json").stdout)
    request = run("request", "fra-gw1", "--dir", "machines/fra-gw1").stdout
    waiting = json.loads(run("show", "--dir", "machines/fra-gw1", "--json").stdout)
    assert waiting == before | {"key_waits": True}
    renewed = run("renew", "fra-gw1", "--days", "90", given=request).stdout
    run("install", "--dir", "machines/fra-gw1", given=renewed)
    after = json.loads(run("show", "--dir", "machines/fra-gw1", "--json").stdout)
    assert after["key"] != before["key"] and after["days_left"] == 89 and not after["key_waits"]
    assert "is here already" not in run("install", "--dir", "machines/fra-gw1", given=renewed).output, "the same once more"


def test_a_revocation_takes_all_certificates_of_a_machine_and_its_list_grows(run: Run) -> None:
    run("init", "example")
    equip(run, "fra-gw1")
    equip(run, "fra-gw2")
    equip(run, "fra-gw2", verb="renew")
    first = run("revoke", "fra-gw2").stdout
    listed = x509.load_pem_x509_crl(first.encode())
    assert len(list(listed)) == 2 and certificates.list_number(listed) == 2
    assert "revocation list 2 installed" in run("install", "--dir", "machines/fra-gw1", given=first).output
    assert run("crl").stdout == first == run("revoke", "fra-gw2").stdout, "twice changes nothing"
    states = {each["name"]: each["state"] for each in json.loads(run("show", "--json").stdout)["certificates"]}
    assert states == {"fra-gw1": "valid", "fra-gw2": "revoked"}
    request = run("request", "fra-gw2", "--dir", "machines/fra-gw2").stdout
    assert "no certificate to renew" in said(run("renew", "fra-gw2", given=request, fails=True))
    run("install", "--dir", "machines/fra-gw2", given=run("issue", "fra-gw2", given=request).stdout)
    serial = json.loads(run("show", "--dir", "machines/fra-gw1", "--json").stdout)["serial"]
    second = run("revoke", "fra-gw1", "--serial", serial).stdout
    run("install", "--dir", "machines/fra-gw2", given=second)
    older = run("install", "--dir", "machines/fra-gw2", given=first, fails=True)
    assert "revocation list 2 is older than 3" in said(older) and "nothing was changed" in said(older)


def test_a_passphrase_comes_from_a_file_and_never_from_an_argument(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text("correct horse\nnot this line\n")
    file.chmod(0o600)
    run("init", "example", "--passphrase-file", str(file))
    assert b"ENCRYPTED" in (tmp_path / "pki" / "root.key").read_bytes()
    request = run("request", "fra-gw1", "--dir", "m").stdout
    run("issue", "fra-gw1", "--passphrase-file", str(file), given=request)
    file.write_text("another\n")
    assert "another passphrase?" in said(run("revoke", "fra-gw1", "--passphrase-file", str(file), fails=True))
    file.chmod(0o644)
    assert "no secret any more" in said(run("revoke", "fra-gw1", "--passphrase-file", str(file), fails=True))


def test_every_mistake_is_one_sentence_and_changes_nothing(run: Run, tmp_path: Path) -> None:
    assert "`anycast pki init FLEET" in said(run("issue", "fra-gw1", fails=True))
    assert "is not of lower case letters" in said(run("init", "My_Fleet", fails=True))
    run("init", "example")
    assert "has a root already" in said(run("init", "example", fails=True))
    assert "did the command before it fail?" in said(run("install", "--dir", "m", fails=True))
    request = run("request", "fra-gw1", "--dir", "m").stdout
    assert "asks for gateway fra-gw1, not for gateway fra-gw2" in said(run("issue", "fra-gw2", given=request, fails=True))
    wrong_role = run("issue", "fra-gw1", "--role", "coordinator", given=request, fails=True)
    assert "asks for gateway fra-gw1, not for coordinator fra-gw1" in said(wrong_role)
    assert "is not exactly one request" in said(run("issue", "fra-gw1", given="", fails=True))
    assert "no certificate to renew" in said(run("renew", "fra-gw1", given=request, fails=True))
    issued = run("issue", "fra-gw1", given=request).stdout
    assert "`renew` gives it another" in said(run("issue", "fra-gw1", given=request, fails=True))
    assert "this key has a certificate already" in said(run("renew", "fra-gw1", given=request, fails=True))
    run("request", "fra-gw1", "--dir", "m")
    assert "for no key that waits here" in said(run("install", "--dir", "m", given=issued, fails=True))
    leaf_only = issued[: issued.index("-----END CERTIFICATE-----")] + "-----END CERTIFICATE-----\n"
    assert "has no root yet" in said(run("install", "--dir", "m", given=leaf_only, fails=True))
    assert "docs/pki.md" in said(run("show", "--dir", "m2", fails=True))
    assert "it has signed for fra-gw1" in said(run("revoke", "fra-gw7", fails=True))
    assert "is no serial number" in said(run("revoke", "fra-gw1", "--serial", "xyz", fails=True))
    assert modes(tmp_path / "m") == {"waiting.key": "600"}


def test_a_machine_believes_its_root_and_is_what_it_is(run: Run) -> None:
    run("init", "example")
    equip(run, "fra-gw1")
    run("init", "example", "--dir", "second")
    request = run("request", "fra-gw1", "--dir", "machines/fra-gw1").stdout
    foreign = run("issue", "fra-gw1", "--dir", "second", given=request).stdout
    assert "believes another root" in said(run("install", "--dir", "machines/fra-gw1", given=foreign, fails=True))
    crl = run("crl", "--dir", "second").stdout
    assert "is of another root" in said(run("install", "--dir", "machines/fra-gw1", given=crl, fails=True))
    assert "belongs to gateway fra-gw1" in said(run("request", "fra-gw9", "--dir", "machines/fra-gw1", fails=True))


def test_files_that_others_could_have_written_are_not_believed(run: Run, tmp_path: Path) -> None:
    run("init", "example")
    equip(run, "fra-gw1")
    for name, mode in (("identity.pem", 0o644), ("identity.pem", 0o620), ("roots.pem", 0o646), ("crl.pem", 0o664)):
        path = tmp_path / "machines" / "fra-gw1" / name
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        assert str(path.name) in said(run("show", "--dir", "machines/fra-gw1", fails=True))
        path.chmod(before)
    run("show", "--dir", "machines/fra-gw1")


def test_expired_ones_are_renewed_as_well(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from anycast.cli import pki

    run("init", "example")
    equip(run, "fra-gw1", "--days", "1")
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)
    monkeypatch.setattr(pki, "_now", lambda: later)
    assert "EXPIRED" in run("show", "--dir", "machines/fra-gw1").stdout
    assert json.loads(run("show", "--json").stdout)["certificates"][0]["state"] == "expired"
    equip(run, "fra-gw1", verb="renew")
    assert "days left" in run("show", "--dir", "machines/fra-gw1").stdout
