"""What a vrrp process is to do: links, addresses, parameters, BFD sessions, as the agent writes them for it. Pure data.

The agent hands it over as JSON on the process's standard input, keys included, and closes it: nothing of it stands in an
argument, in the environment or in a file. Light on purpose: the process must stay small, so no pydantic here; the
document has been checked.
"""

from __future__ import annotations

import dataclasses
import json
from ipaddress import ip_address, ip_interface
from typing import Any

from anycast.errors import DecodeError
from site_agent.netlink.addresses import Interface
from site_agent.vrrp.packet import GROUP_V4, GROUP_V6, MAX_INTERVAL, Address, Interop
from site_agent.vrrp.seal import Path, check_keys

MAX_DETECT_MULT, MAX_MICROSECONDS = 2**8 - 1, 2**32 - 1
"""What the fields of a BFD Control packet hold (RFC 5880 section 4.1)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """One family on one link: where adverts are sent from and to, and what they announce."""

    vrid: int
    source: Address
    destination: Address
    """The peer's address, or the group."""
    addresses: tuple[Interface, ...]
    """Virtual addresses; none on the management path, where `announced` stands for them. See `addresses` on lengths."""
    announced: tuple[Address, ...]

    @property
    def multicast(self) -> bool:
        return self.destination in (GROUP_V4, GROUP_V6)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    path: Path
    interface: str
    voices: tuple[Voice, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BfdPeer:
    """A router to speak BFD with, beside the BGP session between the same two addresses. Intervals in microseconds."""

    name: str
    local: Address
    remote: Address
    interface: str
    desired_min_tx_us: int
    required_min_rx_us: int
    detect_mult: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    advertisement_interval: int
    """Centiseconds."""
    preempt: bool
    preempt_delay_s: float
    router_id: int
    interop: Interop
    address_life_s: int
    links: tuple[Link, ...]
    """None: no virtual router, only BFD. All but `bfd` and what belongs to it then means nothing."""
    keys: dict[int, bytes] = dataclasses.field(repr=False)
    """By id; empty without a seal."""
    key_in_use: int
    resume_until_ns: int
    """CLOCK_BOOTTIME until which it goes on as Active, and its BFD sessions as Up; 0: it begins as Backup, and at Down."""
    resume_backup: bool = False
    """The process before this one was Backup: with `resume_until_ns` only its BFD sessions go on."""
    boot_after: int = 0
    """`boot` of the process before this one (`wire.Status`): ours is later even where the wall clock went back."""
    boot_mark: str = ""
    """The file that keeps the highest `boot` over a reboot (`boot_mark`); empty: none does."""
    taken: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    """What the process before this one had heard last (`wire.Status`), so that a record of it convinces nobody."""
    bfd: tuple[BfdPeer, ...] = ()
    bfd_before: dict[str, dict[str, int | str]] = dataclasses.field(default_factory=dict)
    """`wire.Status.bfd` of the process before this one: a session that was Up goes on with its discriminators."""

    @property
    def sealed(self) -> bool:
        return bool(self.keys)


def encode(plan: Plan) -> bytes:
    """JSON. Holds the keys: for a pipe, never for a file."""

    def plain(value: Any) -> Any:
        return value.hex() if isinstance(value, bytes) else str(value)

    return json.dumps(dataclasses.asdict(plan), default=plain).encode()


def decode(data: bytes) -> Plan:
    """Raises DecodeError."""
    try:
        fields = json.loads(data)
        keys = {int(key_id): bytes.fromhex(key) for key_id, key in fields.pop("keys").items()}
        links = tuple(_link(link) for link in fields.pop("links"))
        bfd = tuple(_bfd_peer(peer) for peer in fields.pop("bfd", ()))
        plan = Plan(**{**fields, "interop": Interop(fields["interop"]), "links": links, "keys": keys, "bfd": bfd})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise DecodeError("plan", 0, type(exc).__name__) from exc  # not its text: that may hold a key
    if plan.keys:
        check_keys(plan.keys, plan.key_in_use)
    if len({peer.name for peer in plan.bfd}) < len(plan.bfd):
        raise DecodeError("bfd", 0, "two peers of one name")
    if plan.links and not 1 <= plan.advertisement_interval <= MAX_INTERVAL:
        raise DecodeError("advertisement_interval", 0, f"{plan.advertisement_interval} cs")
    if not any(link.voices for link in plan.links) and (plan.links or not plan.bfd):
        raise DecodeError("links", 0, "nobody to speak to")
    return plan


def _link(link: dict[str, Any]) -> Link:
    voices = tuple(
        Voice(
            vrid=int(voice["vrid"]),
            source=ip_address(voice["source"]),
            destination=ip_address(voice["destination"]),
            addresses=tuple(ip_interface(address) for address in voice["addresses"]),
            announced=tuple(ip_address(address) for address in voice["announced"]),
        )
        for voice in link["voices"]
    )
    return Link(path=Path(link["path"]), interface=link["interface"], voices=voices)


def _bfd_peer(peer: dict[str, Any]) -> BfdPeer:
    fields = {**peer, "local": ip_address(peer["local"]), "remote": ip_address(peer["remote"])}
    made = BfdPeer(**fields)
    if made.local.version != made.remote.version or made.local == made.remote:
        raise ValueError("addresses")
    if not 1 <= made.detect_mult <= MAX_DETECT_MULT:
        raise ValueError("detect_mult")
    if not all(1 <= us <= MAX_MICROSECONDS for us in (made.desired_min_tx_us, made.required_min_rx_us)):
        raise ValueError("interval")
    return made
