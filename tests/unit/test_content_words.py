"""What operators say of a dark site in the content: which words fit which intent, and what a content without them is."""

from __future__ import annotations

import pytest

from anycast.content.canonical import encode
from anycast.content.content import Because, Intent, decode_content
from anycast.errors import DecodeError
from tests.support.contents import made

CONTENT = made().content
WORK = Because(kind="maintenance", why="new optics", until=1_800_000_000)
SLOW = Because(kind="degrade")


def again(content: object) -> object:
    return decode_content(encode(content.model_dump(mode="json")))  # type: ignore[attr-defined]


def test_a_content_without_words_is_spelt_as_before_there_were_any() -> None:
    assert "because" not in CONTENT.text and "prepend" not in CONTENT.text
    assert "because" not in CONTENT.with_intent("fra", Intent.DRAINED).text


def test_words_are_signed_with_the_rest() -> None:
    for content in (
        CONTENT.with_intent("fra", Intent.DRAINED, because=WORK),
        CONTENT.with_intent("fra", Intent.DEGRADED, because=SLOW, prepend=3),
    ):
        assert again(content) == content
    assert '"because":{"kind":"maintenance","until":1800000000,"why":"new optics"}' in content_text()


def content_text() -> str:
    return CONTENT.with_intent("fra", Intent.DRAINED, because=WORK).text


@pytest.mark.parametrize(
    ("intent", "because", "prepend", "says"),
    [
        (Intent.ANNOUNCED, WORK, 0, "because: it is not dark"),
        (Intent.ANNOUNCED, SLOW, 0, "because: degrade is no word for announced"),
        (Intent.DEGRADED, WORK, 0, "because: maintenance is no word for degraded"),
        (Intent.DRAINED, SLOW, 0, "because: degrade is no word for drained"),
        (Intent.DRAINED, None, 2, "prepend: only of a degraded site"),
        (Intent.ANNOUNCED, None, 2, "prepend: only of a degraded site"),
    ],
)
def test_words_that_do_not_fit_are_refused(intent: Intent, because: Because | None, prepend: int, says: str) -> None:
    with pytest.raises(DecodeError, match=rf"sites\.fra\.{says}"):
        again(CONTENT.with_intent("fra", intent, because=because, prepend=prepend))


@pytest.mark.parametrize("why", ["x" * 201, "a\nb", "\x1b[2J", "\x9b2J"])
def test_words_that_would_move_a_terminal_are_refused(why: str) -> None:
    text = content_text().replace("new optics", encode(why)[1:-1])
    with pytest.raises(DecodeError, match=r"because\.why"):
        decode_content(text)


def test_the_path_is_not_made_longer_than_routers_take() -> None:
    content = CONTENT.with_intent("fra", Intent.DEGRADED, prepend=11)
    with pytest.raises(DecodeError, match=r"sites\.fra\.prepend"):
        again(content)
