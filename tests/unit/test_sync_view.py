"""The mirror in the words of `status`."""

from __future__ import annotations

from typing import Any

from site_agent.sync import view

WELL: dict[str, Any] = {
    "role": "backup", "settled": True, "connected": True, "mismatches": [], "alarms": {}, "waiting": 0, "gaps": 0,
    "messages": {}, "outbound": 12, "unconfirmed": 0, "taken_over": 0, "retired": 0, "conflicts": 0,
    "tunnels": 10, "unprotected": 4, "repairs": 2, "repairs_left_s": 1, "given_up": 1, "causes": {"missing": 3},
    "removed": 0,
}  # fmt: skip


def lines(pid: int | None = 7, **changed: Any) -> list[tuple[bool, str]]:
    return view.lines({"peer_gateway": "fra-gw2", "pid": pid, "status": WELL | changed})


def test_all_is_well_in_one_line() -> None:
    assert lines() == [(True, "mirror: connected to fra-gw2, settled as backup; 12 SAs")]


def test_what_is_not_well_is_said_and_marked() -> None:
    assert lines(connected=False) == [(False, "mirror: not connected to fra-gw2, settled as backup; 12 SAs")]
    assert lines(settled=False, role="promoting")[0] == (
        False, "mirror: connected to fra-gw2, not settled yet, acts as promoting; 12 SAs"
    )  # fmt: skip
    assert lines(outbound=1, taken_over=1, gaps=3)[0][1].endswith(
        "1 SA, 1 to be rekeyed since the takeover, 3 messages lost"
    )
    assert lines(mismatches=["charon_differs: here 5.9.8, there 6.0.1"])[1] == (
        False, "a handover is refused: charon_differs: here 5.9.8, there 6.0.1"
    )  # fmt: skip


def test_an_active_says_what_a_failover_would_end() -> None:
    said = lines(role="active")[1]
    assert said == (
        False,
        "unprotected: 4 of 10 (missing 3); 2 to be rekeyed, so that the other gateway learns them (about 1 s); "
        "1 given up (`site-agent events` names them)",
    )
    well = lines(role="active", unprotected=0, repairs=0, given_up=0, causes={})
    assert well[1] == (True, "unprotected: 0 of 10")


def test_a_process_that_is_not_there_or_says_nothing() -> None:
    for pid, why in ((None, "no sync process runs"), (7, "it has not spoken yet")):
        (found,) = view.lines({"peer_gateway": "fra-gw2", "pid": pid, "status": None})
        assert found == (False, f"mirror: {why}; what fra-gw2 holds of our tunnels grows old")
