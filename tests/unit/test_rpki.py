"""Route origin validation of a plan: RFC 6811 against a second implementation, both validators' exports, the commands."""

from __future__ import annotations

import datetime
import ipaddress
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from anycast.errors import ConfigError
from anycast.fleet.compile import compile_fleet
from anycast.fleet.loading import load, loads
from anycast.prefixes.numbers import read
from anycast.prefixes.origins import Announcement, origins, public_announcements, told_outside
from anycast.prefixes.planning import plan_file
from anycast.prefixes.rpki import Judged, Validity, judge, loose
from anycast.prefixes.vrps import Export, Vrp, decode_vrps, spaces_around
from tests.support.documents import TREE

DATA = TREE / "tests" / "data" / "vrps"
DAY = datetime.date(2026, 11, 29)
NOW = datetime.datetime(2026, 11, 29, 17, 0, tzinfo=datetime.UTC)
TEXT = (TREE / "docs" / "fleet-planned.yaml").read_text()
FLEET = plan_file(TEXT, None, DAY).fleet
TOLD = public_announcements(FLEET)
BEYOND = ipaddress.ip_network("203.0.113.0/24").supernet()
"""Half of it is the fleet's."""
LAST_RESORT = "announcements: {last_resort: {all4: {prefix: 203.0.113.0/24, sites: [sin]}}}\n"


def export(name: str, now: datetime.datetime = NOW) -> Export:
    return decode_vrps((DATA / name).read_text(), spaces_around(each.range for each in TOLD), now, file=name)


def verdicts(name: str) -> dict[tuple[str, str], Judged]:
    return {(row.announcement.site, row.announcement.prefix): row for row in judge(TOLD, export(name).vrps)}


def anycast(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "anycast.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_every_announced_prefix_has_one_minimal_roa_for_each_origin_and_a_drains_are_among_them() -> None:
    assert [(each.prefix, each.asn) for each in origins(TOLD)] == [
        ("203.0.113.0/28", 64501),
        ("203.0.113.0/28", 64502),
        ("203.0.113.16/28", 64501),  # where drains of sin redirect to
        ("203.0.113.32/28", 64502),
        ("2001:db8:1000::/56", 64501),
        ("2001:db8:1000::/56", 64502),
        ("2001:db8:1000:100::/56", 64501),
        ("2001:db8:1000:200::/56", 64502),
    ]


def test_a_last_resort_needs_one_too_where_it_is_announced_and_takes_no_space() -> None:
    made = plan_file(TEXT + LAST_RESORT, None, DAY)
    assert made.after.held == plan_file(TEXT, None, DAY).after.held
    added = set(origins(public_announcements(made.fleet))) - set(origins(TOLD))
    assert {(each.prefix, each.asn, each.sites) for each in added} == {("203.0.113.0/24", 64502, ("sin",))}


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (f"prefix: {BEYOND}, sites: [sin]", f"{BEYOND} is not all in this fleet's blocks"),
        ("prefix: 203.0.113.128/25, sites: [sin]", "203.0.113.128/25 holds no prefix that is announced"),
        ("prefix: 203.0.113.0/28, sites: [sin]", "203.0.113.0/28 holds no prefix that is announced"),
        ("prefix: 203.0.113.0/24, sites: [ams]", "there is no site ams; there are fra, sin"),
        ("prefix: 203.0.113.0/24, sites: [sin, sin]", "sin stands here twice"),
    ],
)
def test_a_last_resort_that_attracts_what_it_should_not_is_refused(wrong: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_file(TEXT + f"announcements: {{last_resort: {{x: {{{wrong}}}}}}}\n", None, DAY)
    assert any(what in each.what and each.line == TEXT.count("\n") + 1 for each in caught.value.problems), str(caught.value)


def test_routinators_export_is_judged_and_each_invalid_one_names_its_vrp() -> None:
    found = verdicts("routinator.json")
    assert found["fra", "203.0.113.0/28"].validity is Validity.VALID
    assert found["sin", "203.0.113.0/28"].validity is Validity.VALID
    too_long = found["fra", "203.0.113.16/28"]
    assert too_long.validity is Validity.INVALID
    assert too_long.why == "AS 64501 is authorised for 203.0.113.0/27 up to /27 (ripe), and this is longer"
    nobody = found["fra", "2001:db8:1000:100::/56"]
    assert nobody.validity is Validity.INVALID
    assert nobody.why == "2001:db8:1000:100::/56 is authorised for nobody (AS 0) (apnic), not for AS 64501"
    other = found["sin", "203.0.113.32/28"]
    assert other.why == "203.0.113.32/28 is authorised for AS 64499 (arin), not for AS 64502"
    assert found["sin", "2001:db8:1000:200::/56"].validity is Validity.NOT_FOUND


def test_routinators_extended_export_is_read_too() -> None:
    assert export("routinator.jsonext").vrps == (
        Vrp(64501, "203.0.113.0/28", 28, "ripe"),
        Vrp(64502, "203.0.113.0/28", 28, ""),
    )


def test_of_rpki_clients_export_expired_vrps_count_for_nothing_and_loose_ones_are_seen() -> None:
    made = export("rpki-client.json")
    assert (made.generated, made.total, made.expired) == (datetime.datetime(2026, 11, 29, 16, tzinfo=datetime.UTC), 5, 1)
    assert verdicts("rpki-client.json")["sin", "2001:db8:1000::/56"].validity is Validity.INVALID
    before = export("rpki-client.json", NOW - datetime.timedelta(hours=1))
    assert before.expired == 0 and {row.validity for row in judge(TOLD, before.vrps)} == {Validity.VALID, Validity.NOT_FOUND}
    assert [(each.site, vrp.max_length) for each, vrp in loose(judge(TOLD, made.vrps))] == [("sin", 32)]


def by_the_rfc(announcement: Announcement, vrps: list[Vrp]) -> Validity:
    """RFC 6811 section 2, word by word, with another library's arithmetic."""
    route = ipaddress.ip_network(announcement.prefix)
    covered = False
    for vrp in vrps:
        prefix = ipaddress.ip_network(vrp.prefix)
        if prefix.version != route.version or not route.subnet_of(prefix):  # type: ignore[arg-type]
            continue
        covered = True
        if route.prefixlen <= vrp.max_length and vrp.asn == announcement.origin and announcement.origin != 0:
            return Validity.VALID
    return Validity.INVALID if covered else Validity.NOT_FOUND


def test_thousands_of_announcements_are_judged_as_the_rfc_says() -> None:
    chance = random.Random(6811)
    seen = dict.fromkeys(Validity, 0)
    for _ in range(300):
        vrps, told = [], []
        for _ in range(chance.randrange(12)):
            net = some_network(chance)
            most = chance.randrange(net.prefixlen, net.max_prefixlen + 1)
            vrps.append(Vrp(chance.choice([0, 64496, 64497]), str(net), most, "ta"))
        for _ in range(12):
            told.append(Announcement(str(some_network(chance)), chance.choice([64496, 64497]), "s", "k", "anycast"))
        text = json.dumps({"roas": [{"asn": f"AS{v.asn}", "prefix": v.prefix, "maxLength": v.max_length} for v in vrps]})
        kept: tuple[Vrp, ...] = ()
        if vrps:
            kept = decode_vrps(text, spaces_around(each.range for each in told), NOW).vrps
        for row in judge(told, kept):
            assert row.validity is by_the_rfc(row.announcement, vrps), (row, vrps)
            seen[row.validity] += 1
            assert row.why
    assert all(count > 100 for count in seen.values()), seen


def some_network(chance: random.Random) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Of few addresses, so that they meet."""
    if chance.random() < 0.5:
        length = chance.randrange(4, 33)
        return ipaddress.ip_network((0xC0000200 | chance.randrange(256), length), strict=False)
    length = chance.randrange(8, 129)
    return ipaddress.ip_network((0x20010DB8 << 96 | chance.randrange(16) << 64, length), strict=False)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "vrps.json:1:2: is not JSON"),
        ("[]", "is no VRP export"),
        ('{"roas": []}', "has no VRP at all"),
        ('{"roas": [7]}', "roas[0]: is no VRP"),
        ('{"roas": [{"asn": 1, "prefix": "203.0.113.1/28"}]}', '"203.0.113.1/28" is not a prefix without bits'),
        ('{"roas": [{"asn": "ASx", "prefix": "203.0.113.0/28"}]}', 'asn: "ASx" is not an AS number'),
        ('{"roas": [{"asn": 4294967296, "prefix": "203.0.113.0/28"}]}', 'asn: "4294967296" is not an AS number'),
        ('{"roas": [{"asn": true, "prefix": "203.0.113.0/28"}]}', 'asn: "True" is not an AS number'),
        ('{"roas": [{"asn": 1, "prefix": "203.0.113.0/28", "maxLength": 27}]}', '"27" is not between 28 and 32'),
        ("[" * 100_000, "is not a VRP export"),
    ],
)
def test_an_export_that_cannot_be_read_is_refused_in_one_sentence(text: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode_vrps(text, spaces_around([read("203.0.113.0/28")]), NOW)  # type: ignore[list-item]
    assert what in str(caught.value) and "Traceback" not in str(caught.value)


@pytest.fixture
def planned(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(TEXT)
    assert anycast("prefixes", "apply", path, "--on", DAY).returncode == 0
    return path


def test_what_would_be_invalid_is_neither_planned_nor_applied(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(TEXT)
    for command in ("plan", "apply"):
        done = anycast("prefixes", command, path, "--vrps", DATA / "routinator.json")
        assert done.returncode == 1, done
        assert "refused: at sin: 203.0.113.32/28 from AS 64502 would be RPKI-invalid" in done.stderr
    assert not (tmp_path / "fleet.lock").exists()
    good = tmp_path / "vrps.json"
    good.write_text(json.dumps({"roas": [{"asn": each.asn, "prefix": each.prefix} for each in origins(TOLD)]}))
    assert anycast("prefixes", "apply", path, "--vrps", good).returncode == 0
    assert (tmp_path / "fleet.lock").exists()


def test_check_shows_every_verdict_and_the_export_of_roas_makes_all_valid(planned: Path, tmp_path: Path) -> None:
    done = anycast("prefixes", "check", planned, "--vrps", DATA / "routinator.json", "--json")
    assert done.returncode == 1
    rows = json.loads(done.stdout)["rpki"]["announcements"]
    assert sorted(row["validity"] for row in rows) == [*["invalid"] * 4, "not found", *["valid"] * 3]
    roas = json.loads(anycast("prefixes", "export", planned, "--roas", "--json").stdout)["rows"]
    (tmp_path / "vrps.json").write_text(json.dumps({"roas": roas}))
    done = anycast("prefixes", "check", planned, "--vrps", tmp_path / "vrps.json")
    assert done.returncode == 0, done.stderr
    assert " valid " in done.stdout and "invalid" not in done.stdout and "not found" not in done.stdout
    assert "does not say when it was made" in done.stdout


def test_content_whose_documents_would_be_invalid_is_not_planned(planned: Path) -> None:
    documents = compile_fleet(load(planned))
    assert {(each.prefix, each.origin, each.site) for each in told_outside(documents.values())} == {
        (each.prefix, each.origin, each.site) for each in TOLD if each.purpose in ("anycast", "unicast")
    }
    planned.write_text(planned.read_text() + "budget: {min_sites: 1}\n")
    done = anycast("plan", planned, "--vrps", DATA / "routinator.json")
    assert done.returncode == 1, done.stderr
    assert "refused: at sin: 2001:db8:1000::/56 from AS 64502 would be RPKI-invalid" in done.stderr
    assert anycast("plan", planned, "--vrps", DATA / "rpki-client.json").returncode == 1
    assert anycast("plan", planned).returncode == 3


def test_a_file_without_blocks_may_have_a_last_resort_of_its_own_prefixes_only() -> None:
    text = (TREE / "labs" / "topologies" / "two-site.fleet.yaml").read_text()
    assert loads(text)
    with pytest.raises(ConfigError, match="is not all in this fleet's blocks"):
        loads(text + "announcements: {last_resort: {x: {prefix: 203.0.113.0/24, sites: [fra]}}}\n")


def test_a_plan_of_content_that_the_vrps_make_invalid_meanwhile_is_not_signed(planned: Path, tmp_path: Path) -> None:
    planned.write_text(planned.read_text() + "budget: {min_sites: 1}\n")
    made = tmp_path / "plan"
    assert anycast("plan", planned, "-o", made).returncode == 3
    words = ("apply", made, "--operator", "olga", "-o", tmp_path / "signed", "--dir", tmp_path)
    done = anycast(*words, "--vrps", DATA / "rpki-client.json")
    assert done.returncode == 1, done.stderr
    assert "refused: at sin: 2001:db8:1000::/56 from AS 64502 would be RPKI-invalid" in done.stderr
    assert not (tmp_path / "signed").exists()
