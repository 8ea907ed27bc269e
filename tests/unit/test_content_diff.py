"""What differs between two contents is said per site and key, and nothing else is."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.content.content import Because, Intent, Moves
from anycast.policy.content_diff import differences, line
from tests.support.contents import SITES, Made, made


def diff(before: Made | None, after: Made) -> list[str]:
    was, documents = (None, {}) if before is None else (before.content, before.documents)
    return [line(each) for each in differences(was, after.content, documents, after.documents)]


BASE = made()


def test_the_same_is_no_difference_and_an_intent_is_one() -> None:
    assert diff(BASE, made()) == []
    assert diff(BASE, made(fra="drained")) == ["fra intent: announced -> drained"]
    assert diff(made(fra="drained"), BASE) == ["fra intent: drained -> announced"]


def test_a_key_that_only_one_of_them_has_is_a_difference() -> None:
    moves = Moves(site="sin", to=("203.0.113.9",))
    drained = BASE.content.with_intent("fra", Intent.DRAINED)
    moving = BASE.content.with_intent("fra", Intent.DRAINED, moves)
    found = [line(each) for each in differences(drained, moving, {}, {})]
    assert found == ["fra moves.left: - -> wait", "fra moves.site: - -> sin", 'fra moves.to: - -> ["203.0.113.9"]']
    assert len(differences(moving, drained, {}, {})) == 3
    said = BASE.content.with_intent("fra", Intent.DRAINED, because=Because(kind="drain", why="optics"))
    found = [line(each) for each in differences(drained, said, {}, {})]
    assert found == ["fra because.kind: - -> drain", "fra because.why: - -> optics"], "until: nobody said"


def test_budget_and_capacity_are_told_where_they_are() -> None:
    assert diff(BASE, made(budget="{min_sites: 3}")) == ["budget.min_sites: 4 -> 3"]
    assert diff(BASE, made(more={"sin": "capacity: 7"})) == ["sin capacity: 1000 -> 7"]


def test_a_site_more_is_one_difference_and_a_first_content_is_all_of_them() -> None:
    assert diff(BASE, made((*SITES, "mad"))) == ['mad: - -> ["mad-gw1"]']
    first = diff(None, BASE)
    assert [each for each in first if each.endswith('-gw1"]')] == [f'{site}: - -> ["{site}-gw1"]' for site in SITES]


def test_documents_are_compared_key_by_key_or_by_their_hash() -> None:
    other = made(prefix="2001:db8:a::/48")
    found = diff(BASE, other)
    assert "fra fra-gw1 document.service.prefixes: [\"2001:db8:a::/56\"] -> [\"2001:db8:a::/48\"]" in found
    assert "fra fra-gw1 announces.fra-rtr-ipv6: [\"2001:db8:a::/56\"] -> [\"2001:db8:a::/48\"]" in found
    assert not any("document:" in each for each in found)
    blind = [line(each) for each in differences(BASE.content, other.content, {}, {})]
    hashes = BASE.content.sites["fra"].gateways["fra-gw1"].document, other.content.sites["fra"].gateways["fra-gw1"].document
    assert f"fra fra-gw1 document: {hashes[0]} -> {hashes[1]}" in blind


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(SITES), st.sampled_from(list(Intent))), st.sampled_from([1, 2, 3, 4]))
def test_there_is_a_difference_exactly_where_something_differs(intents: dict[str, Intent], floor: int) -> None:
    told = {site: str(intent) for site, intent in intents.items()}
    after = made(budget=f"{{min_sites: {floor}}}", **told)
    found = differences(BASE.content, after.content, BASE.documents, after.documents)
    named = {each.site for each in found}
    assert named - {""} == {name for name, site in after.content.sites.items() if site != BASE.content.sites[name]}
    assert ("" in named) == (floor != 4)
    for each in found:
        assert each.before != each.after
        for value in (each.before, each.after):
            assert value is None or json.dumps(json.loads(value))
