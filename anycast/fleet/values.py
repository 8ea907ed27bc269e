"""The kinds of single values that fleet.yaml is made of, and how each is read from text.

The YAML reader hands over nothing but text (`yaml_text.py`), so what a text means is decided here, by the field it stands
in: ``gtsm: yes`` is true because `gtsm` is a `Flag`, ``name: no`` is the word *no* because `name` is a `Name`, and
``asn: 0100`` is refused because nobody can say which number was meant. Each function takes the text and returns the
value, or raises what pydantic turns into one located problem; the sentence always says what would be right.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
import urllib.parse
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic_core import PydanticCustomError

from anycast.model import NAME

T = TypeVar("T")
Family = Literal["ipv4", "ipv6"]
FAMILIES: tuple[Family, ...] = ("ipv4", "ipv6")

_DOMAIN = re.compile(rf"(?:{NAME.pattern}\.)+{NAME.pattern}")
_INTERFACE = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_QUANTITY = re.compile(r"(0|[1-9][0-9]{0,11}) ?([A-Za-z]+)")
_PERCENT = re.compile(r"(0|[1-9][0-9]{0,2}) ?%")
_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")
_PATH = re.compile(r"(?:/[A-Za-z0-9_.,+@=-]+)+")
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,30}|0|[1-9][0-9]{0,9}")
_PROPOSAL = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_ZONE = re.compile(r"[a-z0-9_](?:[a-z0-9/_-]{0,61}[a-z0-9])?(?:\.[a-z0-9_](?:[a-z0-9/_-]{0,61}[a-z0-9])?)+")
_COMMUNITY = re.compile(r"(0|[1-9][0-9]{0,9})(?::(?:0|[1-9][0-9]{0,9})){1,2}")
_RPSL_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9_-]{0,78}[A-Za-z0-9])?")
_ARGUMENT = re.compile(r"[ -~]{1,256}")
_TRUE, _FALSE = ("true", "yes"), ("false", "no")
_SECONDS: dict[str, float] = {"ms": 0.001, "s": 1, "min": 60, "h": 3600}
_DAYS: dict[str, float] = {"d": 1}
_BYTES: dict[str, float] = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def wrong(what: str) -> PydanticCustomError:
    """The one error a value's reader raises. `what` is the whole sentence."""
    return PydanticCustomError("fleet", "{what}", {"what": what})


def show(text: str) -> str:
    """`text` as a message quotes it: on one line, without control characters, of bounded length."""
    return json.dumps(text if len(text) <= 60 else text[:57] + "...", ensure_ascii=True)


def _reader(parse: Callable[[str], Any]) -> pydantic.BeforeValidator:
    """Let `parse` see text only. Values that are already of the field's type pass (defaults, copies)."""

    def read(value: Any) -> Any:
        if isinstance(value, (dict, list)):
            raise wrong(f"expected one value, found a {'mapping' if isinstance(value, dict) else 'list'}")
        if not isinstance(value, str):
            return value
        if not value:
            raise wrong("has no value")
        return parse(value)

    return pydantic.BeforeValidator(read)


def _matching(pattern: re.Pattern[str], expected: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not pattern.fullmatch(text):
            raise wrong(f"{show(text)} is not {expected}")
        return text

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise wrong(f"{show(text)} is none of {', '.join(words)}")
        return text

    return parse


def _domain(text: str) -> str:
    if len(text) > 253 or not _DOMAIN.fullmatch(text):
        raise wrong(f"{show(text)} is not a fully qualified domain name in lower case (vpn.example.org)")
    return text


def _flag(text: str) -> bool:
    if text not in _TRUE + _FALSE:
        raise wrong(f"{show(text)} is none of true, false, yes, no")
    return text in _TRUE


def _number(low: int, high: int, noun: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not _NUMBER.fullmatch(text):
            raise wrong(f"{show(text)} is not {noun}: write a decimal number without leading zeros")
        if not low <= int(text) <= high:
            raise wrong(f"{text} is not {noun} ({low} to {high})")
        return int(text)

    return parse


def _url(text: str) -> str:
    try:
        parts = urllib.parse.urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise wrong(f"{show(text)} is not a URL") from exc
    if parts.scheme not in ("https", "http") or not host or port == 0 or not _ARGUMENT.fullmatch(text) or " " in text:
        raise wrong(f"{show(text)} is not a URL (https://alarms.example.org/hook)")
    if parts.username is not None or parts.password is not None:
        raise wrong("holds a user name or a password; put a bearer token into token_file")
    if parts.scheme == "http" and not _is_loopback(host):
        raise wrong(f"{show(text)} is not encrypted; http:// goes to a loopback address only")
    return text


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _version(text: str) -> int:
    if text != "1":
        raise wrong(f"{show(text)} is not a version of this format that can be read here; write 1")
    return 1


def _address(kind: Callable[[str], Any], noun: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        if "/" in text:
            raise wrong(f"{show(text)} has a length; {noun} is expected here without one")
        try:
            address = kind(text)
        except ValueError as exc:
            raise wrong(f"{show(text)} is not {noun}") from exc
        if getattr(address, "scope_id", None):
            raise wrong(f"{show(text)} has a zone; write the address without it")
        return address

    return parse


def _split_length(text: str, noun: str) -> None:
    _, slash, length = text.partition("/")
    if not slash or not _LENGTH.fullmatch(length) or "%" in text:
        raise wrong(f"{show(text)} is not {noun} with its length (203.0.113.0/28, 2001:db8:a::/56)")


def _network(text: str) -> Any:
    _split_length(text, "a prefix")
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError as exc:
        raise wrong(f"{show(text)} is not a prefix") from exc
    if str(loose.network_address) != str(ipaddress.ip_address(text.partition("/")[0])):
        raise wrong(f"{show(text)} has bits set beyond its length; its prefix is {loose}")
    return loose


def _network_of(version: int) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        network = _network(text)
        if network.version != version:
            raise wrong(f"{network} is not an IPv{version} prefix")
        return network

    return parse


def _interface(kind: Callable[[str], Any], noun: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        _split_length(text, noun)
        try:
            return kind(text)
        except ValueError as exc:
            raise wrong(f"{show(text)} is not {noun} with its length") from exc

    return parse


def _quantity(text: str, units: dict[str, float], noun: str, example: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        raise wrong(f"{show(text)} is not {noun}: a whole number and one of {', '.join(units)} ({example})")
    return int(match[1]) * units[match[2]]


def _duration(text: str) -> datetime.timedelta:
    seconds = _quantity(text, _SECONDS, "a duration", "250 ms, 1 s, 2 h")
    if seconds > 366 * 86400:
        raise wrong(f"{show(text)} is longer than a year")
    return datetime.timedelta(seconds=seconds)


def _days(text: str) -> int:
    return int(_quantity(text, _DAYS, "a number of days", "30 d"))


def _community(text: str) -> str:
    parts = text.split(":")
    if not _COMMUNITY.fullmatch(text) or any(int(part) > (0xFFFF if len(parts) == 2 else 0xFFFFFFFF) for part in parts):
        raise wrong(f"{show(text)} is not a community: two numbers up to 65535 (64511:90), or three of 32 bits (64511:1:90)")
    return text


def _percent(text: str) -> int:
    match = _PERCENT.fullmatch(text)
    if match is None:
        raise wrong(f"{show(text)} is not a percentage (25 %)")
    return int(match[1])


def _visible(most: int, family: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        length = text.removeprefix("/")
        if not _LENGTH.fullmatch(length) or not 8 <= int(length) <= most:
            raise wrong(f"{show(text)} is not the length of an {family} prefix: write /8 to /{most}")
        return int(length)

    return parse


def _size(text: str) -> int:
    return int(_quantity(text, _BYTES, "a size", "512 KiB, 16 MiB"))


def _listen(text: str) -> str:
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError as exc:
        raise wrong(f"{show(text)} is not an address and a port (127.0.0.1:9717, [::1]:9717)") from exc
    if not _NUMBER.fullmatch(port) or not 1 <= int(port) <= 65535 or (address.version == 6) != (bare != host):
        raise wrong(f"{show(text)} is not an address and a port (127.0.0.1:9717, [::1]:9717)")
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


Name = Annotated[str, _reader(_matching(NAME, "a name: small letters, digits and inner hyphens, at most 63 (fra-gw1)"))]
"""A DNS label: names become host names, metric labels and file names."""
Domain = Annotated[str, _reader(_domain)]
InterfaceName = Annotated[str, _reader(_matching(_INTERFACE, "an interface name of at most 15 characters (eth1)"))]
Path = Annotated[str, _reader(_matching(_PATH, "an absolute path without spaces (/etc/anycast/secrets/bgp.key)"))]
Account = Annotated[str, _reader(_matching(_ACCOUNT, "a user name or a numeric uid"))]
Argument = Annotated[str, _reader(_matching(_ARGUMENT, "an argument: 1 to 256 printable ASCII characters"))]
Url = Annotated[str, _reader(_url)]
RpslName = Annotated[str, _reader(_matching(_RPSL_NAME, "a name in a routing registry (EXAMPLE-MNT; RFC 2622 section 2)"))]
ZoneName = Annotated[str, _reader(_matching(_ZONE, "a zone's name in small letters (example.org, 2.0.192.in-addr.arpa)"))]
Port = Annotated[int, _reader(_number(1, 65535, "a port"))]
Community = Annotated[str, _reader(_community)]
Prepend = Annotated[int, _reader(_number(0, 10, "a number of prepends"))]
Med = Annotated[int, _reader(_number(0, 4294967295, "a MED or LOCAL_PREF"))]
Count = Annotated[int, _reader(_number(1, 100, "a number of looks"))]
Sites = Annotated[int, _reader(_number(1, 100_000, "a number of sites"))]
Tunnels = Annotated[int, _reader(_number(1, 10**12, "a number of tunnels"))]
Clients = Annotated[int, _reader(_number(1, 16_000_000, "a number of clients"))]
SpiLabel = Annotated[int, _reader(_number(1, 4095, "an SPI label"))]
"""Twelve bits, never 0: the ESP SPIs 0 to 255 are reserved (RFC 4303 section 2.1)."""
MaxPrefixes = Annotated[int, _reader(_number(1, 2_000_000, "a number of prefixes"))]
Days = Annotated[int, _reader(_days)]
"""``30 d``."""
Percent = Annotated[int, _reader(_percent)]
"""``25 %``."""
Length4 = Annotated[int, _reader(_visible(30, "IPv4"))]
"""``/24``: the length of a prefix or subnet that is to be chosen."""
Length6 = Annotated[int, _reader(_visible(127, "IPv6"))]
Use = Annotated[
    Literal["anycast", "unicast", "pools", "management", "tunnels", "uplink", "inside", "subnets"],
    _reader(_one_of("anycast", "unicast", "pools", "management", "tunnels", "uplink", "inside", "subnets")),
]
"""What is taken from a block of addresses."""
Intent = Annotated[Literal["announced", "degraded", "drained"], _reader(_one_of("announced", "degraded", "drained"))]
Proposal = Annotated[str, _reader(_matching(_PROPOSAL, "a strongSwan proposal (aes256gcm16-prfsha384-ecp384)"))]
Listen = Annotated[str, _reader(_listen)]
Flag = Annotated[bool, _reader(_flag)]
"""``true``, ``false``, ``yes`` or ``no``; YAML 1.1's other spellings are refused."""
Asn = Annotated[int, _reader(_number(1, 4294967294, "an AS number"))]
FlapThreshold = Annotated[int, _reader(_number(2000, 50_000, "a suppress threshold"))]
VirtualRouterId = Annotated[int, _reader(_number(1, 255, "a virtual router id"))]
Priority = Annotated[int, _reader(_number(1, 254, "a priority"))]
"""VRRP's 0 and 255 mean more than a priority (RFC 9568 section 5.2.4)."""
Interop = Annotated[
    Literal["none", "keepalived", "keepalived_as_v2"], _reader(_one_of("none", "keepalived", "keepalived_as_v2"))
]
Side = Annotated[Literal["uplink", "inside", "management"], _reader(_one_of("uplink", "inside", "management"))]
"""One of a site's subnets, by its key in the file."""
Uplink = Annotated[Literal["shared", "routed"], _reader(_one_of("shared", "routed"))]
Transport = Annotated[Literal["unicast", "multicast"], _reader(_one_of("unicast", "multicast"))]
SyncPort = Annotated[int, _reader(_number(1024, 32767, "a port for the channel"))]
"""From 32768 on the kernel gives ports out itself (net.ipv4.ip_local_port_range), so any program may hold one."""
Multiplier = Annotated[int, _reader(_number(2, 50, "a detection multiplier"))]
Version = Annotated[Literal[1], _reader(_version)]
Environment = Annotated[Literal["lab", "production"], _reader(_one_of("lab", "production"))]
Encapsulation = Annotated[Literal["forced", "behind_nat"], _reader(_one_of("forced", "behind_nat"))]
EspCipher = Annotated[Literal["aes256gcm16", "chacha20poly1305"], _reader(_one_of("aes256gcm16", "chacha20poly1305"))]
Duration = Annotated[datetime.timedelta, _reader(_duration)]
"""``250 ms``, ``1 s``, ``5 min``, ``2 h``. A bare number has no unit and is refused."""
Size = Annotated[int, _reader(_size)]
"""Bytes, written ``512 KiB`` or ``16 MiB``."""
Address = Annotated[ipaddress.IPv4Address | ipaddress.IPv6Address, _reader(_address(ipaddress.ip_address, "an address"))]
Address4 = Annotated[ipaddress.IPv4Address, _reader(_address(ipaddress.IPv4Address, "an IPv4 address"))]
Address6 = Annotated[ipaddress.IPv6Address, _reader(_address(ipaddress.IPv6Address, "an IPv6 address"))]
Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, _reader(_network)]
Network4 = Annotated[ipaddress.IPv4Network, _reader(_network_of(4))]
Network6 = Annotated[ipaddress.IPv6Network, _reader(_network_of(6))]
Interface4 = Annotated[ipaddress.IPv4Interface, _reader(_interface(ipaddress.IPv4Interface, "an IPv4 address"))]
"""An address with the length of its subnet: what ``ip address add`` takes."""
Interface6 = Annotated[ipaddress.IPv6Interface, _reader(_interface(ipaddress.IPv6Interface, "an IPv6 address"))]
