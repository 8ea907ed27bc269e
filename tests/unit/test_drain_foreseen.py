"""What `anycast drain` says beforehand of a site's clients: who can follow is known of nobody, so it gives bounds."""

from __future__ import annotations

import pytest

from anycast.cli.drain import foreseen
from anycast.content.content import Moves

TO = ("198.51.100.131",)


@pytest.mark.parametrize(
    ("tunnels", "moves", "said"),
    [
        (2, Moves(site="sin", to=TO, left="delete"), [
            "2 tunnels at ams", "redirected to sin (198.51.100.131)", "at most 2 follow", "after 30 s",
            "or 600 s after it began", "at most 2 are cut, once the route is worse",
        ]),
        (1, Moves(site="sin", to=TO, limit_s=90), ["1 tunnel at ams", "nobody is cut: the route waits, and 90 s after"]),
        (None, Moves(site="sin", to=TO, left="delete"), ["an unknown number of tunnels", "at most all of them are cut"]),
        (3, None, ["3 tunnels at ams: nobody is moved first"]),
    ],
)  # fmt: skip
def test_bounds_are_said_and_the_policy_with_them(tunnels: int | None, moves: Moves | None, said: list[str]) -> None:
    line = foreseen("ams", tunnels, moves)
    assert [each for each in said if each not in line] == [], line
    assert ("cut" in line) is (moves is not None)
