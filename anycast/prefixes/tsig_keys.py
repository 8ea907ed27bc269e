"""Files of TSIG keys (RFC 8945), as operators have them: BIND's ``key NAME { algorithm ALGORITHM; secret "BASE64"; };``,
which `tsig-keygen` writes and `nsupdate -k` reads, or a line ``ALGORITHM:NAME:BASE64`` as of `keymgr -t`, `knsupdate`. Pure.

No error names a secret.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512")
"""Older ones are refused: MD5 and SHA-1 MUST NOT be used for new keys (RFC 8945 section 6)."""
_LEAST_BYTES = 16
_COMMENT = re.compile(r'("[^"]*")|/\*.*?\*/|(?://|#)[^\n]*', re.DOTALL)
"""Or a quoted text, which may hold what begins a comment."""
_BLOCK = re.compile(r'key\s+"?([A-Za-z0-9._-]+)"?\s*\{([^}]*)\}\s*;?')
_FIELD = re.compile(r'\s*(algorithm|secret)\s+"?([A-Za-z0-9+/=._-]+)"?\s*;')
# `keymgr` writes it as a comment above Knot's own form.
_LINE = re.compile(r"[#\s]*(hmac-[a-z0-9-]+):([A-Za-z0-9._-]+):([A-Za-z0-9+/=]+)\s*")


class TsigKey(NamedTuple):
    name: str
    """In small letters, without the last dot."""
    algorithm: str
    secret: bytes

    def __repr__(self) -> str:
        return f"TsigKey({self.name}, {self.algorithm})"


def decode_keys(text: str) -> dict[str, TsigKey]:
    """By name. Raises ValueError with one sentence."""
    keys: dict[str, TsigKey] = {}
    if any(_LINE.fullmatch(line) for line in text.splitlines()):
        for number, line in enumerate(text.splitlines(), start=1):
            if (match := _LINE.fullmatch(line)) is not None:
                _add(keys, match[2], match[1], match[3], f"line {number}")
        return keys
    rest = _COMMENT.sub(lambda match: match[1] or "", text)
    for match in _BLOCK.finditer(rest):
        fields = {name: value for name, value in _FIELD.findall(match[2])}
        if fields.keys() != {"algorithm", "secret"}:
            raise ValueError(f"key {match[1]} has no algorithm or no secret")
        _add(keys, match[1], fields["algorithm"], fields["secret"], f"key {match[1]}")
    if not keys or _BLOCK.sub("", rest).strip():
        raise ValueError('is no file of TSIG keys: key NAME { algorithm hmac-sha256; secret "…"; }; (tsig-keygen)')
    return keys


def _add(keys: dict[str, TsigKey], name: str, algorithm: str, secret: str, where: str) -> None:
    if algorithm.lower().rstrip(".") not in ALGORITHMS:
        raise ValueError(f"{where}: {algorithm} is not used any more; make a key with one of {', '.join(ALGORITHMS)}")
    try:
        data = base64.b64decode(secret, validate=True)
    except binascii.Error:
        raise ValueError(f"{where}: its secret is not base64") from None
    if len(data) < _LEAST_BYTES:
        raise ValueError(f"{where}: its secret has {len(data)} bytes; at least {_LEAST_BYTES} are none too many")
    name = name.lower().rstrip(".")
    if name in keys:
        raise ValueError(f"{where}: {name} stands there twice")
    keys[name] = TsigKey(name, algorithm.lower().rstrip("."), data)
