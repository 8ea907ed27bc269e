"""Where a drained site's tunnels go: what a content may say of it, and what an agent makes of that."""

from __future__ import annotations

import pytest

from anycast.content.canonical import encode
from anycast.content.content import Content, Intent, Moves, decode_content
from anycast.content.record import Taken
from anycast.content.signature import sign
from anycast.errors import DecodeError
from anycast.policy.drain import MOVE_LIMIT_S, Left
from site_agent.content_brief import brief
from site_agent.coordination import drain_plan
from site_agent.drainer import BY_CONTENT
from tests.support.contents import ALICE, made

MOVES = Moves(site="sin", to=("2001:db8:2::1",), left="delete")
CONTENT = made().content


def taken(content: Content) -> Taken:
    document = made().documents["fra-gw1"]
    return Taken(generation=3, content=content.text, signature=sign(content.text, ALICE), document=document)


def test_a_content_without_it_is_spelt_as_it_always_was() -> None:
    assert "moves" not in CONTENT.text
    drained = CONTENT.with_intent("fra", Intent.DRAINED, MOVES)
    assert decode_content(drained.text) == drained
    assert drained.with_intent("fra", Intent.ANNOUNCED).sites == CONTENT.sites, "undrained, nothing of it is left"


@pytest.mark.parametrize("bad", ["announced", "itself"])
def test_only_a_drained_sites_tunnels_move_and_to_another_one(bad: str) -> None:
    moves = MOVES if bad == "announced" else MOVES.model_copy(update={"site": "fra"})
    intent = Intent.ANNOUNCED if bad == "announced" else Intent.DRAINED
    with pytest.raises(DecodeError, match=r"sites\.fra\.moves"):
        decode_content(encode(CONTENT.with_intent("fra", intent, moves).model_dump(mode="json")))


def test_an_agent_drains_its_own_site_as_the_content_says() -> None:
    drained = taken(CONTENT.with_intent("fra", Intent.DRAINED, MOVES))
    plan = drain_plan(brief(drained, "fra"))
    assert plan is not None
    assert (plan.id, plan.to, plan.left, plan.why) == (BY_CONTENT, ("2001:db8:2::1",), Left.DELETE, "to sin")
    assert plan.move_limit_s == MOVE_LIMIT_S and "limit_s" not in CONTENT.with_intent("fra", Intent.DRAINED, MOVES).text
    assert drain_plan(brief(drained, "sin")) is None
    assert drain_plan(brief(taken(CONTENT.with_intent("fra", Intent.DRAINED)), "fra")) is None, "the route goes at once"


def test_a_limit_that_an_operator_named_is_the_drains() -> None:
    limited = CONTENT.with_intent("fra", Intent.DRAINED, MOVES.model_copy(update={"limit_s": 90}))
    assert decode_content(limited.text) == limited
    plan = drain_plan(brief(taken(limited), "fra"))
    assert plan is not None and plan.move_limit_s == 90.0
