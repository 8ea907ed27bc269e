"""Two Actives that meet, with clients that spoke to both: no client is left with a tunnel that is none. Each rule is tried."""

from __future__ import annotations

import pytest

from site_agent.sync import reunion
from tests.support.reunion_world import CLIENTS, World, run

SEEDS = range(150)


@pytest.mark.parametrize("stays", [0, 1])
@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize("flips", [False, True])
def test_no_client_is_left_in_a_black_hole(flips: bool, channel: bool, stays: int) -> None:
    """Its tunnel is whole at the one that stays, or it is told, or its own dead peer detection meets silence."""
    for seed in SEEDS:
        world = run(seed, flips=flips, channel=channel, stays=stays)
        assert world.black_holes() == [], f"seed {seed}"
