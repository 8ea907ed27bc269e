"""fleet.lock, and what the rest of the program makes of a fleet file that leaves its addresses there."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from anycast.cli.prefixes import PrefixesExit
from anycast.errors import ConfigError
from anycast.fleet.compile import compile_fleet
from anycast.fleet.loading import load, loads, lock_of
from anycast.prefixes.advice import fills, notes, reverse_zones
from anycast.prefixes.allocation import PREFIXES, Kind, Resting
from anycast.prefixes.announcements import announcements
from anycast.prefixes.forecast import forecast
from anycast.prefixes.lock import END, decode_lock, encode_lock
from anycast.prefixes.numbers import read
from anycast.prefixes.picture import LOOKS, picture
from anycast.prefixes.planning import plan_file
from tests.support.documents import TREE

DAY = datetime.date(2026, 11, 29)
DOCS = TREE / "docs"
TEXT = (DOCS / "fleet-planned.yaml").read_text()
LOCK = plan_file(TEXT, None, DAY).after


def anycast(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "anycast.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(TEXT)
    return path


def test_the_plan_in_the_docs_is_what_the_file_beside_it_comes_to(golden: Callable[[Path, str], None]) -> None:
    done = anycast("prefixes", "plan", DOCS / "fleet-planned.yaml", "--on", DAY)
    assert done.returncode == PrefixesExit.CHANGES, done.stderr
    golden(DOCS / "fleet-planned.plan.txt", done.stdout)


def test_a_lock_is_read_as_it_was_written_and_written_as_it_was_read() -> None:
    rested = LOCK._replace(resting=(Resting("sites.x.spi_label", Kind.SPI_LABEL, "9", "", "2026-01-02"),))
    for lock in (LOCK, rested):
        text = encode_lock(lock)
        assert decode_lock(text) == lock and encode_lock(decode_lock(text)) == text
        for line in text.splitlines()[1:]:
            assert line == json.dumps(json.loads(line), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    records = text.splitlines()[1:-1]
    assert records == sorted(records, key=lambda line: json.loads(line)["key"])


def test_a_newer_program_may_say_more_of_a_record_and_no_less() -> None:
    header, first, *rest = encode_lock(LOCK).splitlines()
    more = "\n".join([header, first.replace("{", '{"colour":"blue",', 1), *rest]) + "\n"
    assert decode_lock(more) == LOCK
    with pytest.raises(ConfigError, match="requires"):
        decode_lock(more.replace("{", '{"requires":["colours"],', 1))


LINE = '{"key":"sites.a.pools.ipv4","kind":"pool","since":"2026-11-29","source":"b","value":"192.0.2.0/26","why":""}'


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([], "fleet.lock:1:1: does not begin with the header of a lock file; `anycast prefixes apply` makes one"),
        (['{"fleet":"x","version":2}'], 'fleet.lock:1:1: is of version "2"; 1 can be read here'),
        (["<<<<<<< ours", LINE], "fleet.lock:2:1: an unresolved merge: take out the marks, keep the lines of both sides,"),
        ([LINE, LINE], "fleet.lock:3:1: sites.a.pools.ipv4 has two records; two branches may have planned it: keep one"),
        (["{}"], "fleet.lock:2:1: is no record: an object with key, kind, value, source, and since or freed"),
        (["[1"], "fleet.lock:2:1: is no record (one JSON object a line)"),
        ([LINE.replace("/26", "/25,")], 'fleet.lock:2:1: "192.0.2.0/25," is not the value of a pool, written canonically'),
        ([LINE.replace(".0/26", ".1/26")], 'fleet.lock:2:1: "192.0.2.1/26" is not the value of a pool, written canonically'),
        ([LINE.replace("2026-11-29", "2026-11-31")], 'fleet.lock:2:1: "2026-11-31" is not a day (2026-11-29)'),
        ([LINE.replace('"b"', "7")], "fleet.lock:2:1: is no record: key, value, source, since, freed and why are text"),
        ([LINE.replace('"pool"', '"pond"')], "fleet.lock:2:1: is no record"),
        ([LINE.replace("pools.ipv4", "capacity")], 'fleet.lock:2:1: "sites.a.capacity" is not the key of a pool'),
        ([LINE.replace('"pool"', '"subnet"')], 'fleet.lock:2:1: "sites.a.pools.ipv4" is not the key of a subnet'),
        ([LINE.replace("pools.ipv4", "pools.ipv6")], 'fleet.lock:2:1: "192.0.2.0/26" is of the other family than sites.a'),
        ([LINE.replace("sites.a", "sites.\\ud800")], 'fleet.lock:2:1: "sites.\\ud800.pools.ipv4" is not the key'),
        ([LINE.replace('"b"', '"\\uDfff"')], "fleet.lock:2:1: is no record: half of a surrogate pair is no character"),
    ],
)
def test_a_lock_that_means_nothing_is_refused_with_its_line(lines: list[str], what: str) -> None:
    header = [] if not lines or "version" in lines[0] else ['{"fleet":"x","version":1}']
    with pytest.raises(ConfigError) as caught:
        decode_lock("\n".join([*header, *lines, END]) + "\n")
    assert str(caught.value.problems[0]).startswith(what)


def test_a_lock_that_was_cut_off_is_refused() -> None:
    lines = encode_lock(LOCK).splitlines(keepends=True)
    for kept in (1, 20, len(lines) - 1):
        with pytest.raises(ConfigError) as caught:
            decode_lock("".join(lines[:kept]))
        assert str(caught.value.problems[-1]).startswith(f"fleet.lock:{kept}:1: is cut off: its last line is not {END}")


def test_a_value_outside_the_prefix_that_it_lies_in_is_not_kept() -> None:
    key = "sites.sin.service_address.ipv4"
    held = LOCK.held | {key: LOCK.held[key]._replace(value="203.0.113.200")}
    made = plan_file(TEXT, LOCK._replace(held=held), DAY)
    assert [(each.what, each.key, each.after) for each in made.changes] == [("moved", key, LOCK.held[key].value)]


def test_it_is_said_that_there_is_no_lock_yet(fleet: Path) -> None:
    said = f"no {lock_of(fleet)} yet: planned from nothing\n"
    assert anycast("prefixes", "plan", fleet).stderr == said
    assert anycast("prefixes", "apply", fleet).stderr.startswith(said)
    assert anycast("prefixes", "plan", fleet).stderr == ""


def test_a_fleet_file_that_leaves_addresses_out_is_whole_with_its_lock() -> None:
    fleet = loads(TEXT, lock=LOCK)
    documents = compile_fleet(fleet)
    assert set(documents) == {"fra-gw1", "fra-gw2", "sin-gw1"}
    for key, row in LOCK.held.items():
        here: object = fleet
        for step in row.path:
            here = here[step] if isinstance(here, dict) else getattr(here, step)
        assert str(here) == row.value, key
    assert [pool.prefix for pool in documents["fra-gw1"].service.pools] == [
        LOCK.held["sites.fra.pools.ipv4"].value,
        LOCK.held["sites.fra.pools.ipv6"].value,
    ]


def test_second_pools_are_compiled_and_told_to_the_routers_inside() -> None:
    small = (TREE / "tests" / "data" / "pair.fleet.yaml").read_text()
    more = small.replace("    management: {ipv4: 192.0.2.64/29}\n", "    management: {ipv4: 192.0.2.64/29}\n"
                         "    more_pools: {p2: {ipv4: 203.0.113.128/27}}\n", 1)  # fmt: skip
    before, after = (compile_fleet(loads(text))["fra-gw1"] for text in (small, more))
    assert [(p.name, p.prefix) for p in after.service.pools if p not in before.service.pools] == [
        ("fra-p2-ipv4", "203.0.113.128/27")
    ]
    told = {each.name: each.announces for each in after.bgp.neighbors}
    assert told["fra-core-ipv4"] == ("203.0.113.64/27", "203.0.113.128/27")
    assert told["fra-rtr-ipv4"] == ("203.0.113.0/28",)


BLOCKS = """addressing:
  blocks:
    any4: {prefix: 203.0.113.0/26, use: [anycast]}
    pools4: {prefix: 203.0.113.64/26, use: [pools]}
    more4: {prefix: 203.0.113.128/25, use: [pools]}
    management4: {prefix: 192.0.2.64/26, use: [management]}
    inside4: {prefix: 192.0.2.0/26, use: [inside]}
    uplink4: {prefix: 198.51.100.0/24, use: [uplink]}
    any6: {prefix: "2001:db8:a::/48", use: [anycast]}
    inside6: {prefix: "2001:db8:b::/48", use: [inside]}
    pools6: {prefix: "2001:db8:c::/48", use: [pools]}
    management6: {prefix: "2001:db8:e::/48", use: [management]}
    uplink6: {prefix: "2001:db8:1::/48", use: [uplink]}
  clients: 2
"""


@pytest.mark.parametrize(
    ("name", "without"), [("pair", "management6"), ("pair-mirrored", "nothing"), ("pair-without-bgp", r"\w+6|any4")]
)
def test_a_fleet_that_writes_every_address_comes_to_planning_without_a_change(name: str, without: str) -> None:
    """First as pins, then without them: every document keeps its hash. `without`: blocks of what the fleet does not have."""
    blocks = re.sub(rf"    (?:{without}): .*\n", "", BLOCKS)
    text = (TREE / "tests" / "data" / f"{name}.fleet.yaml").read_text()
    before = {gateway: each.hash for gateway, each in compile_fleet(loads(text)).items()}
    pinned = plan_file(text + blocks, None, DAY)
    assert {each.what for each in pinned.changes} == {"pinned", "new"}
    assert [each.key for each in pinned.changes if each.what == "new"] == [
        f"sites.{next(iter(pinned.fleet.sites))}.spi_label"
    ]
    left_out = yaml.load(text, yaml.BaseLoader)
    for row in pinned.after.held.values():
        if row.pinned and row.source:  # the others are in no block, and stay written
            around = [left_out]
            for step in row.path[:-1]:
                around.append(around[-1][step])
            del around[-1][row.path[-1]]
            if not around[-1] and row.path[-2] not in ("vrrp", "management"):
                del around[-2][row.path[-2]]
    planned = plan_file(yaml.safe_dump(left_out, sort_keys=False) + blocks, pinned.after, DAY)
    assert {each.what for each in planned.changes} == {"unpinned"}
    for fleet in (pinned.fleet, planned.fleet):
        assert {gateway: each.hash for gateway, each in compile_fleet(fleet).items()} == before


def test_the_lock_of_another_fleet_fills_in_nothing(fleet: Path) -> None:
    what = (
        "fleet.yaml:3:8: fleet: is planned, and the lock file of other: if that is what this fleet was called, write the new"
        " name into the first line of the lock file, too"
    )
    with pytest.raises(ConfigError) as caught:
        loads(TEXT, lock=LOCK._replace(fleet="other"))
    assert [str(each) for each in caught.value.problems] == [what]
    lock_of(fleet).write_text(encode_lock(LOCK._replace(fleet="other")))
    for words in (("check", fleet), ("prefixes", "plan", fleet)):
        done = anycast(*words)
        assert done.returncode == PrefixesExit.UNUSABLE and what in done.stderr


def test_a_record_of_what_the_file_does_not_have_fills_in_nothing() -> None:
    text = TEXT.replace("  sin:", "  syd:")
    with pytest.raises(ConfigError) as caught:
        loads(text, lock=LOCK)
    assert [each.where for each in caught.value.problems] == ["addressing"]


def test_from_nothing_to_documents_as_an_operator_types_it(fleet: Path) -> None:
    lock = lock_of(fleet)
    assert anycast("check", fleet).returncode == PrefixesExit.UNUSABLE
    reviewed = json.loads(anycast("prefixes", "plan", fleet, "--json").stdout)
    assert not lock.exists()
    wrong = anycast("prefixes", "apply", fleet, "--expect", "0" * 64)
    assert (wrong.returncode, lock.exists()) == (PrefixesExit.REFUSED, False)
    done = anycast("prefixes", "apply", fleet, "--expect", reviewed["hash"])
    assert done.returncode == 0, done.stderr
    assert len(reviewed["changes"]) == len(decode_lock(lock.read_text()).held)
    assert anycast("check", fleet).returncode == 0
    assert anycast("prefixes", "plan", fleet).returncode == PrefixesExit.NOTHING
    written = lock.stat()
    again = anycast("prefixes", "apply", fleet)
    assert again.returncode == 0 and lock.stat() == written, "nothing to do writes nothing"
    shown = anycast("prefixes", "show", fleet, "--site", "sin").stdout
    assert "sites.sin.pools.ipv4" in shown and "sites.fra" not in shown
    assert len(compile_fleet(load(fleet))) == 3


def test_a_plan_that_cannot_be_kept_leaves_the_lock_as_it_was(fleet: Path) -> None:
    assert anycast("prefixes", "apply", fleet).returncode == 0
    before = lock_of(fleet).read_bytes()
    fleet.write_text(TEXT.replace("clients: 20", "clients: 200"))
    refused = anycast("prefixes", "apply", fleet)
    assert refused.returncode == PrefixesExit.UNUSABLE and "is too small" in refused.stderr
    assert lock_of(fleet).read_bytes() == before


def test_the_second_of_two_at_a_time_waits_and_sees_what_the_first_one_wrote(fleet: Path) -> None:
    import fcntl

    with open(fleet, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "anycast.cli.main", "prefixes", "apply", str(fleet)]
        second = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            second.communicate(timeout=3)
        lock_of(fleet).write_text(encode_lock(LOCK))
    assert second.communicate(timeout=60)[1].endswith("nothing to do\n")


def test_a_folder_that_cannot_be_written_is_said(fleet: Path) -> None:
    lock_of(fleet).mkdir()
    said = anycast("prefixes", "apply", fleet)
    assert said.returncode == PrefixesExit.UNUSABLE and "Traceback" not in said.stderr
    os.rmdir(lock_of(fleet))


def test_what_is_worth_knowing_is_said() -> None:
    found = {(note.about, note.key) for note in notes(loads(TEXT, lock=LOCK))}
    assert ("moas", "service.prefixes.ipv4") in found and ("shared_fate", "sites") not in found
    one = TEXT.replace("asn: 64510", "asn: 64511")
    assert ("shared_fate", "sites") in {(note.about, note.key) for note in notes(loads(one, lock=LOCK))}
    tight = TEXT.replace("fra-rtr: {asn: 64511,", "fra-rtr: {asn: 64511, max_prefixes: 2,")
    assert ("max_prefix", "sites.fra.upstreams.fra-rtr.max_prefixes") in {
        (note.about, note.key) for note in notes(loads(tight, lock=LOCK))
    }


def test_a_site_and_its_gateways_under_new_names_in_one_edit_are_a_plan_for_people_too(fleet: Path) -> None:
    lock_of(fleet).write_text(encode_lock(LOCK))
    text = TEXT.replace("\n  fra:\n", "\n  muc:\n    formerly: fra\n").replace("fra-gw", "muc-gw")
    fleet.write_text(text)
    done = anycast("prefixes", "plan", fleet)
    assert done.returncode == PrefixesExit.CHANGES and "Traceback" not in done.stderr, done.stderr
    made = plan_file(text, LOCK, DAY)
    assert {each.key for each in made.changes if each.what == "renamed"} <= made.after.held.keys()
    assert made.after.held["sites.muc.pools.ipv4"].value == LOCK.held["sites.fra.pools.ipv4"].value


def test_who_announces_what_to_whom_is_what_the_documents_say() -> None:
    fleet = loads(TEXT, lock=LOCK)
    rows = list(announcements(fleet))
    told = {
        (document.site, prefix, neighbor.next_hop[family], neighbor.asn)
        for document in compile_fleet(fleet).values()
        for neighbor in document.bgp.neighbors
        for family in neighbor.families
        for prefix in (*neighbor.announces, *neighbor.unicast)
    }
    assert {(row.site, row.prefix, hop, row.asn) for row in rows for hop in row.next_hops} == told
    assert {(row.site, row.prefix) for row in rows if row.purpose == "unicast"} == {
        (each.site, each.value) for each in LOCK.of(Kind.UNICAST_PREFIX)
    }
    assert {row.origin for row in rows} == {64501, 64502}


def test_the_picture_has_each_prefix_where_it_lies_and_as_wide_as_it_is() -> None:
    import xml.etree.ElementTree as ElementTree

    rested = Resting("sites.x.pools.ipv4", Kind.POOL, "192.0.2.128/26", "private4", "2026-11-01")
    drawn = ElementTree.fromstring(picture(loads(TEXT, lock=LOCK), LOCK._replace(resting=(rested,))))
    name = "{http://www.w3.org/2000/svg}"
    found = {
        rect[0].text: (float(rect.get("x", "")), float(rect.get("width", "")))
        for rect in drawn.iter(f"{name}rect")
        if len(rect)
    }
    pool = LOCK.held["sites.fra.pools.ipv4"].value
    assert pool == "192.0.2.64/26"
    assert found[f"{pool}: sites.fra.pools.ipv4"] == (20 + 110, 110)
    assert found["192.0.2.128/26: was sites.x.pools.ipv4, rests since 2026-11-01"] == (20 + 220, 110)
    assert found["192.0.2.0/27: office"] == (20, 55)
    assert found["203.0.113.0/28: service.prefixes.ipv4"] == (20, 27.5)
    view = [float(each) for each in drawn.get("viewBox", "").split()]
    sizes = [float(drawn.get("font-size", "0"))]
    assert drawn.get("width") == "100%" and min(sizes) * 400 / view[2] >= 10, "letters of 10 pixels on 400"
    lines = [each for each in drawn.iter(f"{name}text") if not each.get("text-anchor")]
    assert all(float(each.get("x", "")) + 7 * len(each.text or "") <= view[2] for each in lines), "over the edge"
    tiles = {tile.get("id"): [path.get("d") for path in tile.iter(f"{name}path")] for tile in drawn.iter(f"{name}pattern")}
    lined = [str(lines) for lines in tiles.values() if lines]
    assert len(lined) == len(set(lined)) == len(LOOKS) + 1, "without colour each kind has lines of its own"
    assert {each.text for each in drawn.iter(f"{name}text") if each.get("text-anchor")} >= {"A", "U", "P", "S", "r", "x"}
    apart = {row.value for row in LOCK.held.values() if row.kind in PREFIXES and "." not in row.source and row.source}
    assert apart <= {(title or "").partition(": ")[0] for title in found}


def test_announcements_and_pictures_want_a_whole_lock(fleet: Path, tmp_path: Path) -> None:
    picture_file = tmp_path / "space.svg"
    early = anycast("prefixes", "show", fleet, "--svg", picture_file)
    assert early.returncode == PrefixesExit.UNUSABLE and not picture_file.exists()
    lock_of(fleet).write_text(encode_lock(LOCK))
    assert anycast("prefixes", "show", fleet, "--svg", picture_file).returncode == 0
    assert picture_file.read_text() == picture(loads(TEXT, lock=LOCK), LOCK)
    said = anycast("prefixes", "show", fleet, "--announcements", "--site", "fra").stdout
    assert said.startswith("fra\n") and "sin" not in said and "203.0.113.0/28" in said
    moves = anycast("prefixes", "renumber", fleet, "sites.fra.pools.ipv4")
    assert "   take out sites.fra.more_pools.moving.ipv4\n" in moves.stdout, moves.stderr
    refused = anycast("prefixes", "renumber", fleet, "service.vips.ipv4")
    assert refused.returncode == PrefixesExit.UNUSABLE and "moves with the prefix" in refused.stderr


@pytest.mark.parametrize(
    ("prefix", "zones"),
    [
        ("203.0.113.0/24", ["113.0.203.in-addr.arpa"]),
        ("203.0.113.64/26", ["113.0.203.in-addr.arpa"]),
        ("192.0.2.0/23", ["2.0.192.in-addr.arpa", "3.0.192.in-addr.arpa"]),
        ("2001:db8::/32", ["8.b.d.0.1.0.0.2.ip6.arpa"]),
        ("2001:db8::/31", ["8.b.d.0.1.0.0.2.ip6.arpa", "9.b.d.0.1.0.0.2.ip6.arpa"]),
        ("2001:db8:1000::/40", ["0.1.8.b.d.0.1.0.0.2.ip6.arpa"]),
    ],
)
def test_reverse_zones_end_at_whole_labels(prefix: str, zones: list[str]) -> None:

    assert reverse_zones(ipaddress.ip_network(prefix)) == zones


def test_a_forecast_is_a_straight_line_or_unknown() -> None:
    days = {DAY - datetime.timedelta(days=n): 100 - n for n in range(10)}
    assert forecast("a", "ipv4", 150, days, DAY).runs_out == DAY + datetime.timedelta(days=50)
    assert forecast("a", "ipv4", 100, days, DAY).what == "full already"
    falling = {day: 200 - leased for day, leased in days.items()}
    assert forecast("a", "ipv4", 150, falling, DAY).what == "not within two years"
    few = dict(list(days.items())[:6])
    assert forecast("a", "ipv4", 150, few, DAY)[3:] == (100, 6, None, "unknown: 6 days were seen")


def test_a_forecast_from_a_file_of_leases(fleet: Path, tmp_path: Path) -> None:
    lock_of(fleet).write_text(encode_lock(LOCK))
    rows = [{"site": "sin", "family": "ipv4", "day": f"2026-11-{20 + n}", "leased": n} for n in range(10)]
    samples = tmp_path / "leases"
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = anycast("prefixes", "check", fleet, "--leases", samples, "--on", DAY, "--json")
    ahead = {(row["site"], row["family"]): row for row in json.loads(said.stdout)["forecasts"]}
    assert ahead["sin", "ipv4"]["runs_out"] == "2026-12-04" and ahead["sin", "ipv4"]["room"] == 14
    assert ahead["fra", "ipv4"]["what"] == "unknown: nothing was seen"
    assert ahead["fra", "ipv4"]["room"] == 31, "half of a /26: a mirrored pair needs the other half"
    samples.write_text('{"site":"sin"}\n')
    assert "leases:1:1: is no sample" in anycast("prefixes", "check", fleet, "--leases", samples).stderr


def test_what_somebody_else_gives_is_not_renumbered_from_a_block(fleet: Path) -> None:
    lock_of(fleet).write_text(encode_lock(LOCK))
    done = anycast("prefixes", "renumber", fleet, "sites.fra.uplink.ipv4")
    assert done.returncode == PrefixesExit.UNUSABLE
    assert done.stderr.strip().endswith("sites.fra.uplink.ipv4: no ipv4 block has uplink in its use")


@pytest.mark.parametrize("days", ["3000000 d", "99999999 d"])
def test_a_quarantine_of_millennia_is_refused_in_a_sentence(days: str) -> None:
    with pytest.raises(ConfigError, match="is longer than ten years"):
        plan_file(TEXT.replace("  headroom: 25 %", f"  quarantine: {days}"), LOCK, DAY)


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_a_day_of_another_millennium_is_refused_in_a_sentence(fleet: Path, day: str) -> None:
    done = anycast("prefixes", "plan", fleet, "--on", day)
    assert done.returncode == PrefixesExit.UNUSABLE and f"--on: {day} is no day of this millennium" in done.stderr
    assert plan_file(TEXT, None, datetime.date.min).changed


def test_what_clients_reach_is_not_free_in_a_block() -> None:
    addressing = loads(TEXT, lock=LOCK).addressing
    assert addressing is not None
    reached = read("192.0.2.128/25")
    assert reached is not None
    before, after = ({each.block: each for each in fills(addressing, some, LOCK)} for some in ((), (reached,)))
    assert after["private4"].taken == before["private4"].taken + 128 and after["public4"] == before["public4"]


def test_records_are_shown_though_the_plan_is_refused(fleet: Path) -> None:
    rested = Resting("sites.fra.spi_label", Kind.SPI_LABEL, "9", "", "2026-01-02")
    lock_of(fleet).write_text(encode_lock(LOCK._replace(resting=(rested,))))
    fleet.write_text(TEXT.replace("clients: 20", "clients: 200"))
    done = anycast("prefixes", "show", fleet, "--json")
    assert done.returncode == PrefixesExit.UNUSABLE and "is too small" in done.stderr
    shown = json.loads(done.stdout)
    assert {row["key"] for row in shown["held"]} == set(LOCK.held) and shown["resting"] == [rested._asdict()]
    assert {row["block"] for row in shown["blocks"]} == {"public4", "ours6", "private4"}
    table = anycast("prefixes", "show", fleet, "--site", "fra")
    assert "sites.fra.pools.ipv4" in table.stdout and "is too small" in table.stderr
    assert "there is no site par; there are fra, sin" in anycast("prefixes", "show", fleet, "--site", "par").stderr
    fleet.write_text("[")
    assert "Traceback" not in anycast("prefixes", "show", fleet).stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives a folder away")
def test_root_is_no_advice_for_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anycast.pki import files

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name, owner, advice in (("own", 1000, ""), ("roots", 0, "; run as root")):
        folder = tmp_path / name
        folder.mkdir()
        os.chown(folder, owner, owner)
        said = files.refused(folder / "fleet.lock", PermissionError(13, "Permission denied"))
        assert said.problems[0].what == f"permission denied{advice}"


def test_a_table_that_is_cut_says_what_has_all() -> None:
    from anycast.cli.prefixes_table import table

    assert list(table(("a",), [("x",)] * 3, most=2))[-1] == "  and 1 more; --json has all"
