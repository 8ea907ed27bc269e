"""A rollout that stays where it is says for whom or what."""

from __future__ import annotations

import dataclasses

import pytest

from anycast.coordinator.waiting import waits_for
from anycast.policy.gates import Verdict
from anycast.policy.rollout import GatewayTold, Rollout, Step, Version

NEW = Version(3, "c")
TAKEN = GatewayTold(staged=NEW, active=None, announcing=True, fresh=True)
MISSING = dataclasses.replace(TAKEN, staged=None)
SILENT = dataclasses.replace(MISSING, fresh=False)
UNTRUSTED = dataclasses.replace(MISSING, refused="untrusted: key 4c9e is of no operator that this machine knows")
SITES = ("fra", "sin", "nyc", "tyo")
ROLLOUT = Rollout(
    id="r3", by="alice", target=NEW, back=None, sites=SITES, gateways={site: (f"{site}-gw1",) for site in SITES},
    bake_s=60.0, since=100.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("told", "now", "said"),
    [
        ((TAKEN, TAKEN, TAKEN, UNTRUSTED), 101.0, ""),
        ((TAKEN, TAKEN, TAKEN, UNTRUSTED), 102.0, f"not taken yet by tyo-gw1 ({UNTRUSTED.refused})"),
        ((TAKEN, MISSING, None, TAKEN), 102.0, "not taken yet by sin-gw1; by nyc-gw1 (it is not heard)"),
        ((SILENT, TAKEN, TAKEN, TAKEN), 102.0, "not taken yet by fra-gw1 (it is not heard)"),
        ((UNTRUSTED,) * 4, 102.0, f"not taken yet by fra-gw1, sin-gw1, nyc-gw1 and 1 more ({UNTRUSTED.refused})"),
        ((MISSING,) * 4, 102.0, "not taken yet by fra-gw1, sin-gw1, nyc-gw1 and 1 more"),
        ((TAKEN, dataclasses.replace(MISSING, active=NEW), TAKEN, TAKEN), 102.0, ""),
    ],
)
def test_staging_says_who_has_not_taken_it_and_why(told: tuple[GatewayTold | None, ...], now: float, said: str) -> None:
    gateways = {f"{site}-gw1": each for site, each in zip(SITES, told, strict=True) if each is not None}
    assert waits_for(ROLLOUT, lambda: gateways, (Verdict.UNKNOWN, ""), now) == said


def test_a_bake_that_has_no_evidence_says_so_when_its_time_is_over() -> None:
    baking, gate = dataclasses.replace(ROLLOUT, step=Step.BAKING), (Verdict.UNKNOWN, "no canary answers")
    words = waits_for(baking, dict, gate, 160.0)
    assert words.startswith("evidence from fra: no canary answers; 30 min ") and "--without-evidence" in words
    assert waits_for(baking, dict, gate, 159.0) == ""
    assert waits_for(baking, dict, (Verdict.PASSES, ""), 160.0) == ""
    assert waits_for(dataclasses.replace(baking, blind=True), dict, gate, 160.0) == ""
    assert waits_for(dataclasses.replace(baking, step=Step.WAITING), dict, gate, 160.0) == ""
