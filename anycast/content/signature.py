"""Ed25519 (RFC 8032) over a content's text, with the key's own name: half of its SHA-256. Pure but for making keys.

What is signed begins with `_DOMAIN`, so that no other thing that an operator's key may sign one day is taken for a content.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Annotated

import pydantic
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from anycast.content.canonical import Part
from anycast.errors import DecodeError

_DOMAIN = b"anycast content, version 1\n"
KeyId = Annotated[str, pydantic.StringConstraints(pattern="^[0-9a-f]{32}$")]
Base64 = Annotated[str, pydantic.StringConstraints(pattern="^[A-Za-z0-9+/]{1,100}={0,2}$")]


class Signature(Part):
    key: KeyId
    """Who is named by the reader's own list, not by the writer."""
    value: Base64


def new_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def key_pem(key: Ed25519PrivateKey, passphrase: bytes | None) -> bytes:
    """PKCS #8; None: in the clear."""
    protection: KeySerializationEncryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)


def read_key(pem: bytes, passphrase: bytes | None) -> Ed25519PrivateKey:
    """Raises DecodeError, which says nothing of what was in it."""
    if passphrase is not None and b"ENCRYPTED" not in pem:
        passphrase = None
    try:
        key = load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        what = "is no private key that this passphrase opens" if b"ENCRYPTED" in pem else "is no private key"
        raise DecodeError("key", 0, what) from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise DecodeError("key", 0, "is no Ed25519 key")
    return key


def public_of(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """The public key's 32 bytes, base64."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return base64.b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def key_id(public: str) -> str:
    """The name of a public key. Raises DecodeError where `public` is none."""
    return hashlib.sha256(_raw(public)).hexdigest()[:32]


def sign(text: str, key: Ed25519PrivateKey) -> Signature:
    value = base64.b64encode(key.sign(_DOMAIN + text.encode())).decode()
    return Signature(key=key_id(public_of(key)), value=value)


def is_signed(text: str, signature: Signature, public: str) -> bool:
    """Whether `signature` is of exactly this text and key. Raises DecodeError where `public` is no key."""
    key = Ed25519PublicKey.from_public_bytes(_raw(public))
    try:
        value = base64.b64decode(signature.value, validate=True)
        key.verify(value, _DOMAIN + text.encode())
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return signature.key == key_id(public)


def _raw(public: str) -> bytes:
    try:
        raw = base64.b64decode(public, validate=True)
    except (ValueError, binascii.Error) as exc:
        raise DecodeError("public key", 0, "is not base64") from exc
    if len(raw) != 32 or base64.b64encode(raw).decode() != public:
        raise DecodeError("public key", 0, "is not the 32 bytes of an Ed25519 key")
    return raw
