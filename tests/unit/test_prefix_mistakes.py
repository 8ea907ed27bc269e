"""What a stranger does by mistake with `anycast prefixes`, as typed: one sentence each, and nothing is lost."""

from __future__ import annotations

import base64
import gc
import gzip
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anycast.cli import main
from anycast.errors import ConfigError, Problem
from tests.support.documents import TREE

TEXT = (TREE / "docs" / "fleet-planned.yaml").read_text() + "irr: {source: RIPE, mnt_by: [EXAMPLE-MNT]}\n"
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """The whole command in this process, as its entry point runs it: exit status, what it prints, what it says."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.yaml").write_text(TEXT)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["anycast", "prefixes", *words])
        try:
            with pytest.raises(SystemExit) as ended:
                main.main()
        finally:
            gc.enable()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    assert run("apply", "fleet.yaml")[0] == 0
    return run


def test_a_folder_in_a_files_place(typed: Typed) -> None:
    assert typed("plan", ".") == (2, "", ".: cannot be read: Is a directory\n")
    assert typed("plan", "/")[::2] == (2, "/: cannot be read: Is a directory\n")
    assert typed("show", "fleet.yaml", "--svg", ".") == (2, "", ".: is a directory\n")
    os.mkdir("there")
    assert typed("show", "fleet.yaml", "--svg", "there") == (2, "", "there: is a directory\n")
    assert os.listdir("there") == [] and not [name for name in os.listdir() if name.endswith(".new")]
    said = "KEY: is empty; `anycast prefixes show` lists what can be named\n"
    assert typed("renumber", "fleet.yaml", "") == (2, "", said)


def test_a_fleet_without_blocks_announces_all_the_same(typed: Typed) -> None:
    Path("plain.yaml").write_text((TREE / "labs" / "topologies" / "six-site.fleet.yaml").read_text())
    status, said, _ = typed("show", "plain.yaml", "--announcements", "--site", "fra")
    assert status == 0 and [line.split()[3:5] for line in said.splitlines() if "ipv4" in line or "203." in line] == [
        ["203.0.113.0/28", "64501"], ["203.0.113.160/28", "64501"],
    ]  # fmt: skip
    assert typed("show", "plain.yaml", "--announcements", "--site", "par")[0] == 2
    assert "nothing is planned without blocks" in typed("show", "plain.yaml", "--svg", "a.svg")[2]
    Path("plain.yaml").write_text("version: 2\n")
    assert typed("show", "plain.yaml", "--announcements")[0] == 2


def test_a_site_under_another_name_only(typed: Typed) -> None:
    Path("fleet.yaml").write_text(TEXT.replace("  sin:\n", "  sgp:\n"))
    said = "note: sin goes and sgp comes: a site under a new name says `formerly: sin`, and keeps all\n"
    assert typed("plan", "fleet.yaml")[::2] == (3, said)
    Path("fleet.yaml").write_text(TEXT.replace("  sin:\n", "  sgp:\n    formerly: sin\n"))
    assert typed("plan", "fleet.yaml")[2] == ""
    Path("fleet.yaml").write_text(TEXT.partition("  sin:\n")[0])
    assert typed("plan", "fleet.yaml")[::2] == (3, "")


def test_a_lock_whose_lines_a_version_control_has_changed(typed: Typed) -> None:
    lock = Path("fleet.lock")
    lock.write_bytes(lock.read_bytes().replace(b"\n", b"\r\n"))
    status, _, said = typed("plan", "fleet.yaml")
    assert status == 2 and said.count("\n") == 1 and "fleet.lock:1:32: its lines end in CR LF" in said


def test_an_import_that_lost_something_moves_nothing(typed: Typed) -> None:
    """A table that was cut off, an answer that permissions kept short: the next plan would give out something else."""
    before = Path("fleet.lock").read_bytes()
    table = typed("export", "fleet.yaml", "--csv")[1]
    objects = json.loads(typed("export", "fleet.yaml", "--netbox")[1])
    head, *rows = table.splitlines(keepends=True)
    less = [row for row in rows if not row.startswith("sites.sin.pools.ipv4")]
    answers = {"table": head, "less": head + "".join(less), "empty": '{"count":0,"next":null,"results":[]}'}
    answers["short"] = json.dumps({"prefixes": objects["prefixes"][1:]})
    for name, text in answers.items():
        Path(name).write_text(text)
        option = "--csv" if name in ("table", "less") else "--netbox"
        assert typed("import", "fleet.yaml", option, name)[0] == 3, "it is shown what differs"
        status, _, said = typed("import", "fleet.yaml", option, name, "--write")
        assert (status, said.partition(" not all that ")[0]) == (2, f"{name}: --write: has"), said
        assert Path("fleet.lock").read_bytes() == before
    assert "1 record is missing (sites.sin.pools.ipv4)" in typed("import", "fleet.yaml", "--csv", "less", "--write")[2]
    # What the file writes itself is planned the same whoever forgets it, and what it no longer asks for may go.
    Path("pin").write_text(head + "".join(row for row in rows if not row.startswith("sites.sin.uplink.ipv4")))
    assert typed("import", "fleet.yaml", "--csv", "pin", "--write")[0] == 0
    Path("fleet.lock").write_bytes(before)
    Path("fleet.yaml").write_text(TEXT.replace("    clients: 20\n", "    clients: 20\n    pools: {ipv4: 192.0.2.64/26}\n"))
    Path("gone").write_text(head + "".join(row for row in rows if not row.startswith("sites.fra.pools.ipv4")))
    assert typed("import", "fleet.yaml", "--csv", "gone", "--write")[0] == 0
    Path("count").write_text('{"count":7,"next":null,"results":[]}')
    assert typed("import", "fleet.yaml", "--netbox", "count")[::2] == (
        2, "count: results: has 0 of 7 objects; ask with ?limit=0\n",
    )  # fmt: skip
    Path("excel").write_text(table.replace(",", ";"))
    said = "excel:1:1: is separated by semicolons; save it with commas\n"
    assert typed("import", "fleet.yaml", "--csv", "excel") == (2, "", said)


def test_a_dump_as_registries_hand_it_out_and_one_that_did_not_come(typed: Typed) -> None:
    Path("dump.gz").write_bytes(gzip.compress(typed("export", "fleet.yaml", "--irr")[1].encode()))
    compare = ("export", "fleet.yaml", "--irr", "--irr-dump")
    assert typed(*compare, "dump.gz") == (2, "", "dump.gz: is compressed; gunzip it first\n")
    Path("none").write_text("")
    said = "none: is empty; a registry without this fleet's objects says that in words\n"
    assert typed(*compare, "none") == (2, "", said)
    Path("words").write_text("%  No entries found\n")
    assert typed(*compare, "words")[0] == 3


def test_numbers_that_nobody_counted(typed: Typed) -> None:
    line = '{{"site":"fra","family":"ipv4","day":"2026-11-{:02}","leased":{}}}\n'
    Path("samples").write_text("".join(line.format(day, 10**400) for day in range(10, 25)))
    status, _, said = typed("forecast", "fleet.yaml", "--leases", "samples")
    assert status == 2 and said.startswith("samples:1:1: is no sample")
    Path("samples").write_text("".join(line.format(day, 2**53 - day) for day in range(10, 25)))
    assert "full already" in typed("forecast", "fleet.yaml", "--leases", "samples", "--on", "2026-11-25")[1]


def test_a_name_that_turns_a_terminal_around_is_shown_and_does_nothing(typed: Typed) -> None:
    Path("fleet.yaml").write_text(TEXT.replace("  sin:\n", '  "s\\u202ein":\n'))
    status, _, said = typed("plan", "fleet.yaml")
    assert status == 2 and "\u202e" not in said and "sites.s\\u202ein: " in said
    assert str(Problem("sites.zürich", "x", os.fsdecode(b"\xff.yaml"), 1, 1)) == "\\udcff.yaml:1:1: sites.zürich: x"


def test_a_file_that_is_something_else_altogether_fills_no_screen_for_minutes(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "MOST_PROBLEMS", 3)
    Path("fleet.yaml").write_text("version: 1\n" + "".join(f"k{n}: 1\n" for n in range(20)))
    said = typed("plan", "fleet.yaml")[2].splitlines()
    with pytest.raises(ConfigError) as caught:
        raise ConfigError([Problem("", "x")] * 3)
    assert main._first(caught.value) == "x\nx\nx"
    assert len(said) == 4 and said[3].startswith("and ") and said[3].endswith(" more problems")


def test_a_block_used_twice_is_said_beside_one_that_cannot_be_read(typed: Typed) -> None:
    added = 'again: {prefix: 203.0.113.0/25, use: [pools]}\n    six: {prefix: "2001:db8:2000::1/40", use: [pools]}'
    Path("twice.yaml").write_text(TEXT.replace("    private4: {", f"    {added}\n    private4: {{"))
    status, out, said = typed("plan", "twice.yaml")
    assert (status, out) == (2, "") and [line.split(": ", 2)[1:] for line in said.splitlines()] == [
        ["addressing.blocks.again.prefix", "203.0.113.0/25 overlaps addressing.blocks.public4.prefix 203.0.113.0/24"],
        [
            "addressing.blocks.six.prefix",
            '"2001:db8:2000::1/40" has bits set beyond its length; its prefix is 2001:db8:2000::/40',
        ],
    ]


def test_the_announcements_are_shown_beside_the_picture(typed: Typed) -> None:
    alone = typed("show", "fleet.yaml", "--announcements")
    assert typed("show", "fleet.yaml", "--announcements", "--svg", "a.svg") == alone and alone[0] == 0
    assert typed("show", "fleet.yaml", "--svg", "b.svg") == (0, "", "")
    assert Path("a.svg").read_bytes() == Path("b.svg").read_bytes()


def test_a_key_that_is_not_there_is_said_where_the_zone_names_it(typed: Typed) -> None:
    zones = "dns:\n  domain: vpn.example.org\n  zones:\n    main: {name: example.org, server: 198.51.100.53, key: other}\n"
    Path("named.yaml").write_text(TEXT + zones)
    Path("named.lock").write_bytes(Path("fleet.lock").read_bytes())
    secret = base64.b64encode(bytes(32)).decode()
    Path("keys").write_text(f'key "mine" {{\n algorithm hmac-sha256;\n secret "{secret}";\n}};\n')
    os.chmod("keys", 0o600)
    line = TEXT.count("\n") + 4
    said = f"named.yaml:{line}:59: dns.zones.main.key: other is none of the keys in keys (mine)\n"
    assert typed("dns", "plan", "named.yaml", "--key-file", "keys") == (2, "", said)
