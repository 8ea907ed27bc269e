"""Where a drill learns the secrets from that nobody may tell: kernels, the `ha` plugin's datagrams, key files. Pure.

An observer's own reading: nothing of the product's codecs is used.
"""

from __future__ import annotations

import hmac
import re
import struct
from collections.abc import Iterator

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from anycast_lab.capture.pcap import Frame

_SA_KEY = re.compile(r"^\s+(?:aead|enc|auth|auth-trunc)\s+\S+\s+0x([0-9a-f]{30,})", re.MULTILINE)
_PEM = re.compile(rb"-----BEGIN (?:EC )?PRIVATE KEY-----.*?-----END (?:EC )?PRIVATE KEY-----", re.DOTALL)
_LONG_HEX = re.compile(rb"[0-9a-fA-F]{32,}")
_UDP_AT = 14 + 20 + 8
"""Ethernet (loopback has it, too), IPv4 without options, UDP."""
_IKE_ADD, _CHILD_ADD = 1, 6
_ID, _REKEY_ID, _NAME, _NONCE_I, _NONCE_R, _SECRET, _OLD_SKD, _PRF = 1, 2, 8, 15, 16, 17, 18, 19
_SIZES = {_ID: 18, _REKEY_ID: 18, 0x24: 1, 0x0E: 1, 0x19: 1, 0x1A: 1, 0x1B: 4, 0x1C: 4} | dict.fromkeys(
    (_PRF, 0x14, 0x15, 0x16, 0x17, 0x18, 0x1D, 0x1E, 0x1F, 0x23), 2
)
"""Of attributes with a fixed one; of the others those up to _OLD_SKD begin with theirs (strongSwan 5.9.8, seen)."""
_HASHES = {5: "sha256", 6: "sha384", 7: "sha512"}
"""Of PRF_HMAC_SHA2_…, by IANA's transform ID."""
_KEYMAT_BYTES = 4 * 64 + 2 * 40
"""As much as the largest hash and cipher take for SK_d, SK_a, SK_e and SK_p; what nothing uses, nobody tells."""


def sa_keys(listed: str) -> set[bytes]:
    """Of what `ip xfrm state` or `ip xfrm monitor` prints; the salt is with the key."""
    return {bytes.fromhex(key) for key in _SA_KEY.findall(listed)}


def ike_secrets(frames: list[Frame]) -> set[bytes]:
    """Of a capture of the `ha` plugin's datagrams: shared secrets, SK_d, and what IKE_SAs' keys are made of and cut from."""
    found = set()
    for frame in frames:
        message = frame.data[_UDP_AT:]
        if len(message) > 2 and message[1] in (_IKE_ADD, _CHILD_ADD):
            parts = dict(_attributes(message[2:]))
            found |= {parts[kind] for kind in (_SECRET, _OLD_SKD) if kind in parts}
            if message[1] == _IKE_ADD and {_ID, _NONCE_I, _NONCE_R, _SECRET, _PRF} <= parts.keys():
                found |= set(_derived(parts))
    return {secret for secret in found if secret}


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Up to the first that is not known; what is looked for stands before."""
    at = 0
    while at < len(body):
        kind = body[at]
        if kind == _NAME and b"\0" in body[at:]:
            size, skip = body.index(b"\0", at) - at, 1
        elif kind in (_NONCE_I, _NONCE_R, _SECRET, _OLD_SKD) and at + 3 <= len(body):
            size, skip = int(struct.unpack_from("!H", body, at + 1)[0]), 3
        elif kind in _SIZES:
            size, skip = _SIZES[kind], 1
        else:
            return
        yield kind, body[at + skip : at + skip + size]
        at += skip + size


def _derived(parts: dict[int, bytes]) -> Iterator[bytes]:
    """SKEYSEED and {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} (RFC 7296, sections 2.14 and 2.18)."""
    hashing = _HASHES.get(int.from_bytes(parts[_PRF]))
    if hashing is None:
        return
    nonces, spis = parts[_NONCE_I] + parts[_NONCE_R], parts[_ID][1:17]
    if _OLD_SKD in parts:
        seed = hmac.digest(parts[_OLD_SKD], parts[_SECRET] + nonces, hashing)
    else:
        seed = hmac.digest(nonces, parts[_SECRET], hashing)
    yield seed
    yield prf_plus(seed, nonces + spis, hashing, _KEYMAT_BYTES)


def prf_plus(key: bytes, seed: bytes, hashing: str, size: int) -> bytes:
    """RFC 7296, section 2.13."""
    out, block = b"", b""
    for number in range(1, 256):
        block = hmac.digest(key, block + seed + bytes([number]), hashing)
        out += block
        if len(out) >= size:
            break
    return out[:size]


def file_secrets(data: bytes) -> set[bytes]:
    """Of a file that is there to hold some: private numbers of keys in PEM, and whatever long hexadecimal stands there.

    Not the DER around a private number: its beginning is that of every key of the kind.
    """
    found = set()
    for pem in _PEM.findall(data):
        key = serialization.load_pem_private_key(pem, None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            found.add(key.private_numbers().private_value.to_bytes(-(-key.curve.key_size // 8)))
        elif isinstance(key, ed25519.Ed25519PrivateKey):
            found.add(key.private_bytes_raw())
        else:
            raise ValueError("a private key of a kind that this does not know")
    if not found:
        found = {bytes.fromhex(text.decode()) for text in _LONG_HEX.findall(data) if not len(text) % 2}
    return found
