"""What is read out of listings and messages for `moments`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from anycast_lab.capture.frames import Address, Ike

_CHILD = re.compile(r"^ {2}\S+: #\d+,.*?, (\w+), .*$")
_SPI = re.compile(r"^ {4}(in|out) +([0-9a-f]{8}),")


def child_spis(listed: str) -> set[str]:
    """Both SPIs of every CHILD_SA that `swanctl --list-sas` says to be installed."""
    found, installed = set(), False
    for line in listed.splitlines():
        if child := _CHILD.match(line):
            installed = child[1] == "INSTALLED"
        elif installed and (spi := _SPI.match(line)):
            found.add(spi[2])
    return found


def complete_exchanges(messages: Iterable[Ike], exchange: int, client: Address) -> dict[str, int]:
    """How many requests of this kind were answered, by who asked."""
    asked: dict[str, set[tuple[tuple[int, int], int]]] = {"client": set(), "gateway": set()}
    answered: dict[str, set[tuple[tuple[int, int], int]]] = {"client": set(), "gateway": set()}
    for one in messages:
        if one.exchange != exchange or client not in (one.source, one.destination):
            continue
        by_client = (one.source == client) is not one.response
        (answered if one.response else asked)["client" if by_client else "gateway"].add((one.spis, one.message))
    return {who: len(asked[who] & answered[who]) for who in asked}
