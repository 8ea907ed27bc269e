"""Whether a secret stands in some bytes, in any form in which programs write one. Pure.

Forms: the bytes themselves; hexadecimal in either case, with or without 0x, colons, blanks, lines (charon's own dumps have
sixteen bytes a line); base64 at each of its three alignments, in lines or not (PEM), in either alphabet; the texts that
Python's `repr` and JSON make of bytes.

What is looked for is a piece of a secret: any `2 * PIECE - 1` bytes of one in a row are found, wherever they begin. Every
PIECE-long piece of every secret is known, so it is enough to look at one piece in PIECE bytes of what is searched.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

PIECE = 8
"""Bytes. One of 100,000 pieces in 100 MB by chance: once in 10^7 searches; in base64 once in 10^4."""
_HEX_PIECE = 2 * PIECE - 1
"""Digits. 15 bytes make 30, which may begin at either digit; 29 are found for sure."""
_BASE64_PIECE = 9
"""Characters, 54 bits. 15 bytes of a secret make 18 at the least that depend on nothing else; 17 are found for sure."""
_TEXT_PIECE = 16
"""Characters of `repr` and JSON: four bytes at least, and as a rule eight or more."""
_BLANKS = b" \t\r\n:"
_BASE64URL = bytes.maketrans(b"-_", b"+/")


class Secrets:
    """Fill it with `add`, then `search`. Names are of kinds ("esp", "ike"); nothing that is returned holds a secret."""

    def __init__(self) -> None:
        self._known: dict[bytes, str] = {}
        self._pieces: dict[str, dict[bytes, str]] = {"raw": {}, "hex": {}, "base64": {}, "text": {}}

    def __len__(self) -> int:
        return len(self._known)

    def count(self) -> dict[str, int]:
        """How many of each name."""
        names = list(self._known.values())
        return {name: names.count(name) for name in sorted(set(names))}

    def newest(self, name: str) -> bytes | None:
        """The one of this name that was added last."""
        return next((secret for secret, known in reversed(self._known.items()) if known == name), None)

    def add(self, name: str, secret: bytes) -> None:
        """ValueError for one that is too short to be found for sure."""
        if len(secret) < 2 * PIECE - 1:
            raise ValueError(f"a secret of {len(secret)} bytes")
        if secret in self._known:
            return
        self._known[secret] = name
        for form, text, size in _forms(secret):
            self._pieces[form] |= {text[i : i + size]: name for i in range(len(text) - size + 1)}

    def search(self, data: bytes) -> set[tuple[str, str]]:
        """Name and form of every secret in `data`."""
        found = set()
        packed = data.translate(None, _BLANKS)
        for form, text, size in (
            ("raw", data, PIECE),
            ("hex", packed.lower(), _HEX_PIECE),
            ("base64", packed.translate(_BASE64URL), _BASE64_PIECE),
            ("text", data.replace(b"\\\\", b"\\"), _TEXT_PIECE),
        ):
            known = self._pieces[form]
            found |= {(known[piece], form) for i in range(0, len(text), size) if (piece := text[i : i + size]) in known}
        return found


def _forms(secret: bytes) -> Iterator[tuple[str, bytes, int]]:
    yield "raw", secret, PIECE
    yield "hex", secret.hex().encode(), _HEX_PIECE
    for before in range(3):
        # The first characters depend on the bytes before, the last ones on those behind.
        first, last = -(-8 * before // 6), 8 * (before + len(secret)) // 6
        yield "base64", base64.b64encode(bytes(before) + secret)[first:last], _BASE64_PIECE
    yield "text", repr(secret)[2:-1].encode(), _TEXT_PIECE
    yield "text", json.dumps(secret.decode("latin-1"))[1:-1].encode(), _TEXT_PIECE
