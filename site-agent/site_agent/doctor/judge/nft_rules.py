"""What a ruleset does with one packet: `nft --json list ruleset` in, accept, drop or cannot tell out. Pure.

A packet is a handful of facts (family, protocol, ports, connection state). A match on one of them is true or false; a match
on anything else (an address, a limit, an xtables match) may be either, and both ways are followed. So the answer is a set
of possible verdicts: only a packet that is dropped on every way is called dropped. libnftables-json(5) has the format.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

Json = Mapping[str, Any]
ChainKey = tuple[str, str, str]
"""Family, table and name."""

ACCEPT, DROP, NEXT, RETURN = "accept", "drop", "next", "return"
EVERYTHING = frozenset({ACCEPT, DROP, NEXT})
_ONLY_NEXT = frozenset({NEXT})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """What is known of a packet."""

    name: str
    """For people."""
    family: str
    """``ip`` or ``ip6``."""
    protocol: str
    """``udp``, ``tcp``, ``esp``, ``icmp``, ``icmpv6``, ``vrrp``, as nft names them."""
    sport: int | None = None
    dport: int | None = None
    state: str = "new"
    saddr: str | None = None
    daddr: str | None = None
    icmp_type: str | None = None
    iif: str | None = None
    oif: str | None = None
    """Interfaces by which it comes in and goes out; None where it may be any, or where a hook that it meets has none."""


_NUMBERS = {"icmp": 1, "udp": 17, "tcp": 6, "esp": 50, "icmpv6": 58, "vrrp": 112}
_TRANSLATIONS = frozenset({"dnat", "redirect"})
_ANY = object()
"""The value of something that a packet of ours may have or not."""


class Ruleset:
    """Rules by chain. Objects that mean nothing to us are skipped."""

    def __init__(self, listing: Json) -> None:
        self._chains: dict[ChainKey, Json] = {}
        self._rules: dict[ChainKey, list[list[Json]]] = {}
        self._sets: dict[ChainKey, Any] = {}
        for item in listing.get("nftables", ()):
            if (chain := item.get("chain")) is not None:
                self._chains[chain["family"], chain["table"], chain["name"]] = chain
            elif (rule := item.get("rule")) is not None:
                self._rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule.get("expr", []))
            elif (named := item.get("set")) is not None:
                self._sets[named["family"], named["table"], named["name"]] = named.get("elem", [])

    @property
    def tracks(self) -> bool:
        """Whether a rule or a chain makes the kernel track connections: a match on their state, or address translation."""
        nat = any(chain.get("type") == "nat" for chain in self._chains.values())
        return nat or any(_mentions(rule, "ct") for rules in self._rules.values() for rule in rules)

    @property
    def clamps_mss(self) -> bool:
        """Whether some rule sets TCP's MSS option."""
        for rules in self._rules.values():
            for rule in rules:
                for statement in rule:
                    if _part(statement, "xt").get("name") == "TCPMSS":
                        return True
                    if _part(_part(_part(statement, "mangle"), "key"), "tcp option").get("name") == "maxseg":
                        return True
        return False

    def dropped(self, packet: Packet, hook: str) -> tuple[bool | None, str]:
        """Whether `packet` is dropped at `hook`, None for cannot tell; and the chain that does it."""
        unclear = ""
        for key, chain in self._base_chains(packet, hook):
            verdicts = _Walk(self, packet).chain(key)
            if NEXT in verdicts:
                verdicts = verdicts - {NEXT} | {chain.get("policy", ACCEPT)}
            if verdicts == {DROP}:
                return True, " ".join(key)
            if DROP in verdicts:
                unclear = " ".join(key)
        return (None if unclear else False), unclear

    def translated(self, packet: Packet, hook: str) -> str:
        """The first chain at `hook` that may give `packet` another address; empty where none does."""
        for key, chain in self._base_chains(packet, hook):
            if chain.get("type") == "nat":
                walk = _Walk(self, packet)
                walk.chain(key)
                if walk.translates:
                    return " ".join(key)
        return ""

    def untracked(self, packet: Packet) -> bool | None:
        """Whether `packet` is kept out of connection tracking as it comes in; None for cannot tell."""
        marks: set[bool] = set()
        for key, _ in self._base_chains(packet, "prerouting"):
            walk = _Walk(self, packet)
            walk.chain(key)
            marks |= walk.notrack
        return True if True in marks else None if marks else False

    def rules(self, key: ChainKey) -> list[list[Json]]:
        """The rules of a chain, each a list of statements; none of a chain that is not there."""
        return self._rules.get(key, [])

    def elements(self, key: ChainKey, name: str) -> Any:
        """The elements of a named set of the chain's table; None where it is not there."""
        return self._sets.get((key[0], key[1], name))

    def _base_chains(self, packet: Packet, hook: str) -> Iterator[tuple[ChainKey, Json]]:
        for key, chain in self._chains.items():
            if chain.get("hook") == hook and key[0] in (packet.family, "inet"):
                yield key, chain


class _Walk:
    """One packet's way. Each chain is walked once, however many rules jump to it, so time grows with the ruleset only."""

    def __init__(self, ruleset: Ruleset, packet: Packet) -> None:
        self._ruleset, self._packet = ruleset, packet
        self._known: dict[tuple[ChainKey, bool], frozenset[str]] = {}
        self.notrack: set[bool] = set()
        """True: it certainly meets a `notrack`; False: it may."""
        self.translates = False
        """It may meet a `dnat`, `redirect`, or an xtables part that could be either."""

    def chain(self, key: ChainKey, *, sure: bool = True) -> frozenset[str]:
        """The possible verdicts; NEXT is its end. `sure`: the packet certainly comes here."""
        if (known := self._known.get((key, sure))) is not None:
            return known
        self._known[key, sure] = EVERYTHING  # what a circle of jumps finds; the kernel refuses these
        possible: set[str] = set()
        for rule in self._ruleset.rules(key):
            verdicts = self._rule(key, rule, sure and not possible)
            possible |= verdicts - {NEXT}
            if NEXT not in verdicts:
                break
        else:
            possible.add(NEXT)
        if RETURN in possible:
            possible = possible - {RETURN} | {NEXT}
        self._known[key, sure] = frozenset(possible)
        return self._known[key, sure]

    def _rule(self, key: ChainKey, rule: list[Json], sure: bool) -> frozenset[str]:
        certain = True
        for statement in rule:
            if "match" in statement:
                matches = self._matches(key, _part(statement, "match"))
                if matches is False:
                    return _ONLY_NEXT
                certain = certain and matches is True
            elif "notrack" in statement:
                self.notrack.add(sure and certain)
            elif any(word in statement for word in _TRANSLATIONS):
                self.translates = True
                return frozenset({ACCEPT}) if certain else frozenset({ACCEPT, NEXT})
            elif _part(statement, "xt").get("type") == "match" or "limit" in statement:
                certain = False
            elif _part(statement, "xt").get("name") == "CT":
                self.notrack.add(False)  # its options are not shown
            elif (verdicts := self._verdicts(key, statement, sure and certain)) is not None:
                return verdicts if certain else verdicts | {NEXT}
        return _ONLY_NEXT

    def _verdicts(self, key: ChainKey, statement: Json, sure: bool) -> frozenset[str] | None:
        if "vmap" in statement:
            return self._mapped(key, _part(statement, "vmap"), sure)
        if "accept" in statement:
            return frozenset({ACCEPT})
        if "drop" in statement or "reject" in statement:
            return frozenset({DROP})
        if "return" in statement:
            return frozenset({RETURN})
        if "queue" in statement or "xt" in statement:
            self.translates = self.translates or "xt" in statement
            return EVERYTHING  # some nft cannot show what an xtables part does, nor of which kind it is
        if "jump" in statement:
            return self.chain((key[0], key[1], str(_part(statement, "jump").get("target", ""))), sure=sure)
        if "goto" in statement:
            below = self.chain((key[0], key[1], str(_part(statement, "goto").get("target", ""))), sure=sure)
            return below - {NEXT} | {RETURN} if NEXT in below else below
        return None

    def _mapped(self, key: ChainKey, vmap: Json, sure: bool) -> frozenset[str]:
        value = _value(vmap.get("key"), self._packet)
        pairs = vmap.get("data", {})
        if value is None:
            return _ONLY_NEXT
        if value is _ANY or not isinstance(pairs, dict):
            return EVERYTHING
        for element, verdict in pairs.get("set", ()):
            among = self._among(key, value, element)
            if among is None:
                return EVERYTHING
            if among:
                return self._verdicts(key, verdict, sure) or _ONLY_NEXT
        return _ONLY_NEXT

    def _matches(self, key: ChainKey, match: Json) -> bool | None:
        value = _value(match.get("left"), self._packet)
        if value is None:
            return False  # a header that this packet has not
        if value is _ANY:
            return None
        inside = self._among(key, value, match.get("right"))
        operator = match.get("op")
        if operator in ("==", "in"):
            return inside
        if operator == "!=":
            return None if inside is None else not inside
        return None

    def _among(self, key: ChainKey, value: Any, right: Any) -> bool | None:
        if isinstance(right, str) and right.startswith("@"):
            named = self._ruleset.elements(key, right[1:])
            return None if named is None else self._among(key, value, named)
        if isinstance(right, str) and right.endswith("*"):
            return str(value).startswith(right[:-1])  # an interface's name, or the beginning of one
        if isinstance(right, dict) and "range" in right:
            low, high = right["range"]
            return (
                low <= value <= high if isinstance(low, int) and isinstance(high, int) and isinstance(value, int) else None
            )
        if isinstance(right, dict) and "prefix" in right:
            return _within(value, right["prefix"])
        if isinstance(right, dict) and "set" in right:
            right = right["set"]
        if isinstance(right, list):
            answers = [self._among(key, value, each) for each in right]
            return True if True in answers else None if None in answers else False
        if isinstance(right, dict):
            return None
        # nft prints some protocols by the names of /etc/protocols.
        return bool(right == value or _NUMBERS.get(str(value)) == right or (value, right) == ("icmpv6", "ipv6-icmp"))


def _part(item: Any, name: str) -> Json:
    """What stands under `name`; nothing where that is not an object (nft writes null for what it cannot show)."""
    part = item.get(name) if isinstance(item, dict) else None
    return part if isinstance(part, dict) else {}


def _within(address: Any, prefix: Any) -> bool | None:
    try:
        return ip_address(address) in ip_network(f"{prefix['addr']}/{prefix['len']}", strict=False)
    except (ValueError, TypeError, KeyError):
        return None


def _value(left: Any, packet: Packet) -> Any:
    """What `left` is for `packet`: None for a header that it has not, `_ANY` for what is not known."""
    if not isinstance(left, dict):
        return _ANY
    if (payload := left.get("payload")) is not None:
        protocol, field = payload.get("protocol"), payload.get("field")
        if protocol in ("ip", "ip6"):
            if protocol != packet.family:
                return None
            known = {"saddr": packet.saddr, "daddr": packet.daddr, "protocol": packet.protocol, "nexthdr": packet.protocol}
            return _ANY if (value := known.get(str(field))) is None else value
        if protocol == "th" or protocol == packet.protocol:
            fields = {"sport": packet.sport, "dport": packet.dport, "type": packet.icmp_type}
            return _ANY if (known_field := fields.get(str(field))) is None else known_field
        return None if protocol in ("udp", "tcp", "icmp", "icmpv6", "esp", "ah", "sctp", "udplite", "dccp") else _ANY
    if (meta := left.get("meta")) is not None:
        known = {"l4proto": packet.protocol, "nfproto": {"ip": "ipv4", "ip6": "ipv6"}[packet.family]}
        known |= {key: name for key, name in _interfaces(packet) if name is not None}
        return known.get(meta.get("key"), _ANY)
    if (tracked := left.get("ct")) is not None:
        if tracked.get("key") == "state":
            return packet.state
        return None if packet.state == "untracked" else _ANY  # nft_ct.c: no connection, no match
    return _ANY


def _interfaces(packet: Packet) -> tuple[tuple[str, str | None], ...]:
    return ("iif", packet.iif), ("iifname", packet.iif), ("oif", packet.oif), ("oifname", packet.oif)


def _mentions(item: Any, word: str) -> bool:
    if isinstance(item, dict):
        return word in item or any(_mentions(each, word) for each in item.values())
    return isinstance(item, list) and any(_mentions(each, word) for each in item)
