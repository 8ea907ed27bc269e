"""JSON with one spelling, and its reading without guesses.

What is signed or hashed is text: sorted keys, no white space, UTF-8, no number that JSON does not have. `decode` refuses
any other spelling of the same thing, so that no two readers can take one signed text for two things (a key that stands
twice, a number that one reads as infinite). Unknown optional fields stay in the text, and so under the signature. Pure.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import json
from typing import Annotated, Any, TypeVar

import pydantic

from anycast.errors import DecodeError
from anycast.model import NAME

LARGEST = 32 << 20
"""Bytes of one message. The content of 500 sites, two gateways and 200 prefixes each, has 3.8 MiB; a state of it 6 MiB."""


class Part(pydantic.BaseModel):
    """One object of a machine's message: unknown fields are ignored, values are never converted."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", strict=True)


P = TypeVar("P", bound=Part)


@functools.lru_cache(maxsize=65536)
def is_prefix(text: str) -> bool:
    try:
        return str(ipaddress.ip_network(text)) == text
    except ValueError:
        return False


@functools.lru_cache(maxsize=65536)
def _is_address(text: str) -> bool:
    try:
        return str(ipaddress.ip_address(text)) == text
    except ValueError:
        return False


def _prefix(text: str) -> str:
    if not is_prefix(text):
        raise ValueError("is no prefix as it is written canonically")
    return text


def _address(text: str) -> str:
    if not _is_address(text):
        raise ValueError("is no address as it is written canonically")
    return text


Name = Annotated[str, pydantic.StringConstraints(pattern=f"^(?:{NAME.pattern})$")]
Sha256 = Annotated[str, pydantic.StringConstraints(pattern="^[0-9a-f]{64}$")]
Prefix = Annotated[str, pydantic.AfterValidator(_prefix)]
Address = Annotated[str, pydantic.AfterValidator(_address)]
Words = Annotated[str, pydantic.StringConstraints(max_length=500)]
"""For people; never parsed."""


def encode(value: Any) -> str:
    """The one spelling of `value`. ValueError where JSON has none."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_of(text: str) -> str:
    """SHA-256 of a canonical text, hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def decode(data: bytes | str, what: str, model: type[P]) -> P:
    """The message in `data`, which has to be canonical. Raises DecodeError for everything else; `what` names it."""
    try:
        text = data if isinstance(data, str) else data.decode()
        size = len(text.encode())
    except UnicodeError as exc:
        raise DecodeError(what, getattr(exc, "start", 0), "is not UTF-8") from exc
    if size > LARGEST:
        raise DecodeError(what, LARGEST, f"is longer than {LARGEST >> 20} MiB")
    try:
        spelt = encode(json.loads(text))
    except json.JSONDecodeError as exc:
        raise DecodeError(what, exc.pos, "is not JSON") from exc
    except (ValueError, RecursionError) as exc:
        raise DecodeError(what, 0, "is no JSON that can be read here") from exc
    if spelt != text:
        at = next((i for i, (a, b) in enumerate(zip(text, spelt, strict=False)) if a != b), min(len(text), len(spelt)))
        raise DecodeError(what, at, "is not in its canonical spelling (a key twice, white space, unsorted keys)")
    try:
        return model.model_validate_json(text)
    except pydantic.ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:100] or "it"
        raise DecodeError(what, 0, f"{where}: {first['msg'].lower()}") from exc


def understood(what: str, requires: tuple[str, ...]) -> None:
    """Raises DecodeError where a message demands what this version does not know; this one knows nothing to demand."""
    if requires:
        raise DecodeError(what, 0, f"requires {', '.join(sorted(requires))[:100]}, which is unknown to this version")
