"""What drills assert of the coordinator, once held and once broken; and what `lab up` says that it waits for."""

from __future__ import annotations

import pytest

from anycast.fleet.loading import load
from anycast_lab import cli, topology
from anycast_lab.drills import coordinator_steps as steps
from anycast_lab.drills import coordinators
from anycast_lab.drills.coordinator_checks import LEDGER, LOOKED, SILENT, SOURCE, STATE, Answer, judge, states
from anycast_lab.drills.coordinator_faults import start_command
from anycast_lab.drills.limits import Limit
from anycast_lab.drills.report import Checked
from anycast_lab.drills.timeline import Moment
from anycast_lab.runner import LabError
from tests.support.documents import TREE

MS = 1_000_000
LIMITS = {"bound": Limit(ms=100, uml_ms=1000, reason="test")}
TOPOLOGIES = TREE / "labs" / "topologies"
FLEET = load(TOPOLOGIES / "six-site.fleet.yaml")


def site(ms: float, name: str, state: str) -> Moment:
    return Moment(int(ms * MS), SOURCE, STATE, name, state)


def looked(ms: float) -> Moment:
    return Moment(int(ms * MS), SOURCE, LOOKED)


def silent(ms: float) -> Moment:
    return Moment(int(ms * MS), SOURCE, SILENT)


def did(ms: float, step: str) -> Moment:
    return Moment(int(ms * MS), "drill", step)


HEALTH = (looked(-10), site(-10, "fra", "announcing"), site(-10, "sin", "announcing"))


def judged(check: steps.CoordinatorCheck, *moments: Moment, kernel: str = "native", **answers: Answer) -> Checked:
    said = [*HEALTH, *moments]
    return judge(check, said, answers, sites=("fra", "sin"), fault_ns=0, kernel=kernel, limits=LIMITS)


KNOWN = steps.StatusShows(check="status_shows", state="announcing", after="coordinator_start", limit="bound")
UNKNOWN = steps.StatusShows(check="status_shows", state="unknown", sites=("fra",), limit="bound")
NEVER_DARK = steps.StatusOnly(check="status_only", states=("announcing", "unknown"))
RESTART = (silent(10), did(20, "coordinator_start"), looked(30), site(30, "fra", "unheard"), site(30, "sin", "unheard"))


@pytest.mark.parametrize(
    ("moments", "passed", "seen"),
    [
        ((*RESTART, site(50, "fra", "announcing"), site(120, "sin", "announcing")), True, "sin last, after 100 ms"),
        ((*RESTART, site(50, "fra", "announcing"), site(121, "sin", "announcing")), False, "sin last, after 101 ms"),
        ((*RESTART, site(50, "fra", "announcing")), False, "never: sin"),
        ((*RESTART, site(50, "fra", "announcing"), site(60, "sin", "dark")), False, "never: sin"),
        # What it showed before it was silent is no knowledge of the one that was started.
        ((silent(10), did(20, "coordinator_start")), False, "never: fra, sin"),
        ((did(20, "coordinator_start"), looked(30)), False, "never: fra, sin"),
        ((), False, "there was no coordinator_start"),
    ],
)
def test_the_fleet_is_known_again_within_the_bound(moments: tuple[Moment, ...], passed: bool, seen: str) -> None:
    found = judged(KNOWN, *moments)
    assert (found.passed, found.seen) == (passed, seen)


def test_the_last_start_counts() -> None:
    known = (site(40, "fra", "announcing"), site(40, "sin", "announcing"))
    moments = (*RESTART, *known, silent(50), did(60, "coordinator_start"))
    assert not judged(KNOWN, *moments).passed
    assert judged(KNOWN, *moments, site(70, "fra", "announcing"), site(70, "sin", "announcing")).passed


def test_a_site_that_is_cut_off_is_shown_so_after_the_fault() -> None:
    assert judged(UNKNOWN, site(90, "fra", "unknown")).passed
    assert not judged(UNKNOWN, site(110, "fra", "unknown")).passed
    assert judged(UNKNOWN, site(110, "fra", "unknown"), kernel="uml").passed
    assert not judged(UNKNOWN, site(90, "sin", "unknown")).passed
    assert not judged(UNKNOWN, site(-5, "fra", "unknown"), site(-1, "fra", "announcing")).passed


def test_what_stands_already_needs_no_time() -> None:
    still = steps.StatusShows(check="status_shows", state="announcing", limit="bound")
    assert judged(still).seen == "fra last, after 0 ms"


@pytest.mark.parametrize(
    ("moments", "passed"),
    [
        ((looked(1), site(1, "fra", "unknown")), True),
        ((looked(1), site(1, "fra", "dark"), site(2, "fra", "announcing")), False),
        ((looked(1), site(-5, "fra", "dark")), False),  # dark at the fault, and shown so at the look after it
        ((looked(1), site(-5, "fra", "dark"), site(-4, "fra", "announcing")), True),
        ((), False),  # nobody looked after the fault
    ],
)
def test_never_dark_means_at_every_look(moments: tuple[Moment, ...], passed: bool) -> None:
    assert judged(NEVER_DARK, *moments).passed is passed


def test_only_the_named_sites_are_judged() -> None:
    others = steps.StatusOnly(check="status_only", states=("announcing",), sites=("sin",))
    assert judged(others, looked(1), site(1, "fra", "unknown")).passed
    assert not judged(others, looked(1), site(1, "sin", "unknown")).passed


def test_a_command_is_judged_by_its_status_and_its_words() -> None:
    check = steps.Said(check="said", name="verify", text="whole")
    assert judged(check, verify=Answer(0, "history is whole\n")).passed
    assert not judged(check, verify=Answer(1, "history is whole\n")).passed
    assert not judged(check, verify=Answer(0, "history is not hole\n")).passed
    assert not judged(check, other=Answer(0, "history is whole\n")).passed


def test_a_report_does_not_repeat_what_nobody_asked_for() -> None:
    found = judged(steps.Said(check="said", name="added"), added=Answer(0, "anycast_late_5ec7e7\n"))
    assert found.passed and found.seen == "status 0"


def test_a_site_that_is_not_shown_is_unheard() -> None:
    assert states({"sites": [{"site": "fra", "state": "dark"}]}, ("fra", "sin")) == {"fra": "dark", "sin": "unheard"}


def test_the_ledgers_line_is_looked_for_after_the_fault() -> None:
    check = steps.LedgerSaid(check="ledger_said", text="fra drain by alice")

    def line(ms: float, text: str) -> Moment:
        return Moment(int(ms * MS), SOURCE, LEDGER, "", text)

    said = "dark 1 of 2 allowed: fra drain by alice"
    assert judged(check, line(5, said), line(9, "dark 0 of 2 allowed")).passed
    assert not judged(check, line(-5, said), line(9, "dark 0 of 2 allowed")).passed
    assert not judged(check).passed


def status(ledger: str = "dark 0 of 2 allowed", rollout: str = "done", **changed: object) -> dict[str, object]:
    def shown(name: str) -> dict[str, object]:
        gateway = {"gateway": f"{name}-gw1", "fresh": True}
        return {"site": name, "state": "announcing", "why": "", "gateways": [gateway]}

    found = {name: shown(name) for name in FLEET.sites}
    for name, what in changed.items():
        if what is None:
            del found[name]
        elif what == "stale":
            found[name]["gateways"] = [{"gateway": f"{name}-gw1", "fresh": False}]
        else:
            found[name] |= {"state": "dark", "why": what}
    under_way = {"id": "r3", "step": rollout, "site": "fra"}
    return {"sites": list(found.values()), "ledger": ledger, "rollout": under_way if rollout else None}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (status(), []),
        (None, ["the coordinator at coord does not answer"]),
        (status(ams=None, tyo="stale"), ["the coordinator has not heard ams-gw1, tyo-gw1"]),
        (status(lon="no_evidence_yet"), ["the coordinator shows lon dark: no_evidence_yet"]),
        (status(rollout=""), []),
        (status(rollout="baking"), ["rollout r3 is baking fra"]),
        (status("dark 1 of 2 allowed: fra drain by alice"), ["the ledger says: dark 1 of 2 allowed: fra drain by alice"]),
    ],
)
def test_up_says_what_it_waits_for(found: dict[str, object] | None, said: list[str]) -> None:
    assert coordinators.lacking(found, FLEET, "coord") == said


def test_lab_status_tells_what_the_coordinator_shows() -> None:
    silence = coordinators.summary(None, FLEET, "coord")
    assert silence == {"node": "coord", "answers": False, "sites": {}}
    assert cli._shown(silence) == "does not answer"
    told = coordinators.summary(status(lon="x"), FLEET, "coord")
    assert told["answers"] and told["sites"] == dict.fromkeys(FLEET.sites, "announcing") | {"lon": "dark"}
    assert cli._shown(told) == "announcing fra, sin, ams, nyc, tyo; dark lon"


def test_it_is_started_as_the_topology_starts_it() -> None:
    class Runner:
        topology = topology.load(TOPOLOGIES / "six-site.clab.yml")

    assert start_command(Runner(), "coord")[:3] == ("anycast", "serve", "--detach")  # type: ignore[arg-type]
    with pytest.raises(LabError, match="the topology's exec list of transit has no `anycast serve`"):
        start_command(Runner(), "transit")  # type: ignore[arg-type]


def test_what_was_shown_before_a_silence_is_shown_no_more() -> None:
    still = steps.StatusShows(check="status_shows", state="announcing", limit="bound")
    assert judged(still, silent(-5)).seen == "never: fra, sin"
