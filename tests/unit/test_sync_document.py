"""A gateway's end of the mirror: how it is compiled, and that documents without one are what they were."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from anycast.document import Document, Sync
from anycast.fleet.compile import compile_fleet
from anycast.fleet.loading import loads
from anycast.fleet.pair import Sync as Settings
from site_agent.sync import channel
from tests.support.documents import TREE

TEXT = (TREE / "tests" / "data" / "pair-mirrored.fleet.yaml").read_text()


def ends(text: str = TEXT) -> dict[str, Sync | None]:
    return {name: document.sync for name, document in compile_fleet(loads(text)).items()}


def test_the_two_ends_of_a_mirror() -> None:
    assert ends() == {
        "fra-gw1": Sync(peer="fra-gw2", rank=0, own_address="192.0.2.65", peer_address="192.0.2.66", port=4517),
        "fra-gw2": Sync(peer="fra-gw1", rank=1, own_address="192.0.2.66", peer_address="192.0.2.65", port=4517),
    }


def test_rank_goes_by_the_names_and_not_by_their_order_in_the_file() -> None:
    renamed = ends(TEXT.replace("fra-gw1", "fra-x").replace("fra-gw2", "fra-gw2"))
    assert {name: end.rank for name, end in renamed.items() if end is not None} == {"fra-x": 1, "fra-gw2": 0}


def test_a_port_of_ones_own_is_the_port_at_both() -> None:
    assert [end.port for end in ends(TEXT.replace("sync: {}", "sync: {port: 5000}")).values() if end is not None] == [
        5000
    ] * 2


def test_a_management_network_of_ipv6_alone_carries_it() -> None:
    def without_ipv4(text: str) -> str:
        return (
            text.replace("{ipv4: 192.0.2.64/29, ", "{").replace("ipv4: 192.0.2.65, ", "").replace("ipv4: 192.0.2.66, ", "")
        )

    made = ends(without_ipv4(TEXT))["fra-gw2"]
    assert made is not None and (made.own_address, made.peer_address) == ("2001:db8:e::2", "2001:db8:e::1")


def test_the_default_port_is_the_channels() -> None:
    assert Settings().port == channel.PORT


def without(document: Document) -> Document:
    return Document.model_validate(document.model_dump(mode="json") | {"sync": None})


def test_a_document_without_a_mirror_is_byte_for_byte_what_it_was_before_there_was_one() -> None:
    mirrored = compile_fleet(loads(TEXT))["fra-gw1"]
    plain = compile_fleet(loads(TEXT.replace("    sync: {}\n", "")))["fra-gw1"]
    assert b"sync" not in plain.canonical() and b'"sync":{' in mirrored.canonical()
    assert without(mirrored).canonical() == plain.canonical() and mirrored.hash != plain.hash


@pytest.mark.parametrize("change", [lambda body: body, lambda body: body | {"sync": None}], ids=["absent", "null"])
def test_an_old_document_is_read(change: Callable[[dict[str, object]], dict[str, object]]) -> None:
    old = json.loads(compile_fleet(loads(TEXT.replace("    sync: {}\n", "")))["fra-gw1"].canonical())
    assert "sync" not in old
    assert Document.model_validate(change(old)).sync is None


@pytest.mark.parametrize(
    ("field", "value"), [("rank", -1), ("rank", 1), ("rank", 2), ("peer", "fra-gw0"), ("peer", "fra-gw1")]
)
def test_a_rank_that_is_not_this_gateways_is_refused(field: str, value: object) -> None:
    """Whoever compiled it: with one rank at both, both would send with the same ESP sequence numbers."""
    body = json.loads(compile_fleet(loads(TEXT))["fra-gw1"].canonical())
    body["sync"][field] = value
    with pytest.raises(ValueError, match="rank"):
        Document.model_validate(body)
