"""A plan's records in a spreadsheet and in NetBox, and back without loss; NetBox answers in the form of its serializers."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anycast.errors import ConfigError
from anycast.fleet.loading import lock_of
from anycast.prefixes.allocation import Kind, Lock, Resting
from anycast.prefixes.lock import encode_lock
from anycast.prefixes.netbox import decode_answers, encode_objects
from anycast.prefixes.planning import plan_file
from anycast.prefixes.record_table import COLUMNS, decode_table, encode_table
from tests.support.documents import TREE

DATA = TREE / "tests" / "data" / "netbox"
DAY = datetime.date(2026, 11, 29)
TEXT = (TREE / "docs" / "fleet-planned.yaml").read_text()
MADE = plan_file(TEXT, None, DAY)
RESTING = (
    Resting("sites.ams.pools.ipv4", Kind.POOL, "192.0.2.128/27", "private4", "2026-11-01"),
    Resting("sites.ams.pools.ipv4", Kind.POOL, "192.0.2.160/27", "private4", "2026-11-02"),
    Resting("sites.ams.spi_label", Kind.SPI_LABEL, "77", "", "2026-11-01"),
    Resting("sites.fra.tunnel.ipv4", Kind.TUNNEL, "203.0.113.30", "sites.fra.unicast_prefix.ipv4", "2026-11-01"),
)
LOCK = MADE.after._replace(resting=RESTING)


def anycast(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "anycast.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def answered(endpoint: str, bodies: list[dict[str, Any]], shape: str) -> str:
    """What NetBox answers to a GET after these were sent: `shape` is a recorded answer of that endpoint, whose fields the
    serializer always writes."""
    like = json.loads((DATA / f"{shape}.json").read_text())["results"][0]
    results = []
    for number, body in enumerate(bodies, start=100):
        item = {**like, **body, "id": number, "display": body.get("prefix") or body.get("address")}
        item["status"] = {"value": body["status"], "label": body["status"].capitalize()}
        item["family"] = {"value": 6 if ":" in item["display"] else 4, "label": "IPv?"}
        if role := body.get("role"):
            item["role"] = {"value": role, "label": role.upper()}
        # A custom field of type text that is empty comes back as null.
        item["custom_fields"] = {name: value if value != "" else None for name, value in body["custom_fields"].items()}
        results.append(item)
    assert results and endpoint
    return json.dumps({"count": len(results), "next": None, "previous": None, "results": results})


def both_answers(lock: Lock) -> list[tuple[str, str]]:
    bodies = encode_objects(MADE.fleet, lock)
    return [(name, answered(name, bodies[name], name)) for name in ("prefixes", "ip-addresses")]


def test_a_spreadsheet_gives_back_every_record_as_it_was() -> None:
    text = encode_table(LOCK)
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert encode_lock(decode_table(text, LOCK.fleet)) == encode_lock(LOCK)
    # As a spreadsheet may write it: a byte order mark, CRLF, other columns, another order.
    rows = [line.split(",", 1) for line in text.splitlines()]
    moved = "\r\n".join(f"{rest},{first},note" for first, rest in rows)
    assert encode_lock(decode_table("\ufeff" + moved + "\r\n", LOCK.fleet)) == encode_lock(LOCK)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("key,kind", "name,kind", "records.csv:1:1: has no column key"),
        (",vip,203.0.113.1,", ",vip,203.0.113.01,", 'line 4: "203.0.113.01" is not the value of a vip'),
        (",vip,", ",vipp,", "line 4: "),
        ("2026-11-29", "29.11.2026", 'line 2: "29.11.2026" is not a day'),
        (",no,", ",nein,", "line 2: pinned is yes or no"),
        ("sites.sin.spi_label,", "sites.fra.spi_label,", "sites.fra.spi_label has two records"),
        ("service.vips.ipv4,", "service.vips.ipv4,more,", "line 4: has not 8 fields"),
        ("vpn: its VIP", '"vpn: its VIP', "records.csv"),
    ],
)
def test_a_table_that_means_nothing_is_refused_with_its_line(old: str, new: str, what: str) -> None:
    text = encode_table(LOCK)
    assert old in text
    with pytest.raises(ConfigError) as caught:
        decode_table(text.replace(old, new, 1), LOCK.fleet)
    assert what in str(caught.value), str(caught.value)


def test_netbox_gives_back_every_record_as_it_was() -> None:
    bodies = encode_objects(MADE.fleet, LOCK)
    assert all(len(body["description"]) <= 200 for many in bodies.values() for body in many)
    assert {body["asn"] for body in bodies["asns"]} == {64501, 64502}
    vip = next(body for body in bodies["ip-addresses"] if body["address"] == "203.0.113.1/32")
    assert vip["role"] == "anycast"
    assert any(body["address"] == "198.51.100.2/28" for body in bodies["ip-addresses"]), "with its LAN's length"
    assert encode_lock(decode_answers([("all", json.dumps(bodies))], MADE.fleet).lock) == encode_lock(LOCK)
    found = decode_answers(both_answers(LOCK), MADE.fleet)
    assert encode_lock(found.lock) == encode_lock(LOCK)
    assert found.foreign == ()


def test_what_somebody_changed_in_netbox_shows_and_others_objects_are_others() -> None:
    answers = both_answers(LOCK)
    moved = json.loads(answers[0][1])
    moved["results"][0]["prefix"] = "203.0.113.224/28"
    recorded = [(path.name, path.read_text()) for path in sorted(DATA.glob("*.json"))]
    found = decode_answers([("prefixes", json.dumps(moved)), answers[1], *recorded], MADE.fleet)
    key = moved["results"][0]["custom_fields"]["anycast_key"]
    assert found.lock.held[key].value == "203.0.113.224/28" != LOCK.held[key].value
    assert found.foreign[0][1:] == ("192.0.2.0/24", "the whole block")
    assert len(found.foreign) == 6


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "answer:1:2: is not JSON"),
        ('"x"', "is no answer of NetBox"),
        ('{"count": 99, "next": "https://netbox.example.org/?offset=50", "results": []}', "is one page of several (0 of 99"),
        ('[{"id": 1}]', "[0]: is neither prefix, nor IP address, nor ASN"),
        ('[{"prefix": "203.0.113.1/24"}]', '"203.0.113.1/24" is neither a prefix nor an address'),
        ('[{"prefix": "203.0.113.0/28", "custom_fields": {"anycast_key": "x"}}]', "answer: [0]: is no record"),
        ('[{"prefix": "203.0.113.0/28", "custom_fields": {"anycast_key": "x", "anycast_more": 7}}]', "is no list"),
        ('[{"asn": 64999, "custom_fields": {"anycast_key": "sites.fra.asn"}}]', "is \"64999\" there, and 64501"),
        ("[" * 100_000, "is no answer of NetBox"),
    ],
)
def test_an_answer_that_means_nothing_is_refused_with_its_place(text: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode_answers([("answer", text)], MADE.fleet)
    assert what in str(caught.value), str(caught.value)


def test_the_commands_carry_a_plan_there_and_back(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(TEXT)
    assert "`anycast prefixes apply` plans them" in anycast("prefixes", "export", file, "--csv").stderr
    assert anycast("prefixes", "apply", file, "--on", DAY).returncode == 0
    lock = lock_of(file)
    before = lock.read_bytes()
    (tmp_path / "table.csv").write_text(anycast("prefixes", "export", file, "--csv").stdout)
    (tmp_path / "netbox.json").write_text(anycast("prefixes", "export", file, "--netbox").stdout)
    for words in (("--csv", tmp_path / "table.csv"), ("--netbox", tmp_path / "netbox.json")):
        done = anycast("prefixes", "import", file, *words)
        assert (done.returncode, done.stdout) == (0, "good: all 59 records are as in the lock file\n"), done.stderr
        lock.unlink()
        assert anycast("prefixes", "import", file, *words, "--write").returncode == 0
        assert lock.read_bytes() == before
    table = (tmp_path / "table.csv").read_text()
    (tmp_path / "table.csv").write_text(table.replace("203.0.113.16/28", "203.0.113.0/28"))
    done = anycast("prefixes", "import", file, "--csv", tmp_path / "table.csv", "--write")
    assert done.returncode == 2 and "203.0.113.0/28" in done.stderr and "Traceback" not in done.stderr
    assert lock.read_bytes() == before, "records that contradict each other are not written"
    done = anycast("prefixes", "import", file, "--netbox", tmp_path / "netbox.json", "--netbox", DATA / "prefixes.json")
    assert '    netbox: [192.0.2.192/27, "2001:db8:10ff::/48"]' in done.stdout, done.stdout
    assert anycast("prefixes", "import", file).returncode == 2
