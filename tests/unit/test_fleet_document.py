"""docs/fleet.md names every key of the fleet file, and the defaults it states are the program's."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from anycast.fleet.loading import loads
from anycast.fleet.pair import Bfd, Vrrp
from anycast.fleet.schema import AgentSettings, BgpSettings, Fleet, Gateway, LeaseSettings, Service
from anycast.fleet.section import Section
from tests.support.documents import TREE

TEXT = (TREE / "docs" / "fleet.md").read_text()
SMALL = (TREE / "tests" / "data" / "small.fleet.yaml").read_text()


def sections(kind: Any) -> Iterator[type[Section]]:
    """Every section below `kind`, itself first."""
    if typing.get_origin(kind) is dict:
        yield from sections(typing.get_args(kind)[1])
    elif isinstance(kind, types.UnionType):
        yield from sections(typing.get_args(kind)[0])
    elif isinstance(kind, type) and issubclass(kind, Section):
        yield kind
        for field in kind.model_fields.values():
            yield from sections(field.annotation)


@pytest.mark.parametrize("kind", sorted(set(sections(Fleet)), key=lambda k: k.__name__), ids=lambda k: k.__name__)
def test_every_key_is_named(kind: type[Section]) -> None:
    for key in kind.model_fields.keys() - {"ipv4", "ipv6"}:
        assert re.search(rf"[`.]{key}\b", TEXT), f"{kind.__name__}.{key}"


def stated_default(key: str) -> str:
    return str(re.findall(rf"^\| `{re.escape(key)}` \|.*\| `([^`]*)` \|$", TEXT, re.MULTILINE)[0])


@pytest.mark.parametrize(
    ("section", "settings", "key"),
    [
        *(("bgp", BgpSettings, key) for key in BgpSettings.model_fields),
        *(("lease", LeaseSettings, key) for key in LeaseSettings.model_fields),
        *(("agent", AgentSettings, key) for key in AgentSettings.model_fields if key not in ("timings", "exec", "alarms")),
    ],
)
def test_the_defaults_stated_are_the_defaults(section: str, settings: type[Section], key: str) -> None:
    stated = stated_default(f"defaults.{section}.{key}")
    written = loads(SMALL.replace("sites:\n", f'defaults:\n  {section}: {{{key}: "{stated}"}}\nsites:\n', 1))
    assert getattr(getattr(written.defaults, section), key) == getattr(settings(), key)


@pytest.mark.parametrize("key", ["encapsulation", "dpd_delay"])
def test_the_services_defaults_too(key: str) -> None:
    written = loads(SMALL.replace("  name: vpn\n", f"  name: vpn\n  {key}: {stated_default(f'service.{key}')}\n", 1))
    assert getattr(written.service, key) == Service.model_fields[key].default


ADDRESSES = ("outside", "inside", "peer", "peer_inside", "witnesses")


@pytest.mark.parametrize("key", [key for key in Vrrp.model_fields if key not in ADDRESSES])
def test_the_virtual_routers_too(key: str) -> None:
    stated = stated_default(f"sites.SITE.vrrp.{key}")
    written = Vrrp.model_validate({"inside": {"ipv4": "192.0.2.1"}, key: stated})
    assert getattr(written, key) == Vrrp.model_fields[key].default


def test_and_bfds_and_a_gateways() -> None:
    assert str(Gateway.model_fields["priority"].default) == stated_default("sites.SITE.gateways.GATEWAY.priority")
    row = r"^\| `sites.SITE.upstreams.ROUTER.bfd` \|.*\| none; `([^`]*)`, `([^`]*)` \|$"
    stated = re.findall(row, TEXT, re.MULTILINE)[0]
    assert Bfd.model_validate(dict(zip(("interval", "multiplier"), stated, strict=True))) == Bfd()
