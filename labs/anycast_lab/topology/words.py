"""A command line in words, as containerlab's splitter (google/shlex) has it.

It is not a POSIX shell's: inside double quotes a backslash takes itself away before any character, and a word that begins
with `#` begins a comment.
"""

from __future__ import annotations

from collections.abc import Iterator


def split(text: str) -> list[str]:
    """Raises ValueError with what is missing at the end."""
    words = list[str]()
    word: str | None = None
    rest = iter(text)
    for character in rest:
        match character:
            case " " | "\t" | "\r" | "\n":
                if word is not None:
                    words.append(word)
                word = None
            case "#" if word is None:
                for skipped in rest:
                    if skipped == "\n":
                        break
            case "\\":
                word = (word or "") + _next(rest, "a character after the backslash")
            case '"' | "'":
                word = word or ""
                while (quoted := _next(rest, f"the closing {character}")) != character:
                    if quoted == "\\" and character == '"':
                        quoted = _next(rest, "a character after the backslash")
                    word += quoted
            case _:
                word = (word or "") + character
    return words if word is None else [*words, word]


def _next(rest: Iterator[str], missing: str) -> str:
    try:
        return next(rest)
    except StopIteration:
        raise ValueError(f"{missing} is missing") from None
