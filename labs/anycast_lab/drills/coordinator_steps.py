"""Steps and checks of drill files about the coordinator (`coordinator_faults` takes them, `coordinator_checks` judges)."""

from __future__ import annotations

from typing import Literal

import pydantic

from anycast_lab.drills.limits import Strict

State = Literal["announcing", "dark", "unknown", "unheard"]
"""Of a site, as `anycast status --json` has it; ``unheard``: it does not stand there."""


class CoordinatorSignal(Strict):
    """Send it one signal; after KILL and TERM go on when it is gone."""

    do: Literal["coordinator_signal"]
    signal: Literal["KILL", "STOP", "CONT", "TERM"]


class CoordinatorStart(Strict):
    """As the topology starts it; go on when it answers."""

    do: Literal["coordinator_start"]


class CutOff(Strict):
    """The gateways of these sites lose the management network, with carrier."""

    do: Literal["cut_off"]
    sites: tuple[str, ...] = pydantic.Field(min_length=1)


class Rejoin(Strict):
    do: Literal["rejoin"]
    sites: tuple[str, ...] = pydantic.Field(min_length=1)


RolloutStep = Literal["staging", "waiting", "activating", "baking", "returning", "done", "stopped"]


class Run(Strict):
    """Run a command in a machine, the coordinator's unless `at` says another, and keep its answer by `name` (`said`)."""

    do: Literal["run"]
    name: str
    command: tuple[str, ...] = pydantic.Field(min_length=1)
    at: str = ""
    kill_at: RolloutStep | None = None
    """As of `coordinator_kill_at`, for a step that is over as soon as the command is; its answer may be lost by that."""


class WaitStatus(Strict):
    """Go on when these sites, or all, are shown in that state."""

    do: Literal["wait_status"]
    state: State
    sites: tuple[str, ...] = ()
    limit: str


class CoordinatorKillAt(Strict):
    """SIGKILL it as soon as its rollout is shown at that step; it is looked at fifty times a second for that."""

    do: Literal["coordinator_kill_at"]
    step: RolloutStep
    limit: str


class WaitRollout(Strict):
    """Go on when the rollout under way, or the last one, is shown at that step."""

    do: Literal["wait_rollout"]
    step: RolloutStep
    limit: str


class WaitLedger(Strict):
    """Go on when the ledger's line says this."""

    do: Literal["wait_ledger"]
    text: str
    limit: str


WaitStep = WaitStatus | WaitRollout | WaitLedger
CoordinatorStep = (
    CoordinatorSignal | CoordinatorStart | CoordinatorKillAt | CutOff | Rejoin | Run | WaitStep
)
HEALS = (CoordinatorStart, Rejoin)
WAITS = (WaitStatus, WaitRollout, WaitLedger)


class StatusShows(Strict):
    """These sites, or all, are shown in that state within the limit of the fault, or of the last step of that name."""

    check: Literal["status_shows"]
    state: State
    sites: tuple[str, ...] = ()
    limit: str
    after: Literal["fault", "coordinator_start", "rejoin"] = "fault"


class StatusOnly(Strict):
    """From the fault to the end, whenever the coordinator answers, these sites, or all, are shown in no other state."""

    check: Literal["status_only"]
    states: tuple[State, ...] = pydantic.Field(min_length=1)
    sites: tuple[str, ...] = ()


class Said(Strict):
    """The `run` step of this name ended with this status, and said this."""

    check: Literal["said"]
    name: str
    rc: int = 0
    text: str = ""
    """Somewhere in standard output or standard error."""


class LedgerSaid(Strict):
    """At some look from the fault to the end the ledger's line said this."""

    check: Literal["ledger_said"]
    text: str


class MovesOnly(Strict):
    """From the fault to the end no route of any other site comes, goes or changes an attribute at any router."""

    check: Literal["moves_only"]
    sites: tuple[str, ...]


class OwnStays(Strict):
    """From the fault to the end no unicast prefix of a site comes, goes or changes at any router; `sites` have some."""

    check: Literal["own_stays"]
    sites: tuple[str, ...]


class DarkAtMost(Strict):
    """From the fault to the end never more sites than this had a route missing at a router: BIRD's word, not a ledger's."""

    check: Literal["dark_at_most"]
    sites: int


CoordinatorCheck = StatusShows | StatusOnly | Said | LedgerSaid
