"""The fleet's names in a real Knot DNS: what is written, what stays, what is refused, and the way back."""

from __future__ import annotations

import datetime
import ipaddress
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anycast.fleet.loading import load
from anycast.prefixes.names import names
from tests.support.documents import TREE
from tests.support.namespace import in_namespace
from tests.support.primary_server import KEY_FILE, PrimaryServer

pytestmark = pytest.mark.skipif(shutil.which("knotd") is None, reason="needs knotd (Debian: knot)")

SERVER, PORT = "198.51.100.100", 5300
ZONES = {
    "example.org": ['www.example.org. 60 A 203.0.113.200', 'vpn.example.org. 60 TXT "not the fleet\'s"'],
    "113.0.203.in-addr.arpa": ["200.113.0.203.in-addr.arpa. 60 PTR www.example.org."],
    "0-127.100.51.198.in-addr.arpa": [],
    "0.1.8.b.d.0.1.0.0.2.ip6.arpa": [],
}
DNS = f"""
dns:
  domain: vpn.example.org
  ttl: 2 min
  zones:
    forward: {{name: example.org, server: {SERVER}, port: {PORT}}}
    public4: {{name: 113.0.203.in-addr.arpa, server: {SERVER}, port: {PORT}}}
    uplinks4: {{name: 0-127.100.51.198.in-addr.arpa, prefix: 198.51.100.0/25, server: {SERVER}, port: {PORT}}}
    ours6: {{name: 0.1.8.b.d.0.1.0.0.2.ip6.arpa, server: {SERVER}, port: {PORT}}}
"""
TEXT = (TREE / "docs" / "fleet-planned.yaml").read_text() + DNS


class World:
    def __init__(self) -> None:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "address", "add", f"{SERVER}/32", "dev", "lo"], check=True)
        self.folder = Path("/run/names")
        self.folder.mkdir()
        self.file, self.key = self.folder / "fleet.yaml", self.folder / "key"
        self.key.write_text(KEY_FILE)
        self.key.chmod(0o600)
        self.server = PrimaryServer(Path("/run/knot"), SERVER, PORT, ZONES)
        self.began = self.all()
        self.declare(TEXT)

    def declare(self, text: str) -> None:
        self.file.write_text(text)
        done = anycast("prefixes", "apply", self.file, "--on", "2026-11-29")
        assert done.returncode == 0, done.stderr

    def dns(self, command: str, *words: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = anycast("prefixes", "dns", command, self.file, "--key-file", self.key, *words)
        assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def all(self) -> dict[str, set[str]]:
        return {zone: self.server.records(zone) for zone in ZONES}

    def declared(self) -> dict[str, set[str]]:
        """What the fleet file asks for, as Knot prints it."""
        fleet = load(self.file)
        assert fleet.dns is not None
        return {
            fleet.dns.zones[zone].name: {
                f"{key.name}. 120 {key.type} {value}{'.' if key.type == 'PTR' else ''}"
                for key, values in found.items()
                for value in values
            }
            for zone, found in names(fleet).zones.items()
        }


def anycast(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "anycast.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=TREE)


@in_namespace
def test_names_are_written_beside_others_and_taken_back_to_the_byte() -> None:
    world = World()
    planned = world.dns("plan", "--json", expect=3)
    shown = json.loads(planned.stdout)
    assert world.all() == world.began, "a plan changed something"
    assert any("192" in note and "RFC 2317" in note for note in shown["notes"]), shown["notes"]
    world.dns("apply", "--expect", "0" * 64, expect=1)
    assert world.all() == world.began
    world.dns("apply", "--expect", shown["hash"])
    for zone, records in world.declared().items():
        assert records, zone
        assert world.all()[zone] == world.began[zone] | records, zone
    every = " ".join(sorted(world.all()["0-127.100.51.198.in-addr.arpa"]))
    assert "2.0-127.100.51.198.in-addr.arpa. 120 PTR uplink.fra-gw" in every, "a PTR in the delegated zone (RFC 2317)"
    reverse = load(world.file).service.vips.of("ipv4").reverse_pointer
    assert f"{reverse}. 120 PTR vpn.example.org." in world.all()["113.0.203.in-addr.arpa"]
    assert world.dns("plan").stdout.startswith("nothing to do: ")
    world.dns("apply")
    dry = world.dns("rollback", "--dry-run", expect=3)
    assert "- " in dry.stdout and "+ " not in dry.stdout
    world.dns("rollback")
    assert world.all() == world.began
    world.dns("rollback")
    world.dns("apply")
    assert all(records <= world.all()[zone] for zone, records in world.declared().items())


@in_namespace
def test_a_site_that_goes_takes_its_names_with_it_and_only_what_was_written_for_it() -> None:
    world = World()
    world.dns("apply")
    world.server.edit("example.org", ("set", "sin.vpn", "120", "A", "203.0.113.201"))
    world.server.edit("example.org", ("set", "sin.vpn", "60", "TXT", "mine"))
    before = world.declared()["example.org"]
    world.declare(TEXT[: TEXT.index("  sin:\n")] + DNS)
    gone = before - world.declared()["example.org"]
    assert any(record.startswith("sin.vpn.example.org. 120 A ") for record in gone)
    after_edit = world.all()
    noted = world.dns("plan", expect=3)
    assert "sin.vpn.example.org A 203.0.113.201 is not this fleet's, and stays" in noted.stdout
    world.dns("apply")
    assert world.all()["example.org"] == after_edit["example.org"] - gone
    assert "sin.vpn.example.org. 120 A 203.0.113.201" in world.all()["example.org"]
    world.dns("rollback")
    assert world.all() == after_edit


@in_namespace
def test_foreign_records_at_a_declared_name_stay_unless_the_operator_says_replace() -> None:
    world = World()
    world.server.edit("example.org", ("set", "vpn", "300", "A", "203.0.113.202"))
    began = world.all()
    world.dns("apply")
    records = {record for record in world.all()["example.org"] if record.startswith("vpn.example.org. ")}
    assert "vpn.example.org. 120 A 203.0.113.202" in records and 'vpn.example.org. 60 TXT "not the fleet\'s"' in records
    world.dns("apply", "--replace")
    assert not any("203.0.113.202" in record for record in world.all()["example.org"])
    assert 'vpn.example.org. 60 TXT "not the fleet\'s"' in world.all()["example.org"], "another type is never looked at"
    world.dns("rollback")
    world.dns("rollback")
    assert any("203.0.113.202" in record for record in world.all()["example.org"])
    assert began.keys() == world.all().keys()


@in_namespace
def test_what_somebody_changes_between_look_and_update_is_not_overwritten_and_its_zone_stays_whole() -> None:
    from anycast.cli.name_server import NotChanged, Primary
    from anycast.prefixes.name_changes import diff, keys_to_look_at
    from anycast.prefixes.tsig_keys import decode_keys

    world = World()
    fleet = load(world.file)
    key = next(iter(decode_keys(KEY_FILE).values()))
    wanted = names(fleet).zones["forward"]
    with Primary("example.org", SERVER, PORT, key) as primary:
        seen = primary.look(keys_to_look_at(wanted, {}))
        assert diff(wanted, {}, seen, 120).changes
        world.server.edit("example.org", ("set", "fra.vpn", "60", "A", "203.0.113.203"))
        meanwhile = world.all()
        with pytest.raises(NotChanged, match="was changed by somebody since it was looked at; nothing was changed there"):
            primary.change(diff(wanted, {}, seen, 120).changes)
    assert world.all() == meanwhile
    world.dns("apply")
    world.server.edit("example.org", ("unset", "fra.vpn"))
    emptied = world.all()
    done = world.dns("rollback", expect=1)
    assert "fra.vpn.example.org A was changed since" in done.stderr and "nothing is there" in done.stderr
    assert world.all()["example.org"] == emptied["example.org"], "a zone is restored whole, or not at all"
    assert world.all()["113.0.203.in-addr.arpa"] == world.began["113.0.203.in-addr.arpa"]


@in_namespace
def test_keys_servers_and_zones_that_are_not_as_they_should_be_are_refused_in_a_sentence() -> None:
    world = World()
    world.key.chmod(0o640)
    assert "others than its owner may read it" in world.dns("plan", expect=2).stderr
    world.key.chmod(0o600)
    world.key.write_text(KEY_FILE.replace("c2l4", "c2l5"))
    assert "does not take the key fleet-update: PeerBadSignature" in world.dns("apply", expect=1).stderr
    world.key.write_text(KEY_FILE.replace("fleet-update", "other"))
    assert "does not take the key other: PeerBadKey" in world.dns("apply", expect=1).stderr
    world.key.write_text(KEY_FILE.replace("hmac-sha256", "hmac-md5"))
    assert "hmac-md5 is not used any more" in world.dns("plan", expect=2).stderr
    world.key.write_text(KEY_FILE)
    assert world.all() == world.began
    world.server.edit("example.org", ("set", "fra.vpn", "60", "CNAME", "www.example.org."))
    began = world.all()
    done = world.dns("apply", expect=1)
    assert "fra.vpn.example.org is a CNAME to www.example.org: it can have no A record beside it" in done.stderr
    assert world.all() == began, "nothing is half applied"
    world.server.edit("example.org", ("unset", "fra.vpn"), ("set", "vpn", "60", "NS", "ns.example.net."))
    assert "it is delegated, and its records are elsewhere" in world.dns("apply", expect=1).stderr
    world.server.stop()
    assert "cannot be asked: connection refused" in world.dns("plan", expect=1).stderr


@in_namespace
def test_more_names_than_one_update_holds_are_all_written_or_none() -> None:
    from anycast.cli import name_server
    from anycast.cli.name_server import NotChanged, Primary
    from anycast.prefixes.name_changes import Change
    from anycast.prefixes.names import Key
    from anycast.prefixes.tsig_keys import decode_keys

    world = World()
    key = next(iter(decode_keys(KEY_FILE).values()))
    nothing: frozenset[str] = frozenset()
    keys = [Key(f"a-host-with-a-rather-long-name-{n}.of-some-place.vpn.example.org", "AAAA") for n in range(1000)]
    changes = [
        Change(each, nothing, 0, frozenset({str(ipaddress.ip_address("2001:db8::") + n)}), 60) for n, each in enumerate(keys)
    ]
    with Primary("example.org", SERVER, PORT, key) as primary:
        primary.change(changes)
        began = datetime.datetime.now()
        seen = primary.look(keys)
        took = datetime.datetime.now() - began
        assert [each.values for each in seen.values()] == [each.after for each in changes]
        assert took < datetime.timedelta(seconds=20), took
        primary.change([each.back for each in changes])
        assert world.all() == world.began
        last = changes[-1]._replace(before=frozenset({"2001:db8::1"}), before_ttl=60)  # which is not there
        assert len(changes) > 4 * name_server.MOST_CHANGES
        with pytest.raises(NotChanged):
            primary.change([*changes[:-1], last])
    assert world.all() == world.began


@in_namespace
def test_a_crash_after_the_update_and_before_the_journal_says_so_loses_nothing() -> None:
    world = World()
    code = """
import sys
from anycast.cli import main, name_server
real = name_server.Primary.change
def dies(self, changes):
    real(self, changes)
    raise KeyboardInterrupt
name_server.Primary.change = dies
sys.argv = ["anycast", *sys.argv[1:]]
main.main()
"""
    command = [sys.executable, "-c", code, "prefixes", "dns", "apply", world.file, "--key-file", world.key]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=60, cwd=TREE)
    assert done.returncode == 130, done.stderr
    written = world.all()
    assert sum(written[zone] != world.began[zone] for zone in ZONES) == 1, "it died behind the first zone"
    world.dns("rollback")
    assert world.all() == world.began
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=60, cwd=TREE)
    assert done.returncode == 130 and world.all() == written
    world.dns("apply")
    assert world.dns("plan").stdout.startswith("nothing to do: ")
