"""What a person reads when a fleet cannot be planned: tests/errors/prefixes/CASE.yaml and, word for word, CASE.txt."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest

from anycast.errors import ConfigError
from anycast.fleet.loading import loads
from anycast.prefixes.planning import plan_file
from tests.support.documents import TREE

ERRORS = TREE / "tests" / "errors" / "prefixes"
CASES = sorted(path.stem for path in ERRORS.glob("*.yaml"))
DAY = datetime.date(2026, 11, 29)
PLANNED = TREE / "docs" / "fleet-planned.yaml"


@pytest.mark.parametrize("case", CASES)
def test_every_problem_is_said_with_its_place(case: str, golden: Callable[[Path, str], None]) -> None:
    source = ERRORS / f"{case}.yaml"
    with pytest.raises(ConfigError) as caught:
        plan_file(source.read_text(), None, DAY, file=source.name)
    assert all(problem.file == source.name and problem.line for problem in caught.value.problems)
    golden(ERRORS / f"{case}.txt", f"{caught.value}\n")


def test_every_case_has_its_text_and_every_text_its_case() -> None:
    assert CASES
    assert {path.stem for path in ERRORS.glob("*.txt")} == set(CASES)


def production(block: str, use: str) -> str:
    """The planned example as production, its public block in space that no file of ours may name."""
    text = PLANNED.read_text().replace("environment: lab", "environment: production")
    return text.replace("203.0.113.0/24, use: [anycast, unicast]", f"{block}, use: [{use}]")


def said(text: str) -> list[str]:
    """But for what it says of documentation space, of which the rest of the example is made."""
    with pytest.raises(ConfigError) as caught:
        plan_file(text, None, DAY)
    return [str(each) for each in caught.value.problems if "documentation" not in each.what]


def test_in_production_a_25_is_not_announced() -> None:
    public, longer = ipaddress.IPv4Address(9 << 24), ipaddress.ip_network((9 << 24 | 128, 25))
    text = production(f"{public}/21", "anycast, unicast")
    text = text.replace("  inside: [", f"  prefixes: {{ipv4: {longer}}}\n  inside: [")
    what = f"{longer} is longer than /24, the longest that the Internet hears (RFC 7454 section 6.1.3)"
    assert f"fleet.yaml:9:20: service.prefixes.ipv4: {what}" in said(text)


@pytest.mark.parametrize(
    ("space", "what"),
    [
        (10 << 24, "is private (RFC 6890), and the Internet hears nothing of it; anycast needs public space"),
        (127 << 24, "is reserved (RFC 6890); no host has an address of it"),
        (240 << 24, "is reserved (RFC 6890); no host has an address of it"),
        (224 << 24, "is reserved (RFC 6890); no host has an address of it"),
    ],
)
def test_in_production_a_block_is_space_that_is_heard(space: int, what: str) -> None:
    block = f"{ipaddress.IPv4Address(space)}/21"
    place = "fleet.yaml:13:23: addressing.blocks.public4.prefix"
    assert f"{place}: {block} {what}" in said(production(block, "anycast, unicast"))


@pytest.mark.parametrize(
    ("start", "length", "what"),
    [
        (172 << 24, 8, "holds {}, which is nobody's on the Internet (RFC 6890); write the fleet's part"),
        (198 << 24, 8, "holds {}, which is nobody's on the Internet (RFC 6890); write the fleet's part"),
        (0xC0586300, 24, "is deprecated (RFC 3879, RFC 7526); no host has an address of it"),
        (0xFEC0 << 112, 10, "is deprecated (RFC 3879, RFC 7526); no host has an address of it"),
    ],
)
@pytest.mark.parametrize("use", ["anycast", "pools"])
def test_in_production_no_block_has_a_part_of_what_is_nobodys(start: int, length: int, what: str, use: str) -> None:
    block = (ipaddress.ip_network if start >> 32 else ipaddress.IPv4Network)((start, length))
    part = {172: ipaddress.IPv4Network((172 << 24 | 16 << 16, 12)), 198: ipaddress.IPv4Network((198 << 24 | 18 << 16, 15))}
    what = what.format(part.get(start >> 24))
    text = production(f"{ipaddress.IPv4Address(9 << 24)}/21", "anycast, unicast")
    text = text.replace("  foreign:\n", f'    more: {{prefix: "{block}", use: [{use}]}}\n  foreign:\n', 1)
    assert any(each.endswith(f"addressing.blocks.more.prefix: {block} {what}") for each in said(text)), said(text)


@pytest.mark.parametrize("asn", [64512, 65534, 4200000001])
def test_in_production_a_site_that_is_announced_has_an_as_number_of_the_internet(asn: int) -> None:
    text = production(f"{ipaddress.IPv4Address(9 << 24)}/21", "anycast, unicast").replace("asn: 64501", f"asn: {asn}")
    what = f"sites.fra.asn: {asn} is a private AS number (RFC 6996): the Internet filters what it originates"
    assert any(what in each for each in said(text))


def test_what_is_visible_is_not_for_a_fleet_to_say_in_production() -> None:
    text = production(f"{ipaddress.IPv4Address(9 << 24)}/21", "anycast, unicast")
    what = "addressing.visible: is a lab's: in production /24 and /48 are heard everywhere"
    assert any(what in each for each in said(text.replace("  headroom: 25 %", "  visible: {ipv4: /28}")))


def test_what_is_left_out_and_not_planned_is_said_once() -> None:
    with pytest.raises(ConfigError) as caught:
        loads(PLANNED.read_text())
    assert [str(each) for each in caught.value.problems] == [
        "fleet.yaml:11:1: addressing: 47 values are neither written here nor in the lock file (service.prefixes.ipv4,"
        " service.vips.ipv4, service.prefixes.ipv6 …): `anycast prefixes apply` plans them"
    ]
