"""Who may ask the coordinator for what, and which sites a rollout of theirs may change."""

from __future__ import annotations

import pytest

from anycast.coordinator.access import Caller, Role, caller, read_token, record, token
from anycast.coordinator.refusal import Refusal
from anycast.coordinator.rights import may_override, only_its_sites
from anycast.errors import DecodeError
from anycast.policy.rollout import Rollout, Version
from tests.support.contents import made

SECRET = bytes(range(32))
FRA = Caller("alice", Role.OPERATOR, frozenset({"fra"}))


def test_a_token_is_its_owners_and_no_other() -> None:
    text = token("alice-2", SECRET)
    assert read_token(text) == ("alice-2", SECRET)
    kept = record(SECRET, Role.OPERATOR, frozenset({"fra"}), 1.0, "root")
    assert caller("alice-2", SECRET, kept) == Caller("alice-2", Role.OPERATOR, frozenset({"fra"}))
    assert caller("alice-2", bytes(32), kept) is None
    assert caller("bob", SECRET, None) is None
    assert SECRET.hex() not in str(kept)


@pytest.mark.parametrize("text", ["", "anycast_x", "anycast__" + "0" * 64, "a_x_" + "0" * 64, "anycast_x_" + "g" * 64, "é"])
def test_what_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        read_token(text)
    assert not text or text not in str(caught.value)


def test_a_role_includes_the_ones_below_and_sites_bound_what_acts() -> None:
    assert FRA.may(Role.VIEWER) and FRA.may(Role.OPERATOR, ["fra"])
    assert not FRA.may(Role.OPERATOR) and not FRA.may(Role.OPERATOR, ["fra", "sin"]) and not FRA.may(Role.ADMIN, ["fra"])
    everywhere = Caller("bob", Role.ADMIN)
    assert everywhere.may(Role.OPERATOR) and everywhere.may(Role.ADMIN)
    assert not Caller("eve", Role.VIEWER).may(Role.OPERATOR, [])


def test_a_rollout_changes_the_callers_sites_only() -> None:
    gateways = {"fra": ("fra-gw1",), "sin": ("sin-gw1",)}
    one = Rollout(
        id="r1", by="alice", target=Version(1, "h"), back=None, sites=("fra", "sin"), same=("sin",), gateways=gateways,
        bake_s=1,
    )  # fmt: skip
    before, content = made(), made()
    only_its_sites(FRA, one, before.content, content.content)
    both = Rollout(id="r1", by="alice", target=Version(1, "h"), back=None, sites=("fra", "sin"), gateways=gateways, bake_s=1)
    with pytest.raises(Refusal, match="not for sin"):
        only_its_sites(FRA, both, before.content, content.content)
    only_its_sites(Caller("bob", Role.OPERATOR), both, before.content, content.content)
    with pytest.raises(Refusal, match="the budget of all"):
        only_its_sites(FRA, one, before.content, made(budget="{min_sites: 1}").content)
    with pytest.raises(Refusal, match="not for ams"):
        only_its_sites(FRA, one, before.content, made(("fra", "lon", "nyc", "sin", "tyo")).content)
    may_override(Caller("bob", Role.OPERATOR))
    with pytest.raises(Refusal, match="others"):
        may_override(FRA)
