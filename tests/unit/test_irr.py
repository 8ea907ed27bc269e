"""Route objects of a plan, and what a registry's dump lacks, has beyond or has otherwise."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path

import pytest

from anycast.cli.prefixes_export import ExportExit
from anycast.errors import ConfigError
from anycast.fleet.irr import Irr
from anycast.prefixes.irr import decode_dump, differences, encode_objects, wanted_objects
from anycast.prefixes.origins import origins, public_announcements, public_space
from anycast.prefixes.planning import plan_file
from tests.support.documents import TREE

DUMP = TREE / "tests" / "data" / "irr" / "dump.txt"
DAY = datetime.date(2026, 11, 29)
TEXT = (TREE / "docs" / "fleet-planned.yaml").read_text() + "irr: {source: RIPE, mnt_by: [EXAMPLE-MNT]}\n"
FLEET = plan_file(TEXT, None, DAY).fleet
IRR = Irr(source="RIPE", mnt_by=("EXAMPLE-MNT",))
WANTED = origins(public_announcements(FLEET))
OWN = public_space(FLEET)


def anycast(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "anycast.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_every_prefix_and_origin_has_its_object_and_what_is_written_is_read_as_it_was_meant() -> None:
    text = encode_objects(WANTED, IRR, "planned")
    assert text.startswith(
        "route:          203.0.113.0/28\n"
        "descr:          planned: service.prefixes.ipv4\n"
        "origin:         AS64501\n"
        "mnt-by:         EXAMPLE-MNT\n"
        "source:         RIPE\n\nroute:"
    )
    found = [each._replace(line=0) for each in decode_dump(text.splitlines(), OWN)]
    assert found == wanted_objects(WANTED, IRR)
    assert differences(wanted_objects(WANTED, IRR), found, OWN) == []


def test_a_dump_is_read_as_rpsl_has_it_whatever_else_stands_in_it() -> None:
    found = list(decode_dump(DUMP.read_text("latin-1").splitlines(keepends=True), OWN))
    assert [(each.prefix, each.asn, each.source, each.mnt_by, each.line) for each in found] == [
        ("203.0.113.0/28", 64501, "RIPE", ("EXAMPLE-MNT",), 4),
        ("203.0.113.0/28", 64502, "RIPE", ("EXAMPLE-MNT", "OTHER-MNT"), 12),
        ("2001:0DB8:1000:0::/56", 64501, "RIPE", ("EXAMPLE-MNT",), 21),
        ("203.0.113.64/28", 64501, "RIPE", ("EXAMPLE-MNT",), 26),
        ("203.0.113.0/24", 64499, "RADB", ("MAINT-AS64499",), 32),
        ("203.0.113.0/28", 64501, "RADB", ("MAINT-AS64501",), 38),
    ]


def test_what_is_missing_different_extra_and_elsewhere_is_said_with_its_line() -> None:
    found = decode_dump(DUMP.read_text("latin-1").splitlines(), OWN)
    rows = differences(wanted_objects(WANTED, IRR), found, OWN)
    assert [(row.kind, row.prefix, row.asn) for row in rows] == [
        ("missing", "203.0.113.16/28", 64501),
        ("missing", "203.0.113.32/28", 64502),
        ("missing", "2001:db8:1000::/56", 64502),
        ("missing", "2001:db8:1000:100::/56", 64501),
        ("missing", "2001:db8:1000:200::/56", 64502),
        ("different", "203.0.113.0/28", 64502),
        ("extra", "203.0.113.64/28", 64501),
        ("elsewhere", "203.0.113.0/24", 64499),
    ]
    assert rows[5].what == "line 12: maintained by EXAMPLE-MNT, OTHER-MNT, not by EXAMPLE-MNT"
    assert rows[6].what == "line 26: not announced by this fleet; maintained by EXAMPLE-MNT"
    assert "line 32: in RADB; AS 64499 is not this fleet's" in rows[7].what


def test_the_command_prints_objects_and_compares_dumps(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(TEXT)
    assert anycast("prefixes", "apply", path, "--on", DAY).returncode == 0
    objects = anycast("prefixes", "export", path, "--irr")
    assert objects.returncode == 0 and objects.stdout == encode_objects(WANTED, IRR, "planned")
    (tmp_path / "dump").write_text(objects.stdout)
    same = anycast("prefixes", "export", path, "--irr", "--irr-dump", tmp_path / "dump")
    assert (same.returncode, same.stdout) == (
        ExportExit.SAME,
        f"{tmp_path / 'dump'}: good: all 8 objects are there, and no others in this fleet's space\n",
    )
    other = anycast("prefixes", "export", path, "--irr", "--irr-dump", DUMP, "--json")
    assert other.returncode == ExportExit.DIFFERENT
    assert [row["kind"] for row in json.loads(other.stdout)["rows"]].count("missing") == 5
    for words, what in (
        ((), "say what is to be exported"),
        (("--irr-dump", DUMP), "is compared with the objects of --irr"),
        (("--irr", "--irr-dump", tmp_path / "none"), "no such file"),
    ):
        done = anycast("prefixes", "export", path, *words)
        assert done.returncode == ExportExit.UNUSABLE and what in done.stderr and "Traceback" not in done.stderr
    path.write_text(TEXT.replace("irr:", "# irr:"))
    done = anycast("prefixes", "export", path, "--irr")
    assert done.returncode == ExportExit.UNUSABLE and "irr: is missing: route objects need a registry" in done.stderr


def test_a_maintainer_that_could_end_its_line_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not a name in a routing registry"):
        plan_file(TEXT.replace("EXAMPLE-MNT", '"EXAMPLE-MNT\\nsource: X"'), None, DAY)
