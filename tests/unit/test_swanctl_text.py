"""The reader of our own swanctl.conf, and what it calls a difference between the file and charon's list."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError
from site_agent.ike.swanctl_text import connection_message, differences, parse, pool_message
from site_agent.render.strongswan import render_strongswan
from tests.support.documents import document

TREE = parse(render_strongswan(document(), run_dir=PurePath("/run"))["swanctl/swanctl.conf"])


def listed() -> dict[str, Any]:
    """As charon 5.9.8 lists the golden connection."""
    child = {"local-ts": [b"192.0.2.0/28", b"2001:db8:b::/64"], "mode": b"TUNNEL"}
    return {
        "vpn": {
            "local_addrs": [b"203.0.113.1", b"2001:db8:a::1"],
            "local-1": {"id": b"vpn.example.org"},
            "children": {"vpn": child},
        }
    }


def test_the_rendered_file_becomes_charons_message() -> None:
    message = connection_message(TREE["connections"]["vpn"], lambda path: f"<{path}>".encode())
    assert message["local_addrs"] == ["203.0.113.1", "2001:db8:a::1"]
    assert message["pools"] == ["fra-ipv4", "fra-ipv6"]
    assert message["unique"] == "replace"
    assert message["local"]["certs"] == [b"</etc/anycast/secrets/gateway.crt>"], "the file's content, not its name"
    assert message["remote"]["cacerts"] == [b"</etc/anycast/secrets/client-ca.crt>"]
    assert message["children"]["vpn"]["local_ts"] == ["192.0.2.0/28", "2001:db8:b::/64"]
    assert pool_message({"addrs": "192.0.2.0/28", "dns": "192.0.2.1, 192.0.2.2"}) == {
        "addrs": "192.0.2.0/28",
        "dns": ["192.0.2.1", "192.0.2.2"],
    }


def test_charons_list_of_the_same_has_no_difference() -> None:
    assert differences(TREE["connections"], listed()) == []
    assert differences(TREE["connections"], listed() | {"theirs": {}}) == [], "others' connections are none of ours"


@pytest.mark.parametrize(
    ("path", "to", "said"),
    [
        (("local_addrs",), [b"203.0.113.1"], "vpn: local_addrs is 203.0.113.1 instead of 203.0.113.1, 2001:db8:a::1"),
        (("local-1", "id"), b"else", "vpn: local id is else instead of vpn.example.org"),
        (("children",), {}, "vpn: children is none instead of vpn"),
        (("children", "vpn", "local-ts"), [], "vpn: vpn: local_ts is none instead of 192.0.2.0/28, 2001:db8:b::/64"),
    ],
)
def test_each_difference_is_a_sentence(path: tuple[str, ...], to: object, said: str) -> None:
    has = listed()
    here = has["vpn"]
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = to
    assert differences(TREE["connections"], has) == [said]


def test_what_is_not_there_is_said_to_be_missing() -> None:
    assert differences(TREE["connections"], {}) == ["vpn is not loaded"]


@given(st.text(alphabet='{}\n=# ab.,:"', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        tree = parse(text)
    except DecodeError:
        return
    assert text.count("{") >= str(tree).count("{") - 1


def test_it_is_read_as_strongswan_reads_it() -> None:
    text = 'include *.conf\na { b = "x # y { z }" # said\n c =\n d = 1\n d = 2001:db8::1, 1 \n e { }\n}\na { e { f = 1 } }'
    assert parse(text) == {"a": {"b": "x # y { z }", "d": "2001:db8::1, 1", "e": {"f": "1"}}}


@pytest.mark.parametrize("text", ["a {", "}", "a { } }", "{ }", "two words {\n}", "lonely\n", "a : b {}", "a = 1\na {}"])
def test_what_our_template_cannot_have_written_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        parse(text)
