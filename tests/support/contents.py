"""A fleet of some sites with one budget, its contents, their signatures, and a coordinator's state of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from anycast.content.canonical import hash_of
from anycast.content.content import Content, decode_content
from anycast.content.envelope import Activation, Envelope, Offer
from anycast.content.operators import Operator, Operators, none_yet
from anycast.content.record import Record
from anycast.content.signature import public_of, sign
from anycast.content.state import DarkSite, GatewayState, LedgerState, State
from anycast.fleet.compile import compile_fleet
from anycast.fleet.compile_content import compile_content
from anycast.fleet.loading import loads
from anycast.policy.acceptance import Identity

FLEET = "example"
SITES = ("ams", "fra", "lon", "nyc", "sin", "tyo")
OTHERS = ("mad", "osl", "par", "rom")
CAPACITY = 1000
ALICE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MALLORY = Ed25519PrivateKey.from_private_bytes(bytes(32))
TRUSTED = none_yet(FLEET).trusting(Operator(name="alice", public=public_of(ALICE)))
_HEAD = """version: 1
fleet: {fleet}
environment: lab
service:
  name: vpn
  identity: vpn.example.org
  vips: {{ipv6: "2001:db8:a::1"}}
  prefixes: {{ipv6: "{prefix}"}}
  inside: ["2001:db8:b::/64"]
budget: {budget}
sites:
"""
_SITE = """  {name}:
    asn: 64501
    intent: {intent}
    {more}
    uplink: {{ipv6: "2001:db8:1:{n:x}::/64"}}
    inside: {{ipv6: "2001:db8:b::/64"}}
    pools: {{ipv6: "2001:db8:c:{n:x}::/64"}}
    upstreams:
      {name}-rtr: {{asn: 64511, address: {{ipv6: "2001:db8:1:{n:x}::1"}}}}
    gateways:
      {name}-gw1:
        router_id: 192.0.2.{n}
        uplink: {{interface: eth1, ipv6: "2001:db8:1:{n:x}::2"}}
        inside: {{interface: eth2, ipv6: "2001:db8:b::2"}}
"""


def fleet_text(
    sites: Iterable[str] = SITES,
    *,
    budget: str = "{min_sites: 4}",
    prefix: str = "2001:db8:a::/56",
    more: Mapping[str, str] | None = None,
    fleet: str = FLEET,
    **intents: str,
) -> str:
    """fleet.yaml of `sites`; `intents` by site, `more`: another line of a site."""
    text = _HEAD.format(fleet=fleet, prefix=prefix, budget=budget)
    for name in sites:
        line, intent = (more or {}).get(name, f"capacity: {CAPACITY}"), intents.get(name, "announced")
        text += _SITE.format(name=name, n=(*SITES, *OTHERS).index(name) + 1, intent=intent, more=line)
    return text


@dataclasses.dataclass(frozen=True)
class Made:
    """A compiled fleet file."""

    content: Content
    documents: dict[str, str]


def made(sites: Iterable[str] = SITES, *, after: Iterable[str | Content] = (), **fleet: Any) -> Made:
    loaded = loads(fleet_text(sites, **fleet))
    documents = compile_fleet(loaded)
    hashes = tuple(each if isinstance(each, str) else hash_of(each.text) for each in after)
    content = compile_content(loaded, documents).model_copy(update={"after": hashes})
    return Made(content, {name: document.canonical().decode() for name, document in documents.items()})


def me(site: str = "fra") -> Identity:
    return Identity(fleet=FLEET, site=site, gateway=f"{site}-gw1")


def envelope(content: Content | str, generation: int, key: Ed25519PrivateKey = ALICE) -> Envelope:
    text = content if isinstance(content, str) else content.text
    return Envelope(version=1, generation=generation, content=text, signature=sign(text, key))


def offered(made: Made, generation: int, site: str = "fra", key: Ed25519PrivateKey = ALICE) -> bytes:
    document = made.documents[f"{site}-gw1"]
    return Offer(version=1, envelope=envelope(made.content, generation, key), document=document).data


def activation(content: Content | str, generation: int, site: str = "fra") -> bytes:
    text = content if isinstance(content, str) else content.text
    return Activation(version=1, site=site, generation=generation, hash=hash_of(text)).data


def state_of(
    running: Mapping[str, Content] | Content,
    *,
    generation: int = 1,
    allowed: int = 2,
    dark: Mapping[str, tuple[str, str]] | None = None,
    tunnels: Mapping[str, int | None] | int = 100,
    unheard: Iterable[str] = (),
    newest: Mapping[str, Content] | None = None,
    seen: Mapping[str, Any] | None = None,
) -> tuple[State, dict[str, Content]]:
    """What a coordinator would say of sites that run by these contents (one: all of its sites do), by their one gateway."""
    by_site = {name: running for name in running.sites} if isinstance(running, Content) else dict(running)
    newest = newest or {}
    texts = {hash_of(text): text for each in (*by_site.values(), *newest.values()) if (text := each.text)}
    gateways = {
        gateway: GatewayState(
            site=site,
            active=hash_of(content.text),
            newest=hash_of(newest.get(site, content).text),
            heard=site not in unheard,
            tunnels=tunnels if isinstance(tunnels, int) else tunnels.get(site),
        )
        for site, content in by_site.items()
        for gateway in content.sites[site].gateways
    }
    ledger = LedgerState(
        allowed=allowed, dark={site: DarkSite(kind=kind, why=why) for site, (kind, why) in (dark or {}).items()}
    )
    state = State(
        version=1,
        fleet=FLEET,
        generation=generation,
        contents=texts,
        gateways=gateways,
        ledger=ledger,
        seen={} if seen is None else dict(seen),
    )
    return state, {hash_: decode_content(text) for hash_, text in texts.items()}


def kept(record: Record) -> dict[str, Any]:
    """What a record comes to, for a comparison."""
    return {
        name: None if (each := getattr(record, name)) is None else (each.generation, each.hash)
        for name in ("active", "previous", "staged")
    }


def revoked(operators: Operators = TRUSTED) -> Operators:
    import datetime

    return operators.revoking("alice", None, datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC))[0]
