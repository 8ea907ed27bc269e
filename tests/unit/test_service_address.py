"""A site's unicast service address: in every file that a VIP stands in, and nowhere where none is written."""

from __future__ import annotations

from pathlib import PurePath

from anycast.document import Document
from anycast.fleet.compile import compile_gateway
from anycast.fleet.loading import loads
from site_agent.render.nftables import render_nftables
from site_agent.render.strongswan import render_strongswan
from site_agent.untracking import _incoming
from tests.support.documents import TREE

SMALL = (TREE / "tests" / "data" / "small.fleet.yaml").read_text()
OWN = "198.51.100.65"
POOLS = "    pools: {ipv4: 203.0.113.64/27}\n"


def made(written: bool) -> Document:
    text = SMALL.replace(POOLS, f"{POOLS}    service_address: {{ipv4: {OWN}}}\n") if written else SMALL
    return compile_gateway(loads(text), "fra-gw1")


def test_where_none_is_written_the_document_is_as_it_always_was() -> None:
    document = made(written=False)
    assert b"service_addresses" not in document.canonical()
    assert document.service.ends == document.service.vips


def test_it_is_this_sites_alone_and_stands_beside_the_vip() -> None:
    document = made(written=True)
    assert document.service.service_addresses == (OWN,)
    assert document.service.ends == ("203.0.113.1", OWN)
    assert document.hash != made(written=False).hash
    assert Document.model_validate_json(document.canonical()) == document
    there = SMALL.replace(POOLS, f"{POOLS}    service_address: {{ipv4: {OWN}}}\n")
    assert compile_gateway(loads(there), "sin-gw1").service.service_addresses == ()


def test_charon_answers_there_and_the_packet_filter_treats_it_like_a_vip() -> None:
    document, before = made(written=True), made(written=False)
    swanctl = render_strongswan(document, run_dir=PurePath("/run/x"))["swanctl/swanctl.conf"]
    assert f"local_addrs = 203.0.113.1, {OWN}\n" in swanctl
    rules = render_nftables(document)
    assert rules.count(f"203.0.113.1, {OWN}") == render_nftables(before).count("{ 203.0.113.1 }") > 0
    assert {packet.name for packet in _incoming(document, whole_udp=False)} > {f"UDP 500 to {OWN}", f"ESP to {OWN}"}
