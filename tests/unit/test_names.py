"""The fleet's names by zone, changes of them and their journal, keys; the wire is judged against a real Knot elsewhere."""

from __future__ import annotations

import datetime
import ipaddress
import random

import pytest

from anycast.errors import ConfigError
from anycast.fleet.name_zones import Zone
from anycast.prefixes.name_changes import NOTHING, Change, Seen, diff, way_back
from anycast.prefixes.name_journal import Journal, decode_journal, encode_journal
from anycast.prefixes.names import Key, Records, names, reverse_place
from anycast.prefixes.planning import plan_file
from anycast.prefixes.tsig_keys import decode_keys
from tests.support.documents import TREE

DAY = datetime.date(2026, 11, 29)
TEXT = (TREE / "docs" / "fleet-planned.yaml").read_text()
SECRET = "c2l4dGVlbi1ieXRlcy1vZi1hLXNlY3JldC1mb3ItYS10ZXN0"


def zone(name: str, prefix: str | None = None) -> Zone:
    return Zone.model_validate({"name": name, "server": "198.51.100.100", **({} if prefix is None else {"prefix": prefix})})


def with_dns(*zones: str, domain: str = "vpn.example.org", more: str = "") -> str:
    rows = "".join(f"    z{n}: {{server: 198.51.100.100, {each}}}\n" for n, each in enumerate(zones))
    return f"{TEXT}\ndns:\n  domain: {domain}\n{more}  zones:\n{rows}"


def test_every_address_has_a_name_and_its_way_back_in_the_zone_that_holds_it() -> None:
    made = names(plan_file(with_dns("name: example.org", "name: 113.0.203.in-addr.arpa"), None, DAY).fleet)
    forward, reverse = made.zones["z0"], made.zones["z1"]
    assert forward[Key("vpn.example.org", "A")] == {"203.0.113.1"}
    assert forward[Key("fra-gw1.vpn.example.org", "AAAA")] and forward[Key("outside.fra.vpn.example.org", "A")]
    assert reverse[Key("1.113.0.203.in-addr.arpa", "PTR")] == {"vpn.example.org"}
    assert reverse[Key("17.113.0.203.in-addr.arpa", "PTR")] == {"fra.vpn.example.org"}
    for key, values in reverse.items():
        address = ".".join(reversed(key.name.split(".")[:4]))
        for value in values:
            assert address in forward[Key(value, "A")]
    # Said, not passed over: the LANs' reverse zones are not this fleet's.
    assert any("100.51.198.in-addr.arpa" in note and "RFC 2317" in note for note in made.unplaced)


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.65", ("part", "65.64-127.2.0.192.in-addr.arpa")),
        ("192.0.2.128", ("whole", "128.2.0.192.in-addr.arpa")),
        ("198.51.100.1", None),
        ("2001:db8:1::1", ("six", ipaddress.ip_address("2001:db8:1::1").reverse_pointer)),
    ],
)
def test_a_reverse_name_lies_where_a_resolver_comes_to(address: str, place: tuple[str, str] | None) -> None:
    zones = {
        "whole": zone("2.0.192.in-addr.arpa"),
        "part": zone("64-127.2.0.192.in-addr.arpa", "192.0.2.64/26"),
        "six": zone("8.b.d.0.1.0.0.2.ip6.arpa"),
    }
    assert reverse_place(ipaddress.ip_address(address), zones) == place


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (with_dns("name: example.net"), "dns.domain: vpn.example.org lies in none of this fleet's zones (example.net)"),
        (with_dns("name: example.org", "name: example.org"), "example.org is also dns.zones.z0"),
        (with_dns("name: example.org", "name: 0-63.2.0.192.in-addr.arpa"), "does not say which addresses it is for"),
        (with_dns("name: example.org", "name: 300.192.in-addr.arpa"), "does not say which addresses it is for"),
        (with_dns("name: example.org", "name: 10.ip6.arpa"), "is no reverse zone of IPv6"),
        (
            with_dns("name: example.org", "name: 0-63.3.0.192.in-addr.arpa, prefix: 192.0.2.0/26"),
            "is not a zone of 192.0.2.0/26: one label below 2.0.192.in-addr.arpa, 0-63.2.0.192.in-addr.arpa for instance",
        ),
        (with_dns("name: example.org", "name: 2.0.192.in-addr.arpa, prefix: 192.0.2.0/24"), "is no part of a /24"),
        (with_dns("name: example.org", more="  ttl: 500 ms\n"), "is not whole seconds from 1 s to a week"),
        (with_dns("name: org", domain="org"), '"org" is not a fully qualified domain name'),
        (with_dns("name: EXAMPLE.org"), '"EXAMPLE.org" is not a zone\'s name in small letters'),
        (with_dns("name: example.org").replace("fra-gw1:", "sin:"), "sin.vpn.example.org would also be the name of"),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused_with_its_place(text: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_file(text, None, DAY)
    assert any(what in str(each) and each.line for each in caught.value.problems), str(caught.value)


KEY = Key("a.example.org", "A")


@pytest.mark.parametrize(
    ("want", "own", "there", "ttl", "after"),
    [
        ({"1"}, set(), set(), 0, {"1"}),
        ({"1"}, set(), {"9"}, 60, {"1", "9"}),  # somebody's stays
        ({"1"}, {"2"}, {"2", "9"}, 60, {"1", "9"}),  # ours from before goes
        (set(), {"2"}, {"2", "9"}, 60, {"9"}),
        (set(), {"2"}, {"2"}, 60, set()),
        (set(), {"2"}, {"9"}, 60, None),
        ({"1"}, {"1"}, {"1"}, 60, None),
        ({"1"}, {"1"}, {"1"}, 61, {"1"}),  # its TTL only
    ],
)
def test_what_changes(want: set[str], own: set[str], there: set[str], ttl: int, after: set[str] | None) -> None:
    wanted: Records = {KEY: frozenset(want)} if want else {}
    made = diff(wanted, {KEY: frozenset(own)} if own else {}, {KEY: Seen(frozenset(there), ttl)}, 60)
    assert [each.after for each in made.changes] == ([] if after is None else [after])
    assert not made.problems


def test_the_way_back_leads_to_where_it_began_from_any_mix_of_done_and_not_done() -> None:
    chance = random.Random(2136)
    for _ in range(500):
        state: dict[Key, Seen] = {}
        done = []
        for n in range(5):
            key = Key(f"n{n}.example.org", "A")
            before, after = (frozenset(chance.sample("12345", chance.randrange(3))) for _ in range(2))
            ttls = [60 if values else 0 for values in (before, after)]
            done.append(Change(key, before, ttls[0], after, ttls[1]))
            state[key] = Seen(*((after, ttls[1]) if chance.random() < 0.7 else (before, ttls[0])))
        changes, problems = way_back(done, state)
        assert problems == []
        for each in changes:
            assert state[each.key].values == each.before  # its condition holds
            state[each.key] = Seen(each.after, each.after_ttl)
        assert all(state[each.key].values == each.before for each in done)
    changed = {done[0].key: Seen(frozenset({"8"}), 60)}
    assert "was changed since" in way_back(done[:1], changed)[1][0]


def test_a_journal_is_read_as_it_was_written_and_what_is_none_is_refused() -> None:
    records: Records = {KEY: frozenset({"203.0.113.1", "203.0.113.2"})}
    change = Change(KEY, NOTHING, 0, records[KEY], 60)
    journal = Journal("planned", {"example.org": records}, {"example.org": (change,)}, {})
    text = encode_journal(journal)
    assert decode_journal(text) == journal and encode_journal(decode_journal(text)) == text
    for broken, what in (
        ("{", "fleet.dns:1:2: is not JSON"),
        ("[]", "is no journal of version 1"),
        (text.replace('"version": 1', '"version": 2'), "is no journal of version 1"),
        (text.replace('"last"', '"lost"'), "is no journal: fleet, written, last or before is lacking"),
        (text.replace('"A"', '"MX"'), 'has a record of type "MX"'),
        (text.replace('"after_ttl": 60', '"after_ttl": "60"'), "has a TTL that is no number"),
        (text.replace('"fleet": "planned"', '"fleet": "planned", "requires": ["x"]'), "is unknown to this version"),
    ):
        with pytest.raises(ConfigError) as caught:
            decode_journal(broken)
        assert what in str(caught.value)


def test_keys_are_read_as_tools_write_them_and_no_error_names_a_secret() -> None:
    bind = f'# made by tsig-keygen\nkey "a-key" {{\n\talgorithm hmac-sha256;\n\tsecret "{SECRET}";\n}};\n'
    keymgr = f"# hmac-sha512:b-key:{SECRET}\nkey:\n  - id: b-key\n    algorithm: hmac-sha512\n    secret: {SECRET}\n"
    slashes = SECRET[:-4] + "a//g"
    assert decode_keys(bind)["a-key"].secret == b"sixteen-bytes-of-a-secret-for-a-test"
    assert decode_keys(keymgr)["b-key"].algorithm == "hmac-sha512"
    assert decode_keys(bind.replace(SECRET, slashes))["a-key"].secret
    assert SECRET not in repr(decode_keys(bind)) and "secret" not in repr(decode_keys(bind))
    for broken, what in (
        ("", "is no file of TSIG keys"),
        (bind + "x", "is no file of TSIG keys"),
        (bind + bind, "stands there twice"),
        (bind.replace("hmac-sha256", "hmac-sha1"), "hmac-sha1 is not used any more"),
        (bind.replace(SECRET, "!!!"), "has no algorithm or no secret"),
        (bind.replace(SECRET, SECRET[:-1]), "is not base64"),
        (bind.replace(SECRET, "c2hvcnQ="), "has 5 bytes"),
        (bind.replace("secret", "sekret"), "has no algorithm or no secret"),
    ):
        with pytest.raises(ValueError) as caught:
            decode_keys(broken)
        assert what in str(caught.value) and SECRET[:12] not in str(caught.value)
