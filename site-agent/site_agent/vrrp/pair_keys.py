"""The keys that a pair's advertisements are sealed with: their file's text, and the three steps of a rotation. Pure.

    {"version": 1, "in_use": 2, "keys": [{"id": 1, "made": "2026-11-28T21:05:00Z", "key": "<64 hex digits>"}, …]}

One file holds every key that is accepted, oldest first, and says which one seals. Both gateways have the same file. A
rotation changes it three times, and between two changes each gateway has taken the last one:

* add    a new key, which nobody seals with yet; from then on both accept it
* use    the new key seals; each accepts both, so it does not matter who changes first
* drop   the old ones, which nobody seals with any more

Which step is next can be told from the file, so nobody has to remember where a rotation stands.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import hmac
import json
from collections.abc import Mapping
from typing import Any

from anycast.errors import DecodeError
from site_agent.vrrp.seal import KEY_BYTES, LARGEST_KEY_ID, check_keys, newest, tag

VERSION = 1
LONGEST = 4096
MOST_KEYS = 8
"""A rotation needs two."""
OLD_AFTER_DAYS = 365
"""From then on doctor says so. What a key has sealed betrays nothing of it in any such time; who has had a copy might."""


class Step(enum.StrEnum):
    """Of a rotation, in this order."""

    ADD = "add"
    USE = "use"
    DROP = "drop"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    id: int
    """1 to 255, in every sealed advertisement."""
    made: datetime.datetime
    """UTC, by the clock of the gateway that made it."""
    secret: bytes = dataclasses.field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Eight digits that people can compare, and that tell nothing of 32 bytes of chance."""
        return hmac.digest(self.secret, b"anycast-vpn vrrp key", "sha256").hex()[:8]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairKeys:
    """All that are accepted, oldest first, and the id of the one that seals."""

    in_use: int
    keys: tuple[Key, ...]

    @property
    def by_id(self) -> dict[int, bytes]:
        """As `Plan.keys` and `wire.Keys` have them."""
        return {key.id: key.secret for key in self.keys}

    @property
    def next_step(self) -> Step:
        if self.in_use != self.keys[-1].id:
            return Step.USE
        return Step.ADD if len(self.keys) == 1 else Step.DROP


def first(secret: bytes, now: datetime.datetime) -> PairKeys:
    """A pair's first key, in use."""
    return PairKeys(in_use=1, keys=(Key(id=1, made=now, secret=secret),))


def tells_apart(keys: PairKeys, secret: bytes) -> bool:
    """Whether a router with `secret` as its newest key is told from one that has only what is there."""
    return tag(secret) not in (tag(key.secret) for key in keys.keys)


def rotated(keys: PairKeys, secret: bytes, now: datetime.datetime) -> PairKeys:
    """After the next step. `secret` is wanted for `Step.ADD` only."""
    match keys.next_step:
        case Step.ADD:
            free = keys.keys[-1].id % LARGEST_KEY_ID + 1
            return dataclasses.replace(keys, keys=(*keys.keys, Key(id=free, made=now, secret=secret)))
        case Step.USE:
            return dataclasses.replace(keys, in_use=keys.keys[-1].id)
        case Step.DROP:
            return dataclasses.replace(keys, keys=keys.keys[-1:])


def obstacle(keys: PairKeys, status: Mapping[str, Any]) -> str | None:
    """Why the next step would have advertisements refused, as far as the running vrrp process tells (`wire.Status`); None
    where nothing speaks against it."""
    if (held := status.get("keys")) and (sorted(held), status.get("key_in_use")) != (sorted(keys.by_id), keys.in_use):
        return "this gateway has not taken the step before: run `site-agent apply` on both"
    peer, heard = status.get("peer_gateway"), status.get("peer_keys")
    if keys.next_step is not Step.ADD and peer and not heard:
        return (
            f"the other gateway, {peer}, is not heard, so it may lack the step before and be refused after this one:"
            " give it this file, run `site-agent apply` there and wait until `site-agent status` here shows it"
        )
    lacking = {*status.get("peer_newest", ())} - {0, newest(keys.by_id)}
    if keys.next_step is Step.USE and lacking:
        return (
            f"the other gateway does not have this key {keys.keys[-1].id} yet, and would refuse what it seals:"
            " give it this file and run `site-agent apply` there"
        )
    strangers = {*status.get("peer_keys", ())} - {keys.in_use}
    if keys.next_step is Step.DROP and strangers:
        return f"the other gateway still seals with key {min(strangers)}: give it this file and run `site-agent apply` there"
    return None


def utc(moment: datetime.datetime) -> str:
    """As it stands in the file."""
    return moment.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def encode(keys: PairKeys) -> bytes:
    """The file. It holds the secrets."""
    listed = [{"id": key.id, "made": utc(key.made), "key": key.secret.hex()} for key in keys.keys]
    return json.dumps({"version": VERSION, "in_use": keys.in_use, "keys": listed}, indent=1).encode() + b"\n"


def decode(data: bytes) -> PairKeys:
    """Raises DecodeError, which never shows what stands in the file: it may be a key."""
    if len(data) > LONGEST:
        raise DecodeError("file", LONGEST, f"longer than {LONGEST} bytes")
    try:
        fields = json.loads(data)
        if fields["version"] != VERSION:
            raise DecodeError("version", 0, f"only version {VERSION} is known here")
        keys = PairKeys(in_use=fields["in_use"], keys=tuple(_key(key) for key in fields["keys"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise DecodeError("file", 0, 'not {"version": 1, "in_use": ID, "keys": [{"id", "made", "key"}, …]}') from exc
    if not 0 < len(keys.by_id) == len(keys.keys) <= MOST_KEYS:
        raise DecodeError("keys", 0, f"1 to {MOST_KEYS} of them, each id once")
    check_keys(keys.by_id, keys.in_use)
    return keys


def _key(fields: Mapping[str, Any]) -> Key:
    made = datetime.datetime.strptime(fields["made"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
    if not isinstance(fields["id"], int) or len(secret := bytes.fromhex(fields["key"])) != KEY_BYTES:
        raise DecodeError("key", 0, f"an id, and {KEY_BYTES} bytes in hexadecimal digits")
    return Key(id=fields["id"], made=made, secret=secret)
