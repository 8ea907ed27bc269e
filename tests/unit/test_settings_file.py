"""strongSwan's configuration format (settings_lexer.l, settings_parser.y): what each way of writing means."""

from __future__ import annotations

import pytest

from anycast.errors import DecodeError
from site_agent.ike.settings_file import MAX_DEPTH, parse


def test_values_sections_comments_and_strings() -> None:
    settings = parse(
        "f",
        """
        # a comment { with = braces
        charon {
            threads = 32   # behind a value
            load = random nonce   openssl
            empty =
            plugins { vici { socket = unix:///run/x.vici }
              ha {
                secret = "a # b } \\"c\\" \\\\ \\n"
              }
            }
        }
        charon { threads = 16 }
        odd
        {
            url = http://192.0.2.1/a={b
        }
        """,
    )
    assert settings.number("charon.threads", 0) == 16, "the later one counts, the section is the same"
    assert settings.get("charon.load") == "random nonce openssl", "one space between words"
    assert settings.get("charon.empty") is None, "as if it had never been set"
    assert settings.get("charon.plugins.ha.secret") == 'a # b } "c" \\ \n'
    assert settings.get("charon.plugins.vici.socket") == "unix:///run/x.vici"
    assert settings.get("odd.url") == "http://192.0.2.1/a={b", "a value may hold braces that open"
    assert settings.names("charon.plugins") == ["vici", "ha"] and not settings.has("charon.plugins.farp")


def test_booleans_are_as_lenient_as_strongswans() -> None:
    settings = parse("f", "a { on = Yes\n off = disabled\n odd = perhaps }")
    assert settings.enabled("a.on", False) and not settings.enabled("a.off", True)
    assert settings.enabled("a.odd", True) and not settings.enabled("a.odd", False) and settings.enabled("a.none", True)
    assert settings.number("a.odd", 7) == 7


def test_references_stand_in_for_what_is_not_there() -> None:
    settings = parse(
        "f",
        """
        base { children { net { mode = tunnel
          start_action = trap } } }
        connections { one : base { children { net { mode = transport } } }
          two : connections.one { } }
        circle : circle { }
        """,
    )
    path = "connections.{}.children.net.{}"
    assert settings.get(path.format("one", "mode")) == "transport", "its own first"
    assert settings.get(path.format("one", "start_action")) == "trap"
    assert settings.get(path.format("two", "mode")) == "transport"
    assert settings.names("connections.two.children") == ["net"] and settings.get("circle.x") is None


def test_includes_stand_where_they_are_written() -> None:
    files = {"conf.d/*.conf": [("conf.d/a", "x = 1\n"), ("conf.d/b", "x = 2\ny { z = 3 }\n")], "a b.conf": [("q", "s = 1")]}
    asked = []

    def include(pattern: str, file: str) -> list[tuple[str, str]]:
        asked.append((pattern, file))
        return files.get(pattern, [])

    settings = parse("top", 'charon {\n include conf.d/*.conf # all\n}\ninclude "a b.conf"\ninclude = kept\n', include)
    assert settings.get("charon.x") == "2" and settings.get("charon.y.z") == "3" and settings.get("s") == "1"
    assert settings.get("include") == "kept" and asked == [("conf.d/*.conf", "top"), ("a b.conf", "top")]


@pytest.mark.parametrize("text", ["a {", "}", "a", '"string"', "a = 1\n= 2", "x { " * (MAX_DEPTH + 1), "a : b"])
def test_what_means_nothing_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(DecodeError) as refused:
        parse("some.conf", text)
    assert refused.value.field == "some.conf"


def test_files_that_include_themselves_end() -> None:
    with pytest.raises(DecodeError, match="too many"):
        parse("a", "include a", lambda pattern, file: [("a", "include a")])
