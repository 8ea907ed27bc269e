"""Each assertion about a crowd, once held and once broken, and what is read of its clients."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from anycast_lab.drills import crowd_checks as crowd
from anycast_lab.drills.crowd_actor import ways
from anycast_lab.drills.crowd_checks import Asked, CrowdSeen, Log, Look, Probed, Sa, Takeover
from anycast_lab.drills.report import Checked

MS = 1_000_000
LISTED = """\
crowd-0002: #7, ESTABLISHED, IKEv2, 521d4ccdba05504a_i* 190a9a1935c7d7b3_r
  local  'crowd-0002.clients.vpn.example.org' @ 198.51.100.98[4500] [203.0.113.131 2001:db8:c:1::3]
  remote 'vpn.example.org' @ 203.0.113.1[4500]
  AES_GCM_16-256/PRF_HMAC_SHA2_384/CURVE_25519
  established 13s ago, rekeying in 13175s
  vpn: #4, reqid 2, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-256
    installed 13s ago, rekeying in 3510s, expires in 3947s
    local  203.0.113.131/32 2001:db8:c:1::3/128
  vpn: #9, reqid 2, REKEYED, TUNNEL-in-UDP, ESP:AES_GCM_16-256
crowd-0001: #3, CONNECTING, IKEv2, c4c785e70cc3d145_i* 0000000000000000_r
  local  'crowd-0001.clients.vpn.example.org' @ 198.51.100.98[4500]
"""
LOGGED = """\
2026-11-29T15:22:18.729 15[IKE] <crowd-0005|5> IKE_SA crowd-0005[5] established between 198.51.100.98[x]...203.0.113.1[y]
2026-11-29T15:22:19.000 15[ENC] <crowd-0005|5> parsed INFORMATIONAL response 2 [ ]
2026-11-29T15:22:28.819 08[IKE] <crowd-0005|5> sending DPD request
2026-11-29T15:22:28.820 08[ENC] <crowd-0005|5> generating INFORMATIONAL request 4 [ ]
2026-11-29T15:22:28.857 05[ENC] <crowd-0005|5> parsed INFORMATIONAL response 3 [ D ]
2026-11-29T15:22:28.879 05[ENC] <crowd-0005|5> parsed INFORMATIONAL response 4 [ ]
2026-11-29T15:22:30.000 05[ENC] <crowd-0005|5> parsed CREATE_CHILD_SA request 0 [ N(REKEY_SA) SA No KE TSi TSr ]
2026-11-29T15:22:30.001 05[IKE] <crowd-0005|5> IKE_SA crowd-0005[9] rekeyed between 198.51.100.98[x]...203.0.113.1[y]
"""
NAMES = "crowd-0001", "crowd-0002"


def sa(number: int, **changes: Any) -> Sa:
    inner = (f"203.0.113.{130 + number}", f"2001:db8:c:1::{number}")
    return dataclasses.replace(Sa("ESTABLISHED", (f"{number:016x}", "1" * 16), inner, 1), **changes)


def look(at_ms: int, **sas: tuple[Sa, ...]) -> Look:
    found = {name.replace("_", "-"): one for name, one in sas.items()}
    return Look(at_ns=at_ms * MS, sas=found, addresses=frozenset(i for one in found.values() for s in one for i in s.inner))


BOTH = {"crowd_0001": (sa(1),), "crowd_0002": (sa(2),)}
FEED = tuple((i * 1000 * MS, line) for i, line in enumerate((
    "unprotected: 4 of 4", "unprotected: 4 of 4; rekeys: 4 wait, 0 done, 9 s left",
    "unprotected: 2 of 4; rekeys: 2 wait, 2 done, 5 s left", "unprotected: 0 of 4",
)))  # fmt: skip
SEEN = CrowdSeen(
    members=NAMES,
    looks=(look(1, **BOTH), look(2, **BOTH)),
    log=Log(
        built=dict.fromkeys(NAMES, 1),
        answered={NAMES[0]: (50 * MS, 150 * MS), NAMES[1]: (250 * MS,)},
        asked_to_rekey=tuple(range(0, 3000 * MS, 100 * MS)),
    ),
    takeovers=(Takeover(100 * MS, NAMES),),
    pinged={},
    probed=(Probed(name=NAMES[0], source="203.0.113.131", sent=50, good=40, longest_gap_ms=400.0),),
    feed=FEED,
)


def judged(seen: CrowdSeen) -> dict[str, Checked]:
    return {
        "stays": crowd.crowd_stays(seen, 2),
        "once": crowd.addresses_once(seen, 2, 2),
        "answered": crowd.crowd_answered(seen, 150),
        "packets": crowd.crowd_packets(seen, 400),
        "fed": crowd.fed_with_progress(seen, 3000),
        "paced": crowd.rekeys_paced(seen, 6),
    }


def test_what_should_hold_holds() -> None:
    assert {name for name, one in judged(SEEN).items() if not one.passed} == set()


LOG = SEEN.log


@pytest.mark.parametrize(
    ("red", "changes"),
    [
        ("stays", {"log": dataclasses.replace(LOG, built={NAMES[0]: 1, NAMES[1]: 2})}),
        ("stays", {"log": dataclasses.replace(LOG, built={NAMES[0]: 1})}),
        ("stays", {"members": NAMES[:1]}),
        ("stays", {"looks": (look(1, **BOTH), look(2, crowd_0001=(sa(1),)))}),
        ("stays", {"looks": (look(1, **BOTH), look(2, **BOTH | {"crowd_0001": (sa(1), sa(1))}))}),
        ("stays", {"looks": (look(1, **BOTH), look(2, **BOTH | {"crowd_0001": (sa(1, children=0),)}))}),
        ("stays", {"looks": (look(1, **BOTH), look(2, **BOTH | {"crowd_0001": (sa(1, inner=("203.0.113.140",)),)}))}),
        ("stays", {"looks": ()}),
        ("once", {"looks": (look(1, **BOTH), look(2, **BOTH | {"crowd_0001": (sa(1, inner=sa(2).inner),)}))}),
        ("once", {"looks": (look(1, **BOTH), look(2, **BOTH, crowd_0003=(sa(2, state="CONNECTING"),)))}),
        ("once", {"looks": (look(1, crowd_0001=(sa(1),)),)}),
        ("once", {"looks": (dataclasses.replace(SEEN.looks[0], addresses=frozenset(sa(1).inner)),)}),
        ("answered", {"log": dataclasses.replace(LOG, answered={NAMES[0]: (150 * MS,), NAMES[1]: (99 * MS,)})}),
        ("answered", {"log": dataclasses.replace(LOG, answered={NAMES[0]: (150 * MS,), NAMES[1]: (251 * MS,)})}),
        ("answered", {"takeovers": ()}),
        ("answered", {"takeovers": (*SEEN.takeovers, Takeover(200 * MS, NAMES))}),
        ("packets", {"pinged": {NAMES[0]: ["203.0.113.131"]}}),
        ("packets", {"pinged": None}),
        ("packets", {"probed": (dataclasses.replace(SEEN.probed[0], longest_gap_ms=401.0),)}),
        ("packets", {"probed": (dataclasses.replace(SEEN.probed[0], good=0),)}),
        ("fed", {"feed": FEED[:-1]}),
        ("fed", {"feed": FEED[2:]}),
        ("fed", {"feed": (*FEED[:-1], (3001 * MS, "unprotected: 0 of 4"))}),
        ("fed", {"feed": (*FEED[:-1], (3000 * MS, "unprotected: 0 of 2"))}),
        ("fed", {"feed": tuple((at, line.partition(";")[0]) for at, line in FEED)}),
        ("fed", {"feed": ()}),
        ("paced", {"log": dataclasses.replace(LOG, asked_to_rekey=tuple(range(0, 3000 * MS, 96 * MS)))}),
        ("paced", {"log": dataclasses.replace(LOG, asked_to_rekey=())}),
        ("paced", {"feed": ()}),
    ],
)  # fmt: skip
def test_each_assertion_can_fail(red: str, changes: dict[str, Any]) -> None:
    assert not judged(dataclasses.replace(SEEN, **changes))[red].passed


CUT = 100_000 * MS
ASKED = Asked("INFORMATIONAL", 3, CUT - 30 * MS, CUT - 10 * MS)


@pytest.mark.parametrize(
    ("asked", "changes", "passed"),
    [
        (ASKED, {}, True),
        (dataclasses.replace(ASKED, answered_ns=0), {}, True),
        (dataclasses.replace(ASKED, answered_ns=CUT + 400 * MS), {}, True),
        (dataclasses.replace(ASKED, answered_ns=CUT - 21 * MS), {}, False),
        (Asked("INFORMATIONAL", 3, CUT + MS), {}, False),
        (Asked("INFORMATIONAL", 3, CUT - 10_001 * MS), {}, False),
        (ASKED, {"losses_ns": ()}, False),
        (ASKED, {"log": {NAMES[0]: 1, NAMES[1]: 3}}, False),
        (ASKED, {"log": {NAMES[0]: 2, NAMES[1]: 2}}, False),
    ],
)
def test_who_had_an_exchange_in_flight_when_the_power_went_may_build_anew(
    asked: Asked, changes: dict[str, Any], passed: bool
) -> None:
    built = changes.pop("log", {NAMES[0]: 1, NAMES[1]: 2})
    log = dataclasses.replace(LOG, built=built, asked={NAMES[1]: (asked,)})
    moved = look(2, **BOTH | {"crowd_0002": (sa(2, inner=("203.0.113.140",)),)})
    seen = dataclasses.replace(SEEN, log=log, losses_ns=(CUT,), looks=(SEEN.looks[0], moved))
    assert crowd.crowd_stays(dataclasses.replace(seen, **changes), 2).passed is passed


def test_not_more_of_them_than_a_few() -> None:
    names = tuple(f"crowd-{n:04d}" for n in range(100))
    there = look(1, **{name.replace("-", "_"): (sa(n),) for n, name in enumerate(names)})
    for anew, passed in ((2, True), (3, False)):
        log = dataclasses.replace(
            LOG, built={name: 1 + (n < anew) for n, name in enumerate(names)}, asked=dict.fromkeys(names, (ASKED,))
        )
        seen = dataclasses.replace(SEEN, members=names, looks=(there,), log=log, losses_ns=(CUT,))
        assert crowd.crowd_stays(seen, 100).passed is passed


def test_charons_list_is_read() -> None:
    assert crowd.sas(LISTED) == {
        "crowd-0002": (
            Sa("ESTABLISHED", ("521d4ccdba05504a", "190a9a1935c7d7b3"), ("203.0.113.131", "2001:db8:c:1::3"), 1),
        ),
        "crowd-0001": (Sa("CONNECTING", ("c4c785e70cc3d145", "0" * 16), (), 0),),
    }


def test_only_what_answers_a_dpd_request_is_an_answer_to_one() -> None:
    at = 1_795_965_748_879 * MS
    found = crowd.read_log(LOGGED)
    assert (found.built, found.answered) == ({"crowd-0005": 1}, {"crowd-0005": (at,)})
    assert found.asked_to_rekey == (at + 1121 * MS,)
    assert found.asked == {"crowd-0005": (Asked("INFORMATIONAL", 4, at - 59 * MS, at),)}


def test_a_gap_is_between_answers_and_does_not_end_before_the_last_packet() -> None:
    record = {"name": "a", "source": "b", "sent_ns": [i * 100 * MS for i in range(10)]}
    record["good_ns"] = [at + MS if i not in (3, 4, 9) else 0 for i, at in enumerate(record["sent_ns"])]
    (one,) = crowd.judge_probes([record], 0, 10_000 * MS)
    assert (one.sent, one.good, one.longest_gap_ms) == (10, 7, 300.0)
    record["good_ns"] = [0] * 10
    assert one.back_ns == (501 * MS,)
    (one,) = crowd.judge_probes([record], 0, 10_000 * MS)
    assert (one.good, one.longest_gap_ms) == (0, 900.0)


def test_each_inner_address_goes_to_the_server_of_its_family() -> None:
    found = ways(["a=203.0.113.131,2001:db8:c:1::1", "b=2001:db8:c:1::2"], ["192.0.2.10", "2001:db8:b::10"])
    assert [(one.name, one.source, one.target) for one in found] == [
        ("a", "203.0.113.131", "192.0.2.10"),
        ("a", "2001:db8:c:1::1", "2001:db8:b::10"),
        ("b", "2001:db8:c:1::2", "2001:db8:b::10"),
    ]
