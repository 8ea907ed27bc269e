"""`service.budget`: how it is compiled, the same for all gateways; and documents without one are what they were."""

from __future__ import annotations

import json

import pytest

from anycast.document import Budget, Document, Floor, SiteShare
from anycast.fleet.budget import default_min_sites
from anycast.fleet.compile import compile_budget, compile_fleet
from anycast.fleet.loading import loads
from tests.support.documents import TREE

TEXT = (TREE / "labs" / "topologies" / "two-site.fleet.yaml").read_text()
BEFORE = "  identity: vpn.example.org\n"
FRA = "  fra:\n"


def documents(budget: str = "", site: str = "") -> dict[str, Document]:
    assert BEFORE in TEXT and FRA in TEXT
    text = TEXT.replace(BEFORE, BEFORE + (f"  budget: {budget}\n" if budget else "")).replace(FRA, FRA + site, 1)
    return compile_fleet(loads(text))


def test_all_defaults_are_one_site_at_a_time() -> None:
    made = documents("{}")
    assert len(made) == 2
    for document in made.values():
        assert document.budget == Budget(min_sites=1, sites=(SiteShare(name="fra"), SiteShare(name="sin")))


@pytest.mark.parametrize(("sites", "least"), [(1, 1), (2, 1), (3, 2), (6, 5)])
def test_the_default_floor(sites: int, least: int) -> None:
    assert default_min_sites(sites) == least


def test_what_is_written_is_compiled_for_every_gateway() -> None:
    written = "{min_sites: 2, min_capacity: 4, regions: {eu: {min_capacity: 3}}}"
    text = "    region: eu\n    capacity: 3\n"
    made = TEXT.replace(BEFORE, f"{BEFORE}  budget: {written}\n").replace(FRA, FRA + text, 1)
    made = made.replace("  sin:\n", "  sin:\n    capacity: 5\n", 1)
    for document in compile_fleet(loads(made)).values():
        assert document.budget == Budget(
            min_sites=2,
            min_capacity=4,
            sites=(SiteShare(name="fra", region="eu", capacity=3), SiteShare(name="sin", capacity=5)),
            regions={"eu": Floor(min_sites=1, min_capacity=3)},
        )


def test_a_document_without_a_budget_is_byte_for_byte_what_it_was_before_there_was_one() -> None:
    plain, counted = documents()["fra-gw1"], documents("{}")["fra-gw1"]
    assert b"budget" not in plain.canonical() and b'"budget":{' in counted.canonical()
    body = json.loads(counted.canonical())
    del body["budget"]
    assert Document.model_validate(body).canonical() == plain.canonical() and counted.hash != plain.hash


def test_region_and_capacity_alone_change_no_document() -> None:
    assert documents(site="    region: eu\n    capacity: 3\n")["fra-gw1"].hash == documents()["fra-gw1"].hash


def test_the_ledger_has_a_budget_also_where_none_is_written() -> None:
    assert compile_budget(loads(TEXT)).min_sites == 1


@pytest.mark.parametrize(
    "change",
    [{"min_sites": 0}, {"min_sites": 3}, {"sites": [{"name": "sin"}]}, {"sites": [{"name": "fra"}, {"name": "fra"}]}],
)
def test_a_document_whose_budget_cannot_be_is_refused(change: dict[str, object]) -> None:
    body = json.loads(documents("{}")["fra-gw1"].canonical())
    body["budget"] |= change
    with pytest.raises(ValueError):
        Document.model_validate(body)
