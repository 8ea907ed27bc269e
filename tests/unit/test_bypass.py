"""The contents that a drill hands in below the layer that would have refused them are what they are called."""

from __future__ import annotations

import json

import pytest

from anycast.content.canonical import hash_of
from anycast.content.content import decode_content
from anycast.errors import DecodeError
from anycast.policy.budget import lit, shortfalls
from anycast_lab.drills.bypass import What, text_of
from tests.support.contents import SITES, made

RUNNING = made().content
AFTER = (hash_of(RUNNING.text),)


@pytest.mark.parametrize(
    ("what", "left"), [(What.ONE_SITE_LEFT, 1), (What.ONE_SITE_NAMED, 1), (What.NOTHING_ANNOUNCED, 0)]
)
def test_it_is_read_follows_what_runs_and_is_beyond_the_budget(what: What, left: int) -> None:
    content = decode_content(text_of(what, RUNNING, AFTER))
    assert content.after == AFTER and content.fleet == RUNNING.fleet, "nothing else is a reason to refuse it"
    assert len(lit(content)) == left and shortfalls(RUNNING, content)
    named = {gateway for site in content.sites.values() for gateway in site.gateways}
    assert len(named) == (1 if what is What.ONE_SITE_NAMED else len(SITES))


def test_the_budget_alone_stands_between_it_and_the_fleet() -> None:
    lowered = RUNNING.model_copy(update={"budget": RUNNING.budget.model_copy(update={"min_sites": 1})})
    assert shortfalls(lowered, decode_content(text_of(What.ONE_SITE_LEFT, lowered, AFTER))) == ()


@pytest.mark.parametrize("what", [What.NO_SITES, What.EMPTY])
def test_what_has_nothing_in_it_is_no_content(what: What) -> None:
    text = text_of(what, RUNNING, AFTER)
    assert text == "" or json.loads(text)["sites"] == {}
    with pytest.raises(DecodeError):
        decode_content(text)
